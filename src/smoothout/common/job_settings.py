"""Base classes of the settings of jobs: what a job asks of them, whatever it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


class JobSettings:
    """The settings of a job, a frozen dataclass: of a training or an analysis, unless they are of a class below."""

    kind: ClassVar[str]  # the folder of the records
    valid_numerics: ClassVar[tuple[int, ...]] = ()  # earlier ones whose records still answer the same question
    takes_unseen_test: ClassVar[bool] = False  # an analysis of the test split, also of a run that holds images out
    subspace: int | None = None  # dimension of the subspace that an analysis searches; None is the full space

    @property
    def source(self) -> Any:
        """The settings of the training with whose weights this one begins; None begins at random weights."""
        return None


class SummarySettings(JobSettings):
    """The settings of a job that needs no networks, only the records of its input runs."""

    def from_records(self, records: Any) -> dict[str, Any]:
        """The outcome, from the records of the input runs."""
        raise NotImplementedError


class MeasurementSettings(JobSettings):
    """The settings of a job that measures the machine."""

    def measure(self, device: torch.device) -> dict[str, Any]:
        """The outcome; raises ValueError if ``device`` cannot be measured."""
        raise NotImplementedError
