"""What a model, a data set and an analysis in a config must offer: the members that the programs use.

Each is a frozen dataclass of settings, which a config names as its ``_target_``; no base class is needed. The protocol
of optimizers is `training.optimizers.OptimizerConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from smoothout.analysis.options import WhichWeights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from smoothout.data.split import Split

Shape = tuple[int, int, int]


class Model(Protocol):
    """A network; ``initializes_batchnorm`` says that its own start overrules ``batchnorm_init``."""

    initializes_batchnorm: ClassVar[bool]

    @property
    def name(self) -> str:
        """Its part of a record's name."""

    def build(self, shape: Shape, classes: int) -> nn.Module:
        """A fresh network for images of ``shape`` (channels, height, width). Raises ValueError where none is."""


class Data(Protocol):
    """A data set, and what of it is used."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __hash__(self) -> int:
        """Of its settings: a data set is loaded once."""

    @property
    def train_examples(self) -> int | None:
        """How many of the training images are used; None is all. ``test_examples`` are those of the other split."""

    @property
    def test_examples(self) -> int | None: ...  # noqa: D102

    @property
    def validation_size(self) -> int | None:
        """How many training images are the test split instead of its own; None is none."""

    @property
    def name(self) -> str:
        """Its part of a record's name."""

    @property
    def resident(self) -> bool:
        """Whether all of it lies on the device; else it is read on the way."""

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""

    @property
    def classes(self) -> int:
        """The number of classes."""

    @property
    def expected_sizes(self) -> tuple[int, int]:
        """How many training and test images there are to be expected, limits applied."""

    @property
    def augmentation(self) -> Any:
        """What a training does to its images, of the kind that goes with the splits; None is nothing."""

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        """The training split, the test split and the fingerprint of the whole data set. Raises DataError."""


class Analysis(Protocol):
    """A measurement on trained networks.

    ``kind`` names the folder of its records, ``numerics`` is raised when a change of the program changes outcomes, and
    ``runs`` is how many networks it looks at.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]
    numerics: ClassVar[int]
    runs: ClassVar[int]

    @property
    def checkpoint(self) -> WhichWeights:
        """Which of the networks' weights it looks at."""

    @property
    def examples(self) -> int | None:
        """At how many of a split's first examples it looks; None is all."""

    @property
    def slug(self) -> Callable[..., str]:
        """A method that makes the readable part of the record's name of those of its runs, one argument each."""

    def evaluations(self, train: int, test: int) -> int:
        """About how many passes forward and backward it takes, for estimates of its cost."""

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples one of them goes over."""

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls ``tick``."""

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Callable[[], None]) -> dict[str, Any]:
        """Measure; what it returns goes into the record as JSON."""


def missing_members(cls: type[Any], role: type[Any]) -> list[str]:
    """The members of ``role``, one of these protocols, that the dataclass ``cls`` has neither as field nor else."""
    members = [name for name in (*role.__annotations__, *vars(role)) if not name.startswith("_")]
    fields = {field.name for field in dataclasses.fields(cls)}
    return [name for name in members if name not in fields and not hasattr(cls, name)]
