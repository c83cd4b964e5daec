"""Timings of a GPU's updates: ratios to a plain one; nothing fails, not even what does not fit."""

from __future__ import annotations

import pytest
import torch

from smoothout.benchmark.gpu_check import timings
from smoothout.benchmark.gpu_check.timings import time_methods
from smoothout.benchmark.workloads import Workload
from smoothout.models.mlp import MLP
from smoothout.nn.options import Precision

CPU = torch.device("cpu")
SETTING = Workload(MLP(8, 1), (1, 4, 4), examples=60), 8


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.mark.parametrize(
    ("taken", "text"),
    [
        (
            {"plain": 0.004, "SmoothOut": 0.005, "SmoothOut eager": 0.04},
            "plain 4 ms (2,000 images/s), SmoothOut x 1.25, SmoothOut eager x 10.00",
        ),
        ({"plain": 0.004, "SmoothOut": None}, "plain 4 ms (2,000 images/s), SmoothOut does not fit"),
        ({"plain": None, "SmoothOut": 0.005}, "not checked: it does not fit this GPU's memory"),
    ],
)
def test_methods_are_shown_as_ratios_to_a_plain_update_where_they_fit(
    taken: dict[str, float | None], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*setting: object) -> float:
        took = taken[str(setting[-1])]
        if took is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return took

    monkeypatch.setattr(timings, "_seconds", measured)
    finding = time_methods(CPU, *SETTING, Precision.float32, tuple(taken))
    assert (finding.passed, finding.text) == (None, text)
