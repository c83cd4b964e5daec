"""Quantities of trained networks against settings of their training, and learning curves next to a reference's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from smoothout.common.grouping import grouped
from smoothout.results.figures.curves import NamedRecords, RunLabel
from smoothout.results.figures.style import NEUTRAL, color, legend_below, marker, mean_and_band, plain_log
from smoothout.results.learning_curves import curve_distance
from smoothout.results.records import Record
from smoothout.results.significance import TestResult
from smoothout.results.trend import WORDS, Axis, Point, Quantity, Setting, Within, trend

LABELS = {
    Quantity.eigenvalue: "largest eigenvalue of the Hessian",
    Quantity.norm: "Frobenius norm of the Hessian",
    Quantity.train_accuracy: "training accuracy (%)",
    Quantity.validation_accuracy: "validation accuracy (%)",
}
DOTS = {"linestyle": "none", "markersize": 4.5}
AXES = {Axis.lr_over_batch: "learning rate / batch size", Axis.strength: "strength a of the noise"}


def scatter(axes: Any, records: NamedRecords, quantity: Quantity, axis: Axis = Axis.lr_over_batch) -> None:
    """[Jastrzebski Fig. 1, drawn] A point for each training, and the rank correlation of each run above them.

    One run's points are colored by batch size, with a marker for each learning rate; several runs have their own.
    """
    points = points_of(records, quantity)
    for run, of_run in points.items():
        looks = _grid_looks(axes, of_run) if len(points) == 1 else None
        own = {"color": color(run.place), "marker": marker(run.place)}
        for index, point in enumerate(of_run):
            look = looks[point.setting] if looks else {**own, "label": None if index else run.name}
            axes.plot(point.setting.position(axis), point.value, **DOTS, **look)
    if axis is Axis.lr_over_batch:
        axes.set_xscale("log")
    if quantity.of_hessian:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel(LABELS[quantity])
    axes.set_title("\n".join(_correlations(points, quantity, axis)))
    legend_below(axes, size=None if len(points) > 1 else 6.5, below=0.27)  # long titles leave the axes low


def points_of(records: NamedRecords, quantity: Quantity) -> dict[RunLabel, list[Point]]:
    """The points of each run: of all records of the quantity's kind whose training is recorded and did not diverge."""
    trained = {record.name: record for _, record in records if record.kind == "train"}
    points: dict[RunLabel, list[Point]] = {}
    for run, record in records:
        if (record.kind != "train") is quantity.of_hessian:
            training = trained.get(record.inputs[0] if quantity.of_hessian else record.name)
            value = quantity.read(record)
            if training is not None and not training.outcome["diverged"] and value is not None:
                points.setdefault(run, []).append(Point(Setting.of(training), training.labels["seed"], value))
    return points


def _grid_looks(axes: Any, points: Sequence[Point]) -> dict[Setting, dict[str, Any]]:
    """The look of each setting: the color of its batch size, the marker of its learning rate; the legend names both."""
    settings = {point.setting for point in points}
    batches, rates = (sorted({getattr(setting, name) for setting in settings}) for name in ("batch", "lr"))
    for place, batch in enumerate(batches):
        axes.plot([], [], **DOTS, color=color(place), marker="s", label=f"batch {batch}")
    for place, lr in enumerate(rates):
        axes.plot([], [], **DOTS, color=NEUTRAL, marker=marker(place), label=f"learning rate {lr:g}")
    return {
        setting: {"color": color(batches.index(setting.batch)), "marker": marker(rates.index(setting.lr))}
        for setting in settings
    }


def _correlations(points: dict[RunLabel, list[Point]], quantity: Quantity, axis: Axis) -> list[str]:
    """The claim, then a line for each run and, for a grid of settings, for correlations that the paper omits."""
    claim = "falls" if quantity.of_hessian else "rises"
    lines = [f'rank correlation [95% over seeds], p, and the claim "{claim}":']
    for run, of_run in points.items():
        grid = {p.setting.batch for p in of_run}, {p.setting.lr for p in of_run}
        for within in Within if all(len(values) > 1 for values in grid) else [Within.all]:
            words = f"{run.name}, {WORDS[within]}" if len(points) > 1 else WORDS[within]
            lines.append(f"{words}: {format_trend(trend(of_run, axis, within), falls=quantity.of_hessian)}")
    return lines


def format_trend(result: TestResult, *, falls: bool) -> str:
    """The correlation with its interval over seeds, its p and the verdict on the claim that it has that sign."""
    if not result.n:
        return "too few settings"
    claimed = replace(result, p_greater=result.p_less, p_less=result.p_greater) if falls else result
    interval = "" if result.ci_high > 1 else f" [{result.ci_low:.2f}, {result.ci_high:.2f}]"
    return f"{result.value:+.2f}{interval}, {result.p:.2g}, {claimed.verdict(result.p, result.p_exact)}"


def learning_curves(axes: Any, records: NamedRecords, distances: bool = True, held_out: str = "validation") -> None:
    """[Jastrzebski Fig. 4, drawn] Accuracy over the epochs: training solid, test split dashed.

    Keskar et al. draw the same in their Figure 2, without distances.

    Args:
        distances: whether the figure's first run is a reference: its curves are thick, and the legend gives each other
            run's `curve_distance` from it, the mean over their common seeds.
        held_out: what the test split is called.
    """
    runs = grouped(records)
    complete = {run: [one for one in trainings if not one.outcome["diverged"]] for run, trainings in runs.items()}
    away = _distances_from_first(complete) if distances else {}
    for run, trainings in complete.items():
        look = {"color": color(run.place), "linewidth": 2.2 if distances and not run.place else 1.0}
        words = f"{run.name}: {away[run]:.2f} points away" if run in away else run.name
        words += f" ({lost} diverged)" if (lost := len(runs[run]) - len(trainings)) else ""
        for split, style in (("train", "-"), ("test", "--")):
            curves = [record.outcome["curves"][f"{split}_accuracy"] for record in trainings]
            epochs = range(1, min(map(len, curves), default=0) + 1)
            label = words if split == "train" else None
            values = list(zip(*(curve[: len(epochs)] for curve in curves), strict=True))
            mean_and_band(axes, epochs, values, {**look, "linestyle": style, "label": label}, 100.0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"accuracy (%), {held_out} dashed")
    if away:
        axes.set_title(f"nearest to the thick curves: {min(away, key=away.__getitem__).name}")
    legend_below(axes)


def _distances_from_first(runs: dict[RunLabel, list[Record]]) -> dict[RunLabel, float]:
    """The mean distance from the figure's first run over common seeds; empty if that run is not recorded."""
    reference = {record.labels["seed"]: record for run, of_run in runs.items() if run.place == 0 for record in of_run}
    distances = {}
    for run, trainings in runs.items():
        common = [(record, reference[seed]) for record in trainings if (seed := record.labels["seed"]) in reference]
        if run.place and common:
            distances[run] = statistics.fmean(curve_distance(one, other) for one, other in common)
    return distances
