"""The analyses as jobs: their settings, their estimates, and the numbers that they record."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers.common import approx_loss, same_bits
from helpers.paths import RESULTS
from torch import nn
from torch.nn import functional as F

from smoothout.analysis.hessian import top_eigenvalues
from smoothout.analysis.interpolation import interpolate
from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.options import Convention, InterpolationPath, RunningStats
from smoothout.analysis.sharpness import sharpness
from smoothout.data.split import Split
from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.evaluation import evaluate
from smoothout.results.digest import canonical_settings
from smoothout.results.records import RecordStore


@pytest.fixture
def splits() -> tuple[Split, Split]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 3, 1), generator=generator, dtype=torch.uint8)
    labels = (images.float().mean((1, 2, 3)) > 127).long()
    whole = Split(images, labels, (0.5,), (0.5,))
    return whole.first(40), whole


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2)).eval()


def with_batchnorm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


def counting(ticks: list[int]):
    return lambda: ticks.append(1)


def test_a_recorded_sharpness_is_what_the_function_gives_on_the_conventions_own_split(splits):
    train, test = splits
    for convention, split in ((Convention.keskar, train), (Convention.released, test), (Convention.converged, train)):
        ticks: list[int] = []
        outcome = Sharpness(convention=convention, eps=0.01).run([network(0)], train, test, counting(ticks))
        expected = sharpness(network(0), split.batches(1000), F.cross_entropy, eps=0.01, convention=convention)
        assert outcome["value"] == expected.value
        assert outcome["status"] == expected.status
        assert outcome["evaluations"] == expected.evaluations == len(ticks)


def test_the_number_of_examples_can_be_limited(splits):
    train, test = splits
    outcome = Sharpness(convention=Convention.keskar, examples=10).run([network(0)], train, test, lambda: None)
    assert outcome["loss"] == approx_loss(evaluate(network(0), train.first(10).batches(10)).loss)


def test_a_recorded_sharpness_is_measured_with_recomputed_statistics_where_it_is_asked_for(splits):
    train, test = splits
    model = with_batchnorm()
    before = copy.deepcopy(model.state_dict())
    settings = Sharpness(convention=Convention.released, running_stats="recomputed", eps=0.01, examples=30)
    outcome = settings.run([model], train, test, lambda: None)
    assert same_bits(model.state_dict(), before)
    assert settings.slug("run") == "run-released-test-recomputed"
    recalibrate_batchnorm(model, train.first(30).batches(1000))
    batches = test.first(30).batches(1000)
    expected = sharpness(model, batches, F.cross_entropy, eps=0.01, convention=Convention.released)
    assert (outcome["value"], outcome["loss"]) == (expected.value, expected.loss)
    assert (
        replace(settings, running_stats="kept").run([with_batchnorm()], train, test, lambda: None)["loss"]
        != expected.loss
    )


def test_a_recorded_hessian_is_of_the_evaluation_mode_with_recomputed_statistics_where_it_is_asked_for(splits):
    train, test = splits
    model = with_batchnorm()
    before = copy.deepcopy(model.state_dict())
    settings = Hessian(eigenvalues=2, probes=4, running_stats="recomputed", examples=30)
    outcome = settings.run([model], train, test, lambda: None)
    assert same_bits(model.state_dict(), before)
    kept = replace(settings, running_stats="kept").run([model], train, test, lambda: None)
    recalibrate_batchnorm(model, train.first(30).batches(1000))
    expected = top_eigenvalues(model, train.first(30).batches(1000), F.cross_entropy, 2, tolerance=1e-3)
    assert outcome["eigenvalues"]["values"] == pytest.approx(expected.values, rel=1e-6)
    assert kept["eigenvalues"]["values"] != pytest.approx(expected.values, rel=1e-2)
    assert canonical_settings(Hessian(), defaults=False) == {"class": "Hessian"}  # records before this setting


def test_naming_the_conventions_own_split_is_no_other_job():
    keskar, released = Sharpness(convention=Convention.keskar), Sharpness(convention=Convention.released)
    assert canonical_settings(keskar) == canonical_settings(Sharpness(convention=Convention.keskar, split="train"))
    assert canonical_settings(released) == canonical_settings(Sharpness(convention=Convention.released, split="test"))
    assert canonical_settings(keskar) != canonical_settings(Sharpness(convention=Convention.keskar, split="test"))


@pytest.mark.parametrize("convention", list(Convention))
def test_a_bar_expects_about_as_many_evaluations_as_recorded_searches_took(convention):
    found = [r for r in RecordStore(RESULTS).records("sharpness") if r.settings["convention"] == convention]
    took = sorted(r.outcome["evaluations"] for r in found)
    assert took
    assert took[len(took) // 2] / 1.2 < Sharpness(convention=convention).ticks(60_000, 10_000) < took[-1] * 1.2


def test_a_recorded_interpolation_has_the_ends_own_numbers_on_both_splits(splits):
    first, second, ticks = network(0), network(1), []
    outcome = Interpolation(start=-1, stop=2, points=4).run([first, second], *splits, counting(ticks))
    for part, split in zip(("train", "test"), splits, strict=True):
        assert [p["alpha"] for p in outcome[part]] == [-1.0, 0.0, 1.0, 2.0]
        assert outcome[part][1]["loss"] == evaluate(first, split.batches(1000)).loss
        assert outcome[part][2]["loss"] == evaluate(second, split.batches(1000)).loss
    assert len(ticks) == Interpolation(points=4).ticks(40, 60)


def normalised(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    made(torch.randn(20, 3, 3) + seed)
    return made.eval()


def test_a_recorded_interpolation_follows_its_path_and_recomputes_statistics_from_the_training_split(splits):
    train, test = splits
    first, second, ticks = normalised(0), normalised(1), []
    settings = Interpolation(
        points=4, path=InterpolationPath.curvilinear, running_stats=RunningStats.recomputed, examples=30
    )
    outcome = settings.run([first, second], train, test, counting(ticks))
    for part, split in (("train", train), ("test", test)):
        expected = interpolate(
            first,
            second,
            split.first(30).batches(1000),
            [-1.0, 0.0, 1.0, 2.0],
            path="curvilinear",
            running_stats="recomputed",
            running_stats_from=train.first(30).batches(1000),
        )
        assert outcome[part] == [point._asdict() for point in expected]
    assert len(ticks) == settings.ticks(40, 60) == 8
    assert settings.evaluations(40, 60) == 12


def test_the_published_grid_of_alpha_is_31_points_from_minus_1_to_2(splits):
    outcome = Interpolation().run([network(0), network(1)], *splits, lambda: None)
    assert [p["alpha"] for p in outcome["test"]] == pytest.approx([-1 + i / 10 for i in range(31)], abs=1e-12)


def test_a_recorded_noise_curve_has_points_and_slopes_of_both_splits(splits):
    ticks: list[int] = []
    curve = NoiseCurve(strengths=(0.0, 0.1, 0.2), batch=7)
    outcome = curve.run([network(0)], *splits, counting(ticks))
    for part in ("train", "test"):
        points, slopes = outcome[part]["points"], outcome[part]["slopes"]
        assert [p["a"] for p in points] == [0.0, 0.1, 0.2]
        assert slopes[0] == pytest.approx((points[1]["loss"] - points[0]["loss"]) / 0.1)
    assert len(ticks) == curve.ticks(40, 60)


IMPOSSIBLE = {
    AdaptiveSharpnessJob: {
        "rho": [0.0, math.nan],
        "iterations": [0],
        "random_starts": [-1],
        "split": ["by_convention"],
    },
    Hessian: {
        "eigenvalues": [0],
        "probes": [1],
        "spectrum_probes": [-1],
        "spectrum_steps": [0],
        "tolerance": [0.0, 2.0],
        "split": ["by_convention"],
        "running_stats": ["interpolated"],
    },
    Interpolation: {"points": [1], "start": [3.0], "path": ["curved"]},
    Landscape: {"directions": [0], "points": [1], "one_dimensional": ["free"]},
    NoiseCurve: {"strengths": [(0.1,), (0.2, 0.1), (-0.1, 0.1), (0.0, 0.0)], "batch": [0], "draws": [0]},
    Plane: {"start": [1.0], "split": ["by_convention"]},
    RunningStatistics: {"checkpoint": ["first"]},
    SearchComparison: {"eps": [0.0], "budget": [0], "subspace": [0], "iterations": [0], "maxcor": [0]},
    Sharpness: {
        "eps": [0.0, math.nan],
        "iterations": [0],
        "subspace": [0],
        "repeats": [0],
        "running_stats": ["interpolated"],
    },
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_settings_are_refused_by_name(kind):
    for name, values in {**IMPOSSIBLE[kind], "examples": [0]}.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^[\w, ]*\b{name}\b[\w, ]*: "):
                kind(**{name: value})


def test_a_name_shows_the_fields_that_it_should():
    assert AdaptiveSharpnessJob(norm="l2", split="test").slug("run") == "run-l2-test"
    assert Interpolation(path="curvilinear", running_stats="kept").slug("a", "b") == "a-to-b-curvilinear-kept"
    assert [Landscape(directions=n).slug("run") for n in (1, 5)] == ["run-1-direction", "run-5-directions"]
    assert NoiseCurve(scaling="filter").slug("run") == "run-uniform-filter"
    assert Sharpness(convention="released").slug("run") == "run-released-test"
    assert Hessian(running_stats="recomputed").slug("run") == "run-train-recomputed"
    assert [kind().slug("run") for kind in (Hessian, Plane, RunningStatistics, SearchComparison)] == [
        "run-train",
        "run-train",
        "run",
        "run",
    ]


def test_recorded_running_statistics_are_measured_as_training_left_them_and_recomputed(splits):
    model = with_batchnorm()
    before = copy.deepcopy(model.state_dict())
    ticks: list[int] = []
    settings = RunningStatistics(examples=30)
    outcome = settings.run([model], *splits, counting(ticks))
    assert same_bits(model.state_dict(), before)
    train, test = (split.first(30).batches(1000) for split in splits)
    assert outcome["kept"]["test"] == evaluate(model, test)._asdict()
    recalibrate_batchnorm(model, train)
    for part, batches in (("train", train), ("test", test)):
        assert outcome["recomputed"][part] == evaluate(model, batches)._asdict()
    assert outcome["recomputed"]["test"]["loss"] != outcome["kept"]["test"]["loss"]
    assert len(ticks) == settings.ticks(40, 60) == 4
