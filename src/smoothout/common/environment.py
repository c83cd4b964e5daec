"""Where a job ran: what a reader needs to judge whether a number can be had again."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from smoothout.common.devices import driver_version

PACKAGES = ("numpy", "scipy")
CPUINFO = Path("/proc/cpuinfo")


def environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, its instructions, threads, versions and the commit of the program that runs.

    On a CUDA device also what else its numbers depend on, as ``gpu``.
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _cpuinfo("model name") or platform.processor() or "unknown",
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"torch": str(torch.__version__), **{name: _version(name) for name in PACKAGES}},
        "commit": _commit(),
        **({"gpu": _gpu(device)} if device.type == "cuda" else {}),
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    """What two runs on GPUs of one name may differ in: libraries, driver and chip.

    The draws depend on the number of multiprocessors: torch cuts a draw into so many blocks (see README, GPU).
    """
    properties = torch.cuda.get_device_properties(device)
    return {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "driver": driver_version(),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
    }


def device_of(environment: Mapping[str, Any]) -> str:
    """The name of the CUDA device that an `environment` tells of, or else of the processor."""
    return str(environment["processor"] if environment["device"] == "cpu" else environment["device"])


def peak_memory(device: torch.device) -> int | None:
    """Bytes that were in use at once, at most: those of torch on a CUDA device, or those of this whole process.

    None where the system does not tell (it is read from Linux' /proc).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.M) if status.exists() else None
    return 1024 * int(found[1]) if found else None


def _instructions() -> dict[str, Any]:
    """Which processor it is, beyond its name, and what torch makes of it: sums are rounded otherwise on another.

    Family, model and stepping are None, and no instruction set is there, where the system does not tell (it is read
    from Linux' /proc).
    """
    flags = (_cpuinfo("flags") or "").split()
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        **{
            name: _cpuinfo(key)
            for name, key in (("family", "cpu family"), ("model", "model"), ("stepping", "stepping"))
        },
        **{name: name in flags for name in ("avx512f", "avx512_bf16", "amx_bf16")},
    }


def _cpuinfo(key: str) -> str | None:
    """The first value of ``key`` in Linux' /proc/cpuinfo."""
    info = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    found = re.search(rf"^{key}\s*:\s*(.+)$", info, re.M)
    return found[1].strip() if found else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@cache  # the program that runs is the one that was there when it began
def _commit() -> str:
    """The git commit of the source tree, with "+" where it has uncommitted changes; "unknown" outside a checkout."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", "."],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
