"""Every number of a run that tables and claims show, in one list: `METRICS`.

A table names those that are its columns (``metrics`` in configs/table/), a claim those that it compares (``metrics`` in
configs/claims/), and a row of a table those that another paper published (``published_elsewhere``). To add a number,
add one entry here and name it there. A number that every training's record has needs a title, a heading and a reader::

    "last_loss": Metric(
        "test loss, last epoch", "Test loss, last epoch", lambda run: run.outcome["last"]["test_loss"], ratio_scale=True
    ),

One that is measured on the trained weights also names the analysis, and the settings of scripts/analyze.py for it; its
jobs, its cost and the command in the CSV file follow from these.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.landscape import Landscape
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.jobs.unseen_test import UnseenTest
from smoothout.analysis.options import Convention, RunningStats, SplitName, WhichWeights
from smoothout.results.records import Record
from smoothout.results.trend import Quantity

NOISE = 0.04  # the strength of the noise under which the loss is read: the point of our grid nearest to SmoothOut's own
WIDTHS = {"1e-3": 1e-3, "5e-4": 5e-4}  # eps of Keskar et al.
SUBSPACE = 100  # random directions of Keskar et al.
LINE = 0.3  # how far along filter-normalized directions: the end of the authors' plots


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Args:
        share_of: for a share of images, their split, whose size gives its steps and binomial error; None for others.
        published: which of a method's keys in configs/table/ names the column of the published CSV file that has
            it. A table may name the columns of any number by itself (``published`` of its methods), and a number
            without such a key may be ``published_elsewhere``.
    """

    title: str  # name and unit on pages of claims
    heading: str  # heading of its block in a table
    read: Callable[[Record], float | None]  # the number in a record, or None if that record has no value for it
    analysis: Any = None  # settings of the analysis that measures it; None if the training's record has the number
    overrides: str = ""  # overrides of scripts/analyze.py for that analysis
    ratio_scale: bool = False  # values are compared by ratio (sharpness), not by difference (accuracy)
    share_of: SplitName | None = None
    differences: bool = False  # whether tables also show each method's gain over the baseline
    published: str | None = None


def median_accuracy(record: Record, quarter: int = 4) -> float:
    """Median test accuracy in % over a ``quarter`` (1 to 4) of the epochs of a training's record.

    Unlike the best epoch it is not selected on the test split, and unlike the last epoch it does not depend on a single
    epoch that BatchNorm's running statistics may spoil.
    """
    accuracies = record.outcome["curves"]["test_accuracy"]
    first, end = (quarter - 1) * len(accuracies) // 4, math.ceil(quarter * len(accuracies) / 4)
    return 100 * float(statistics.median(accuracies[first:end]))


def sharpness_value(record: Record) -> float | None:
    """The value that a search for the sharpness found; None if it ended where it began."""
    return None if record.outcome["failed"] else float(record.outcome["value"])


def recalibrated_training_loss(record: Record) -> float:
    """The training loss with BatchNorm's running statistics recomputed."""
    return float(record.outcome["recomputed"]["train"]["loss"])


def loss_rise(record: Record, split: str = "train") -> float | None:
    """Rise of the mean loss under noise of strength `NOISE`; None if one of the two losses is not finite."""
    losses = {point["a"]: point["loss"] for point in record.outcome[split]["points"]}
    clean, noisy = losses[0.0], losses[NOISE]
    return None if clean is None or noisy is None else float(noisy - clean)


def accuracy_fall(record: Record, split: str = "train") -> float:
    """Points of accuracy that noise of strength `NOISE` costs."""
    accuracies = {point["a"]: point["accuracy"] for point in record.outcome[split]["points"]}
    return 100 * float(accuracies[0.0] - accuracies[NOISE])


def noise_slope(record: Record) -> float | None:
    """The metric s (Eq. 9) of the training loss, from the strength below `NOISE` to it; None if it is not finite."""
    points, slopes = (record.outcome["train"][key] for key in ("points", "slopes"))
    slope = next(slope for slope, right in zip(slopes, points[1:], strict=True) if right["a"] == NOISE)
    return None if slope is None else float(slope)


def line_rise(record: Record, split: str = "train") -> float | None:
    """Rise of the mean loss `LINE` along filter-normalized directions, over both ways and all directions."""
    losses = {round(point["alpha"], 9): point["losses"] for point in record.outcome[split]}
    ends = [*losses[-LINE], *losses[LINE]]
    return None if None in (*ends, *losses[0.0]) else statistics.fmean(ends) - statistics.fmean(losses[0.0])


def sharp_share(record: Record) -> float | None:
    """How many directions, in % of all, would carry the curvature if it were equal in them: (tr H / |H|)^2 / n."""
    trace, norm = record.outcome["trace"]["mean"], record.outcome["norm"]["mean"]
    return 100 * float((trace / norm) ** 2) / int(record.outcome["dimension"]) if trace > 0 and norm else None


def _recalibrated(weights: WhichWeights, split: SplitName = SplitName.test) -> Metric:
    images = "test" if split is SplitName.test else "training"
    return Metric(
        f"{images} accuracy, {weights} epoch, BatchNorm recalibrated, points",
        f"{images.capitalize()} accuracy in %, {weights} epoch, BatchNorm recalibrated",
        lambda record: 100 * float(record.outcome["recomputed"][split]["accuracy"]),
        RunningStatistics(checkpoint=weights),
        f"analysis=running_statistics analysis.checkpoint={weights}",
        share_of=split,
        differences=split is SplitName.test,
    )


def _keskar_sharpness(convention: Convention, eps: str, subspace: int | None) -> Metric:
    """As in Tables 3 and 4 of Keskar et al.: at the last iterate, BatchNorm recalibrated (see configs/README.md)."""
    settings = {"eps": WIDTHS[eps], "subspace": subspace} if subspace else {"eps": WIDTHS[eps]}
    where = f"eps = {eps}, {subspace} random directions" if subspace else f"eps = {eps}"
    plain, common = _sharpness(convention), "analysis.checkpoint=last analysis.running_stats=recomputed"
    return replace(
        plain,
        title=f"{plain.title}, {where}, last epoch, BatchNorm recalibrated",
        heading=f"{plain.heading}, {where}, last epoch, BatchNorm recalibrated",
        analysis=replace(
            plain.analysis, checkpoint=WhichWeights.last, running_stats=RunningStats.recomputed, **settings
        ),
        overrides=" ".join(
            [plain.overrides, *(f"analysis.{name}={value}" for name, value in settings.items()), common]
        ),
        published=None,
    )


def _sharpness(convention: Convention) -> Metric:
    return Metric(
        f"sharpness `{convention}`",
        f"Sharpness in %, convention `{convention}`",
        sharpness_value,
        Sharpness(convention=convention),
        f"analysis.convention={convention}",
        ratio_scale=True,
        published="sharpness" if convention is Convention.released else None,  # the papers' is by this convention
    )


def _by_ratio(title: str, read: Callable[[Record], float | None], analysis: Any = None, overrides: str = "") -> Metric:
    """A number that is compared by ratio; its heading is the title."""
    return Metric(title, title[0].upper() + title[1:], read, analysis, overrides, ratio_scale=True)


def _noise(title: str, read: Callable[[Record], float | None], *, ratio_scale: bool = True) -> Metric:
    metric = _by_ratio(title, read, NoiseCurve(), "analysis=noise_curve")
    return replace(metric, ratio_scale=ratio_scale)


def _line(split: str, read: Callable[[Record], float | None]) -> Metric:
    title = f"rise of the {split} loss along filter-normalized lines, alpha = {LINE}"
    return _by_ratio(title, read, Landscape(), "analysis=landscape")


def _hessian(title: str, read: Callable[[Record], float | None]) -> Metric:
    """As in Figure 1 of Jastrzebski et al.: at the last weights, in evaluation mode, BatchNorm recalibrated."""
    return _by_ratio(
        f"{title} of the Hessian, last epoch, BatchNorm recalibrated",
        read,
        Hessian(checkpoint=WhichWeights.last, running_stats=RunningStats.recomputed, eigenvalues=1),
        "analysis=hessian analysis.checkpoint=last analysis.running_stats=recomputed analysis.eigenvalues=1",
    )


METRICS = {
    "best": Metric(
        "test accuracy, best epoch, points",
        "Test accuracy in %, best epoch",
        lambda record: 100 * float(record.outcome["best"]["test_accuracy"]),
        share_of=SplitName.test,
        differences=True,
        published="accuracy",
    ),
    "late": Metric(
        "test accuracy, median of the last quarter of the epochs, points",
        "Test accuracy in %, median of the last quarter of the epochs",
        median_accuracy,
        share_of=SplitName.test,
        differences=True,
    ),
    "second_quarter": Metric(
        "test accuracy, median of the second quarter of the epochs, points",
        "Test accuracy in %, median of the second quarter of the epochs",
        partial(median_accuracy, quarter=2),
        share_of=SplitName.test,
    ),
    "last": Metric(
        "test accuracy, last epoch, points",
        "Test accuracy in %, last epoch",
        lambda record: 100 * float(record.outcome["last"]["test_accuracy"]),
        share_of=SplitName.test,
    ),
    "unseen_test": Metric(
        "accuracy on the test split, unseen before, of the best held-out epoch, points",
        "Accuracy in % on the test split, unseen before, best held-out epoch",
        lambda record: 100 * float(record.outcome["accuracy"]),
        UnseenTest(),
        "analysis=unseen_test",
        share_of=SplitName.test,
        differences=True,
    ),
    "distance": _by_ratio(
        "distance of the last weights from the start",
        lambda record: record.outcome["last"].get("distance"),  # earlier records have none
    ),
    **{f"{weights}_recalibrated": _recalibrated(weights) for weights in WhichWeights},
    "last_train_recalibrated": _recalibrated(WhichWeights.last, SplitName.train),
    "last_train_loss_recalibrated": replace(
        _recalibrated(WhichWeights.last, SplitName.train),
        title="training loss, last epoch, BatchNorm recalibrated",
        heading="Training loss, last epoch, BatchNorm recalibrated",
        read=recalibrated_training_loss,
        ratio_scale=True,
        share_of=None,
    ),
    "noise_rise": _noise(f"rise of the training loss under noise, a = {NOISE}", loss_rise),
    **{f"sharpness_{convention}": _sharpness(convention) for convention in Convention},
    "sharpness_converged_recalibrated": Metric(
        "sharpness `converged`, BatchNorm recalibrated",
        "Sharpness in %, convention `converged`, BatchNorm recalibrated",
        sharpness_value,
        Sharpness(running_stats=RunningStats.recomputed),
        "analysis.running_stats=recomputed",
        ratio_scale=True,
    ),
    **{
        f"sharpness_{convention}_{space}{eps}_last_recalibrated": _keskar_sharpness(convention, eps, subspace)
        for (space, subspace), convention, eps in product(
            {"": None, "subspace_": SUBSPACE}.items(), (Convention.keskar, Convention.converged), WIDTHS
        )
    },
    "adaptive_sharpness": _by_ratio(
        "adaptive sharpness, box of 0.1%, logits normalized",
        sharpness_value,
        AdaptiveSharpnessJob(normalize_logits=True, examples=10_000),
        "analysis=adaptive_sharpness analysis.normalize_logits=true analysis.examples=10000",
    ),
    "noise_rise_test": _noise(f"rise of the test loss under noise, a = {NOISE}", partial(loss_rise, split="test")),
    "noise_fall": _noise(
        f"fall of the training accuracy under noise, a = {NOISE}, points", accuracy_fall, ratio_scale=False
    ),
    "noise_fall_test": _noise(
        f"fall of the test accuracy under noise, a = {NOISE}, points",
        partial(accuracy_fall, split="test"),
        ratio_scale=False,
    ),
    "noise_slope": _noise(f"s = dC/da of the training loss at a = {NOISE}", noise_slope),
    "hessian_eigenvalue": _hessian("largest eigenvalue", Quantity.eigenvalue.read),
    "sharp_share": _hessian("share of sharp directions, (trace / Frobenius norm)^2 / n in %,", sharp_share),
    "hessian_norm": _hessian("Frobenius norm", Quantity.norm.read),
    "line_rise": _line("training", line_rise),
    "line_rise_test": _line("test", partial(line_rise, split="test")),
}
OLD_NAMES = {
    "recomputed": "best_recalibrated",
    "recomputed_last": "last_recalibrated",
    "noise": "noise_rise",
    **{str(convention): f"sharpness_{convention}" for convention in Convention},
    "converged_recomputed": "sharpness_converged_recalibrated",
    "adaptive": "adaptive_sharpness",
}


def current_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The ``names`` as they are in `METRICS`, with a FutureWarning for each that was renamed.

    Raises ValueError for an unknown one.
    """
    for name in names:
        if name in OLD_NAMES:
            warnings.warn(f"metrics: {name} is now {OLD_NAMES[name]}", FutureWarning, stacklevel=2)
        elif name not in METRICS:
            raise ValueError(f"metrics: {name!r} is not one of {', '.join(METRICS)}")
    return tuple(OLD_NAMES.get(name, name) for name in names)
