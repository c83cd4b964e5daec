"""The report shows what the tables and pages of claims in results/ say, and needs nothing but itself."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any
from xml.etree.ElementTree import Element

import pytest
import torch
from helpers.composed import composed
from helpers.paths import CONFIGS, PUBLISHED, RESULTS, TABLES
from helpers.report_pages import read_data, read_page, report_settings, text_of, tree, with_class

from smoothout.common.formatting import format_decimal, format_significant
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.pages import listed_page
from smoothout.reproduction.report.claims import CORRELATION
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.tables import Table, stem

pytestmark = pytest.mark.xdist_group("report")

MOST_BYTES = 6_000_000
RATIO_SCALE = {name for name, metric in METRICS.items() if metric.ratio_scale}
Place = tuple[str, str, str]  # the block's heading, row, column


@pytest.fixture(scope="module")
def page(report: Path) -> Element:
    return read_page(report)


def tables(page: Element) -> Iterator[tuple[str, RunSelection, Element]]:
    """Each table that the settings ask for, in each scope, and where the page shows it."""
    for key, paper in report_settings().papers.items():
        for part in paper.parts:
            if part.table:
                shown = page.findall(f".//section[@id='{key}-{part.table}']/details")
                for scope, element in zip(part.scopes, shown, strict=True):
                    assert (element.get("data-protocol"), element.get("data-profile")) == (
                        scope.protocol,
                        scope.profile,
                    )
                    yield part.table, scope, element


def cells(shown: Element) -> dict[Place, Element]:
    """The buttons of a table's cells."""
    found = {}
    for table in shown.iter("table"):
        heading, columns = text_of(table.find("caption")), [text_of(head) for head in table.findall("thead/tr/th")][1:]
        for row in table.findall("tbody/tr"):
            for column, cell in zip(columns, row.findall("td"), strict=True):
                button = cell.find("button")
                if button is not None:
                    place = (heading, text_of(row.find("th")), column)
                    assert place not in found
                    found[place] = button
    return found


def rendered(name: str, scope: RunSelection) -> Table:
    """The table with its blocks, which say what a column of the CSV is called on a page."""
    runtime = Runtime(Folders("none", str(RESULTS), "none", "none"), torch.device("cpu"))
    plan = TablePlan(composed(f"table={name}", name="reproduce")["table"], scope, CONFIGS, PUBLISHED)
    return plan.with_choice(runtime).with_recorded_seeds(runtime).render(runtime)


def lines(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """The lines of a CSV that have numbers, by row and column."""
    return {(line["row"], line["column"]): line for line in csv.DictReader(text.splitlines()) if int(line["n"])}


def rendered_lines(name: str, scope: RunSelection) -> dict[tuple[str, str], dict[str, str]]:
    """Those of a table's CSV; none if it is not among those in results/."""
    path = TABLES / f"{stem(name, scope.protocol, scope.profile, scope.precision)}.csv"
    return lines(path.read_text(encoding="utf-8")) if path.exists() else {}


def test_every_cell_shows_the_number_of_its_csv_and_no_number_is_left_out(page: Element, report: Path) -> None:
    opened, compared = read_data(report)["numbers"], 0
    for name, scope, shown in tables(page):
        numbers = {place: button for place, button in cells(shown).items() if button.find("data") is not None}
        recorded = rendered_lines(name, scope)
        if not numbers and not recorded:
            continue
        table, expected = rendered(name, scope), set[Place]()
        recorded = recorded or lines(table.long().to_csv(index=False))  # of one that `make tables` does not render
        for block in table.blocks:
            for title, column in block.columns.items():
                for row, line in ((row, line) for (row, its), line in recorded.items() if its == column):
                    place = (block.heading.replace("`", ""), row, title)
                    check_cell(numbers[place], line, block.by_ratio, opened)
                    expected.add(place)
        assert numbers.keys() == expected, (name, scope)
        left_out = {column for _, column in recorded} - {
            column for block in table.blocks for column in block.columns.values()
        }
        assert all("gap" in column.split() for column in left_out), "a page shows the gaps of one metric"
        compared += len(expected)
    assert compared > 100


def check_cell(button: Element, line: dict[str, str], by_ratio: bool, opened: list[dict[str, Any]]) -> None:
    """A cell's number and text, and what it opens: the same mean, of the same records."""
    mean, [data] = float(line["geometric_mean" if by_ratio else "mean"]), button.iter("data")
    assert float(data.get("value", "")) == mean
    assert text_of(button).startswith(format_significant(mean) if by_ratio else format_decimal(mean, 2))
    number = opened[int(button.get("data-number", ""))]
    values = [float(value["value"]) for value in number["values"] if value["value"]]
    assert len(values) == int(line["n"])
    three_digits = line["column"].rpartition(" ")[2] in RATIO_SCALE  # others have two decimals
    error = {"rel": 0.006} if three_digits else {"abs": 0.0051}
    assert (geometric_mean if by_ratio else fmean)(values) == pytest.approx(mean, **error)
    if "compared" not in number:
        assert {value["record"] for value in number["values"]} == set(line["records"].split())
        assert number["command"].startswith("python scripts/")


def test_what_has_no_record_is_shown_as_not_run(page: Element) -> None:
    empty = [b for _, _, shown in tables(page) for b in cells(shown).values() if b.find("data") is None]
    assert len(empty) > 1000
    assert all(re.match("not run|failed|diverged", text_of(button)) for button in empty)


def listed_tests(overrides: list[str]) -> Counter[tuple[str, ...]]:
    """The tests with numbers on a page of claims in results/: claim, row, protocols, metric, and what came of it."""
    found = Counter[tuple[str, ...]]()
    text = (RESULTS / listed_page(CONFIGS, overrides).file).read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
        heads = [word.strip() for word in rows[0]] if rows else []
        if "p by sign flips [least]" in heads or ("verdict" in heads and heads[0] == "row"):
            for row in rows[2:]:
                line = {head: word.strip().replace("`", "") for head, word in zip(heads, row, strict=True)}
                estimate = line.get("ours [95%]") or line["ours - published [95%]"]
                words = (line["row"], line["protocol"], line["metric"], estimate)
                words += (line.get("published", ""), line["seeds"], line["verdict"])
                found[section.splitlines()[0], *words] += 1
    return found


def shown_tests(section: Element) -> Counter[tuple[str, ...]]:
    found = Counter[tuple[str, ...]]()
    for claim in with_class(section, "claim"):
        for row in claim.findall(".//tbody/tr"):
            words = [text_of(cell) for cell in row]
            words[2] = words[2].removeprefix(f"{CORRELATION}, ")
            words[1] = " against ".join(text_of(code) for code in row[1])
            chip = with_class(row[-1], "chip")[0]
            words[-1] = words[-1].partition(" ")[2]  # without its symbol
            assert row.get("data-verdict") in chip.get("class", "").split()
            found[text_of(claim.find(".//h4")), *words] += 1
    return found


def test_every_test_of_every_page_of_claims_is_shown_with_its_estimate_and_verdict(page: Element) -> None:
    listed, total = [list(given) for given in composed(name="verdicts")["pages"]], 0
    for key, paper in report_settings().papers.items():
        for number, overrides in enumerate(paper.claims, 1):
            section = page.find(f".//section[@id='{key}-claims-{number}']")
            assert section is not None
            expected = listed_tests(list(overrides))
            assert shown_tests(section) == expected
            listed.remove(list(overrides))
            total += expected.total()
    assert listed == [], "pages that the report leaves out"
    assert total > 50


def test_the_overview_of_claims_counts_their_tests_by_protocol(page: Element) -> None:
    overviews = with_class(page, "glance")
    for overview in overviews:
        protocols = [
            "  ".join(text_of(c) for c in head.iter("code")).split() for head in overview.findall("thead/tr/th")[1:]
        ]
        for row in overview.findall("tbody/tr"):
            link = row.find("th/a")
            assert link is not None
            claim = page.find(f".//details[@id='{link.get('href', '')[1:]}']")
            assert claim is not None
            assert text_of(claim.find("summary/h4")) == text_of(link)
            tests, shown = claim.findall(".//tbody/tr"), 0
            for names, cell in zip(protocols, row.findall("td"), strict=True):
                for counts in with_class(cell, "counts"):
                    beside = counts.get("data-beside")
                    counted = [
                        t
                        for t in tests
                        if (t.get("data-protocol", "").split(), t.get("data-beside")) == (names, beside)
                    ]
                    verdicts = Counter(t.get("data-verdict") for t in counted)
                    chips = with_class(counts, "chip")
                    assert {c.get("data-counted"): text_of(with_class(c, "count")[0]) for c in chips} == {
                        verdict: str(count) for verdict, count in verdicts.items()
                    }
                    shown += sum(verdicts.values())
            assert shown == len(tests)
    assert sum(len(overview.findall("tbody/tr")) for overview in overviews) > 20


def test_what_is_missing_is_listed_by_network_with_commands_that_make_it(page: Element) -> None:
    settings, commands = report_settings(), set[str]()
    for line in with_class(page, "coverage")[0]:
        meter, rows = line.find("meter"), line.findall(".//tbody/tr")
        assert meter is not None
        counts = [text_of(row[1]).split(" of ") for row in rows if text_of(row[1]) != "no numbers"]  # but figures
        assert [str(sum(int(count[place]) for count in counts)) for place in (0, 1)] == [
            meter.get("value"),
            meter.get("max"),
        ]
        commands |= {text_of(code) for code in line.iter("code")}
    parts = [part for paper in settings.papers.values() for part in paper.parts]
    targets = {f"reproduce-{part.table}" if part.table else f"figure-{part.figure}" for part in parts}
    assert {command.split()[1] for command in commands} <= targets
    assert all(
        re.search(r" PROTOCOL=\w+ PROFILE=paper( SEEDS=[\d,]+)?( ARGS=.*rows=\[.+\].*)?$", command)
        for command in commands
    )
    assert len(commands) > 30


def test_rows_and_columns_that_were_not_run_are_folded_below_the_others(page: Element) -> None:
    folded = [fold for fold in with_class(page, "unrun") if "more" in fold.get("class", "").split()]
    kinds = Counter[str]()
    parents = {child: parent for parent in page.iter() for child in parent}
    for fold in folded:
        around = [*parents[fold]]
        above = around[around.index(fold) - 1]
        rows_above = [text_of(head) for head in above.findall(".//tbody/tr/th")]
        names = []
        for table in fold.iter("table"):
            rows, columns = ([text_of(h) for h in table.findall(path)] for path in ("tbody/tr/th", "thead/tr/th"))
            kinds["columns" if rows == rows_above else "rows"] += 1
            names += columns[1:] if rows == rows_above else rows
        assert text_of(fold.find("summary")) == f"Not run: {'; '.join(names)}"
        assert all(text_of(cell).startswith("not run") for cell in with_class(fold, "cell"))
        for row in above.findall(".//tbody/tr"):
            assert any(not text_of(cell).startswith("not run") for cell in with_class(row, "cell"))
    assert min(kinds["columns"], kinds["rows"]) > 3


def test_the_summary_has_the_numbers_of_its_tests(page: Element) -> None:
    findings = [text_of(line) for line in with_class(page, "findings")[0]]
    tests = [test for given in composed(name="verdicts")["pages"] for test in listed_tests(given)]
    assert len(findings) == len(report_settings().findings) == 10
    for finding, text in zip(report_settings().findings, findings, strict=True):
        of_claim = [t for t in tests if t[0].startswith(finding.claim) and t[1:3] == (finding.row, finding.protocol)]
        assert any(all(w in text for w in (*test[4].split(" ", 1), f"; {test[-1]}.")) for test in of_claim)
    numbers = [text_of(number) for number in page.findall(".//ul[@class='numbers']/li/button/strong")]
    assert len(numbers) == sum(bool(finding.number) for finding in report_settings().findings)


def test_the_hosted_page_says_the_same_and_has_the_files_that_it_names(page: Element, report: Path) -> None:
    site = tree((report / "site" / "index.html").read_text(encoding="utf-8"))
    assert text_of(site.find("body/main")) == text_of(page.find("body/main"))
    loaded = [*site.iterfind(".//link"), *site.iterfind(".//script"), *site.iterfind(".//img")]
    names = {name for element in loaded if (name := element.get("src") or element.get("href", "data:,")) != "data:,"}
    assert {"report.css", "report.js", "report-data.js"} < names
    assert all((report / "site" / name).is_file() for name in names)


def test_the_page_is_small_and_loads_nothing_else(page: Element, report: Path) -> None:
    text = (report / "index.html").read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    for element in page.iter():
        if element.tag != "a":
            assert element.get("src", "data:").startswith("data:"), element.attrib
            assert element.get("href", "data:").startswith("data:"), element.attrib
    [style] = page.iter("style")
    assert not re.search(r"url\(|@import|https?:", style.text or "")
    papers = {paper.source for paper in report_settings().papers.values() if paper.source}
    assert {a.get("href") for a in page.iter("a") if not a.get("href", "").startswith("#")} == papers


def test_links_within_the_page_and_numbers_of_cells_lead_somewhere(page: Element, report: Path) -> None:
    names = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(names) == len(set(names))
    data = read_data(report)
    assert {a.get("href", "")[1:] for a in page.iter("a") if a.get("href", "").startswith("#")} <= set(names)
    assert all(int(b.get("data-number", "0")) < len(data["numbers"]) for b in page.iter("button"))
    assert {e.get("data-chart") for e in page.iter() if e.get("data-chart")} == data["charts"].keys()
    values = [value for number in data["numbers"] for value in number.get("values", []) if "record" in value]
    assert {value["record"] for value in values} <= data["records"].keys()
    assert {value["run"] for value in values} - {""} <= data["runs"].keys()
    assert all(
        math.isfinite(p) for run in data["runs"].values() for c in run["curves"].values() for p in c if p is not None
    )
