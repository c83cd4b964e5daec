"""Base classes of the settings of jobs: what every kind of job needs to know about its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

# The kinds of this package's records; those of other packages must differ.
KINDS = frozenset(
    {
        "adaptive",
        "atlas",
        "averages",
        "hessian",
        "interpolation",
        "landscape",
        "noise_curve",
        "plane",
        "scaling",
        "sharpness",
        "strength",
        "train",
        "unseen_test",
    }
)


class JobSettings:
    """The settings of a job, a frozen dataclass. The classes below are for jobs that neither train nor analyze."""

    kind: ClassVar[str]  # the folder of the records
    valid_numerics: ClassVar[tuple[int, ...]] = ()  # earlier values of ``numerics`` with records that are still valid
    takes_unseen_test: ClassVar[bool] = False  # an analysis of the test split of a run that holds images out

    @property
    def source(self) -> Any:
        """The settings of the training that provides the initial weights; None initializes them at random."""
        return None


class SummarySettings(JobSettings, ABC):
    """The settings of a job that needs no networks, only the records of its input runs."""

    @abstractmethod
    def from_records(self, records: Any) -> dict[str, Any]:
        """The outcome, from the records of the input runs."""


class MeasurementSettings(JobSettings, ABC):
    """The settings of a job that measures the machine."""

    @abstractmethod
    def measure(self, device: torch.device) -> dict[str, Any]:
        """The outcome; raises ValueError if ``device`` cannot be measured."""
