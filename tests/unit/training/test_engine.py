"""The engine: its choices, compilation and memory."""

from __future__ import annotations

import pytest
import torch
from helpers.engine_trainings import SIZE, Splits, network, told_capturable, training

from smoothout.nn.options import Precision
from smoothout.training import engine
from smoothout.training.batch import Batch
from smoothout.training.engine import MAX_CONCURRENT, Engine, GhostPasses, Launch, MemoryFormat, tune_malloc
from smoothout.training.methods.smoothout import NoiseConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# Choices


@pytest.mark.parametrize(
    ("device", "precision", "capturable", "found"),
    [
        (
            CPU,
            Precision.float32,
            True,
            Engine(Launch.eager, False, MemoryFormat.channels_last, 1, GhostPasses.sequential),
        ),
        (
            CPU,
            Precision.bfloat16,
            True,
            Engine(Launch.eager, False, MemoryFormat.channels_last, 1, GhostPasses.sequential),
        ),
        (
            CPU,
            Precision.float32,
            False,
            Engine(Launch.eager, False, MemoryFormat.channels_last, 1, GhostPasses.sequential),
        ),
        (
            CUDA,
            Precision.float32,
            True,
            Engine(Launch.graph, False, MemoryFormat.channels_first, MAX_CONCURRENT, GhostPasses.sequential),
        ),
        (
            CUDA,
            Precision.tf32,
            True,
            Engine(Launch.graph, False, MemoryFormat.channels_last, MAX_CONCURRENT, GhostPasses.sequential),
        ),
        (
            CUDA,
            Precision.bfloat16,
            True,
            Engine(Launch.graph, False, MemoryFormat.channels_last, MAX_CONCURRENT, GhostPasses.sequential),
        ),
        (
            CUDA,
            Precision.float32,
            False,
            Engine(Launch.eager, False, MemoryFormat.channels_first, MAX_CONCURRENT, GhostPasses.sequential),
        ),
    ],
)
def test_auto_is_resolved_by_device_precision_and_what_can_be_recorded(
    device: torch.device, precision: Precision, capturable: bool, found: Engine
) -> None:
    assert Engine().resolved(device, precision, capturable) == found


@pytest.mark.parametrize(
    ("device", "capturable", "line"),
    [
        (CPU, True, "launch: graph needs a CUDA device, not cpu; use auto or eager"),
        (CUDA, False, r"launch: graph is not possible with .*copies, .*processes.*dropout.*; use auto or eager"),
    ],
)
def test_a_graph_that_cannot_be_had_is_refused_in_one_line(device: torch.device, capturable: bool, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        Engine(Launch.graph).resolved(device, Precision.float32, capturable)


@pytest.mark.parametrize(
    ("chosen", "device", "one_pass", "expected"),
    [
        *((ghosts, CUDA, False, "sequential") for ghosts in GhostPasses),
        *(("sequential", device, True, "sequential") for device in (CPU, CUDA)),
        *(("batched", device, True, "batched") for device in (CPU, CUDA)),
        ("auto", CPU, True, "sequential"),
        ("auto", CUDA, True, "batched"),
    ],
)
def test_ghost_batches_go_in_one_pass_where_it_is_chosen_and_possible(
    chosen: str, device: torch.device, one_pass: bool, expected: str
) -> None:
    resolved = Engine(ghosts=GhostPasses(chosen)).resolved(device, Precision.float32, True, one_pass)
    assert resolved.ghosts is GhostPasses(expected)


@pytest.mark.parametrize(
    ("noise", "dropout", "ghosts", "capturable"),
    [
        (NoiseConfig(), 0.0, 1, True),
        (NoiseConfig(), 0.0, 3, True),
        (NoiseConfig(0.1), 0.0, 3, True),
        (NoiseConfig(0.1), 0.5, 1, True),
        (NoiseConfig(), 0.5, 2, False),
        (NoiseConfig(0.1), 0.5, 2, False),
        (NoiseConfig(0.1, copies=2), 0.0, 1, False),
        (NoiseConfig(0.0, copies=2), 0.0, 1, True),  # no strength: no copies
    ],
)
def test_all_but_copies_and_dropout_over_several_ghost_batches_can_be_recorded(
    *,
    noise: NoiseConfig,
    dropout: float,
    ghosts: int,
    capturable: bool,
    tiny_split: Splits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = told_capturable(monkeypatch)
    training(tiny_split, network(dropout), method=noise, batch=Batch(SIZE, SIZE // ghosts))
    assert found == [capturable]


# Compilation


# Memory


def test_memory_is_kept_by_telling_the_c_library_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            assert name is None  # the one that this process runs with

        @staticmethod
        def mallopt(option: int, value: int) -> int:
            told.append((option, value))
            return 1

    monkeypatch.setattr(engine.ctypes, "CDLL", Library)
    tune_malloc()
    assert dict(told) == {-4: 0, -1: 2**31 - 1, -2: 2**28}  # of malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
    tune_malloc()
    assert len(told) == 6
