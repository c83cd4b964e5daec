"""The machine and software of a job, with which a reader can judge whether a number can be reproduced.

torch is imported only in functions that need it, so that tables render without it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothout.common.devices import driver_version

if TYPE_CHECKING:
    import torch

CPUINFO = Path("/proc/cpuinfo")


def environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, its instruction sets, threads, versions and the commit of the running program.

    For a CUDA device, ``gpu`` holds more properties that results depend on.
    """
    import torch  # noqa: PLC0415

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _cpuinfo("model name") or platform.processor() or "unknown",
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"torch": str(torch.__version__), **{name: version(name) for name in ("numpy", "scipy")}},
        "commit": _commit(),
        **({"gpu": _gpu(device)} if device.type == "cuda" else {}),
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    """Properties in which runs on GPUs of the same name may differ: libraries, driver and chip.

    Random draws depend on the number of multiprocessors, because torch splits a draw into that many blocks.
    """
    import torch  # noqa: PLC0415

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
    """The name of the CUDA device in an `environment`, or of the processor if there is none."""
    return str(environment["processor"] if environment["device"] == "cpu" else environment["device"])


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: of torch on a CUDA device, otherwise of this process.

    None if the system does not report it; it is read from /proc, which only Linux has.
    """
    if device.type == "cuda":
        import torch  # noqa: PLC0415

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.M) if status.exists() else None
    return 1024 * int(match[1]) if match else None


def _instructions() -> dict[str, Any]:
    """Details of the processor, and the instruction sets that torch uses: other processors round sums differently.

    Without /proc (Linux), family, model and stepping are None and no instruction set is listed.
    """
    import torch  # noqa: PLC0415

    flags = (_cpuinfo("flags") or "").split()
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "family": _cpuinfo("cpu family"),
        "model": _cpuinfo("model"),
        "stepping": _cpuinfo("stepping"),
        **{name: name in flags for name in ("avx512f", "avx512_bf16", "amx_bf16")},
    }


def _cpuinfo(key: str) -> str | None:
    """The first value of ``key`` in /proc/cpuinfo (Linux)."""
    info = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    match = re.search(rf"^{key}\s*:\s*(.+)$", info, re.M)
    return match[1].strip() if match else None


@cache  # the running program does not change with later commits
def _commit() -> str:
    """The git commit of the source tree, with "+" where it has uncommitted changes; "unknown" outside a checkout."""

    file = Path(__file__)
    package = file.parents[1]

    def git(*arguments: str) -> str:
        # Without locks, because a lock on the index would disturb a user's git command.
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed package may lie in another project's repository, which does not track it.
        git("ls-files", "--error-unmatch", "--", str(file.relative_to(package)))
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
