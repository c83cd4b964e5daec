"""An evaluation, as a job, on a test split that was not used to choose the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import AnalysisJob, DataSplit, Models, Tick


@dataclass(frozen=True, kw_only=True)
class UnseenTest(AnalysisJob):
    """Loss and accuracy on the test split of a run that held out training images (``data.validation_size``).

    Such a run chooses its best epoch on the held-out images and never sees the test split. A run without held-out
    images is refused: its own record has these numbers.
    """

    kind: ClassVar[str] = "unseen_test"
    takes_unseen_test: ClassVar[bool] = True  # ``test`` is the test split, not the images that the run held out

    def evaluations(self, train: int, test: int) -> int:
        """Passes over the test split."""
        return 1

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples of the test split are used."""
        return self.examples_used(test)

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The `EvalResult` of the test split."""
        from smoothout.nn.evaluation import evaluate  # noqa: PLC0415

        result = evaluate(models[0], self.batches(test))
        tick()
        return result._asdict()
