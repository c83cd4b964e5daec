"""The engine where it needs a compiler, or a separate process."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engine_trainings import Splits, network, training
from torch import nn

from smoothout.training.engine import Engine
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD


@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")  # by modules that torch.compile imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
@pytest.mark.parametrize("noise", [NoiseConfig(), NoiseConfig(0.1)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_compiled_training_ends_where_an_eager_one_ends(
    noise: NoiseConfig, dropout: float, tiny_split: Splits, compiled_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled sums are added up in another order: 1e-7 of each, and a little more with every update."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled_code))
    ends = []
    for compiled in (False, True):
        settings: dict[str, Any] = {"optimizer": SGD(0.1), "method": noise}
        model = nn.Sequential(network(), nn.Dropout(dropout)) if dropout else network()
        run = training(tiny_split, model, engine=Engine(compile=compiled), **settings)
        assert run.engine.compile is compiled
        ends.append(run.run())
    for name, tensor in ends[0].model.items():
        torch.testing.assert_close(ends[1].model[name], tensor, rtol=1e-4, atol=1e-5)
    assert ends[1].curves["train_loss"] == pytest.approx(ends[0].curves["train_loss"], rel=1e-5)
    assert ends[1].curves["test_loss"] == pytest.approx(ends[0].curves["test_loss"], rel=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_faulted_in_again() -> None:
    """A tensor of 64 MiB is 16384 pages; given back, all of them are faulted in again at each of eight rounds.

    In a separate process: one that was ever refused memory has another heap.
    """
    program = """
import resource, torch
from smoothout.training.engine import tune_malloc
tune_malloc()
tune_malloc()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        assert torch.ones(2**24).sum() == 2**24
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(8)  # until the heap has found its size
print(faults(8))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 4 * 16384


@pytest.fixture(scope="module")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of torch.compile's: the user's may hold code for another processor (ATEN_CPU_CAPABILITY), which fails."""
    return tmp_path_factory.mktemp("inductor")
