"""Figures from the existing records: which seeds, which colors, and what is named as missing."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from helpers.figure_plans import figure_plan

from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.table import RunSelection
from smoothout.results.digest import canonical_settings
from smoothout.results.figures import curves
from smoothout.results.records import Record


def write(job: Job, runtime: Runtime, outcome: dict[str, Any]) -> Record:
    """A record of ``job`` that no program made."""
    return runtime.records.write(
        Record(
            kind=job.kind,
            name=job.name,
            digest=job.digest,
            identity=job.identity,
            settings=canonical_settings(job.settings),
            labels=(job.dependencies or (job,))[0].settings.labels,
            inputs=[one.name for one in job.dependencies],
            outcome=outcome,
            environment={},
        )
    )


LINE = [{"alpha": a, "loss": 0.1, "accuracy": 0.9, "negative_variances": 0} for a in (-1.0, 0.0, 1.0, 2.0)]


def test_what_is_there_is_drawn_and_what_is_missing_is_named(runtime: Runtime, tmp_path: Path) -> None:
    made = figure_plan("f1")
    [(_, line)] = made.panels[0].jobs
    write(line, runtime, {"train": LINE, "test": LINE})
    (_, small), (_, large) = made.panels[1].jobs
    half = {"points": [{"a": a, "loss": 0.1, "accuracy": 0.9} for a in (0.0, 0.1)], "slopes": [0.0]}
    write(small, runtime, {"train": half, "test": half})
    svg, png = made.save(runtime, tmp_path / "figures")
    assert (svg.name, png.name) == ("f1-authors_code-paper.svg", "f1-authors_code-paper.png")
    text = svg.read_text()
    for words in ("alpha: 0 is SB, 1 is LB", "loss, SB train", "not run: 1 of its records", "seed 0"):
        assert words in text
    assert "loss, LB train" not in text
    assert f"not run: {made.panels[2].title}" in html.unescape(text)
    assert made.missing(runtime) == [large.name, made.panels[2].jobs[0][1].name]


def test_a_picture_of_other_weights_than_recorded_says_so(runtime: Runtime, tmp_path: Path) -> None:
    made = figure_plan("f1")
    (_, small), (_, large) = made.panels[1].jobs
    points = {"points": [{"a": a, "loss": 0.1, "accuracy": 0.9} for a in (0.0, 0.1)], "slopes": [0.0]}
    numbers = {f"{split}_{name}": 0.2 for split in ("train", "test") for name in ("loss", "accuracy")}
    for job, digest in ((small, "1c"), (large, "1b")):
        trained = {"best": numbers, "examples": {"train": 100, "test": 100}, "weights": {"best": "1b", "last": "2b"}}
        write(job.dependencies[0], runtime, trained)
        write(job, runtime, {"train": points, "test": points, "weights": [digest]})
    lines = re.sub("<[^>]+>", " ", made.save(runtime, tmp_path)[0].read_text()).split()
    assert f"trained again, other weights: {small.dependencies[0].name} not run:" in " ".join(lines)


def test_several_seeds_are_drawn_together_as_far_as_they_are_there(runtime: Runtime, tmp_path: Path) -> None:
    made = figure_plan("f1", seeds=(0, 1, 2))
    for _, line in made.panels[0].jobs[:2]:
        write(line, runtime, {"train": LINE, "test": LINE})
    text = made.save(runtime, tmp_path)[0].read_text()
    assert "not run: 1 of its records" in text
    assert "seeds 0, 1, 2" in text


def test_what_is_only_drawn_is_of_every_seed_that_has_a_record_of_what_is_drawn(runtime: Runtime) -> None:
    made = figure_plan("f1")
    assert made.with_recorded_seeds(runtime) is made
    lines = {job.training_job.settings.seed: job for _, job in figure_plan("f1", seeds=(1, 2, 3, 4)).panels[0].jobs}
    for seed in (1, 2, 3):
        write(lines[seed].training_job, runtime, {})  # a training alone draws nothing here
    for seed in (1, 3, 4):  # no training of seed 4 is recorded, so nobody looks for it
        write(lines[seed], runtime, {"train": LINE, "test": LINE})
    shown = made.with_recorded_seeds(runtime)
    assert shown.scope == RunSelection(seeds=(1, 3))
    assert lines[3].digest in {job.digest for job in shown.jobs()}


def test_a_run_has_one_colour_in_all_panels_and_a_line_between_runs_has_none_of_theirs(runtime: Runtime) -> None:
    given: list[list[curves.RunLabel]] = []
    made = figure_plan("f1")
    half = {"points": [{"a": a, "loss": 0.1, "accuracy": 0.9} for a in (0.0, 0.1)], "slopes": [0.0]}
    for panel in made.panels:
        for _, job in panel.jobs:
            values = {"train": LINE, "test": LINE} if job.kind == "interpolation" else {"train": half, "test": half}
            write(job, runtime, values)
        given.append([run for run, _ in panel.drawn(runtime, made.places).draw.keywords["records"]])
    ways = [curves.RunLabel("0 is SB, 1 is LB", None)]
    assert given == [ways, [curves.RunLabel("SB", 0), curves.RunLabel("LB", 1)], ways]
