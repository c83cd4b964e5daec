"""Loss and accuracy of trained networks: along a line, under noise, along random directions, and over the epochs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from smoothout.common.grouping import grouped
from smoothout.results.figures.style import LINES, color, legend_below, marker, mean_and_band, plain_log
from smoothout.results.records import Record

WINDOW = 11  # epochs of the running median: single epochs differ more than runs do


class RunLabel(NamedTuple):
    """A run's name in legends, and its place among all runs of the figure, which decides its color in every panel.

    The place is None for what belongs to several runs.
    """

    name: str
    place: int | None = None


NamedRecords = Sequence[tuple[RunLabel, Record]]  # a run and one of its records; there is one per seed


class Curve(NamedTuple):
    """Loss (nats) and accuracy (a share) of a run on a split, at each ``x`` of all seeds; None if there is no value."""

    run: RunLabel
    split: str
    x: list[float]
    losses: list[list[float | None]]
    accuracies: list[list[float | None]]


def loss_and_accuracy(axes: Any, curves: Sequence[Curve], label: str) -> None:
    """[SmoothOut v1 Fig. 3, later 2] Draw loss (left, logarithmic) and accuracy (right); training solid, test dashed.

    A color is a run; accuracy is paler, with markers. A line is the mean over seeds, and the band around the loss
    reaches from the lowest to the highest. There is a gap at points without a value.
    """
    accuracy = axes.twinx()
    accuracy.grid(visible=False)
    for curve in curves:
        words = " ".join(word for word in (curve.run.name, curve.split) if word)
        look = {"linestyle": LINES[curve.split], "color": color(curve.run.place)}
        mean_and_band(axes, curve.x, curve.losses, {**look, "label": f"loss, {words}"})
        dots = {"marker": marker(curve.run.place), "markersize": 2.6, "linewidth": 0.9, "alpha": 0.7}
        dots |= {**look, "label": f"accuracy, {words}"}
        mean_and_band(accuracy, curve.x, curve.accuracies, dots, 100.0, band=False)  # a second band would hide the loss
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set_xlim(min(c.x[0] for c in curves), max(c.x[-1] for c in curves))
    axes.set_xlabel(label)
    axes.set_ylabel("cross entropy")
    accuracy.set_ylabel("accuracy (%), with markers")
    legend_below(axes, accuracy)


def line(axes: Any, records: NamedRecords, split: str | None = None) -> None:
    """Draw curves along the path between two runs; the name of a record says which end is which."""
    [ends] = {run.name for run, _ in records}
    unnamed = [(RunLabel(""), record) for _, record in records]
    loss_and_accuracy(axes, _curves(unnamed, "alpha", split), f"alpha: {ends}")
    for end in (0, 1):
        axes.axvline(end, color="0.4", linewidth=0.8, linestyle=":")
    points = [point for _, record in records for point in record.outcome["test"]]
    gaps = sum(point["negative_variances"] > 0 for point in points)
    if gaps:
        axes.set_title(f"no value at {gaps} of {len(points)} points: a BatchNorm variance is below 0")


def noise(axes: Any, records: NamedRecords, split: str | None = None) -> None:
    """Draw curves under noise of increasing strength."""
    law = records[0][1].settings["law"]
    loss_and_accuracy(axes, _curves(records, "a", split), f"strength a of {law} noise in the weights")


def landscape(axes: Any, records: NamedRecords, split: str | None = None) -> None:
    """Draw curves along random filter-normalized directions; the band is over directions, too."""
    count = records[0][1].settings["directions"]
    directions = "directions (mean, range)" if count > 1 else "direction"
    label = f"alpha, along {count if count > 1 else 'a'} random filter-normalized {directions}"
    loss_and_accuracy(axes, _curves(records, "alpha", split), label)


def training_curve(axes: Any, records: NamedRecords) -> None:
    """Draw the test error over the epochs, smoothed, as the mean over seeds in a band from lowest to highest.

    A hollow mark is a seed's best epoch; a full mark, next to its epoch, is the error with BatchNorm recalibrated.
    """
    for run, run_records in grouped(records).items():
        trained = {record.name: record.outcome for record in run_records if record.kind == "train"}
        errors = [[_error(x) for x in outcome["curves"]["test_accuracy"]] for outcome in trained.values()]
        smooth = list(zip_longest(*map(_running_median, errors)))  # None after the end of shorter trainings
        # Single epochs are noisy, so lines and bands are smoothed; best epochs are marked at their true values.
        look = {"color": color(run.place)}
        mean_and_band(axes, range(1, len(smooth) + 1), smooth, {**look, "label": f"{run.name}, {seeds(len(trained))}"})
        dots = {**look, "marker": marker(run.place), "linestyle": "none", "markersize": 5}
        best = [outcome["best"]["epoch"] for outcome in trained.values()]
        values = [seed[epoch] for seed, epoch in zip(errors, best, strict=True)]
        hollow = {**dots, "markerfacecolor": "white", "label": f"{run.name}, best epoch"}
        axes.plot([epoch + 1 for epoch in best], values, zorder=3, **hollow)
        _mark_recalibrated(axes, run, [record for record in run_records if record.kind != "train"], trained, dots)
    axes.margins(x=0.08, y=0.12)  # room for marks next to the last epoch and, with shared limits, at the bottom
    epochs = max(len(curve.get_xdata()) for curve in axes.lines)
    lines = f"lines: running median over {WINDOW} epochs; " if epochs >= 3 * WINDOW else ""
    axes.set_title(f"{lines}bands: lowest to highest seed")
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error (%)")
    legend_below(axes)


def _mark_recalibrated(
    axes: Any, run: RunLabel, measured: Sequence[Record], trained: dict[str, Any], look: dict[str, Any]
) -> None:
    """Mark the test error with BatchNorm recalibrated, each run in its own column next to the epoch."""
    known = [record for record in measured if record.inputs[0] in trained]
    if known:
        weights = known[0].settings["weights"]
        ends = [trained[record.inputs[0]][weights]["epoch"] + 1 for record in known]
        values = [_error(record.outcome["recomputed"]["test"]["accuracy"]) for record in known]
        shifted = offset_copy(axes.transData, axes.figure, x=7 * (1 + (run.place or 0)), units="points")
        label = f"{run.name}, {weights} epoch recalibrated"
        apart = {"markeredgecolor": "white", "markeredgewidth": 0.6}  # keeps equal seeds apart
        axes.plot(ends, values, linestyle="none")  # invisible: shifted marks do not count for the limits
        axes.plot(ends, values, transform=shifted, clip_on=False, zorder=3, label=label, **look, **apart)


def seeds(count: int) -> str:
    """A number of seeds as text."""
    return f"{count} seed{'s' if count > 1 else ''}"


def _running_median(values: Sequence[float]) -> list[float]:
    """The median of WINDOW values around each, or of fewer at both ends. A short list is returned as it is."""
    if len(values) < 3 * WINDOW:
        return list(values)
    half = WINDOW // 2
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _error(accuracy: float) -> float:
    return 100 * (1 - accuracy)


def _curves(records: NamedRecords, x: str, split: str | None) -> list[Curve]:
    """The curves of each run over ``x``, on one split or on both."""
    curves = []
    for run, run_records in grouped(records).items():
        for name in [split] if split else ["train", "test"]:
            of_seeds = (_points(record.outcome[name]) for record in run_records)
            points = list(zip(*of_seeds, strict=True))  # at each x, those of all seeds
            losses, accuracies = ([_values(at_x, *keys) for at_x in points] for keys in _KEYS)
            curves.append(Curve(run, name, [at_x[0][x] for at_x in points], losses, accuracies))
    return curves


_KEYS = (("loss", "losses"), ("accuracy", "accuracies"))  # of a point: a single value, or one per direction


def _points(outcome: Any) -> list[dict[str, Any]]:
    """The points of a split's outcome, which holds other numbers too in some kinds of records."""
    return list(outcome["points"] if isinstance(outcome, dict) else outcome)


def _values(points: Iterable[dict[str, Any]], single: str, several: str) -> list[float | None]:
    """All values of the points at the same x."""
    return [value for point in points for value in (point[several] if several in point else [point[single]])]
