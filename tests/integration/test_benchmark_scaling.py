"""Updates on one process and two: measured as a job, recorded once, and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import a_record
from helpers.paths import CONFIGS

from smoothout.analysis.performance_model import Worker
from smoothout.benchmark import process_pair, scaling, workloads
from smoothout.benchmark.scaling import Scaling
from smoothout.config.compose import compose_config
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction import panel_kinds
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.table import RunSelection
from smoothout.results.figures import scaling as scale
from smoothout.training.distributed import ProcessGroup

CPU = torch.device("cpu")
COMPUTED = {
    scaling.WHOLE: [4.1, 4.0],
    scaling.HALF: [2.0, 2.4],
    scaling.SHARED: [2.0, 2.2],
    scaling.MESSAGE: [0.1, 0.1],
    scaling.EMPTY: [0.1, 0.1],
}
TIMES = {
    scaling.WHOLE: [9.0, 8.0],
    scaling.HALF: [4.0, 9.0],
    scaling.SHARED: [9.1, 9.0],
    scaling.MESSAGE: [0.3, 0.2],
    scaling.EMPTY: [0.1, 0.2],
}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the device of each measurement; nothing is measured."""
    calls: list[str] = []

    def times(self: Scaling, device: str) -> tuple[scaling.Times, scaling.Times, int]:
        calls.append(device)
        return TIMES, COMPUTED, 1000

    monkeypatch.setattr(Scaling, "_times", times)
    return calls


def test_the_least_times_make_the_worker_and_its_prediction(timed: list[str]) -> None:
    found = Scaling(ghosts=8).measure(CPU)
    worker = Worker(**found["worker"])
    assert worker == Worker(0.5, 0.0, 1000, pytest.approx(1000 / 0.1), 0.05)
    assert found["update"]["1"] == {"predicted": pytest.approx(4.0), "measured": 8.0, "free": 4.0}
    assert found["update"]["2"] == {"predicted": worker.update(8, 2), "measured": 9.0, "free": 2.2}
    assert found["times"] == TIMES


def test_a_measurement_is_recorded_once_as_the_machines_own(runtime: Runtime, timed: list[str]) -> None:
    job = Job(Scaling())
    record = get_or_run(job, runtime)
    assert record.name == f"f1-8x128-{job.digest[:8]}"
    assert (record.kind, record.inputs) == ("scaling", [])
    assert record.environment["cores"]
    assert get_or_run(job, runtime) == record
    assert timed == ["cpu"]
    assert RuntimeEstimator(runtime).hours(job, None) is None


def test_one_process_and_two_run_eagerly_so_that_times_of_one_predict_those_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(workloads, "Trainer", lambda *_, **settings: chosen.append(settings["engine"]) or iter([]))
    images = workloads.random_split((1, 28, 28), 10, 8, CPU)
    for size in (1, 2):
        process_pair._updates(Scaling(), images, ProcessGroup(0, size), 2)
    assert [engine.launch for engine in chosen] == ["eager", "eager"]


class Axes:
    """Notes what is plotted."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[list[float], list[float]]] = {}

    def plot(self, x: Any, y: Any, *_: Any, label: str = "", **__: Any) -> None:
        self.lines[label] = list(x), list(y)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: ([], []) if name == "get_legend_handles_labels" else None


def test_the_figure_draws_the_model_and_the_measured_points_on_it(timed: list[str]) -> None:
    outcome = Scaling(ghosts=8).measure(CPU)
    labels = {"model": "f1", "batch": 1024}
    record = a_record("scaling", outcome, labels=labels, settings={"ghost": 128, "ghosts": 8})
    record = replace(record, environment={"cores": 2})
    worker = Worker(**outcome["worker"])
    axes = Axes()
    panel_kinds.epoch_seconds_over_workers(axes, [("a", record)], examples=10_240, batches=[256])
    workers, times = axes.lines["batch 256"]
    assert workers == [2**power for power in range(11)]
    assert times == [40 * worker.update(2, p) for p in workers]
    assert axes.lines["batch 1,024"][1][0] == pytest.approx(10 * 4.0)
    assert axes.lines["measured, batch 1,024"] == ([1, 2], [80.0, 90.0])
    assert axes.lines["on free cores, batch 1,024"] == ([1, 2], [40.0, 22.0])
    axes = Axes()
    panel_kinds.iterations_over_workers(axes, [("a", record)], small=256, large=1024)
    assert axes.lines["batch 1,024 against 256"][1][0] == 0.25
    assert axes.lines["batch 1,024 against 256"][1][-1] == 0.25 / worker.efficiency(2, 1024)


def test_the_figures_config_asks_for_its_measurements_alone_and_is_drawn(runtime: Runtime, timed: list[str]) -> None:
    figure = compose_config(CONFIGS, "reproduce", ["table=none", "figure=scaling"])["figure"]
    plan = FigurePlan(figure, RunSelection(), CONFIGS)
    assert [job.kind for job in plan.jobs()] == ["scaling", "scaling"]
    assert plan.save(runtime, Path(runtime.folders.results)) == []
    assert len(plan.missing(runtime)) == 2
    assert list(plan.plan()["figure scaling"].values()) == [None, None]
    for job in plan.jobs():
        get_or_run(job, runtime)
    paths = plan.save(runtime, Path(runtime.folders.results))
    assert [path.name for path in paths] == ["scaling.svg", "scaling.png"]
    assert scale.WORKERS[-1] == 1024
