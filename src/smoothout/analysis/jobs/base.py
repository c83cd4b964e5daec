"""Base classes of analysis jobs: which weights and examples they use.

The modules of this folder import torch only inside the methods that compute, so that tables and figures render without
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from smoothout.analysis.arguments import check_counts, check_positive, linspace
from smoothout.analysis.options import RunningStats, SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.common.files import check_name
from smoothout.common.job_settings import JobSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from smoothout.data.split import Split, SplitBatches

# Types of the arguments of ``run``, importable without torch
Models = Sequence["nn.Module"]
DataSplit: TypeAlias = "Split"
Tick = Callable[[], None]

STATISTICS_BATCH = 1000  # examples per batch when BatchNorm's statistics are recomputed; the size matters slightly
LARGE_GPU = 40 * 2**30  # bytes; products with the Hessian of ResNet44 for 5000 images need this much


def count(default: int | None, least: int = 1) -> Any:
    """A field for a whole number of at least ``least``, or None where its type allows it."""
    return field(default=default, metadata={"least": least})


def positive(default: float) -> Any:
    """A field for a finite number above 0."""
    return field(default=default, metadata={"positive": True})


def check_running_stats(which: RunningStats) -> None:
    """Raise ValueError for interpolated statistics, which exist only between two networks."""
    if which is RunningStats.interpolated:
        raise ValueError("running_stats: 'interpolated' is not one of kept, recomputed")


@dataclass(frozen=True, kw_only=True)
class AnalysisJob(JobSettings, ABC):
    """The settings of an analysis. ``run`` computes the outcome, which is stored in the record as JSON.

    A subclass has a field for each argument of the function that it calls, with the same name. The function's docstring
    explains them.
    """

    numerics: ClassVar[int] = 1  # raised when a change of the program changes outcomes
    runs: ClassVar[int] = 1  # number of trained runs
    in_name: ClassVar[tuple[str, ...]] = ()  # fields shown in the record's name
    in_name_if_changed: ClassVar[tuple[str, ...]] = ()  # fields shown in it unless they have their default

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    examples: int | None = None  # use only the first N examples of each split; None uses all

    def __post_init__(self) -> None:
        check_name("kind", getattr(self, "kind", ""))
        coerce_enum_fields(self)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if "least" in setting.metadata and value is not None:
                check_counts(setting.metadata["least"], **{setting.name: value})
            if "positive" in setting.metadata:
                check_positive(**{setting.name: value})
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"examples: must be null (all) or at least 1, not {self.examples}")

    @abstractmethod
    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """Analyze ``models``, calling ``tick`` after each step."""

    @abstractmethod
    def evaluations(self, train: int, test: int) -> int:
        """Approximate maximum number of forward and backward passes that ``run`` makes over splits of these sizes."""

    def ticks(self, train: int, test: int) -> int:
        """Approximate number of calls of ``tick`` by ``run``."""
        return self.evaluations(train, test)

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples one evaluation uses, on average over both splits."""
        return (self.examples_used(train) + self.examples_used(test)) // 2

    def slug(self, *runs: str) -> str:
        """The readable part of the record's name."""
        default = {setting.name: setting.default for setting in fields(self)}
        changed = [name for name in self.in_name_if_changed if getattr(self, name) != default[name]]
        return "-".join(["-to-".join(runs), *(str(getattr(self, name)) for name in (*self.in_name, *changed))])

    def examples_used(self, size: int) -> int:
        """The number of examples used from a split of ``size``."""
        return size if self.examples is None else min(size, self.examples)

    def arguments(self, *, without: Sequence[str] = ()) -> dict[str, Any]:
        """The fields that are arguments of the function, except those in ``without``."""
        excluded = {"checkpoint", "split", "examples", "start", "stop", "points", *without}
        return {name: value for name, value in asdict(self).items() if name not in excluded}

    @contextmanager
    def with_running_stats(self, which: RunningStats, model: nn.Module, train: Split) -> Iterator[None]:
        """Keep BatchNorm's statistics of ``model`` or recompute them from ``train``; restore them after the block."""
        from smoothout.nn.batchnorm import recalibrate_batchnorm  # noqa: PLC0415
        from smoothout.nn.parameters import preserve_state  # noqa: PLC0415

        with preserve_state(model):
            if which is RunningStats.recomputed:
                recalibrate_batchnorm(model, self.batches(train, STATISTICS_BATCH))
            yield

    def batches(self, split: Split, size: int | None = None) -> SplitBatches:
        """The used examples of ``split``, in batches of ``size``, or of `analysis_batch`."""
        return split.first(self.examples).batches(size or analysis_batch(split.labels.device))


class BoxJob(AnalysisJob):
    """An analysis that searches a box around the weights."""

    subspace: int | None  # a field of each subclass: the dimension of the searched subspace; None is the full space


@dataclass(frozen=True, kw_only=True)
class SplitJob(AnalysisJob):
    """An analysis of one split, train or test."""

    split: SplitName = field(default=SplitName.train, metadata={"recorded_as": "part"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is SplitName.by_convention:
            raise ValueError("split: must be train or test; by_convention is for sharpness only")

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples one evaluation uses."""
        return self.examples_used(train if self.split is SplitName.train else test)

    def split_batches(self, train: Split, test: Split) -> SplitBatches:
        """The used examples of the chosen split, in batches."""
        return self.batches(train if self.split is SplitName.train else test)


@dataclass(frozen=True, kw_only=True)
class AlphasJob(AnalysisJob):
    """An analysis at equally spaced positions alpha."""

    start: float = -1.0
    stop: float = 1.0  # included
    points: int = 21

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 2 or not self.start < self.stop:
            values = f"{self.start}, {self.stop}, {self.points}"
            raise ValueError(f"start, stop, points: need start < stop and 2 points, not {values}")

    def alphas(self) -> list[float]:
        """The positions."""
        return linspace(self.start, self.stop, self.points)


def analysis_batch(device: torch.device) -> int:
    """Examples per batch of an analysis: as in an evaluation, but a GPU with less than 40 GiB counts as a CPU.

    Most analyses keep activations for one or two backward passes. The choice uses total memory, not free memory,
    because the size, and with it the rounding, must not depend on other programs on the GPU.
    """
    import torch  # noqa: PLC0415

    from smoothout.nn.evaluation import eval_batch_size  # noqa: PLC0415

    small = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory < LARGE_GPU
    return eval_batch_size(torch.device("cpu") if small else device)
