"""The device that settings name: found, or refused in one line that says why and what is allowed."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from smoothout.common.errors import ConfigError
from smoothout.jobs import runtime


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the lines that are printed."""
    lines: list[str] = []
    monkeypatch.setattr(runtime, "print_line", lines.append)
    runtime._automatic.cache_clear()
    return lines


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, reason: str | None = None, built: bool = True) -> list[str]:
    """Let torch have this many GPUs, or none for a ``reason``; returns what becomes the present one."""
    present: list[str] = []
    monkeypatch.setattr(runtime, "why_no_gpu", lambda: reason)
    monkeypatch.setattr(runtime, "built_for_gpus", lambda: built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: present.append(str(device)))
    return present


def device(name: str, threads: int | None = None) -> str:
    settings = {
        "folders": dict.fromkeys(("data", "results", "checkpoints", "logs"), "folder"),
        "device": name,
        "threads": threads,
        "download": False,
        "tensorboard": False,
        "checkpoint_seconds": 60.0,
        "engine": {},
    }
    return str(runtime.build_runtime(settings).device)


def test_auto_is_a_gpu_where_torch_can_use_one(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    present = gpus(monkeypatch, 2)
    assert (device("auto"), device("cuda:1"), device("cpu")) == ("cuda", "cuda:1", "cpu")
    assert present == ["cuda:1"]
    assert said == []


def test_a_build_for_gpus_that_finds_none_says_so_once(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0, "no NVIDIA driver was found")
    assert [device("auto") for _ in range(3)] == ["cpu"] * 3
    assert said == ["device: cpu, because torch cannot use a GPU here: no NVIDIA driver was found"]


def test_a_build_for_cpus_says_nothing(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0, "torch is a CPU build", built=False)
    assert device("auto") == "cpu"
    assert said == []


@pytest.mark.parametrize(
    ("name", "count", "reason", "parts"),
    [
        ("cuda", 0, "no NVIDIA driver was found", ["'cuda' is not available", "no NVIDIA driver was found"]),
        ("cuda:1", 1, None, ["'cuda:1' is not available", "1 CUDA devices"]),
        ("mps", 1, None, ["mps", "float64", "use cpu"]),
        *((name, 1, None, [repr(name), "auto, cpu, cuda, cuda:N"]) for name in ("xpu", "meta", "gpu", "cpu:1")),
    ],
)
def test_other_devices_are_refused_in_one_line(
    name: str, count: int, reason: str | None, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count, reason)
    with pytest.raises(ConfigError, match=r"^device: ") as refused:
        device(name)
    assert all(part in str(refused.value) for part in parts)


@pytest.mark.parametrize("threads", [-1, 0, runtime.MAX_THREADS + 1])
def test_a_number_of_threads_that_cannot_be_is_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=rf"^threads: must be null or a whole number from 1 .*, not {threads}$"):
        device("cpu", threads)


@pytest.mark.parametrize(
    ("name", "driver", "on_cpu"), [("cpu", True, True), ("auto", False, True), ("cuda", True, False)]
)
def test_estimates_know_the_kind_of_device_before_it_is_set_up(
    name: str, driver: bool, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = gpus(monkeypatch, 1)
    monkeypatch.setattr(runtime, "gpu_driver_present", lambda: driver)
    place = runtime.Runtime(runtime.Folders(*"drcl"), partial(runtime._prepare_device, name, None))
    assert place.on_cpu == on_cpu
    assert present == []


def test_a_tilde_in_a_folder_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell does not expand it after an =, nor in an environment variable in quotes."""
    monkeypatch.setenv("HOME", "/home/someone")
    folders = runtime.Folders("~/data", "~", "a~b", "logs")
    assert folders == runtime.Folders("/home/someone/data", "/home/someone", "a~b", "logs")
