"""Loss and accuracy of trained networks against a number: along a line, under noise, along random directions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from smoothout.results.figures.style import LINES, colour, legend_below, marker, mean_and_band, plain_log
from smoothout.results.records import Record

WINDOW = 11  # epochs of a course's running median: one epoch differs from the next by more than run from run


class RunLabel(NamedTuple):
    """A run's name in legends, and its place among all runs of the picture, on which its colour hangs everywhere.

    What belongs to no single run has no place.
    """

    name: str
    place: int | None = None


NamedRecords = Sequence[tuple[RunLabel, Record]]  # a run and a record of it; several where there are seeds


def by_run(records: NamedRecords) -> dict[RunLabel, list[Record]]:
    """The records of each run."""
    found: dict[RunLabel, list[Record]] = {}
    for run, record in records:
        found.setdefault(run, []).append(record)
    return found


class Curve(NamedTuple):
    """Loss (nats) and accuracy (shares) of one run on one split; at each ``x`` of all seeds, None without a value."""

    run: RunLabel
    split: str
    x: list[float]
    losses: list[list[float | None]]
    accuracies: list[list[float | None]]


def loss_and_accuracy(axes: Any, curves: Sequence[Curve], label: str) -> None:
    """[SmoothOut Fig. 3] Loss on a logarithmic axis at the left, accuracy at the right; training solid, test dashed.

    A colour is a run; accuracy is paler, with markers. A line is the mean over seeds and the band around the loss goes
    from the lowest to the highest. A point that lacks a value is a gap.
    """
    accuracy = axes.twinx()
    accuracy.grid(visible=False)
    for curve in curves:
        words = " ".join(word for word in (curve.run.name, curve.split) if word)
        look = {"linestyle": LINES[curve.split], "color": colour(curve.run.place)}
        mean_and_band(axes, curve.x, curve.losses, {**look, "label": f"loss, {words}"})
        dots = {"marker": marker(curve.run.place), "markersize": 2.6, "linewidth": 0.9, "alpha": 0.7}
        dots |= {**look, "label": f"accuracy, {words}"}
        mean_and_band(accuracy, curve.x, curve.accuracies, dots, 100.0, band=False)  # it would hide the loss's
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set_xlim(min(c.x[0] for c in curves), max(c.x[-1] for c in curves))
    axes.set_xlabel(label)
    axes.set_ylabel("cross entropy")
    accuracy.set_ylabel("accuracy (%), with markers")
    legend_below(axes, accuracy)


def line(axes: Any, records: NamedRecords, split: str | None = None) -> None:
    """Along the way between two runs; the name of a record says which of them is where."""
    [ways] = {run.name for run, _ in records}
    loss_and_accuracy(
        axes, _curves([(RunLabel(""), record) for _, record in records], "alpha", split), f"alpha: {ways}"
    )
    for end in (0, 1):
        axes.axvline(end, color="0.4", linewidth=0.8, linestyle=":")
    points = [point for _, record in records for point in record.outcome["test"]]
    gaps = sum(point["negative_variances"] > 0 for point in points)
    if gaps:
        axes.set_title(f"no value at {gaps} of {len(points)} points: a BatchNorm variance is below 0")


def noise(axes: Any, records: NamedRecords, split: str | None = None) -> None:
    """Under noise of growing strength."""
    law = records[0][1].settings["law"]
    loss_and_accuracy(axes, _curves(records, "a", split), f"strength a of {law} noise in the weights")


def landscape(axes: Any, records: NamedRecords, split: str | None = None) -> None:
    """Along random filter-normalised directions; the band is over these too."""
    count = records[0][1].settings["directions"]
    words = (
        "a random filter-normalised direction"
        if count == 1
        else f"{count} random filter-normalised directions (mean, range)"
    )
    loss_and_accuracy(axes, _curves(records, "alpha", split), f"alpha, along {words}")


def training_curve(axes: Any, records: NamedRecords) -> None:
    """Test error after each epoch, smoothed over epochs, as the mean of seeds in a band from lowest to highest.

    A hollow mark is a seed's best epoch; a full one is an epoch with running averages recomputed, beside it.
    """
    for run, own in by_run(records).items():
        trained = {record.name: record.outcome for record in own if record.kind == "train"}
        errors = [[_error(x) for x in outcome["curves"]["test_accuracy"]] for outcome in trained.values()]
        smooth = list(zip_longest(*map(_running_median, errors)))  # None after the end of one that ended early
        look = {"color": colour(run.place)}
        mean_and_band(axes, range(1, len(smooth) + 1), smooth, {**look, "label": f"{run.name}, {seeds(len(trained))}"})
        dots = {**look, "marker": marker(run.place), "linestyle": "none", "markersize": 5}
        best = [outcome["best"]["epoch"] for outcome in trained.values()]
        values = [seed[epoch] for seed, epoch in zip(errors, best, strict=True)]
        hollow = {**dots, "markerfacecolor": "white", "label": f"{run.name}, best epoch"}
        axes.plot([epoch + 1 for epoch in best], values, zorder=3, **hollow)
        _mark_recomputed(axes, run, [record for record in own if record.kind != "train"], trained, dots)
    axes.margins(x=0.08, y=0.12)  # room for marks beside the last epoch and, where a range is shared, at the foot
    epochs = max(len(curve.get_xdata()) for curve in axes.lines)
    lines = f"lines: running median over {WINDOW} epochs; " if epochs >= 3 * WINDOW else ""
    axes.set_title(f"{lines}bands: lowest to highest seed")
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error (%)")
    legend_below(axes)


def _mark_recomputed(
    axes: Any, run: RunLabel, measured: Sequence[Record], trained: dict[str, Any], look: dict[str, Any]
) -> None:
    """Test error with running averages recomputed, each run's marks in a column of their own beside the epoch."""
    known = [record for record in measured if record.inputs[0] in trained]
    if known:
        weights = known[0].settings["weights"]
        ends = [trained[record.inputs[0]][weights]["epoch"] + 1 for record in known]
        values = [_error(record.outcome["recomputed"]["test"]["accuracy"]) for record in known]
        beside = offset_copy(axes.transData, axes.figure, x=7 * (1 + (run.place or 0)), units="points")
        label = f"{run.name}, {weights} epoch recomputed"
        apart = {"markeredgecolor": "white", "markeredgewidth": 0.6}  # seeds that end alike stay several marks
        axes.plot(ends, values, linestyle="none")  # marks that are moved aside count for no limits
        axes.plot(ends, values, transform=beside, clip_on=False, zorder=3, label=label, **look, **apart)


def seeds(count: int) -> str:
    """How many, in words."""
    return f"{count} seed{'s' if count > 1 else ''}"


def _running_median(values: Sequence[float]) -> list[float]:
    """Of WINDOW values around each; at both ends of those that there are. A course of few values stays as it is."""
    if len(values) < 3 * WINDOW:
        return list(values)
    return pd.Series(values).rolling(WINDOW, center=True, min_periods=1).median().tolist()


def _error(accuracy: float) -> float:
    return 100 * (1 - accuracy)


def _curves(records: NamedRecords, x: str, split: str | None) -> list[Curve]:
    """The curves of each run over ``x``, on one split or on both."""
    found = []
    for run, own in by_run(records).items():
        outcomes = [record.outcome for record in own]
        for half in [split] if split else ["train", "test"]:
            rows = list(zip(*(_points(outcome[half]) for outcome in outcomes), strict=True))
            values = ([_values(row, one, many) for row in rows] for one, many in _KEYS)
            found.append(Curve(run, half, [row[0][x] for row in rows], *values))
    return found


_KEYS = (("loss", "losses"), ("accuracy", "accuracies"))


def _points(half: Any) -> list[dict[str, Any]]:
    """The points of one split: some kinds keep them beside other numbers."""
    return list(half["points"] if isinstance(half, dict) else half)


def _values(points: Iterable[dict[str, Any]], one: str, many: str) -> list[float | None]:
    """The values of several points at the same x; a point has one, or several over directions."""
    return [value for point in points for value in (point[many] if many in point else [point[one]])]
