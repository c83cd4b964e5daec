"""An interrupted analysis resumes with the passes that it has not made, and ends with the same numbers."""

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
def passes(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every pass that is made instead of read; all of them count as slow."""
    made, get = list[None](), pass_cache._PassCache.get

    def get_and_count(self: Any, measure: Any) -> Any:
        def counted() -> Any:
            made.append(None)
            return measure()

        return get(self, counted)

    monkeypatch.setattr(pass_cache, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(pass_cache._PassCache, "get", get_and_count)
    return made


def interrupt_after(count: int, passes: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    tick = progress.Bar.tick

    def tick_or_stop(self: progress.Bar) -> None:
        if len(passes) >= count:
            raise Interrupted(signal.SIGINT)
        tick(self)

    monkeypatch.setattr(progress.Bar, "tick", tick_or_stop)


def analysis(settings: Any) -> Job:
    return Job(settings, tuple(tiny(seed=seed) for seed in range(settings.runs)))


def outcome(job: Job, runtime: Runtime) -> dict[str, Any]:
    return {name: value for name, value in get_or_run(job, runtime).outcome.items() if name != "wall_seconds"}


@pytest.mark.parametrize("settings", ANALYSES, ids=lambda settings: settings.kind)
def test_an_analysis_that_is_interrupted_resumes_and_ends_with_the_same_bits(
    settings: Any, tmp_path: Path, passes: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, uninterrupted, runtime = (
        analysis(settings),
        workplace(tmp_path / "uninterrupted"),
        workplace(tmp_path / "broken"),
    )
    expected = outcome(job, uninterrupted)
    total = len(passes)
    assert total > 2
    passes.clear()
    with monkeypatch.context() as patched:
        interrupt_after(total // 2, passes, patched)
        with pytest.raises(Interrupted):
            get_or_run(job, runtime)
    assert total // 2 <= len(passes) < total
    assert outcome(job, runtime) == expected
    assert len(passes) <= total + 1  # the pass that was broken off is made again
    left = [name for folder in (uninterrupted, runtime) for name in tree(Path(folder.folders.checkpoints))]
    assert all(name.endswith(".pt") and ".passes" not in name for name in left)


def test_passes_of_other_weights_are_not_used(
    tmp_path: Path, passes: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, runtime = analysis(Sharpness(iterations=3, examples=50)), workplace(tmp_path)
    expected = outcome(job, workplace(tmp_path / "uninterrupted"))
    with monkeypatch.context() as patched:
        interrupt_after(len(passes) + 3, passes, patched)
        with pytest.raises(Interrupted):
            get_or_run(job, runtime)
    for path in Path(runtime.folders.checkpoints).glob("*.passes/*.pt"):
        path.rename(path.with_name(f"of other weights{path.name[16:]}"))
    passes.clear()
    assert outcome(job, runtime) == expected
    assert len(passes) == expected["evaluations"] + 1  # the first pass is made twice
