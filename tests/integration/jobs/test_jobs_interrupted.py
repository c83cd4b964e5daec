"""An analysis that is interrupted goes on with the passes that it has not made, and ends with the same numbers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.common import tree
from helpers.tiny_jobs import tiny, workplace

from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.options import Convention, RunningStats
from smoothout.common import pass_cache, progress
from smoothout.common.interrupts import Interrupted
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime

ANALYSES = (
    Sharpness(iterations=3, examples=50),
    Sharpness(convention=Convention.keskar, subspace=5, repeats=2, iterations=3, examples=50),
    Interpolation(points=3, running_stats=RunningStats.recomputed),
    NoiseCurve(strengths=(0.0, 0.1), draws=2, examples=200),
    RunningStatistics(),
    Landscape(points=3, directions=2, examples=50),
    Plane(points=3, examples=50),
    Hessian(eigenvalues=1, probes=2, examples=50),
    AdaptiveSharpnessJob(iterations=3, examples=50),
    SearchComparison(subspace=2, budget=8, examples=50),
)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every pass that is made and not read; all of them count as slow."""
    passes, passed = list[None](), pass_cache._PassCache.passed

    def watched(self: Any, measure: Any) -> Any:
        def counted() -> Any:
            passes.append(None)
            return measure()

        return passed(self, counted)

    monkeypatch.setattr(pass_cache, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(pass_cache._PassCache, "passed", watched)
    return passes


def interrupt_after(passes: int, made: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    tick = progress.Bar.tick

    def pressed(self: progress.Bar) -> None:
        if len(made) >= passes:
            raise Interrupted(signal.SIGINT)
        tick(self)

    monkeypatch.setattr(progress.Bar, "tick", pressed)


def analysis(settings: Any) -> Job:
    return Job(settings, tuple(tiny(seed=seed) for seed in range(settings.runs)))


def found(job: Job, runtime: Runtime) -> dict[str, Any]:
    return {name: value for name, value in get_or_run(job, runtime).outcome.items() if name != "wall_seconds"}


@pytest.mark.parametrize("settings", ANALYSES, ids=lambda settings: settings.kind)
def test_an_analysis_that_is_interrupted_goes_on_and_ends_with_the_same_bits(
    settings: Any, tmp_path: Path, made: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, unbroken, runtime = analysis(settings), workplace(tmp_path / "unbroken"), workplace(tmp_path / "broken")
    expected = found(job, unbroken)
    whole = len(made)
    assert whole > 2
    made.clear()
    with monkeypatch.context() as patched:
        interrupt_after(whole // 2, made, patched)
        with pytest.raises(Interrupted):
            get_or_run(job, runtime)
    assert whole // 2 <= len(made) < whole
    assert found(job, runtime) == expected
    assert len(made) <= whole + 1  # the pass that was broken off is made again
    left = [name for folder in (unbroken, runtime) for name in tree(Path(folder.folders.checkpoints))]
    assert all(name.endswith(".pt") and ".passes" not in name for name in left)


def test_what_was_found_of_other_weights_is_not_used(
    tmp_path: Path, made: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, runtime = analysis(Sharpness(iterations=3, examples=50)), workplace(tmp_path)
    expected = found(job, workplace(tmp_path / "unbroken"))
    with monkeypatch.context() as patched:
        interrupt_after(len(made) + 3, made, patched)
        with pytest.raises(Interrupted):
            get_or_run(job, runtime)
    for path in Path(runtime.folders.checkpoints).glob("*.passes/*.pt"):
        path.rename(path.with_name(f"of other weights{path.name[16:]}"))
    made.clear()
    assert found(job, runtime) == expected
    assert len(made) == expected["evaluations"] + 1  # the first pass is made twice
