"""What several test files use besides fixtures."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from torch import Tensor

from smoothout.data.datasets import DatasetName, load
from smoothout.results.records import Record

# Tests of randomness: a correct program fails one of them under about one base seed in a million.
SIGMAS = 5.0  # how far from its mean, in standard deviations, a normally distributed number may lie
FALSE_ALARM = 1e-6  # the p that a test statistic may fall below


def approx_loss(loss: float) -> Any:
    """A mean cross entropy of ``loss`` as `evaluate` measures it on any processor: from logits in float32.

    Logits are sums whose order is the processor's; those of up to 10 in size are off by a few of float32's steps there,
    1e-6, and so is each example's loss. What a test tells apart by such a loss differs in its first digits.
    """
    return pytest.approx(loss, rel=1e-5, abs=1e-5)


def seed_of(nodeid: str, base: str = os.environ.get("SMOOTHOUT_TEST_SEED", "0")) -> int:
    """The seed of a test, 32 bits: a hash of its name and of the base seed, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{base} {nodeid}".encode()).digest()[:4])


def start_from(seed: int, test: Callable[..., object]) -> None:
    """Seed the global generators, and the examples of ``test`` where they are Hypothesis's."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    if getattr(test, "is_hypothesis_test", False):
        hypothesis.seed(seed)(test)  # takes precedence over `derandomize`, by which no examples are kept


def tree(folder: Path) -> dict[str, str]:
    """Every folder and file under ``folder``, with the content's digest; locks, which are nobody's, stay out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if ".locks" not in path.parts
    }


@cache
def digits() -> TemporaryDirectory[str]:
    """A data folder with digits.npz: processes that have it need not import scikit-learn, which takes seconds."""
    folder = TemporaryDirectory()
    np.savez(Path(folder.name, "digits.npz"), **load(DatasetName.digits, Path(folder.name))._asdict())
    return folder


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same names and equal tensors."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def a_record(kind: str, outcome: dict[str, Any], **given: Any) -> Record:
    """A record that no program made: for drawing."""
    labels = {"model": "m", "data": "d", "method": "baseline", "batch": 32, "epochs": 1, "seed": 0}
    fields: dict[str, Any] = {"name": "name", "digest": "digest", "identity": {}, "settings": {}, "inputs": []}
    labels |= given.pop("labels", {})
    return Record(kind=kind, outcome=outcome, labels=labels, environment={}, **{**fields, **given})
