"""The experiments of Jastrzebski et al. (2018): networks, grids, the sweeps that make them, and their figures."""

from __future__ import annotations

import html
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.composed import composed
from helpers.figure_plans import CONFIGS, config, figure_plan
from helpers.paths import PUBLISHED

from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment, build_experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection, TablePlan

RATES, BATCHES = (0.005, 0.01, 0.02, 0.05, 0.1), (25, 50, 100, 250, 1000)


def figure(name: str, **scope: Any) -> FigurePlan:
    return figure_plan(name, protocol="paper_text", **scope)


def trainings(plan: FigurePlan) -> list[Experiment]:
    return [job.settings for job in plan.jobs() if not job.dependencies]


def is_plain_sgd(settings: Experiment) -> bool:
    optimizer = settings.optimizer
    return (optimizer.momentum, optimizer.weight_decay, optimizer.clip_norm, optimizer.reset_every_epoch) == (
        0.0,
        0.0,
        None,
        False,
    )


def test_the_mlp_has_four_layers_of_weights_and_its_number_of_parameters() -> None:
    model = build_experiment(composed("experiment=mlp4_fashion_mnist")).model.build((1, 28, 28), 10)
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [256, 256, 256, 10]
    assert sum(p.numel() for p in model.parameters()) == 785 * 256 + 2 * 257 * 256 + 257 * 10 + 3 * 2 * 256 == 336_650


def test_figure_1_is_the_grid_of_learning_rates_and_batch_sizes_and_a_column_of_it_with_512_units() -> None:
    plan = figure("jastrzebski1")
    runs = trainings(plan)
    narrow, wide = ([s for s in runs if s.model.width == width] for width in (256, 512))
    assert {(s.optimizer.lr, s.batch.size) for s in narrow} == {*product(RATES, BATCHES)}
    assert {(s.optimizer.lr, s.batch.size) for s in wide} == {(lr, 100) for lr in RATES}
    assert all(is_plain_sgd(s) and s.schedule.epochs == 200 and not s.schedule.milestones for s in runs)
    for s in runs:
        train, validation = s.data.expected_sizes
        assert (train, validation, train % s.batch.size) == (54_000, 6_000, 0)
    measured = {
        (s.checkpoint, s.running_stats, s.examples) for s in (j.settings for j in plan.jobs() if j.dependencies)
    }
    assert measured == {("last", "recomputed", None)}


def sweep(name: str) -> dict[str, list[str]]:
    """The values that a sweep goes through."""
    content = yaml.safe_load((CONFIGS / "sweep" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: str(values).split(",") for key, values in content["hydra"]["sweeper"]["params"].items()}


def job_of(name: str, **values: str) -> Job:
    """The analysis that a point of the sweep makes."""
    made = composed(f"+sweep={name}", *(f"{key}={value}" for key, value in values.items()), name="analyze")
    return Job(build(made["analysis"], "analysis"), (Job(build_experiment(made)),))


def test_the_sweeps_make_the_runs_of_the_figures() -> None:
    grid, strengths = sweep("jastrzebski1"), sweep("jastrzebski_smoothout")
    assert [tuple(map(float, grid[key])) for key in ("optimizer.lr", "batch.size")] == [RATES, BATCHES]
    assert grid["seed"] == ["0", "1"]
    drawn = {job.digest for job in figure("jastrzebski1").jobs()}
    for lr, batch in ((RATES[0], BATCHES[0]), (RATES[-1], BATCHES[-1])):
        assert job_of("jastrzebski1", **{"optimizer.lr": str(lr), "batch.size": str(batch)}).digest in drawn
    assert sweep("jastrzebski1_width") == {"batch.size": ["100"]}
    assert job_of("jastrzebski1_width", **{"optimizer.lr": "0.02", "batch.size": "100"}).digest in drawn
    noisy = figure("jastrzebski-smoothout")
    for method, a in (("smoothout", "0.0375"), ("adasmoothout", "0.005")):
        given = {"optimizer.lr": "0.1", "batch.size": "1000", "method": method, "method.a": a}
        assert job_of("jastrzebski_smoothout", **given).digest in {job.digest for job in noisy.jobs()}
    found = {(str(s.method.scaling), s.method.a) for s in trainings(noisy) if s.method.a}
    assert found == {(kind, float(a)) for kind in ("none", "filter") for a in strengths["method.a"] if float(a)}


def test_strength_0_is_a_run_of_figure_1_whatever_the_kind_of_noise() -> None:
    clean = [
        job for job in figure("jastrzebski-smoothout").jobs() if not job.dependencies and not job.settings.method.a
    ]
    assert len(clean) == 1
    assert clean[0].digest in {job.digest for job in figure("jastrzebski1").jobs()}


def test_the_table_of_strengths_has_the_runs_of_the_figure() -> None:
    table = compose_config(CONFIGS, "reproduce", ["table=jastrzebski-smoothout"])["table"]
    plans = TablePlan(table, RunSelection("paper_text"), CONFIGS, PUBLISHED), figure("jastrzebski-smoothout")
    of_table, of_figure = ({(job.kind, job.digest) for job in plan.jobs()} for plan in plans)
    assert sum(kind == "train" for kind, _ in of_table) == 11
    assert {(kind, digest) for kind, digest in of_table if kind in ("train", "hessian")} == of_figure


def ends_of(plan: FigurePlan) -> list[list[tuple[float, int]]]:
    """The learning rates and batch sizes between which each panel interpolates."""
    runs = [[run.settings for run in panel.jobs[0][1].dependencies] for panel in plan.panels]
    return [[(s.optimizer.lr, s.batch.size) for s in ends] for ends in runs]


@pytest.mark.parametrize(
    ("name", "model", "pairs"),
    [
        ("jastrzebski2", "resnet56", [[(0.1, 128), (0.1, 1024)], [(0.1, 128), (0.01, 128)]]),
        ("jastrzebski3", "vgg11", [[(0.1, 50), (0.4, 200)], [(0.1, 50), (0.025, 12)]]),
    ],
)
def test_figures_2_and_3_go_from_minus_1_to_2_between_the_named_pairs(name: str, model: str, pairs: Any) -> None:
    assert ends_of(figure(name)) == pairs
    assert [pair for pair in pairs if pair not in ends_of(figure("jastrzebski2-resnet8"))] == []
    lines = [panel.jobs[0][1].settings for panel in figure(name).panels]
    assert {(line.start, line.stop, line.checkpoint) for line in lines} == {(-1.0, 2.0, "last")}
    assert {s.model.name for s in trainings(figure(name))} == {model}


def test_figure_4_has_the_papers_learning_rates_and_drops() -> None:
    wanted = {(0.1, 50), *((lr, 500) for lr in (0.2, 0.316, 0.5, 1.0, 1.2))}
    drops = {"resnet56": ((60, 100, 140, 180), 0.1), "vgg11": (tuple(range(25, 200, 25)), 0.5)}
    runs = trainings(figure("jastrzebski4"))
    for model, schedule in drops.items():
        of_model = [s for s in runs if s.model.name == model]
        assert {(s.optimizer.lr, s.batch.size) for s in of_model} == wanted
        assert {(s.schedule.milestones, s.schedule.gamma) for s in of_model} == {schedule}
        assert all(is_plain_sgd(s) for s in of_model)
    smaller = trainings(figure("jastrzebski4-resnet8"))
    assert {s.model.name for s in smaller} == {"resnet8", "mlp4"}
    assert {(s.schedule.milestones, s.schedule.gamma) for s in smaller if s.model.name == "mlp4"} == {drops["vgg11"]}


# Drawing


def digits(name: str, panel: dict[str, Any], runs: dict[str, list[str]]) -> FigurePlan:
    """The figure with one of its panels on digits, for two seeds and two epochs."""
    changed = config(name)
    changed["overrides"] = ["experiment=digits", "optimizer=sgd", "schedule.epochs=2", "data.validation_size=100"]
    changed["panels"] = [panel | {"runs": runs, "overrides": []}]
    return FigurePlan(changed, RunSelection("paper_text", seeds=(0, 1)), CONFIGS)


@pytest.mark.parametrize("name", ["jastrzebski1", "jastrzebski4"])
def test_without_records_nothing_is_drawn_and_every_record_is_named_as_missing(
    name: str, runtime: Runtime, tmp_path: Path
) -> None:
    plan = figure(name)
    assert plan.save(runtime, tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()
    assert {job.name for job in plan.shown()} == {*plan.missing(runtime)}


def test_smoke_records_give_figure_1_with_its_correlations(runtime: Runtime, tmp_path: Path) -> None:
    panel = config("jastrzebski1")["panels"][0]
    panel |= {"sweep": {"optimizer.lr": [0.1, 0.2, 0.4], "batch.size": [100, 200, 400]}}
    panel["analysis"] |= {"examples": 50, "probes": 2, "tolerance": 0.1}
    plan = digits("jastrzebski1", panel, {"256 units": ["model.width=8"]})
    jobs = plan.jobs()
    assert len(jobs) == 2 * 2 * 9
    for job in jobs:
        get_or_run(job, runtime)
    svg, _ = plan.save(runtime, tmp_path)
    assert svg.name == "jastrzebski1-paper_text-paper.svg"
    text = html.unescape(svg.read_text())
    for words in ("all settings: ", "within one batch size", "within one learning rate", "batch 400"):
        assert words in text
    assert "not run" not in text


def test_smoke_records_give_figure_4_with_its_distances(runtime: Runtime, tmp_path: Path) -> None:
    runs = {"0.1/50": ["optimizer.lr=0.1", "batch.size=50"], "1/500": ["optimizer.lr=1", "batch.size=500"]}
    plan = digits("jastrzebski4", config("jastrzebski4")["panels"][0], runs)
    for job in plan.jobs():
        get_or_run(job, runtime)
    svg, _ = plan.save(runtime, tmp_path)
    assert svg.name == "jastrzebski4-paper_text-paper.svg"
    text = svg.read_text()
    assert "points away" in text
    assert "nearest to the thick curves: 1/500" in text
