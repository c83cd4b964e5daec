"""The report as files: one page that holds everything, and the same as a folder for static hosting."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from smoothout.common.files import atomic_write, atomic_write_text
from smoothout.reproduction.report.build import Report
from smoothout.reproduction.report.figures import embedded, size_of
from smoothout.results.significance import Verdict

SCRIPTS = ("data.js", "filters.js", "plots.js", "evidence.js", "curves.js", "main.js")
PROFILES = {"paper": "full length", "short": "a tenth of the epochs (F1: 20)"}
SYMBOLS = {  # next to the color of a verdict, for readers who cannot distinguish colors
    Verdict.holds: "✓",
    Verdict.holds_if_normal: "(✓)",
    Verdict.contradicted: "✗",
    Verdict.contradicted_if_normal: "(✗)",
    Verdict.undecided: "?",
    Verdict.untested: "-",
}


def save(report: Report, folder: Path) -> list[Path]:
    """Write <folder>/index.html, which needs no other file, and <folder>/site/; returns the two pages."""
    site = folder / "site"
    data = json.dumps(_data(report), separators=(",", ":"), allow_nan=False)
    pages = {  # before anything is written: an image may be broken
        folder / "index.html": _render(report, embedded, {"data": _packed(data), "plotly": _packed(get_plotlyjs())}),
        site / "index.html": _render(report, lambda file: f"figures/{file.name}", {}),
    }
    figures = {figure.file for paper in report.papers for part in paper.parts for figure in part.figures if figure.file}
    figures |= {report.headline} if report.headline else set()
    for image in figures:
        with atomic_write(site / "figures" / image.name) as part:
            shutil.copyfile(image, part)
    atomic_write_text(site / "report.css", _asset("report.css"))
    atomic_write_text(site / "report.js", _scripts())
    atomic_write_text(site / "plotly.min.js", get_plotlyjs())
    atomic_write_text(site / "report-data.js", f"window.REPORT_DATA = {data};\n")
    for path, text in pages.items():
        atomic_write_text(path, text)
    _forget(site / "figures", {image.name for image in figures})
    return [*pages]


def _forget(folder: Path, kept: set[str]) -> None:
    """Remove images of earlier reports."""
    for file in folder.glob("*.png"):
        if file.name not in kept:
            file.unlink()


def _render(report: Report, address: Callable[[Path], str], packed: dict[str, str]) -> str:
    environment = Environment(
        loader=PackageLoader("smoothout.reproduction.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"markdown": _markdown, "inline": _inline}
    return environment.get_template("page.html.j2").render(
        report=report,
        verdicts=Verdict,
        symbols=SYMBOLS,
        profiles=PROFILES,
        choices=_choices(report),
        address=cache(address),
        size=size_of,
        packed=packed,
        style=Markup(_asset("report.css")) if packed else "",  # our own file
        script=Markup(_scripts()) if packed else "",
    )


def _choices(report: Report) -> dict[str, dict[str, str]]:
    """What each filter offers, as {value: words}, in the order of the page."""
    parts = [part for paper in report.papers for part in paper.parts]
    scopes = [table.scope for part in parts for table in part.tables]
    scopes += [figure.scope for part in parts for figure in part.figures]
    tests = [test for paper in report.papers for page in paper.pages for claim in page.claims for test in claim.tests]
    blocks = [block for part in parts for table in part.tables for block in table.blocks]
    networks = [row.network for block in blocks for row in block.rows]
    networks += [test.network for test in tests if test.network]
    return {
        "paper": {paper.key: paper.paper.short for paper in report.papers},
        "network": {name: name for name in sorted(set(networks))},
        "protocol": {name: name for name in dict.fromkeys(scope.protocol for scope in scopes)},
        "profile": {name: PROFILES.get(name, name) for name in dict.fromkeys(scope.profile for scope in scopes)},
        "verdict": {verdict.name: verdict.value for verdict in Verdict if verdict is not Verdict.untested},
    }


def _data(report: Report) -> dict[str, Any]:
    evidence = report.evidence
    return {
        "numbers": evidence.numbers,
        "records": evidence.records,
        "runs": evidence.runs,
        "charts": {chart.name: chart.spec() for chart in report.charts},
    }


def _packed(text: str) -> str:
    """``text`` for a script element that `unpack` in data.js reads: a third of its size, and no markup."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return (files("smoothout.reproduction.report") / "assets" / name).read_text("utf-8")


def _scripts() -> str:
    return "\n".join(map(_asset, SCRIPTS))


@cache
def _parser() -> MarkdownIt:
    """A Markdown parser that escapes HTML and drops links, because their targets are not next to the page."""
    parser = MarkdownIt("commonmark", {"html": False})
    for token in ("link_open", "link_close"):
        parser.add_render_rule(token, lambda *_: "")
    return parser


def _markdown(text: str) -> Markup:
    return Markup(_parser().render(text))  # it escapes what it does not know


def _inline(text: str) -> Markup:
    return Markup(_parser().renderInline(text))
