"""Which test images a training gets right, and how two trainings or two methods differ on them.

Two methods that are tested on the same images err on many of the same ones. So they are compared image by image:
`mcnemar` compares two trainings on this test split, `crossed_test` two methods over seeds and images together.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smoothout.results.records import Record
from smoothout.results.significance import TestResult

KEY = "test_right"  # of ``best`` and ``last`` in a training's outcome; records of earlier versions lack it


def pack_right(right: NDArray[np.bool_]) -> str:
    """Pack which images are right, 8 per byte, as base64: 1.7 kB for 10,000 images, 8.3 kB for ImageNet's 50,000."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def has_right(record: Record) -> bool:
    """Whether a training's record says which test images are right."""
    return KEY in record.outcome["best"]


def read_right(records: Sequence[Record], checkpoint: str = "best") -> NDArray[np.bool_]:
    """Which test images trainings get right with their ``best`` or ``last`` weights: bool, (trainings, images).

    The images are in the order of the data set. Raises ValueError for no records, for one that does not say (an earlier
    version made it), and for trainings that were not tested on the same images.
    """
    if not records:
        raise ValueError("records: must be at least one")
    for record in records:
        if not has_right(record):
            raise ValueError(f"records: {record.name} does not say which images are right; delete it to make it again")
        if _tested_on(record) != _tested_on(records[0]):
            raise ValueError(f"records: {record.name} was not tested on the images of {records[0].name}")
    images = records[0].outcome["examples"]["test"]
    packed = [np.frombuffer(base64.b64decode(record.outcome[checkpoint][KEY]), np.uint8) for record in records]
    return np.unpackbits(np.stack(packed), axis=1, count=images).astype(bool)


def _tested_on(record: Record) -> tuple[object, ...]:
    out = record.outcome
    return out["data_sha256"], out["examples"]["test"], record.settings["data"].get("held_out")


@dataclass(frozen=True)
class McNemar:
    """How many images two classifiers get right, and McNemar's p-value."""

    both: int
    only_one: int
    only_other: int
    neither: int
    p: float  # two-sided, of H0: both are right equally often


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test (1947) of two classifiers on the same images, each bool of shape (images,).

    Under H0, each image that only one of them gets right is equally likely to be either's: a binomial test. The
    classifiers are fixed, so this says nothing about other seeds.
    """
    from scipy.stats import binomtest  # noqa: PLC0415 -- slow to import

    both, only_one, only_other = (int(np.sum(which)) for which in (one & other, one & ~other, other & ~one))
    differ = only_one + only_other
    p = float(binomtest(only_one, differ).pvalue) if differ else 1.0
    return McNemar(both, only_one, only_other, len(one) - both - differ, p)


def crossed_test(differences: ArrayLike) -> TestResult:
    """Test whether the mean of ``differences``, (seeds, images), is above 0 for other seeds and other images, too.

    Seeds and images are crossed random effects without replication, d = m + seed + image + rest. The variance of the
    grand mean is (MS_seeds + MS_images - MS_rest) / (seeds * images), by the mean squares of the analysis of variance
    (Searle, Casella and McCulloch 1992, section 4.4); an estimated component below 0 is taken to be 0. The test is
    Student's t with Satterthwaite's degrees of freedom (1946). It errs at its level from about five seeds on, at up to
    one and a half times its level with three, and two and a half times with two. A t test over seeds alone treats the
    images as fixed, McNemar's test the seeds.

    Raises ValueError for other shapes and for a single image. A single seed has no interval and decides nothing.
    """
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415

    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or not d.shape[0] or d.shape[1] < 2:
        raise ValueError(f"differences: must have the shape (seeds, images), at least two images, not {d.shape}")
    seeds, images = d.shape
    mean = float(d.mean())
    if seeds == 1:
        return TestResult(n=1, value=mean)

    # Mean squares of the seeds, of the images, and of what neither explains.
    of_seeds, of_images = d.mean(axis=1, keepdims=True), d.mean(axis=0, keepdims=True)
    free = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    rest = d - of_seeds - of_images + mean
    sums = images * np.sum((of_seeds - mean) ** 2), seeds * np.sum((of_images - mean) ** 2), np.sum(rest**2)
    squares = np.array(sums) / free
    by_seed, by_image, remaining = squares.tolist()
    total = by_seed + by_image - remaining
    if total <= max(by_seed, by_image):  # a component is not above 0: the larger mean square has all the variance
        total = max(by_seed, by_image)
        degrees = free[0] if by_seed > by_image else free[1]
    else:
        degrees = total**2 / np.sum(squares**2 / free)

    error = math.sqrt(total / d.size)
    score = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    reach = float(stdtrit(degrees, 0.975)) * error
    return TestResult(
        n=seeds,
        value=mean,
        ci_low=mean - reach,
        ci_high=mean + reach,
        p_greater=float(stdtr(degrees, -score)),
        p_less=float(stdtr(degrees, score)),
    )


def compare_right(one: Sequence[Record], other: Sequence[Record]) -> dict[str, str]:
    """How two methods differ image by image at their best epochs, as the cells of a table's row.

    The records are those of the same seeds, in the same order. Counts of images are means over seeds. Raises ValueError
    as `read_right` does.
    """
    right = read_right([*one, *other])
    first, second = right[: len(one)], right[len(one) :]
    by_seed = [mcnemar(*pair) for pair in zip(first, second, strict=True)]
    both, only_first, only_second, neither = np.mean([astuple(found)[:4] for found in by_seed], axis=0)
    ps = sorted({f"{found.p:.2g}" for found in by_seed}, key=float)
    crossed = crossed_test(100.0 * first - 100.0 * second)
    interval = f" [{crossed.ci_low:+.2f}, {crossed.ci_high:+.2f}]" if crossed.n > 1 else ""
    return {
        "seeds": str(len(by_seed)),
        "both right": f"{both:.1f}",
        "only the first": f"{only_first:.1f}",
        "only the second": f"{only_second:.1f}",
        "both wrong": f"{neither:.1f}",
        "McNemar's p by seed": " to ".join(dict.fromkeys([ps[0], ps[-1]])),
        "difference, points [95%]": f"{crossed.value:+.2f}{interval}",
        "p": f"{crossed.p:.2g}" if crossed.n > 1 else "",
    }
