"""What every post-hoc analysis shares: which weights it looks at, and which examples."""

from __future__ import annotations

from enum import StrEnum

from smoothout.data.images import Batches, Split

ANALYSIS_BATCH = 1000


class Weights(StrEnum):
    """The weights of a trained run: at the end of its best test epoch, or of its last epoch."""

    best = "best"
    last = "last"


class Part(StrEnum):
    """The split that is looked at."""

    train = "train"
    test = "test"


def batches(part: Part, train: Split, test: Split, examples: int | None, size: int = ANALYSIS_BATCH) -> Batches:
    """The first ``examples`` examples (None: all) of a split, in batches of ``size``."""
    return (train if part is Part.train else test).first(examples).batches(size)
