"""Whatever a record or a config calls something, the report shows it as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.browsers import Open
from helpers.paths import RESULTS
from helpers.report_pages import read_page, report_settings, save_report, text_of
from helpers.tiny_jobs import workplace

from smoothout.config.compose import compose_config
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction import pages
from smoothout.reproduction.report import build
from smoothout.reproduction.report.settings import Comparison, ReportConfig
from smoothout.results.records import read_record

pytestmark = pytest.mark.xdist_group("report")

HOSTILE = """<img src=x onerror="window.hostile = 1"><b>'bold'</b> &lt;&amp; </script>"""
RAN = "window.hostile !== undefined || document.querySelector('img[src=x], b') !== null"


def copy_records(runtime: Runtime) -> None:
    """The records of F1 and seeds 0 and 1 at full length, with such labels, and made on such a machine."""
    labels = dict.fromkeys(("model", "data", "method", "batch"), HOSTILE)
    machine = {"processor": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    for kind in ("train", "sharpness", "atlas"):
        for path in (RESULTS / kind).glob("f1-mnist-b*-e200-s[01]-*.json"):
            record = read_record(path)
            given = {"labels": record.labels | labels, "environment": record.environment | machine}
            runtime.records.write(replace(record, **given))


def compose_hostile(folder: Path, name: str, overrides: Any) -> dict[str, Any]:
    """A config whose titles, rows, notes and claims bear the text."""
    values = compose_config(folder, name, overrides)
    if name == "reproduce" and values["table"]:
        table = values["table"]
        table |= {"title": table["title"] + HOSTILE, "notes": [HOSTILE]}
        for titled in (*table["rows"], *table["methods"].values()):
            key = "name" if "name" in titled else "title"
            titled[key] += HOSTILE
    values |= {"pages": [[], ["claims=causes"]]} if name == "verdicts" else {}  # to read all of them takes seconds
    for claim in values.get("claims", []):
        claim["statement"] += HOSTILE
        claim["source"] += HOSTILE
    return values


def hostile_settings() -> ReportConfig:
    settings = report_settings()
    paper = settings.papers["smoothout_v1"]
    [table] = [part for part in paper.parts if part.table == "table2"]
    table = replace(table, label=HOSTILE, scopes=table.scopes[:1])
    paper = replace(paper, title=HOSTILE, short=HOSTILE, introduction=HOSTILE, parts=(table,), claims=paper.claims[:1])
    return replace(
        settings,
        title=HOSTILE,
        introduction=HOSTILE,
        papers={"smoothout_v1": paper},
        findings=(),
        comparison=Comparison((table,), ("late",), ("sharpness_converged",)),
        causes=(("claims=causes",),),
        networks={"f1": HOSTILE},
        data_sets={"mnist": HOSTILE},
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report with such labels."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patched:
        for module in (build, pages):
            patched.setattr(module, "compose_config", compose_hostile)
        runtime = workplace(folder)
        copy_records(runtime)
        save_report(hostile_settings(), runtime)
    return folder / "results" / "report" / "index.html"


def test_they_are_text_in_the_page(index: Path) -> None:
    root = read_page(index.parent)
    assert root.find(".//img[@src='x']") is None
    for path in (
        "head/title",
        ".//h1",
        ".//h2",
        ".//section/h3",
        ".//th[@scope='row']",
        ".//thead//th[2]",
        ".//option[2]",
    ):
        assert any(HOSTILE in text_of(element) for element in root.findall(path)), path
    assert sum(HOSTILE in text_of(claim) for claim in root.iter("h4")) > 5
    words = HOSTILE.partition(" &lt;")[0]  # Markdown reads entities
    assert sum(words in text_of(note) for note in root.iter("p")) > 5


def test_they_are_text_in_dialogs_and_on_curves(open_page: Open, index: Path) -> None:
    page = open_page(index)
    assert page.locator("h1").inner_text() == HOSTILE
    page.locator("button.cell:has(data)").first.click()
    dialog = page.locator("#evidence[open]")
    assert HOSTILE in dialog.locator("h2").inner_text()
    row = dialog.locator("tbody tr").first.locator("td").all_inner_texts()
    assert row[3:5] == [f"{HOSTILE}, 1 thread", row[4]]
    assert f"{HOSTILE} {HOSTILE}" in row[4]
    dialog.locator("button.run").first.click()
    run = page.locator("#chosen-runs li")
    assert f"{HOSTILE} on {HOSTILE}, {HOSTILE}, {HOSTILE}, 200 epochs" in run.inner_text()
    page.wait_for_function("document.querySelector('#curves-plot .plotly') !== null")
    page.evaluate("Plotly.Fx.hover('curves-plot', [{curveNumber: 0, pointNumber: 5}])")
    hover = page.locator("#curves-plot .hovertext")
    assert f"{HOSTILE} on {HOSTILE}, {HOSTILE}, {HOSTILE}, 200 epochs" in (hover.text_content() or "")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert not page.evaluate(RAN)


def test_they_are_text_in_legends_and_on_points(open_page: Open, index: Path) -> None:
    page = open_page(index)
    charts = page.locator("[data-chart]")
    assert charts.count() >= 2
    for chart in charts.all():
        chart.scroll_into_view_if_needed()
        chart.locator(".plotly .point, .plotly .js-line").first.wait_for(state="attached")
    compared = page.locator("[data-chart^=comparison]")
    legend = compared.locator(".legendtext").all_text_contents()
    assert len(legend) > 2
    assert all(text.count(HOSTILE) == 2 for text in legend), "method and row"
    compared.evaluate("plot => Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}])")
    assert (compared.locator(".hovertext").text_content() or "").count(HOSTILE) == 2
    titles = page.locator("[data-chart=searches] .annotation-text").all_text_contents()
    assert any(HOSTILE in title for title in titles)
    assert not page.evaluate(RAN)
