"""The papers' measurements as jobs: settings that say what to measure on recorded runs, and the numbers that come out.

The others are in `recorded_around` and `recorded_searches`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.interpolation import PUBLISHED_ALPHAS, Averages, InterpolationPath, walk
from smoothout.analysis.jobs import base
from smoothout.analysis.jobs.base import Part, Weights
from smoothout.analysis.noise_sensitivity import noise_curve, noise_slopes
from smoothout.analysis.sharpness import EVALUATIONS, Convention, sharpness
from smoothout.common.enums import keep_members
from smoothout.data.image_arrays import Split
from smoothout.nn.batchnorm import recompute_averages
from smoothout.nn.evaluation import evaluate
from smoothout.nn.parameters import restored
from smoothout.nn.perturbation import Law, Scaling


@dataclass(frozen=True)
class Sharpness:
    """(C_eps, A)-sharpness of one run, see ``analysis.sharpness.sharpness``.

    Args:
        convention: converged, keskar or released.
        part: train, test, or by_convention: test for released, train for the others.
        weights: best or last.
        eps: relative size of the box; the papers use 5e-4 and 1e-3.
        iterations: of each search.
        subspace: None for the full space, or the number of random columns.
        repeats: searches; the first from the weights, the others from random points of the box.
        maxcor: corrections that L-BFGS-B keeps.
        seed: of random starts and the subspace.
        averages: BatchNorm's running averages, kept as training left them or recomputed from the training examples.
        examples: look at the first so many examples of the split; None is all.
    """

    kind: ClassVar[str] = "sharpness"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    convention: Convention = Convention.converged
    part: Part = Part.by_convention
    weights: Weights = Weights.best
    eps: float = 5e-4
    iterations: int = 10
    subspace: int | None = None
    repeats: int = 1
    maxcor: int = 10
    seed: int = 0
    averages: Averages = Averages.kept
    examples: int | None = None

    def __post_init__(self) -> None:
        keep_members(self)
        base.check_examples(self.examples)
        base.check_positive(self, "eps")
        base.check_counts(self, "iterations", "subspace", "repeats", "maxcor")
        if self.averages is Averages.interpolated:
            raise ValueError("averages: 'interpolated' is not one of kept, recomputed")

    def simplified(self) -> Sharpness:
        """The same with the split named."""
        usual = Part.test if self.convention is Convention.released else Part.train
        return replace(self, part=usual) if self.part is Part.by_convention else self

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        recomputed = "-recomputed" if self.averages is Averages.recomputed else ""
        return f"{run}-{self.convention}-{self.simplified().part}{recomputed}"

    def evaluations(self, train: int, test: int) -> int:
        """About how many passes forward and backward over a split of ``train`` or ``test`` examples it takes."""
        return 1 + self.repeats * (EVALUATIONS[self.convention] * self.iterations + 2)

    ticks = evaluations

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples one evaluation goes over."""
        return base.seen_of_part(self.simplified(), train, test)

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Measure the one model."""
        with restored(models[0]):
            if self.averages is Averages.recomputed:
                seen = base.batches_of(Part.train, train, test, self.examples, base.STATISTICS_BATCH)
                recompute_averages(models[0], seen)
            result = sharpness(
                models[0],
                base.batches_of(self.simplified().part, train, test, self.examples),
                F.cross_entropy,
                eps=self.eps,
                iterations=self.iterations,
                subspace=self.subspace,
                convention=self.convention,
                repeats=self.repeats,
                maxcor=self.maxcor,
                seed=self.seed,
                tick=tick,
            )
        return asdict(result)


@dataclass(frozen=True)
class Interpolation:
    """Loss and accuracy on the way through two runs, see ``analysis.interpolation.walk``.

    Args:
        weights: best or last, of both runs.
        start: first alpha; ``stop`` is the last, ``points`` the number of alphas.
        path: linear, or curvilinear.
        averages: BatchNorm's running averages: interpolated (as published), kept as the first run has them, or
            recomputed at each alpha from the training examples that are looked at.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "interpolation"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 2

    weights: Weights = Weights.best
    start: float = PUBLISHED_ALPHAS[0]
    stop: float = PUBLISHED_ALPHAS[-1]
    points: int = len(PUBLISHED_ALPHAS)
    path: InterpolationPath = InterpolationPath.linear
    averages: Averages = Averages.interpolated
    examples: int | None = None

    def __post_init__(self) -> None:
        keep_members(self)
        base.check_examples(self.examples)
        base.check_line(self.start, self.stop, self.points)

    def slug(self, first: str, second: str) -> str:
        """The readable part of the record's name."""
        path = "" if self.path is InterpolationPath.linear else f"-{self.path}"
        return f"{first}-to-{second}{path}" + ("" if self.averages is Averages.interpolated else f"-{self.averages}")

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return (3 if self.averages is Averages.recomputed else 2) * self.points

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls its ``tick``."""
        return 2 * self.points

    examples_seen = base.seen_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both curves."""
        parts = {part: base.batches_of(part, train, test, self.examples) for part in (Part.train, Part.test)}
        points: dict[str, list[dict[str, Any]]] = {part.value: [] for part in parts}
        first, second = models
        alphas = base.line(self.start, self.stop, self.points)
        seen = base.batches_of(Part.train, train, test, self.examples, base.STATISTICS_BATCH)
        for stop in walk(first, second, alphas, path=self.path, averages=self.averages, averages_from=seen):
            for part, batches in parts.items():
                points[part.value].append(stop.measured(batches)._asdict())
                tick()
        return points


@dataclass(frozen=True)
class NoiseCurve:
    """Loss and accuracy of one run under noise, see ``analysis.sensitivity.noise_curve``.

    Args:
        weights: best or last.
        strengths: the values of a.
        law: uniform (as published) or gaussian.
        scaling: none (as published), filter or weight.
        draws: how often each batch is measured, each time with other noise.
        batch: examples that share a draw; the papers use 100.
        seed: of the noise.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "noise_curve"
    numerics: ClassVar[int] = 2  # 2: another generator draws the noise
    runs: ClassVar[int] = 1

    weights: Weights = Weights.best
    strengths: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
    law: Law = Law.uniform
    scaling: Scaling = Scaling.none
    draws: int = 1
    batch: int = 100
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        keep_members(self)
        base.check_examples(self.examples)
        if len(self.strengths) < 2 or list(self.strengths) != sorted(set(self.strengths)) or self.strengths[0] < 0:
            raise ValueError(f"strengths: must be at least two rising numbers >= 0, not {list(self.strengths)}")
        base.check_counts(self, "batch", "draws")

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return f"{run}-{self.law}" + ("" if self.scaling is Scaling.none else f"-{self.scaling}")

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 2 * len(self.strengths) * self.draws

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls its ``tick``."""
        return self.draws * sum(math.ceil(base.seen(size, self.examples) / self.batch) for size in (train, test))

    examples_seen = base.seen_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both curves, and the metric s between neighbouring strengths."""
        curves = {}
        for part in (Part.train, Part.test):
            batches = base.batches_of(part, train, test, self.examples, self.batch)
            points = noise_curve(
                models[0],
                batches,
                self.strengths,
                law=self.law,
                scaling=self.scaling,
                draws=self.draws,
                seed=self.seed,
                tick=tick,
            )
            curves[part.value] = {"points": [p._asdict() for p in points], "slopes": noise_slopes(points)}
        return curves


@dataclass(frozen=True)
class RunningAverages:
    """Loss and accuracy of one run with BatchNorm's running averages as training left them, and recomputed.

    A training under noise gathers them under noise; recomputed, from training examples, they are those of the clean
    weights.

    Args:
        weights: best or last.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "averages"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    weights: Weights = Weights.best
    examples: int | None = None

    def __post_init__(self) -> None:
        keep_members(self)
        base.check_examples(self.examples)

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return run

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 5

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls its ``tick``."""
        return 4

    examples_seen = base.seen_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both measurements on both splits."""
        parts = {part: base.batches_of(part, train, test, self.examples) for part in (Part.train, Part.test)}
        seen = base.batches_of(Part.train, train, test, self.examples, base.STATISTICS_BATCH)
        measured: dict[str, Any] = {}
        with restored(models[0]):
            for averages in (Averages.kept, Averages.recomputed):
                if averages is Averages.recomputed:
                    recompute_averages(models[0], seen)
                measured[averages.value] = {}
                for part, batches in parts.items():
                    measured[averages.value][part.value] = evaluate(models[0], batches)._asdict()
                    tick()
        return measured
