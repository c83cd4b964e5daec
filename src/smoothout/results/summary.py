"""Summaries of records in a few lines, for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smoothout.common.formatting import format_decimal
from smoothout.results.records import Record


def training_summary(record: Record) -> str:
    """Summarize a training's record in one line."""
    best, last = record.outcome["best"], record.outcome["last"]
    split = "held-out" if record.settings["data"].get("held_out") else "test"
    return (
        f"{record.name}: {split} accuracy {100 * best['test_accuracy']:.2f}% (best, epoch {best['epoch'] + 1}),"
        f" {100 * last['test_accuracy']:.2f}% (last){'; diverged' if record.outcome['diverged'] else ''}"
    )


def analysis_summary(record: Record, *, held_out: bool = False) -> str:
    """Summarize an analysis's record in a few lines; ``held_out``: its test split is held-out training images."""
    first, *lines = _DESCRIPTIONS.get(record.kind, _numbers)(record.outcome)
    if held_out and first.startswith("test accuracy"):
        first = first.replace("test", "held-out", 1)
    return "\n".join([f"{record.name}: {first}", *lines])


def _numbers(out: dict[str, Any]) -> list[str]:
    """The scalar results of an analysis without its own summary."""
    names = (name for name, value in out.items() if isinstance(value, int | float) and name != "wall_seconds")
    return ["; ".join(f"{name} {out[name]:g}" for name in names) or "recorded"]


def _unseen_test(out: dict[str, Any]) -> list[str]:
    loss = "not finite" if out["loss"] is None else f"{out['loss']:.4g}"
    return [f"accuracy on the test split {100 * out['accuracy']:.2f}%, loss {loss}"]


def _sharpness(out: dict[str, Any]) -> list[str]:
    value = "failed" if out["failed"] else f"{format_decimal(out['value'], 4)}%"
    return [f"sharpness {value}; {out['evaluations']} evaluations; {out['status']}"]


def _adaptive(out: dict[str, Any]) -> list[str]:
    value = "failed" if out["failed"] else f"{out['value']:.4g} above the loss {out['loss']:.4g}"
    return [f"adaptive sharpness {value}; {out['evaluations']} evaluations; {out['status']}"]


def _interpolation(out: dict[str, Any]) -> list[str]:
    return ["test accuracy", *(f"{p['alpha']:6.2f} {_share(p['accuracy'])}" for p in out["test"])]


def _noise_curve(out: dict[str, Any]) -> list[str]:
    return ["test accuracy", *(f"{p['a']:6.4g} {_share(p['accuracy'])}" for p in out["test"]["points"])]


def _averages(out: dict[str, Any]) -> list[str]:
    accuracies = ((name, out[name]["test"]["accuracy"]) for name in ("kept", "recomputed"))
    return ["test accuracy by running statistics", *(f"{name:>11} {_share(value)}" for name, value in accuracies)]


def _landscape(out: dict[str, Any]) -> list[str]:
    ranges = ((p["alpha"], min(p["accuracies"]), max(p["accuracies"])) for p in out["test"])
    return ["test accuracy, lowest and highest", *(f"{a:6.2f} {_share(low)} {_share(high)}" for a, low, high in ranges)]


def _plane(out: dict[str, Any]) -> list[str]:
    losses = [loss for row in out["losses"] for loss in row if loss is not None]
    if not losses:
        return ["no point has a finite loss"]
    return [f"{len(losses)} points, loss from {min(losses):.4g} to {max(losses):.4g}"]


def _hessian(out: dict[str, Any]) -> list[str]:
    top = out["eigenvalues"]
    lines = [f"largest eigenvalues {', '.join(f'{value:.4g}' for value in top['values'])} ({top['status']})"]
    for name, words in (("trace", "trace"), ("norm", "Frobenius norm")):
        mean, error = out[name]["mean"], out[name]["standard_error"]
        lines.append(f"  {words} {mean:.4g}, standard error {error:.2g}")
    return [*lines, f"  {out['products']} products with the Hessian of {out['dimension']} weights"]


def _atlas(out: dict[str, Any]) -> list[str]:
    lines = ["percent, evaluations, and why each search ended"]
    for search in out["courses"]:
        value = "failed" if search["failed"] else format_decimal(search["answer"], 4)
        name, spent = f"{search['space']:>10} {search['search']:<10}", len(search["values"])
        lines.append(f"{name} {value:>12} {spent:4d}  {search['status']}")
    return lines


_DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "sharpness": _sharpness,
    "adaptive": _adaptive,
    "interpolation": _interpolation,
    "noise_curve": _noise_curve,
    "averages": _averages,
    "unseen_test": _unseen_test,
    "landscape": _landscape,
    "plane": _plane,
    "hessian": _hessian,
    "atlas": _atlas,
}


def _share(value: float | None) -> str:
    return "  not defined" if value is None else f"{100 * value:6.2f}%"
