"""Sharpness drawn: what each search finds and what it costs, sharpness against loss and batch size, run beside run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from smoothout.results.figures.curves import NamedRecords, by_run, seeds
from smoothout.results.figures.style import COLOURS, colour, legend_below, marker, mean_and_band, plain_log
from smoothout.results.records import Record

CONVENTIONS = {  # of the atlas: a thick line that ends at the answer
    "released": {"color": COLOURS[1], "linewidth": 2.4, "marker": "X"},
    "keskar": {"color": COLOURS[0], "linewidth": 2.4, "marker": "o"},
    "converged": {"color": COLOURS[2], "linewidth": 1.6, "marker": "s"},
}
METHODS = {  # at equal evaluations
    "as_written": {"color": COLOURS[0], "linewidth": 1.1, "linestyle": "--"},
    "scaled": {"color": COLOURS[3], "linewidth": 1.1, "linestyle": "-."},
    "ascents": {"color": COLOURS[4], "linewidth": 1.1, "linestyle": "-"},
}
T = TypeVar("T")
NOISE = 1e-5  # of the highest value: a search that ends lower met rounding, and stands in the legend alone
WORDS = {
    "released": "released (test split)",
    "keskar": "keskar",
    "converged": "converged",
    "as_written": "L-BFGS-B as written",
    "scaled": "L-BFGS-B scaled to the box",
    "ascents": "sign ascents with restarts",
}


def search_comparison(axes: Any, records: NamedRecords, space: str = "full") -> None:
    """The best value met after each evaluation, by search; a mark is what a convention answers."""
    drawn = [[c for c in record.outcome["courses"] if c["space"] == space] for _, record in records]
    for index, courses in enumerate(drawn):
        for course in courses:
            _course(axes, course, labelled=index == 0)
    axes.set_yscale("log", nonpositive="mask")
    plain_log(axes.yaxis)
    values = [course["values"] for courses in drawn for course in courses]
    top = max(value[-1] for value in values)
    shown = [v for met in values if met[-1] > NOISE * top for v in met if v > 0]
    if shown:
        axes.set_ylim(min(shown) / 1.2, 1.2 * top)
    axes.set_xlabel("evaluations of the loss and its gradient")
    axes.set_ylabel("highest sharpness met (%)")
    axes.set_xlim(left=0)
    legend_below(axes, columns=1, size=6.5)


def _course(axes: Any, course: dict[str, Any], labelled: bool) -> None:
    name, spent = course["search"], len(course["values"])
    look = dict(CONVENTIONS.get(name) or METHODS[name])
    end = look.pop("marker", None)
    found = "failed" if course["failed"] else f"{course['answer']:.4g}%"
    why = course["status"].lower().removeprefix("convergence: ").removeprefix("stop: ")
    label = f"{WORDS[name]}: {found} after {spent}; {why}"
    above = [value if value > 0 else math.nan for value in course["values"]]
    look |= {"linestyle": "none"} if course["failed"] else {}  # it stands in the legend alone
    axes.plot(range(1, spent + 1), above, drawstyle="steps-post", label=label if labelled else None, **look)
    if end and not course["failed"]:
        axes.plot(spent, course["answer"], end, color=look["color"], markersize=5)


def over_loss(axes: Any, records: NamedRecords) -> None:
    """[Keskar Fig. 6] Sharpness against the loss at several epochs of one training, which stand beside the points."""
    for run, own in by_run(records).items():
        look = {"color": colour(run.place), "marker": marker(run.place), "markersize": 4}
        seeds = _by_seed(own)
        for first, measured in enumerate(seeds):
            points = [(r.outcome["loss"], r.outcome["value"], r.labels["epochs"]) for r in _found(measured)]
            losses, values, epochs = zip(*points, strict=True) if points else ((), (), ())
            axes.plot(losses, values, **look, linewidth=1.0, label=None if first else run.name)
            for x, y, epoch in zip(losses, values, epochs, strict=True):
                axes.annotate(str(epoch), (x, y), (3, 3), textcoords="offset points", fontsize=6)
        failed = [r for r in own if r.outcome["failed"]]
        _mark_failed(axes, [r.outcome["loss"] for r in failed], look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cross entropy")
    axes.set_ylabel("sharpness (%)")
    legend_below(axes)


def over_batch(axes: Any, records: NamedRecords) -> None:
    """[Keskar Fig. 4] Test accuracy at the last epoch (left) and sharpness (right, dashed) against the batch size.

    Of several seeds the mean, of sharpness the geometric one; a batch size where a search failed is a gap with a cross.
    """
    sharpness = axes.twinx()
    sharpness.grid(visible=False)
    for run, own in by_run(records).items():
        trained, measured = ([r for r in own if (r.kind == "train") is training] for training in (True, False))
        look = {"color": colour(run.place), "marker": marker(run.place), "markersize": 4}
        accuracies = _by_batch(trained, lambda r: 100 * r.outcome["last"]["test_accuracy"])
        mean_and_band(axes, *accuracies, {**look, "label": f"test accuracy, {run.name}"})
        values = _by_batch(measured, lambda r: None if r.outcome["failed"] else r.outcome["value"])
        dashed = {**look, "linestyle": "--", "label": f"sharpness, {run.name}"}
        mean_and_band(sharpness, *values, dashed, mean=statistics.geometric_mean)
        _mark_failed(sharpness, [r.labels["batch"] for r in measured if r.outcome["failed"]], look)
    sharpness.set_yscale("log")
    axes.set_xlabel("batch size")
    axes.set_ylabel("test accuracy (%)")
    sharpness.set_ylabel("sharpness (%), dashed")
    legend_below(axes, sharpness)


def adaptive(axes: Any, records: NamedRecords) -> None:
    """The highest rise of the loss that adaptive sharpness met, run beside run; points are seeds, a dash their mean."""
    runs = by_run(records)
    for place, (run, own) in enumerate(runs.items()):
        values = [record.outcome["value"] for record in _found(own)]
        look = {"color": colour(run.place), "marker": marker(run.place), "markersize": 5}
        axes.plot([place] * len(values), values, linestyle="none", **look)
        if len(values) == len(own):  # without those that failed it would be the mean of others
            mean = statistics.fmean(values)
            if len(values) > 1:  # through a single point it would look like an error bar
                axes.plot(place, mean, "_", markersize=22, color=look["color"])
            axes.annotate(f"{mean:#.3g}", (place, mean), (14, -3), textcoords="offset points", fontsize=7)
        _mark_failed(axes, [place] * (len(own) - len(values)), look)
    settings = records[0][1].settings
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.margins(y=0.15)  # room for what failed
    axes.set_xlim(-0.5, len(runs) - 0.3)
    axes.set_xticks(range(len(runs)), [f"{run.name}\n{seeds(len(own))}" for run, own in runs.items()], fontsize=8)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(
        f"{settings['norm']}, rho = {settings['rho']:g}, {settings['part']}"
        + (", logits normalised" if settings["normalise_logits"] else "")
    )
    axes.set_ylabel("highest rise of the cross entropy met")
    legend_below(axes)


def _by_seed(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each seed, in the order of their epochs."""
    found: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda r: int(r.labels["epochs"])):
        found.setdefault(record.labels["seed"], []).append(record)
    return list(found.values())


def _by_batch(records: Iterable[Record], read: Callable[[Record], T]) -> tuple[list[int], list[list[T]]]:
    """Batch sizes, rising, and at each of them what is read from every seed's record."""
    found: dict[int, list[T]] = {}
    for record in sorted(records, key=lambda r: int(r.labels["batch"])):
        found.setdefault(record.labels["batch"], []).append(read(record))
    return list(found), list(found.values())


def _found(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if not record.outcome["failed"]]


def _mark_failed(axes: Any, places: Sequence[float], look: dict[str, Any]) -> None:
    """A cross at the foot of the axes for every search that failed: its 0 measures nothing."""
    if places:
        foot = {"transform": axes.get_xaxis_transform(), "color": look["color"], "label": "search failed"}
        axes.plot(places, [0.03] * len(places), "x", markersize=6, **foot)
