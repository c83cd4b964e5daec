"""What a model and a data set in a config must offer: the members that the programs use.

Each is a frozen dataclass of settings, which a config names as its ``_target_``; no base class is needed. Methods,
optimizers and analyses have base classes: `training.methods.base.Method`, `training.optimizers.Optimizer` and
`analysis.jobs.base.AnalysisJob`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from smoothout.data.split import Split

Shape = tuple[int, int, int]


class Model(Protocol):
    """Settings of a network, which is built once more on the meta device, to know its shapes.

    If ``initializes_batchnorm`` is true, ``batchnorm_init`` has no effect on it.
    """

    initializes_batchnorm: ClassVar[bool]

    @property
    def name(self) -> str:
        """Its part of a record's name."""

    def build(self, shape: Shape, classes: int) -> nn.Module:
        """A new network for images of ``shape`` (channels, height, width). Raises ValueError for unsupported shapes."""


class Data(Protocol):
    """A data set, and which part of it is used."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __hash__(self) -> int:
        """A hash of its settings, because loaded data sets are cached."""

    @property
    def train_examples(self) -> int | None:
        """The number of training images in use; None is all. ``test_examples`` is that of the test split.

        These and ``validation_size`` must be fields.
        """

    @property
    def test_examples(self) -> int | None: ...  # noqa: D102

    @property
    def validation_size(self) -> int | None:
        """The number of training images that replace the test split; None keeps the test split."""

    @property
    def name(self) -> str:
        """Its part of a record's name."""

    @property
    def resident(self) -> bool:
        """Whether all of it is kept on the device; otherwise batches are read from disk."""

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""

    @property
    def classes(self) -> int:
        """The number of classes."""

    @property
    def expected_sizes(self) -> tuple[int, int]:
        """The expected numbers of training and test images, limits applied."""

    @property
    def augmentation(self) -> Any:
        """The augmentation of training images, of the kind that the splits take; None for none."""

    def load(self, folder: Path, device: torch.device, download: bool = True) -> tuple[Split, Split, str]:
        """Load the training split, the test split and the fingerprint of the whole data set. Raises DataError."""


FIELDS = {Data: ("train_examples", "test_examples", "validation_size")}  # of a role: settings that programs change


def missing_members(cls: type[Any], role: type[Any]) -> list[str]:
    """The members of ``role`` (a protocol or base class) that the dataclass ``cls`` lacks, as fields or otherwise."""
    members = [name for name in {**role.__annotations__, **vars(role)} if not name.startswith("_")]
    fields, abstract = {field.name for field in dataclasses.fields(cls)}, getattr(cls, "__abstractmethods__", ())
    missing = [name for name in members if name not in fields and (name in abstract or not hasattr(cls, name))]
    return [*missing, *(f"{name} as a field" for name in FIELDS.get(role, ()) if name not in {*fields, *missing})]
