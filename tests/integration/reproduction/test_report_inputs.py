"""The report without records, and with settings and files that it cannot use."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.common import tree
from helpers.composed import composed
from helpers.paths import CONFIGS, PUBLISHED, RESULTS
from helpers.programs import end_without_torch
from helpers.report_pages import report_settings, save_report, text_of, with_class

from smoothout.cli.error_messages import exit_code, format_error
from smoothout.common.errors import ConfigError, DataError, RecordError
from smoothout.config.build import validate
from smoothout.config.compose import compose_config
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.report import build, page
from smoothout.reproduction.report.build import ReportBuilder
from smoothout.reproduction.report.settings import Finding, Part, ReportConfig


def small_settings(**changes: Any) -> ReportConfig:
    """One table of one paper, with nothing else unless ``changes`` say so."""
    settings = report_settings()
    paper = settings.papers["smoothout_v1"]
    parts = tuple(part for part in paper.parts if part.table == "table1")
    small: dict[str, Any] = {"papers": {"smoothout_v1": replace(paper, parts=parts, claims=())}}
    small |= {"findings": (), "causes": (), "comparison": replace(settings.comparison, parts=())}
    return replace(settings, **small | changes)


@pytest.fixture
def one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page of claims: to read all of them takes seconds."""

    def compose(folder: Path, name: str, overrides: list[str]) -> dict[str, Any]:
        values = compose_config(folder, name, overrides)
        return values | {"pages": [[]]} if name == "verdicts" else values

    monkeypatch.setattr(build, "compose_config", compose)


@pytest.mark.usefixtures("one_page")
def test_without_records_every_cell_is_not_run_and_the_summary_says_so(runtime: Runtime) -> None:
    Path(runtime.folders.results).mkdir()
    settings = report_settings()
    papers = {
        key: replace(paper, claims=paper.claims[: key == "smoothout_v1"]) for key, paper in settings.papers.items()
    }
    root = save_report(replace(settings, papers=papers, causes=()), runtime)
    assert "there are no records" in text_of(with_class(root, "findings")[0])
    assert "0 trainings are recorded" in text_of(root.find(".//section[@id='summary']"))
    assert "there are no records" in text_of(root.find(".//section[@id='charts']"))
    cells = with_class(root, "cell")
    assert len(cells) > 1000
    assert all(text_of(cell).startswith("not run") for cell in cells)
    assert list(root.iter("data")) == []
    assert [meter.get("value") for meter in root.iter("meter")] == ["0"] * len(list(root.iter("meter")))
    assert list(root.iter("img")) == []


def with_table(name: str) -> dict[str, Any]:
    """Settings with a paper of this table."""
    paper = replace(report_settings().papers["ours"], claims=(), parts=(Part("Wrong", table=name),))
    return {"papers": {"ours": paper}}


FINDING = Finding("It is {estimate}.", "Nobody claims this.", "F1, MNIST", "paper_text", "best")
WRONG = {
    "table": (with_table("tabel2"), ["table", "'tabel2'", "table2"]),
    "page of claims": ({"causes": (("claims=nothing",),)}, ["claims", "claims=nothing", "configs/verdicts.yaml"]),
    "finding": ({"findings": (FINDING,)}, ["findings", "'Nobody claims this.'", "claims.md", "paper_text, best"]),
}


@pytest.mark.usefixtures("one_page")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_name_in_the_settings_is_an_error_line_with_what_is_allowed(wrong: str, runtime: Runtime) -> None:
    changes, words = WRONG[wrong]
    with pytest.raises(ConfigError) as error:
        ReportBuilder(small_settings(**changes), runtime, CONFIGS, PUBLISHED).build()
    line = format_error(error.value)
    assert exit_code(error.value) == 2
    assert "\n" not in line
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize(
    ("key", "value", "allowed"), [("text", "It is {estimat}.", "{estimate}, {interval}"), ("metric", "bset", "best,")]
)
def test_a_wrong_word_in_a_finding_is_refused_before_anything_is_read(key: str, value: str, allowed: str) -> None:
    values = composed(name="report")
    values["findings"][3][key] = value
    given = {field.name: values[field.name] for field in fields(ReportConfig)}
    with pytest.raises(ConfigError, match=rf"^findings\S*\.{key}: ") as error:
        validate(ReportConfig, given, "")
    assert allowed in str(error.value)
    assert value.strip("It is.") in str(error.value)


@pytest.mark.usefixtures("one_page")
def test_a_broken_image_is_named_and_the_old_report_stays_whole(runtime: Runtime) -> None:
    results = Path(runtime.folders.results)
    image = results / "figures" / f"{report_settings().headline}.png"
    image.parent.mkdir(parents=True)
    shutil.copy(RESULTS / "figures" / image.name, image)
    report = ReportBuilder(small_settings(), runtime, CONFIGS, PUBLISHED).build()
    page.save(report, results / "report")
    old = tree(results / "report")
    assert f"site/figures/{image.name}" in old
    image.write_bytes(image.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"figures: .*not a whole image") as error:
        page.save(report, results / "report")
    assert str(image) in str(error.value)
    assert tree(results / "report") == old
    page.save(replace(report, headline=None), results / "report")
    assert f"site/figures/{image.name}" not in tree(results / "report"), "images of earlier reports are removed"


@pytest.mark.usefixtures("one_page")
def test_a_damaged_record_is_named(runtime: Runtime) -> None:
    records = Path(runtime.folders.results) / "train"
    shutil.copytree(RESULTS / "train", records)
    damaged = min(records.glob("f1-mnist-b256-baseline-e200-s0-*.json"))
    damaged.write_text(damaged.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    with pytest.raises(RecordError) as error:
        ReportBuilder(small_settings(), runtime, CONFIGS, PUBLISHED).build()
    assert str(damaged) in format_error(error.value)
    assert exit_code(error.value) == 2


def test_the_program_ends_with_a_line_and_leaves_the_old_report_whole(tmp_path: Path) -> None:
    old = tmp_path / "results" / "report" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old", encoding="utf-8")
    ended = end_without_torch("report", f"folders.results={tmp_path / 'results'}", "causes=[[claims=nothing]]")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "claims=nothing" in ended.stderr
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert old.read_text(encoding="utf-8") == "old"
