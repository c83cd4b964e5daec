"""Loss and accuracy of trained networks against a number: along a line, under noise, along random directions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import LogFormatter, MaxNLocator

from smoothout.figures.style import COLOURS, LINES, axis_labels, colour, legend_below, marker, mean_and_band
from smoothout.ledger import Record

Named = Sequence[tuple[str, Record]]  # a run's name in the legend, and a record of it; several where there are seeds


def by_run(records: Named) -> dict[str, list[Record]]:
    """The records of each run by its name."""
    found: dict[str, list[Record]] = {}
    for name, record in records:
        found.setdefault(name, []).append(record)
    return found


class Curve(NamedTuple):
    """Loss (nats) and accuracy (shares) of one run on one split; at each ``x`` of all seeds, None without a value."""

    name: str
    part: str
    x: list[float]
    losses: list[list[float | None]]
    accuracies: list[list[float | None]]


def loss_and_accuracy(axes: Any, curves: Sequence[Curve], label: str) -> None:
    """[SmoothOut Fig. 3] Loss on a logarithmic axis at the left, accuracy at the right; training solid, test dashed.

    A line is the mean over seeds and the band around it goes from the lowest to the highest. A point that lacks a value
    is a gap.
    """
    names = list(dict.fromkeys(curve.name for curve in curves))
    accuracy = axes.twinx()
    accuracy.grid(visible=False)
    for curve in curves:
        index = names.index(curve.name)
        words = " ".join(word for word in (curve.name, curve.part) if word)
        look = {"linestyle": LINES[curve.part], "color": colour(index)}
        mean_and_band(axes, curve.x, curve.losses, {**look, "label": f"loss, {words}"})
        if len(names) == 1:
            look["color"] = COLOURS[1]
        dots = {"marker": marker(index), "markersize": 2.6, "linewidth": 0.9}
        mean_and_band(accuracy, curve.x, curve.accuracies, {**look, **dots, "label": f"accuracy, {words}"}, 100.0)
    axes.set_yscale("log")
    axes.set_xlim(min(c.x[0] for c in curves), max(c.x[-1] for c in curves))
    axes.set_xlabel(label)
    axis_labels((axes, "cross entropy"), (accuracy, "accuracy (%)"), runs=len(names))
    legend_below(axes, accuracy)


def line(axes: Any, records: Named, part: str | None = None) -> None:
    """Along the way between two runs; the name of a record says which of them is where."""
    [ways] = {name for name, _ in records}
    loss_and_accuracy(axes, _curves([("", record) for _, record in records], "alpha", part), f"alpha: {ways}")
    for end in (0, 1):
        axes.axvline(end, color="0.4", linewidth=0.8, linestyle=":")
    points = [point for _, record in records for point in record.outcome["test"]]
    gaps = sum(point["negative_variances"] > 0 for point in points)
    if gaps:
        axes.set_title(f"no value at {gaps} of {len(points)} points: a BatchNorm variance is below 0")


def noise(axes: Any, records: Named, part: str | None = None) -> None:
    """Under noise of growing strength."""
    law = records[0][1].settings["law"]
    loss_and_accuracy(axes, _curves(records, "a", part), f"strength a of {law} noise in the weights")


def landscape(axes: Any, records: Named, part: str | None = None) -> None:
    """Along random filter-normalised directions; the band is over these too."""
    count = records[0][1].settings["directions"]
    words = (
        "a random filter-normalised direction"
        if count == 1
        else f"{count} random filter-normalised directions (mean, range)"
    )
    loss_and_accuracy(axes, _curves(records, "alpha", part), f"alpha, along {words}")


def course(axes: Any, records: Named) -> None:
    """Test error after each epoch of a training, a line a seed; a mark is that with running averages recomputed."""
    for index, (name, own) in enumerate(by_run(records).items()):
        trained = {record.name: record.outcome for record in own if record.kind == "train"}
        for seed, outcome in enumerate(trained.values()):
            errors = [_error(accuracy) for accuracy in outcome["curves"]["test_accuracy"]]
            look = {"color": colour(index), "linewidth": 0.7}
            axes.plot(range(1, len(errors) + 1), errors, **look, label=None if seed else name)
        measured = [record for record in own if record.kind != "train" and record.inputs[0] in trained]
        ends = [trained[record.inputs[0]][record.settings["weights"]]["epoch"] + 1 for record in measured]
        values = [_error(record.outcome["recomputed"]["test"]["accuracy"]) for record in measured]
        dots = {"marker": marker(index), "markersize": 5, "markeredgecolor": "white", "color": colour(index)}
        axes.plot(ends, values, linestyle="none", **dots, label=f"{name}, recomputed" if ends else None, zorder=3)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error (%)")
    legend_below(axes)


def _error(accuracy: float) -> float:
    return 100 * (1 - accuracy)


def _curves(records: Named, x: str, part: str | None) -> list[Curve]:
    """The curves of each run over ``x``, on one split or on both."""
    found = []
    for name, own in by_run(records).items():
        outcomes = [record.outcome for record in own]
        for half in [part] if part else ["train", "test"]:
            rows = list(zip(*(_points(outcome[half]) for outcome in outcomes), strict=True))
            values = ([_values(row, one, many) for row in rows] for one, many in _KEYS)
            found.append(Curve(name, half, [row[0][x] for row in rows], *values))
    return found


_KEYS = (("loss", "losses"), ("accuracy", "accuracies"))


def _points(half: Any) -> list[dict[str, Any]]:
    """The points of one split: some kinds keep them beside other numbers."""
    return list(half["points"] if isinstance(half, dict) else half)


def _values(points: Iterable[dict[str, Any]], one: str, many: str) -> list[float | None]:
    """The values of several points at the same x; a point has one, or several over directions."""
    return [value for point in points for value in (point[many] if many in point else [point[one]])]
