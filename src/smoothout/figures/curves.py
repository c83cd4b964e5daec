"""Pictures drawn from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from smoothout.files import whole_file
from smoothout.ledger import Record

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "smoothout",  # equal pictures are equal files
    "svg.fonttype": "none",
}
COLOURS = ("#0b6ba8", "#c44e1c")  # distinguishable in grey


def line_and_noise(line: Record, curves: Sequence[tuple[str, Record]], title: str, path: Path) -> list[Path]:
    """[SmoothOut Fig. 3] Left: along the line between two runs; right: under noise. Writes SVG and PNG.

    Loss stands on a logarithmic axis at the left, accuracy at the right; training solid, test dashed.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        _panel(left, [("", line.outcome["train"], line.outcome["test"])], "alpha")
        left.set_xlabel("alpha: 0 is small batch, 1 is large batch")
        left.set_title(_line_title(line.outcome["test"]), fontsize=9)
        left.set_xlim(line.outcome["test"][0]["alpha"], line.outcome["test"][-1]["alpha"])
        named = [(name, r.outcome["train"]["points"], r.outcome["test"]["points"]) for name, r in curves]
        _panel(right, named, "a")
        right.set_xlabel("strength a of uniform noise in the weights")
        right.set_title("under noise", fontsize=9)
        figure.suptitle(title, fontsize=10)
        return [_saved(figure, path.with_suffix(ending)) for ending in (".svg", ".png")]


def _line_title(points: list[dict[str, Any]]) -> str:
    """What the left panel shows, and how many points have no value."""
    gaps = sum(point["loss"] is None for point in points)
    note = f"\n{gaps} of {len(points)} points have no value: a BatchNorm variance is below 0 there" if gaps else ""
    return f"on the line between the two{note}"


def _panel(axes: Any, curves: Sequence[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]], x: str) -> None:
    """Loss and accuracy of each (name, training points, test points) against ``x``."""
    accuracy = axes.twinx()
    accuracy.grid(visible=False)
    single = len(curves) == 1
    for index, (name, train, test) in enumerate(curves):
        for part, points, style in (("train", train, "-"), ("test", test, "--")):
            # a point without a value is a gap in the curve
            numbers = [[float("nan") if p[key] is None else p[key] for p in points] for key in (x, "loss", "accuracy")]
            colours = COLOURS if single else (COLOURS[index], COLOURS[index])
            label = " ".join(word for word in (name, part) if word)
            axes.plot(numbers[0], numbers[1], style, color=colours[0], label=f"loss, {label}", lw=1.4)
            percent = [100 * value for value in numbers[2]]
            accuracy.plot(
                numbers[0], percent, style, color=colours[1], label=f"accuracy, {label}", lw=1.4, marker=".", ms=4
            )
    axes.set_yscale("log")
    axes.set_ylabel("cross entropy")
    accuracy.set_ylabel("accuracy (%)")
    handles = [pair for one in (axes, accuracy) for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    axes.legend(*zip(*handles, strict=True), loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)


def _saved(figure: Any, path: Path) -> Path:
    with whole_file(path) as part:
        figure.savefig(
            part, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
        )
    return path
