"""Figures as jobs: every config composes to what its figure needs, and impossible ones are refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from helpers.figure_plans import CONFIGS, config, figure_plan

from smoothout.common.errors import ConfigError
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection

FIGURES = sorted(path.stem for path in (CONFIGS / "figure").glob("*.yaml") if path.stem != "none")
LATER = {1: 1, 2: 3, 4: 5, 6: 7, 8: 9, 9: 10}  # figures of the later version, and of the first


def kinds(jobs: list[Job]) -> Counter[str]:
    return Counter(job.kind for job in jobs)


def trainings(jobs: list[Job]) -> set[tuple[str, str, int, float, int]]:
    """Model, data, batch, strength and epochs of every training."""
    setups = [job.settings for job in jobs if not job.dependencies]
    return {(s.model.name, str(s.data.name), s.batch.size, s.method.a, s.schedule.epochs) for s in setups}


# What the figures need


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_composes_in_full_and_as_a_smoke_test_each_job_once_and_trainings_first(name: str) -> None:
    for scope in ({}, {"profile": "smoke"}):
        jobs = figure_plan(name, **scope).jobs()
        assert len({job.digest for job in jobs}) == len(jobs)
        assert [bool(job.dependencies) for job in jobs] == sorted(bool(job.dependencies) for job in jobs)
        assert {one.digest for job in jobs for one in job.dependencies} <= {
            job.digest for job in jobs if not job.dependencies
        }


@pytest.mark.parametrize(("name", "net", "data"), [("figure3", "c1", "cifar10"), ("figure7", "c3", "cifar100")])
def test_figures_3_and_7_need_small_and_large_batch_on_one_line_and_under_noise(name, net, data) -> None:
    jobs = figure_plan(name).jobs()
    assert trainings(jobs) == {(net, data, 256, 0.0, 200), (net, data, 5000, 0.0, 200)}
    assert kinds(jobs) == {"train": 2, "interpolation": 2, "noise_curve": 2}
    lines = [job for job in jobs if job.kind == "interpolation"]
    assert [[run.settings.batch.size for run in line.dependencies] for line in lines] == [[256, 5000]] * 2
    assert [line.settings.running_stats for line in lines] == ["interpolated", "recomputed"]
    assert all(line.settings.path == "linear" for line in lines)


@pytest.mark.parametrize(
    ("name", "net", "data", "large"),
    [("figure5", "c3", "cifar100", 5000), ("figure9", "c1", "cifar10", 5000), ("figure10", "f1", "mnist", 6000)],
)
def test_figures_5_9_and_10_put_baseline_at_0_and_smoothout_at_1_for_each_batch(name, net, data, large) -> None:
    made = figure_plan(name)
    assert trainings(made.jobs()) == {(net, data, b, a, 200) for b in (256, large) for a in (0.0, 0.0375)}
    for panel, batch in zip(made.panels, (256, large, 256, large), strict=True):
        [(ways, line)] = panel.jobs
        assert ways == "0 is baseline, 1 is SmoothOut"
        runs = [(run.settings.batch.size, run.settings.method.a) for run in line.dependencies]
        assert runs == [(batch, 0.0), (batch, 0.0375)]
    assert [panel.jobs[0][1].settings.running_stats for panel in made.panels] == ["interpolated"] * 2 + [
        "recomputed"
    ] * 2


@pytest.mark.parametrize(
    ("name", "path", "models", "checkpoint", "epochs"),
    [
        ("keskar3", "linear", ["f1", "keskar_c1", "keskar_c3"], "last", 100),
        ("keskar7", "curvilinear", ["f1", "keskar_c1", "keskar_c3"], "last", 100),
        ("keskar3-smoothout", "linear", ["f1", "c1", "c3"], "best", 200),
        ("keskar7-smoothout", "curvilinear", ["f1", "c1", "c3"], "best", 200),
    ],
)
def test_keskars_parametric_plots_are_25_points_between_the_batches_of_three_networks(
    name: str, path: str, models: list[str], checkpoint: str, epochs: int
) -> None:
    lines = [panel.jobs[0][1] for panel in figure_plan(name).panels]
    ends = [[run.settings for run in line.dependencies] for line in lines]
    assert [{run.model.name for run in runs} for runs in ends] == [{model} for model in models]
    assert [[run.batch.size for run in runs] for runs in ends] == [[256, 6000], [256, 5000], [256, 5000]]
    assert {run.schedule.epochs for runs in ends for run in runs} == {epochs}
    settings = [line.settings for line in lines]
    assert {(one.path, one.checkpoint, one.running_stats) for one in settings} == {(path, checkpoint, "recomputed")}
    assert {(one.start, one.stop, one.points) for one in settings} == {(-1.0, 2.0, 25)}


def test_keskars_figure_4_measures_the_last_weights_of_100_epochs_at_each_batch_size() -> None:
    made = figure_plan("keskar4")
    assert {epochs for *_, epochs in trainings(made.jobs())} == {100}
    for panel, eps in zip(made.panels, (1e-3, 5e-4, 1e-3, 5e-4), strict=True):
        measured = [job for _, job in panel.jobs if job.dependencies]
        assert len(panel.jobs) == 2 * len(measured)
        sizes = [job.dependencies[0].settings.batch.size for job in measured]
        assert sizes == sorted(set(sizes))
        assert (min(sizes), max(sizes)) == (256, 6000 if "F1" in panel.title else 5000)
        found = {(job.settings.convention, job.settings.checkpoint, job.settings.eps) for job in measured}
        assert found == {("keskar", "last", eps)}


def test_the_adaptive_sharpness_of_f1_is_of_four_runs_in_a_box_and_in_a_ball_that_reaches_as_far() -> None:
    made = figure_plan("adaptive-f1")
    assert kinds(made.jobs()) == {"train": 4, "adaptive": 16}
    settings = [{job.settings for _, job in panel.jobs} for panel in made.panels]
    assert [[(s.norm, s.rho, s.normalize_logits) for s in one] for one in settings] == [
        [("linf", 0.001, False)],
        [("l2", 1.2, False)],
        [("linf", 0.001, True)],
        [("l2", 1.2, True)],
    ]
    model = made.jobs()[0].settings.model.build((1, 28, 28), 10)
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0.001 * n**0.5 == pytest.approx(1.2, rel=0.02)


@pytest.mark.parametrize(("later", "first"), LATER.items())
def test_the_later_versions_figures_are_those_of_the_first_under_other_numbers(later: int, first: int) -> None:
    assert config(f"figure{later}-later") == config(f"figure{first}")


def test_the_profile_limits_the_examples_unless_the_figure_says_how_many() -> None:
    assert {job.settings.examples for job in figure_plan("f1", profile="smoke").jobs() if job.dependencies} == {500}
    figure = config("f1")
    figure["panels"][0]["analysis"] = {"examples": 40, "points": 5}
    line = FigurePlan(figure, RunSelection(profile="smoke"), CONFIGS).panels[0].jobs[0][1].settings
    assert (line.examples, line.points) == (40, 5)


def test_each_seed_has_its_own_jobs_and_a_line_joins_runs_of_one_seed() -> None:
    made = figure_plan("f1", seeds=(0, 3), protocol="paper_text")
    line, noise, _ = made.panels
    assert [[run.settings.seed for run in job.dependencies] for _, job in line.jobs] == [[0, 0], [3, 3]]
    assert [(name, job.dependencies[0].settings.seed) for name, job in noise.jobs] == [
        ("SB", 0),
        ("LB", 0),
        ("SB", 3),
        ("LB", 3),
    ]
    assert len(made.jobs()) == 2 * len(figure_plan("f1").jobs())
    assert all(str(job.settings.batchnorm_init) == "one" for job in made.jobs() if not job.dependencies)


# Refusals


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"kind": "pie"}, ["figure f1: kind", "'pie'", "course, line, noise"]),
        ({"colour": "red"}, ["colour", "unknown key", "kind, title"]),
        ({"options": {"space": "full"}}, ["figure f1: line: options.space", "unknown key", "split"]),
        ({"analysis": {"alphas": 3}}, ["figure f1: line: analysis.alphas", "unknown key"]),
        ({"analysis": {"points": 1}}, ["figure f1: line: analysis.start, stop, points"]),
        ({"analysis": {"running_stats": "x"}}, ["analysis.running_stats", "'x'", "interpolated, kept, recomputed"]),
        ({"runs": {"SB": ["batch=small"]}}, ["figure f1: line: runs", "2", "1"]),
        ({"options": {"split": "tset"}}, ["options.split", "'tset'", "train, test"]),
        ({"runs": ["x"]}, ["runs", "['x']", "group"]),
        ({"runs": {"SB": 3, "LB": []}}, ["runs", "3", "a list, each text"]),
        ({"analysis": 3}, ["analysis", "3", "group"]),
        ({"options": 3}, ["options", "3", "group"]),
        ({"sweep": {"seed": 3}}, ["sweep", "3", "a list"]),
        ({"sweep": {"seed": []}}, ["sweep.seed", "at least one"]),
        ({"sweep": {"seed": [1, 2]}}, ["figure f1: line: sweep", "not seed", "empty for a panel of two runs"]),
        ({"overrides": "seed=1"}, ["overrides", "'seed=1'", "a list, each text"]),
    ],
)
def test_a_panel_that_cannot_be_is_refused_in_one_line(change: dict[str, Any], parts: list[str]) -> None:
    figure = config("f1")
    figure["panels"][0] |= change
    with pytest.raises(ConfigError) as refused:
        FigurePlan(figure, RunSelection(), CONFIGS)
    assert [part for part in parts if part not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"name": None}, ["figure.name", "None", "text"]),
        ({"title": ["f1"]}, ["figure.title", "['f1']", "text"]),
        ({"overrides": "seed=1"}, ["figure.overrides", "'seed=1'", "a list, each text"]),
        ({"override": []}, ["figure.override:", "did you mean overrides"]),
        ({"columns": -1}, ["figure.columns", "-1", "at least 1"]),
        ({"panels": []}, ["figure.panels", "at least one"]),
        ({"panels": ["line"]}, ["figure.panels", "'line'", "group"]),
    ],
)
def test_a_figure_that_cannot_be_is_refused_by_its_key(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        FigurePlan(config("f1") | change, RunSelection(), CONFIGS)
    assert [part for part in parts if part not in str(refused.value)] == []


def test_keys_of_earlier_versions_still_work() -> None:
    figure = config("f1")
    noise = {key: value for key, value in figure["panels"][1].items() if key != "options"}
    figure["panels"] = [noise | {"draw": {"part": "train"}, "over": {"batch.size": [100, 200]}}]
    [panel] = FigurePlan(figure, RunSelection(), CONFIGS).panels
    assert panel.options.split == "train"
    assert len(panel.jobs) == 4


def test_a_density_of_no_probes_is_refused_before_anything_is_measured() -> None:
    figure = config("hessian-f1")
    figure["panels"][0]["analysis"] = {}
    with pytest.raises(ConfigError, match=r"hessian-f1: spectrum: analysis.spectrum_probes: must be at least 1"):
        FigurePlan(figure, RunSelection(), CONFIGS)


# What Keskar's Figure 6 rests on


def test_a_shorter_training_is_the_beginning_of_a_longer_one(runtime: Runtime) -> None:
    figure = config("quickstart")
    panel = {
        "kind": "sharpness_over_loss",
        "title": "t",
        "runs": {"LB": ["batch=large"]},
        "analysis": {"checkpoint": "last"},
    }
    figure["panels"] = [panel | {"sweep": {"schedule.epochs": [2, 4]}}]
    short, long = (job.dependencies[0] for _, job in FigurePlan(figure, RunSelection(), CONFIGS).panels[0].jobs)
    curves = [get_or_run(job, runtime).outcome["curves"] for job in (short, long)]
    for name in ("train_loss", "test_accuracy"):
        assert curves[0][name] == curves[1][name][:2]
