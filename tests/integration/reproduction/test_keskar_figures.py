"""Figures 2, 5 and 6 of Keskar et al.: what they train, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.figure_plans import CONFIGS, figure_plan

from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection
from smoothout.training.checkpoint import TrainingState

EPOCHS = (100, 80, 60, 50, 40, 30, 20, 15, 10, 5, 2, 1)


def test_figure_2_draws_the_trainings_of_both_batch_sizes_without_distances() -> None:
    made = figure_plan("keskar2")
    assert all(not job.dependencies and job.settings.schedule.epochs == 100 for job in made.jobs())
    assert [[(n, j.settings.model.name, j.settings.batch.size) for n, j in panel.jobs] for panel in made.panels] == [
        [("SB", "f1", 256), ("LB", "f1", 6000)],
        [("SB", "keskar_c1", 256), ("LB", "keskar_c1", 5000)],
    ]
    assert [vars(panel.options) for panel in made.panels] == [{"distances": False, "held_out": "test"}] * 2


def test_figure_5_begins_at_the_iterates_of_one_training_which_comes_first_and_keeps_them() -> None:
    panel = figure_plan("keskar5", protocol="keskar").panels[2]
    runs = [job for name, job in panel.jobs if name == "LB" and not job.dependencies]
    sources = [job for name, job in panel.jobs if name == "start of LB"]
    assert [job.settings.source for job in runs] == [job.settings for job in sources]
    assert {(job.settings.batch.size, job.settings.schedule.epochs) for job in runs} == {(5000, 100)}
    assert tuple(job.settings.schedule.epochs for job in sources) == EPOCHS
    assert {job.settings.batch.size for job in sources} == {256}
    first, *shorter = sources
    kept = [Job(replace(first.settings, schedule=schedule)) for schedule in first.settings.schedule.beginnings()]
    assert {job.digest for job in kept} == {job.digest for job in shorter}
    order = [job.digest for job in figure_plan("keskar5", protocol="keskar").jobs()]
    assert all(order.index(first.digest) < order.index(job.digest) for job in (*shorter, *runs))
    analyses = [job for _, job in panel.jobs if job.dependencies]
    assert {job.dependencies[0].digest for job in analyses} == {job.digest for job in runs}


@pytest.mark.parametrize("network", ["f1", "keskar_c1"])
@pytest.mark.parametrize("batch", [256, None])
def test_figure_6_trains_the_longest_run_first_and_it_keeps_the_others(network: str, batch: int | None) -> None:
    jobs = [
        job
        for job in figure_plan("keskar6").jobs()
        if job.settings.kind == "train"
        and job.settings.model.name == network
        and (job.settings.batch.size == 256) is (batch == 256)
    ]
    longest, *shorter = (job.settings.schedule for job in jobs)
    assert longest.epochs == 100
    assert {schedule.epochs for schedule in longest.beginnings()} == {schedule.epochs for schedule in shorter}


def test_a_figure_of_warm_starts_is_trained_and_drawn_and_kept_iterates_are_not_trained_again(
    runtime: Runtime, trainings: list[TrainingState | None], tmp_path: Path
) -> None:
    whole, part = ["batch=small", "schedule.epochs=2", "schedule.keep_epochs=[1]"], ["batch=small", "schedule.epochs=1"]
    figure = {
        "name": "mine",
        "title": "warm starts",
        "overrides": ["experiment=digits", "batch=large", "schedule.epochs=2"],
        "panels": [
            {
                "kind": "sharpness_over_start",
                "title": "digits",
                "runs": {"LB": []},
                "sweep": {"init_from.run": [whole, part]},
                "analysis": {"convention": "keskar", "checkpoint": "last", "iterations": 2, "examples": 100},
            }
        ],
    }
    plan = FigurePlan(figure, RunSelection(), CONFIGS)
    assert len(plan.missing(runtime)) == 6
    for job in plan.jobs():
        get_or_run(job, runtime)
    assert plan.missing(runtime) == []
    assert len(trainings) == 3, "of four: a small one, its beginning, and a large one from each"
    assert plan.save(runtime, tmp_path / "figures")
