"""Sharpness: by number of evaluations of each search, by loss, by batch size, and by run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from smoothout.common.grouping import grouped
from smoothout.results.figures.curves import NamedRecords, seeds
from smoothout.results.figures.style import COLORS, color, legend_below, marker, mean_and_band, plain_log
from smoothout.results.records import Record

CONVENTIONS = {  # a thick line that ends at the result
    "released": {"color": COLORS[1], "linewidth": 2.4, "marker": "X"},
    "keskar": {"color": COLORS[0], "linewidth": 2.4, "marker": "o"},
    "converged": {"color": COLORS[2], "linewidth": 1.6, "marker": "s"},
}
METHODS = {  # at equal evaluations
    "as_written": {"color": COLORS[0], "linewidth": 1.1, "linestyle": "--"},
    "scaled": {"color": COLORS[3], "linewidth": 1.1, "linestyle": "-."},
    "ascents": {"color": COLORS[4], "linewidth": 1.1, "linestyle": "-"},
}
T = TypeVar("T")
NOISE = 1e-5  # of the highest value; a search that ends below it found rounding errors, and is only in the legend
WORDS = {
    "released": "released (test split)",
    "keskar": "keskar",
    "converged": "converged",
    "as_written": "L-BFGS-B as written",
    "scaled": "L-BFGS-B scaled to the box",
    "ascents": "sign ascents with restarts",
}


def search_comparison(axes: Any, records: NamedRecords, space: str = "full") -> None:
    """Draw the highest value after each evaluation of each search; a mark is the result of a convention."""
    drawn = [[c for c in record.outcome["courses"] if c["space"] == space] for _, record in records]
    for index, courses in enumerate(drawn):
        for course in courses:
            _course(axes, course, labeled=index == 0)
    axes.set_yscale("log", nonpositive="mask")
    plain_log(axes.yaxis)
    values = [course["values"] for courses in drawn for course in courses]
    top = max(value[-1] for value in values)
    shown = [v for met in values if met[-1] > NOISE * top for v in met if v > 0]
    if shown:
        axes.set_ylim(min(shown) / 1.2, 1.2 * top)
    axes.set_xlabel("evaluations of the loss and its gradient")
    axes.set_ylabel("highest sharpness so far (%)")
    axes.set_xlim(left=0)
    legend_below(axes, columns=1, size=6.5)


def _course(axes: Any, course: dict[str, Any], labeled: bool) -> None:
    name, spent = course["search"], len(course["values"])
    look = dict(CONVENTIONS.get(name) or METHODS[name])
    end = look.pop("marker", None)
    result = "failed" if course["failed"] else f"{course['answer']:.4g}%"
    why = course["status"].lower().removeprefix("convergence: ").removeprefix("stop: ")
    label = f"{WORDS[name]}: {result} after {spent}; {why}"
    above = [value if value > 0 else math.nan for value in course["values"]]
    look |= {"linestyle": "none"} if course["failed"] else {}  # it is only in the legend
    axes.plot(range(1, spent + 1), above, drawstyle="steps-post", label=label if labeled else None, **look)
    if end and not course["failed"]:
        axes.plot(spent, course["answer"], end, color=look["color"], markersize=5)


def over_loss(axes: Any, records: NamedRecords) -> None:
    """[Keskar Fig. 6] Draw sharpness against the loss at several epochs of a training; the points show the epoch."""
    for run, run_records in grouped(records).items():
        look = {"color": color(run.place), "marker": marker(run.place), "markersize": 4}
        by_epoch = sorted(run_records, key=lambda r: int(r.labels["epochs"]))
        for first, measured in enumerate(grouped((r.labels["seed"], r) for r in by_epoch).values()):
            points = [(r.outcome["loss"], r.outcome["value"], r.labels["epochs"]) for r in _successful(measured)]
            losses, values, epochs = zip(*points, strict=True) if points else ((), (), ())
            axes.plot(losses, values, **look, linewidth=1.0, label=None if first else run.name)
            for x, y, epoch in zip(losses, values, epochs, strict=True):
                axes.annotate(str(epoch), (x, y), (3, 3), textcoords="offset points", fontsize=6)
        failed = [r for r in run_records if r.outcome["failed"]]
        _mark_failed(axes, [r.outcome["loss"] for r in failed], look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cross entropy")
    axes.set_ylabel("sharpness (%)")
    legend_below(axes)


def over_batch(axes: Any, records: NamedRecords) -> None:
    """[Keskar Fig. 4] Draw test accuracy at the last epoch (left) and sharpness (right, dashed) against the batch size.

    Lines are means over seeds, for sharpness the geometric mean; a failed search is a gap with a cross.
    """
    _accuracy_and_sharpness(axes, records, lambda labels: int(labels["batch"]))
    axes.set_xlabel("batch size")


def over_start(axes: Any, records: NamedRecords) -> None:
    """[Keskar Fig. 5] Draw what `over_batch` does against the epoch of the run with whose weights a training began.

    A run that began with random weights is drawn at its own last epoch.
    """
    _accuracy_and_sharpness(axes, records, lambda labels: int(labels.get("init_epochs", labels["epochs"])))
    axes.set_xlabel("epochs of the run that it begins from")


def _accuracy_and_sharpness(axes: Any, records: NamedRecords, place: Callable[[dict[str, Any]], int]) -> None:
    """Draw test accuracy and sharpness at the ``place`` that the labels of a record give."""
    sharpness = axes.twinx()
    sharpness.grid(visible=False)
    for run, run_records in grouped(records).items():
        trained, measured = ([r for r in run_records if (r.kind == "train") is training] for training in (True, False))
        look = {"color": color(run.place), "marker": marker(run.place), "markersize": 4}
        accuracies = _by_place(trained, place, lambda r: 100 * r.outcome["last"]["test_accuracy"])
        mean_and_band(axes, *accuracies, {**look, "label": f"test accuracy, {run.name}"})
        values = _by_place(measured, place, lambda r: None if r.outcome["failed"] else r.outcome["value"])
        if measured:
            dashed = {**look, "linestyle": "--", "label": f"sharpness, {run.name}"}
            mean_and_band(sharpness, *values, dashed, mean=statistics.geometric_mean)
        _mark_failed(sharpness, [place(r.labels) for r in measured if r.outcome["failed"]], look)
    sharpness.set_yscale("log")
    axes.set_ylabel("test accuracy (%)")
    sharpness.set_ylabel("sharpness (%), dashed")
    legend_below(axes, sharpness)


def adaptive(axes: Any, records: NamedRecords) -> None:
    """Draw adaptive sharpness (the highest rise of the loss) by run; points are seeds, a dash is their mean."""
    runs = grouped(records)
    for place, (run, run_records) in enumerate(runs.items()):
        values = [record.outcome["value"] for record in _successful(run_records)]
        look = {"color": color(run.place), "marker": marker(run.place), "markersize": 5}
        axes.plot([place] * len(values), values, linestyle="none", **look)
        if len(values) == len(run_records):  # a mean without the failed searches would be biased
            mean = statistics.fmean(values)
            if len(values) > 1:  # through a single point a dash would look like an error bar
                axes.plot(place, mean, "_", markersize=22, color=look["color"])
            axes.annotate(f"{mean:#.3g}", (place, mean), (14, -3), textcoords="offset points", fontsize=7)
        _mark_failed(axes, [place] * (len(run_records) - len(values)), look)
    settings = records[0][1].settings
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.margins(y=0.15)  # room for the crosses of failed searches
    axes.set_xlim(-0.5, len(runs) - 0.3)
    axes.set_xticks(
        range(len(runs)), [f"{run.name}\n{seeds(len(run_records))}" for run, run_records in runs.items()], fontsize=8
    )
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(
        f"{settings['norm']}, rho = {settings['rho']:g}, {settings['part']}"
        + (", logits normalized" if settings["normalise_logits"] else "")
    )
    axes.set_ylabel("highest rise of the cross entropy found")
    legend_below(axes)


def _by_place(
    records: Iterable[Record], place: Callable[[dict[str, Any]], int], read: Callable[[Record], T]
) -> tuple[list[int], list[list[T]]]:
    """The places in ascending order, and what is read from the records of each."""
    groups = grouped((place(r.labels), read(r)) for r in sorted(records, key=lambda r: place(r.labels)))
    return list(groups), list(groups.values())


def _successful(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if not record.outcome["failed"]]


def _mark_failed(axes: Any, places: Sequence[float], look: dict[str, Any]) -> None:
    """Draw a cross at the bottom of the axes for every failed search: its 0 is not a measurement."""
    if places:
        foot = {"transform": axes.get_xaxis_transform(), "color": look["color"], "label": "search failed"}
        axes.plot(places, [0.03] * len(places), "x", markersize=6, **foot)
