"""What a recorded analysis looks at: the weights of a run, a split, how many examples, where on a line."""

from __future__ import annotations

from typing import Any

import torch

from smoothout.analysis import empirical_risk
from smoothout.analysis.options import SplitName
from smoothout.data.split import Split, SplitBatches
from smoothout.nn.evaluation import eval_batch_size

STATISTICS_BATCH = 1000  # examples a batch where BatchNorm's averages are recomputed: their size matters a little
LARGE_GPU = 40 * 2**30  # bytes; products with the Hessian of ResNet44 for 5000 images need as much


def check_split(part: SplitName) -> None:
    """Raise ValueError unless ``part`` is one of the two splits."""
    if part is SplitName.by_convention:
        raise ValueError("split: must be train or test; by_convention belongs to sharpness")


def check_examples(examples: int | None) -> None:
    """Raise ValueError when no example would be looked at."""
    if examples is not None and examples < 1:
        raise ValueError(f"examples: must be null (all) or at least 1, not {examples}")


def check_counts(settings: Any, *names: str, least: int = 1) -> None:
    """Raise ValueError unless each of the named fields of ``settings`` is None or a whole number >= ``least``."""
    values = {name: getattr(settings, name) for name in names}
    empirical_risk.check_counts(least=least, **{name: value for name, value in values.items() if value is not None})


def check_positive(settings: Any, *names: str) -> None:
    """Raise ValueError when one of the named fields of ``settings`` is not a finite number above 0."""
    empirical_risk.check_positive(**{name: getattr(settings, name) for name in names})


def examples_used(size: int, examples: int | None) -> int:
    """How many examples of a split of ``size`` are looked at."""
    return size if examples is None else min(size, examples)


def examples_used_of_split(settings: Any, train: int, test: int) -> int:
    """How many examples one evaluation goes over, of ``settings`` that look at one split."""
    return examples_used(train if settings.split is SplitName.train else test, settings.examples)


def examples_used_of_both(settings: Any, train: int, test: int) -> int:
    """How many examples one evaluation goes over, on average, of ``settings`` that look at both splits."""
    return (examples_used(train, settings.examples) + examples_used(test, settings.examples)) // 2


def analysis_batch(device: torch.device) -> int:
    """Examples in a batch of an analysis: as in an evaluation, but on a GPU of less than 40 GiB as on a CPU.

    Most analyses keep activations for one backward pass or two. The size goes by the whole of a GPU's memory, so that
    it is the same whatever else is there.
    """
    small = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory < LARGE_GPU
    return eval_batch_size(torch.device("cpu") if small else device)


def batches_of(
    part: SplitName, train: Split, test: Split, examples: int | None, size: int | None = None
) -> SplitBatches:
    """The first ``examples`` examples (None: all) of a split, in batches of ``size``, or of `analysis_batch`."""
    split = train if part is SplitName.train else test
    return split.first(examples).batches(size or analysis_batch(split.labels.device))


def check_linspace(start: float, stop: float, points: int) -> None:
    """Raise ValueError unless there are at least two points from ``start`` up to ``stop``."""
    if points < 2 or not start < stop:
        raise ValueError(f"start, stop, points: need start < stop and 2 points, not {start}, {stop}, {points}")


def linspace(start: float, stop: float, points: int) -> list[float]:
    """``points`` numbers at equal distances from ``start`` to ``stop``, rounded to ten decimals."""
    return [round(start + (stop - start) * i / (points - 1), 10) for i in range(points)]
