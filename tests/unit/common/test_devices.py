"""Why there is no GPU, in one clause for each cause; and the driver's version, wherever it can be read."""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from smoothout.common import devices
from smoothout.common.devices import driver_cuda, driver_version, why_no_gpu

OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)\nGCC 12.3.0\n"
)
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54  Tue Jun  6 22:20:39 UTC 2023\nGCC version: 9.4.0\n"


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch as a build for CUDA 13.0, which can use no device, and warns."""

    def unavailable() -> bool:
        warnings.warn("CUDA initialization: in many words", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_cache() -> None:
    driver_version.cache_clear()


def test_a_cpu_build_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "hip"):
        monkeypatch.setattr(torch.version, name, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(why_no_gpu()).startswith(f"torch {torch.__version__} is a CPU build")


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("supported", "reason"),
    [
        (None, "no NVIDIA driver was found"),
        (
            (12, 4),
            "the NVIDIA driver 550.54 is too old: it supports CUDA 12.4, and torch 2.13.0+cu130 needs CUDA 13.0;"
            " update the driver, or install a torch built for CUDA 12",
        ),
        ((13, 0), "No CUDA GPUs are available"),
        ((14, 1), "No CUDA GPUs are available"),
    ],
)
def test_a_cuda_build_says_what_it_lacks(
    supported: tuple[int, int] | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError("No CUDA GPUs are available.\nmore")

    monkeypatch.setattr(devices, "driver_cuda", lambda: supported)
    monkeypatch.setattr(devices, "driver_version", lambda: "550.54")
    monkeypatch.setattr(torch.cuda, "init", fails)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert why_no_gpu() == reason


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize("value", ["", "-1", "7"])
def test_a_variable_that_hides_every_gpu_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_cuda", lambda: (13, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert why_no_gpu() == f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU, or names one that does not exist"


@pytest.mark.parametrize(("text", "version"), [(OPEN_MODULE, "580.65.06"), (MODULE, "535.54"), ("odd\n", None)])
def test_the_drivers_version_comes_from_linux(
    text: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").write_text(text, encoding="utf-8")
    monkeypatch.setattr(devices, "DRIVER_FILE", tmp_path / "version")
    assert driver_version() == version


def test_what_the_driver_supports_is_asked_of_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        answers: ClassVar[int] = 0

        def __init__(self, name: str) -> None:
            pass

        def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
            version._obj.value = 12040
            return self.answers

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert driver_cuda() == (12, 4)
    monkeypatch.setattr(Library, "answers", 3)
    assert driver_cuda() is None
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert driver_cuda() is None
