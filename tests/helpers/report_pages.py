"""The report: built once on the committed records, or in this process on others; and its page as a tree."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import pytest
from filelock import FileLock

from helpers.composed import composed
from helpers.paths import CONFIGS, PUBLISHED, RESULTS
from helpers.programs import without_torch
from smoothout.config.build import validate
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.report import page
from smoothout.reproduction.report.build import ReportBuilder
from smoothout.reproduction.report.settings import ReportConfig

VOID = {"br", "hr", "img", "input", "link", "meta"}


def committed_report(factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on the committed records, written without torch by the first worker that asks for it."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    results = base / "committed"
    with FileLock(base / "committed.lock"):
        if not (results / "report" / "site" / "index.html").exists():
            link_results(results)
            without_torch("report", f"folders.results={results}")
    return results / "report"


def link_results(folder: Path) -> None:
    """A results folder with what is in the committed one, but for its report."""
    folder.mkdir()
    for path in RESULTS.iterdir():
        if path.name != "report" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)


def report_settings() -> ReportConfig:
    values = composed(name="report")
    return validate(ReportConfig, {field.name: values[field.name] for field in fields(ReportConfig)}, "")


def save_report(settings: ReportConfig, runtime: Runtime) -> Element:
    """Write the report in the results folder of ``runtime``; gives the page that stands alone."""
    report = ReportBuilder(settings, runtime, CONFIGS, PUBLISHED).build()
    folder = Path(runtime.folders.results) / "report"
    page.save(report, folder)
    return read_page(folder)


def read_page(folder: Path) -> Element:
    return tree((folder / "index.html").read_text(encoding="utf-8"))


def read_data(folder: Path) -> dict[str, Any]:
    """What the page shows on demand."""
    text = (folder / "site" / "report-data.js").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text.removeprefix("window.REPORT_DATA = ").removesuffix(";\n"))
    return data


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.builder = TreeBuilder()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def tree(text: str) -> Element:
    """A page as a tree, if each of its elements is closed in order."""
    parser = _Parser()
    parser.feed(text.strip())
    parser.close()
    return parser.builder.close()


def text_of(element: Element | None) -> str:
    assert element is not None
    return " ".join("".join(element.itertext()).split())


def with_class(element: Element, name: str) -> list[Element]:
    return [one for one in element.iter() if name in one.get("class", "").split()]
