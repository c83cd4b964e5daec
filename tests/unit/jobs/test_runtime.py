"""The device that a place's settings name: found, or refused in one line that says why and what is allowed."""

from __future__ import annotations

import pytest
import torch

from smoothout.common.errors import ConfigError
from smoothout.jobs import runtime
from smoothout.training.distributed import ProcessGroup


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the lines that are said."""
    lines: list[str] = []
    monkeypatch.setattr(runtime, "print_line", lines.append)
    runtime._automatic.cache_clear()
    return lines


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, reason: str | None = None, built: bool = True) -> list[str]:
    """Let torch have so many GPUs, or none for a ``reason``; returns what becomes the present one."""
    present: list[str] = []
    monkeypatch.setattr(runtime, "why_no_gpu", lambda: reason)
    monkeypatch.setattr(runtime, "built_for_gpus", lambda: built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: present.append(str(device)))
    return present


def device(name: str) -> str:
    return str(runtime._device(name, ProcessGroup()))


def test_auto_is_a_gpu_where_torch_can_use_one(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    present = gpus(monkeypatch, 2)
    assert (device("auto"), device("cuda:1"), device("cpu")) == ("cuda", "cuda:1", "cpu")
    assert present == ["cuda:1"]
    assert said == []


def test_a_build_for_gpus_that_finds_none_says_so_once(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0, "no NVIDIA driver was found")
    assert [device("auto") for _ in range(3)] == ["cpu"] * 3
    assert said == ["device: cpu, for torch can use no GPU here: no NVIDIA driver was found"]


def test_a_build_for_cpus_says_nothing(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0, "torch is a CPU build", built=False)
    assert device("auto") == "cpu"
    assert said == []


@pytest.mark.parametrize(
    ("name", "count", "reason", "line"),
    [
        ("cuda", 0, "no NVIDIA driver was found", "device: 'cuda' is not here: no NVIDIA driver was found"),
        ("cuda:1", 1, None, "device: 'cuda:1' is not here; this machine has 1 CUDA devices, from cuda:0 on"),
        (
            "mps",
            1,
            None,
            "device: mps has no float64, in which trainings add up losses; take cpu"
            " (SmoothOut and AdaSmoothOut in a loop of your own work there)",
        ),
        ("xpu", 1, None, "device: 'xpu' is not one of auto, cpu, cuda, cuda:N"),
        ("meta", 1, None, "device: 'meta' is not one of auto, cpu, cuda, cuda:N"),
        ("gpu", 1, None, "device: 'gpu' is not one of auto, cpu, cuda, cuda:N"),
        ("cpu:1", 1, None, "device: 'cpu:1' is not one of auto, cpu, cuda, cuda:N"),
    ],
)
def test_other_devices_are_refused_in_one_line(
    name: str, count: int, reason: str | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count, reason)
    with pytest.raises(ConfigError) as refused:
        device(name)
    assert str(refused.value) == line
