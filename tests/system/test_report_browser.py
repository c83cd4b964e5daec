"""The report in a browser: without a network from the disk, and hosted."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from xml.etree.ElementTree import Element

import pytest
from helpers.browsers import PHONE, Open
from helpers.report_pages import read_data, read_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("report")

COUNT_UNPACKED = """window.unpacked = 0;
const theirs = window.DecompressionStream;
window.DecompressionStream = function (format) { window.unpacked += 1; return new theirs(format); };"""
FILTERS = ("paper", "network", "protocol", "profile", "verdict")
CELL = "#smoothout_v1-table2 button.cell:has(data)"


@pytest.fixture(scope="module")
def index(report: Path) -> Path:
    return report / "index.html"


@pytest.fixture(scope="module")
def data(report: Path) -> dict[str, Any]:
    return read_data(report)


def leaves(element: Element, said: dict[str, str]) -> Iterator[dict[str, str]]:
    """What filters go by, for each line of the page: its own words, or those of what it stands in."""
    said = said | {name: element.get(f"data-{name}", "") for name in FILTERS if f"data-{name}" in element.attrib}
    if "leaf" in element.get("class", "").split():
        yield said
    for child in element:
        yield from leaves(child, said)


def is_wanted(said: dict[str, str], wanted: dict[str, str]) -> bool:
    words = {name: [said.get(name, "")] if name == "network" else said.get(name, "").split() for name in FILTERS}
    return all(value in words[name] for name, value in wanted.items())


def query(page: Page) -> dict[str, str]:
    """What the address keeps."""
    return {name: values[0] for name, values in parse_qs(page.url.partition("#")[2].partition("?")[2]).items()}


def shown(page: Page) -> int:
    return int(page.evaluate("document.querySelectorAll('.leaf:not([hidden])').length"))


def test_filters_show_what_they_name_and_the_address_restores_them(open_page: Open, index: Path, report: Path) -> None:
    lines = list(leaves(read_page(report), {}))
    page = open_page(index)
    assert shown(page) == len(lines)
    chosen = {"network": "F1 on MNIST", "protocol": "paper_text", "profile": "paper", "verdict": "holds_if_normal"}
    wanted = dict[str, str]()
    for name, value in {"paper": "smoothout_v1", **chosen}.items():
        page.locator(f"#filters select[name={name}]").select_option(value)
        wanted[name] = value
        expected = sum(is_wanted(said, wanted) for said in lines)
        assert 0 < shown(page) == expected < len(lines)
        assert page.locator("#shown").inner_text() == f"{expected} of {len(lines)} rows and figures"
        assert query(page) == wanted
    assert page.locator(".paper:visible").count() == 1
    page.reload()
    assert {name: page.locator(f"#filters select[name={name}]").input_value() for name in FILTERS} == wanted
    assert shown(page) == expected
    page.get_by_role("button", name="Clear filters", exact=True).click()
    page.wait_for_function("document.getElementById('shown').textContent === ''")
    assert (shown(page), query(page)) == (len(lines), {})


def test_each_choice_of_each_filter_leaves_its_lines(open_page: Open, index: Path, report: Path) -> None:
    lines = list(leaves(read_page(report), {}))
    page = open_page(index)
    for name in FILTERS:
        select = page.locator(f"#filters select[name={name}]")
        for value in select.locator("option").evaluate_all("all => all.map((one) => one.value)")[1:]:
            select.select_option(value)
            assert shown(page) == sum(is_wanted(said, {name: value}) for said in lines)
        select.select_option("")


def open_cell(page: Page, place: int = 0) -> dict[str, str]:
    """Select a number of Table 2; gives its attributes."""
    button = page.locator(CELL).nth(place)
    button.click()
    page.wait_for_selector("#evidence[open]")
    return {"number": button.get_attribute("data-number") or "", "text": button.inner_text()}


@pytest.mark.parametrize("clipboard", ["granted", "refused", "missing"])
def test_a_number_opens_what_it_was_made_from_and_its_command_is_copied(
    clipboard: str, open_page: Open, index: Path, data: dict[str, Any]
) -> None:
    hidden = {
        "granted": "",
        "refused": "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'));",
        "missing": "Object.defineProperty(navigator, 'clipboard', {value: undefined});",
    }[clipboard]
    script = f"const theirs = navigator.clipboard; window.readClipboard = () => theirs.readText();{hidden}"
    page = open_page(index, permissions=["clipboard-read", "clipboard-write"], script=script)
    number = data["numbers"][int(open_cell(page)["number"])]
    dialog = page.locator("#evidence")
    assert dialog.get_by_role("heading", level=2).inner_text() == number["title"]
    rows = dialog.locator("tbody tr")
    assert rows.count() == len(number["values"]) > 1
    for row, value in zip(rows.all(), number["values"], strict=True):
        made = data["records"][value["record"]]
        words = [value["value"], value["record"], made["machine"], made["versions"]]
        assert row.locator("td").all_inner_texts()[:5] == [str(value["seed"]), *words]
    assert dialog.locator("code").inner_text() == number["command"]
    dialog.get_by_role("button", name="Copy").click()
    dialog.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("window.readClipboard()") == number["command"]


def plotted(page: Page) -> dict[str, Any]:
    """What the dialog of curves shows, once it is drawn."""
    page.wait_for_function("document.querySelector('#curves-plot .plotly') !== null")
    read = "plot => ({axes: [plot.layout.xaxis.type, plot.layout.yaxis.type], y: plot.data.map((line) => [...line.y])})"
    found: dict[str, Any] = page.locator("#curves-plot").evaluate(read)
    return found


def test_curves_of_runs_lie_over_each_other_and_the_address_keeps_them(
    open_page: Open, index: Path, data: dict[str, Any]
) -> None:
    page = open_page(index)
    number = data["numbers"][int(open_cell(page)["number"])]
    first = number["values"][0]["run"]
    second = next(name for name in data["runs"] if name not in {value["run"] for value in number["values"]})
    page.locator("#evidence button.run").first.click()
    curves = [data["runs"][first]["curves"][name] for name in ("train_loss", "test_loss")]
    assert plotted(page) == {"axes": ["linear", "linear"], "y": curves}
    page.locator("#add-run").fill(data["runs"][second]["name"])
    page.keyboard.press("Enter")
    page.locator("#chosen-runs li").nth(1).wait_for()
    page.get_by_label("log epochs").check()
    page.get_by_label("log values").check()
    page.locator("#quantity").select_option("accuracy")
    page.wait_for_function("document.getElementById('curves-plot').layout?.yaxis.title.text === 'accuracy'")
    accuracies = [
        data["runs"][run]["curves"][f"{part}_accuracy"] for run in (first, second) for part in ("train", "test")
    ]
    assert plotted(page) == {"axes": ["log", "log"], "y": accuracies}
    assert query(page) == {"runs": f"{first} {second}", "show": "accuracy", "log": "xy"}
    page.reload()
    assert plotted(page) == {"axes": ["log", "log"], "y": accuracies}
    for line, run in zip(page.locator("#chosen-runs li").all(), (first, second), strict=True):
        assert line.inner_text().endswith(data["runs"][run]["name"])
    page.get_by_role("button", name=f"Remove {data['runs'][first]['name']}").click()
    page.wait_for_function("document.getElementById('curves-plot').data.length === 2")
    assert plotted(page)["y"] == accuracies[2:]
    page.keyboard.press("Escape")
    page.wait_for_function("!location.hash.includes('runs')")


def test_words_find_runs_and_the_page_says_what_they_found(open_page: Open, index: Path, data: dict[str, Any]) -> None:
    page = open_page(index)
    page.get_by_role("button", name="Curves of runs").click()
    field, said, chosen = page.locator("#add-run"), page.locator("#run-found"), page.locator("#chosen-runs li")

    def look_for(words: str, answer: str) -> None:
        field.fill(words)
        page.keyboard.press("Enter")
        page.wait_for_function("text => document.getElementById('run-found').textContent === text", arg=answer)

    look_for("nothing is called so", "No run's name has all of these words.")
    for seed in (1, 3):
        look_for(f"F1 6000 smoothout paper_text 200 seed {seed}", "1 added.")
        assert chosen.last.inner_text().endswith(f"200 epochs, paper_text, seed {seed}")
        assert "6000, smoothout" in chosen.last.inner_text()
    look_for("paper_text smoothout F1 6000 200 seed 3", "Already shown.")
    assert chosen.count() == 2
    matching = sum("F1 on MNIST" in run["name"] for run in data["runs"].values())
    look_for("F1", f"{matching} runs match: add a word, for example a seed.")
    assert chosen.count() == 2
    assert said.get_attribute("aria-live") == "polite"
    page.locator("#parts").select_option("test")
    page.wait_for_function("document.getElementById('curves-plot').data?.length === 2")
    assert query(page)["part"] == "test"
    page.reload()
    plotted(page)
    assert page.locator("#curves-plot").evaluate("plot => plot.data.map((line) => line.line.dash)") == ["dot", "dot"]


def test_a_difference_opens_the_curves_of_what_it_compares_seed_by_seed(
    open_page: Open, index: Path, data: dict[str, Any]
) -> None:
    page = open_page(index)
    number = data["numbers"][int(open_cell(page, 2)["number"])]
    assert "compared" in number
    sides = [{v["seed"]: v["run"] for v in data["numbers"][place]["values"]} for place in number["compared"]]
    buttons = page.locator("#evidence .pairs button")
    assert buttons.all_inner_texts() == [f"seed {value['seed']}" for value in number["values"]]
    buttons.nth(1).click()
    pair = [side[number["values"][1]["seed"]] for side in sides]
    assert plotted(page)["y"] == [
        data["runs"][run]["curves"][f"{part}_loss"] for run in pair for part in ("train", "test")
    ]


def test_the_overview_of_claims_follows_the_filters_and_opens_a_claim(open_page: Open, index: Path) -> None:
    page = open_page(index, "#?protocol=authors_code_v1")
    overview = page.locator("#smoothout_v1-claims-1 .glance")
    counted = overview.locator("tbody tr:visible [data-counted]:visible")
    assert counted.count() > 0
    around = "all => all.map((chip) => chip.closest('.counts').dataset.by)"
    assert set(counted.evaluate_all(around)) == {"authors_code_v1"}
    page.get_by_role("button", name="Clear filters").first.click()
    page.wait_for_function("document.querySelectorAll('.leaf[hidden]').length === 0")
    link = overview.locator("tbody a").last
    link.click()
    claim = page.locator(f"[id='{(link.get_attribute('href') or '')[1:]}']")
    assert claim.get_attribute("open") is not None
    assert claim.locator("h4").inner_text() == link.inner_text()
    assert abs(claim.evaluate("element => element.getBoundingClientRect().top")) < 140


def test_the_way_back_leads_to_where_the_reader_was(open_page: Open, index: Path) -> None:
    page = open_page(index, "#?protocol=paper_text")
    page.get_by_role("link", name="Jastrzebski").first.click()
    link = page.locator("a[href='#run-jastrzebski']").first
    link.evaluate("link => { for (let e = link; e; e = e.parentElement.closest('details')) e.open = true; }")
    link.click()
    assert page.locator("#run-jastrzebski").get_attribute("open") is not None
    page.locator("#filters select[name=profile]").select_option("paper")
    for anchor in ("jastrzebski", ""):
        page.go_back()
        page.wait_for_function("anchor => location.hash.startsWith(`#${anchor}?`)", arg=anchor)
        assert query(page) == {"protocol": "paper_text"}
        page.wait_for_function("document.querySelector('#filters select[name=profile]').value === ''")


def test_charts_are_drawn_when_they_come_near_and_tell_what_the_pointer_is_on(
    open_page: Open, index: Path, data: dict[str, Any]
) -> None:
    page = open_page(index, script=COUNT_UNPACKED)
    assert page.evaluate("window.unpacked") == 0
    for name in data["charts"]:
        chart = page.locator(f"[data-chart='{name}']")
        chart.scroll_into_view_if_needed()
        chart.locator(".plotly .point, .plotly .js-line").first.wait_for(state="attached")
        box = chart.bounding_box()
        assert box is not None
        assert box["height"] == pytest.approx(float(data["charts"][name]["layout"]["height"]), abs=1)
    assert page.evaluate("window.unpacked") == 2, "the data and Plotly, each once"
    first = page.locator("[data-chart]").first
    first.scroll_into_view_if_needed()
    place = first.locator(".point").first.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2, steps=3)
    hover = first.locator(".hovertext")
    hover.wait_for()
    assert re.search(r"seed \d+.*curvature .*accuracy [\d.]+%", hover.text_content() or "")


def test_a_cell_is_reached_opened_and_left_by_keys(open_page: Open, index: Path) -> None:
    page = open_page(index)
    page.locator("#smoothout_v1-table2 summary").first.focus()
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.cell')"):
            break
    number = page.evaluate("document.activeElement.dataset.number")
    page.keyboard.press("Enter")
    page.wait_for_selector("#evidence[open]")
    assert page.evaluate("document.activeElement.closest('#evidence') !== null")
    page.keyboard.press("Escape")
    page.wait_for_selector("#evidence", state="hidden")
    assert page.evaluate("document.activeElement.dataset.number") == number


@pytest.fixture
def hosted(report: Path) -> Iterator[str]:
    """The address of a server with the folder for static hosting."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=report / "site")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_hosted_page_works_as_the_lone_one(open_page: Open, hosted: str, data: dict[str, Any]) -> None:
    page = open_page(hosted, "#smoothout_v1?protocol=paper_text")
    assert page.locator("#filters select[name=protocol]").input_value() == "paper_text"
    number = data["numbers"][int(open_cell(page)["number"])]
    assert page.locator("#evidence h2").inner_text() == number["title"]
    page.locator("#evidence button.run").first.click()
    assert plotted(page)["y"][0] == data["runs"][number["values"][0]["run"]]["curves"]["train_loss"]
    assert page.evaluate("[...document.images].every((image) => image.loading === 'lazy' || image.naturalWidth > 0)")


@pytest.mark.parametrize("place", ["#?", "#%E0%A4%A?paper=%zz&network=nothing&runs=nothing&show=x&log=z"])
def test_an_address_that_nobody_made_opens_the_page(place: str, open_page: Open, index: Path, report: Path) -> None:
    page = open_page(index, place)
    page.wait_for_timeout(100)
    assert shown(page) == len(list(leaves(read_page(report), {})))


def test_an_address_with_filters_opens_at_its_place(
    open_page: Open, index: Path, data: dict[str, Any], record_property: Any
) -> None:
    page = open_page(index, "#keskar?protocol=keskar")
    assert abs(page.locator("#keskar").evaluate("element => element.getBoundingClientRect().top")) < 120
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    record_property("milliseconds until it is loaded", page.evaluate(timing))
    run = next(iter(data["runs"]))
    page.evaluate(f"location.hash = '#?paper=ours&runs={run}'")  # another address, pasted
    assert plotted(page)["y"][0] == data["runs"][run]["curves"]["train_loss"]
    assert page.locator(".paper:visible").count() == 1


def test_nothing_is_wider_than_a_phone(open_page: Open, index: Path) -> None:
    page = open_page(index, viewport=PHONE)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    open_cell(page)
    inside = (
        "element => element.scrollWidth <= element.clientWidth && element.getBoundingClientRect().right <= innerWidth"
    )
    assert page.locator("#evidence").evaluate(inside)
    page.locator("#evidence button.run").first.click()
    plotted(page)
    assert page.locator("#curves").evaluate(inside)
    assert page.evaluate(fits)
