"""Timings of a GPU's updates: ratios to a plain one; what does not fit is said, and nothing fails."""

from __future__ import annotations

import pytest
import torch

from smoothout.benchmark.gpu_check import timings
from smoothout.benchmark.gpu_check.timings import Setting, times
from smoothout.models.mlp import MLP
from smoothout.nn.options import Precision

CPU = torch.device("cpu")
SETTING = Setting(MLP(8, 1).build, (1, 4, 4), 64, 8)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_methods_are_shown_as_ratios_to_a_plain_update(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"plain": 0.004, "SmoothOut": 0.005, "SmoothOut eager": 0.04}
    monkeypatch.setattr(timings, "_seconds", lambda device, setting, precision, method: taken[method])
    found = times(CPU, SETTING, Precision.float32, tuple(taken))
    assert found.holds is None
    assert found.text == "plain 4 ms (2,000 images/s), SmoothOut x 1.25, SmoothOut eager x 10.00"


@pytest.mark.parametrize(
    ("failing", "text"),
    [
        ("SmoothOut", "plain 4 ms (2,000 images/s), SmoothOut does not fit"),
        ("plain", "not checked: it does not fit this GPU's memory"),
    ],
)
def test_what_does_not_fit_the_memory_is_said(failing: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(device: torch.device, setting: Setting, precision: Precision, method: str) -> float:
        if method == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.004

    monkeypatch.setattr(timings, "_seconds", measured)
    found = times(CPU, SETTING, Precision.float32, ("plain", "SmoothOut"))
    assert (found.holds, found.text) == (None, text)


def test_bfloat16_is_left_out_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert times(CPU, SETTING, Precision.bfloat16, ("plain",)).text.startswith("not checked")


def test_updates_are_timed_in_blocks_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.5, 0.3, 0.4, 99.0])
    done: list[int] = []
    monkeypatch.setattr(timings, "_advance", lambda steps, count: done.append(count))
    monkeypatch.setattr(timings, "seconds", lambda work, device: (work(), next(clock))[1])
    assert timings._seconds(CPU, SETTING, Precision.float32, "SmoothOut eager") == pytest.approx(0.03)
    assert done == [3, 10, 10, 10]


def test_the_updates_are_a_trainings_and_the_last_batch_is_a_whole_one() -> None:
    steps = timings._updates(
        CPU, Setting(MLP(8, 1).build, (1, 4, 4), 60, 8), Precision.float32, *timings.METHODS["SmoothOut eager"]
    )
    positions = [(now.epoch, now.step) for now, _ in zip(steps, range(8), strict=False)]
    assert positions[-2:] == [(0, 7), (1, 1)]
