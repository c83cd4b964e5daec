"""What this machine reports about its GPUs: the driver's version, and why torch cannot use a GPU.

torch is imported only in functions that need it; the functions about the driver work without.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

DRIVER_FILE = Path("/proc/driver/nvidia/version")  # on Linux only


def built_for_gpus() -> bool:
    """Whether torch was built for CUDA or ROCm."""
    import torch  # noqa: PLC0415

    return torch.version.cuda is not None or torch.version.hip is not None


def gpu_driver_present() -> bool:
    """Whether this machine has a driver for CUDA or ROCm devices; without one torch cannot use a GPU either."""
    return driver_cuda() is not None or Path("/dev/kfd").exists()  # the second is AMD's


def why_no_gpu() -> str | None:
    """Why torch cannot use a CUDA or ROCm device here, as a clause to follow a colon; None if it can."""
    import torch  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about an old driver in many lines
        if torch.cuda.is_available():
            return None
    if not built_for_gpus():
        return f"torch {torch.__version__} is a CPU build; pytorch.org/get-started has builds for GPUs"
    if torch.version.cuda and (fault := _driver_fault(torch.version.cuda)):
        return fault
    for name in ("CUDA_VISIBLE_DEVICES",) if torch.version.cuda else ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            return f"{name}={os.environ[name]!r} hides every GPU, or names one that does not exist"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return "torch.cuda.is_available() is False, and torch does not report why"


def _driver_fault(needed: str) -> str | None:
    """What is wrong with the NVIDIA driver for a torch built for CUDA ``needed``; None if nothing."""
    import torch  # noqa: PLC0415

    newest = driver_cuda()
    if newest is None:
        return "no NVIDIA driver was found"
    if newest[0] >= int(needed.partition(".")[0]):  # any driver of the same major version works
        return None
    version = f" {driver}" if (driver := driver_version()) else ""
    return (
        f"the NVIDIA driver{version} is too old: it supports CUDA {newest[0]}.{newest[1]}, and torch"
        f" {torch.__version__} needs CUDA {needed}; update the driver, or install a torch built for CUDA {newest[0]}"
    )


def driver_cuda() -> tuple[int, int] | None:
    """The newest version of CUDA that the NVIDIA driver supports, (major, minor); None without a driver."""
    version = ctypes.c_int(0)
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


@cache
def driver_version() -> str | None:
    """The NVIDIA driver's version, such as "580.65.06"; None if neither /proc (Linux) nor nvidia-smi reports it."""
    try:
        if DRIVER_FILE.exists():
            text = DRIVER_FILE.read_text(encoding="utf-8").partition("\n")[0]
        else:
            query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
            text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(?<!\S)\d+(?:\.\d+)+(?!\S)", text)
    return match[0] if match else None
