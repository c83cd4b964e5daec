"""SmoothOut: smoothing out sharp minima, measured.

The names below are what one imports; each is loaded when it is first used, so that reading records needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothout.analysis.interpolation import interpolate
    from smoothout.analysis.sensitivity import noise_curve
    from smoothout.analysis.sharpness import SharpnessResult, sharpness
    from smoothout.copies import SmoothOutCopies
    from smoothout.ghost import ghosted
    from smoothout.loading import trained
    from smoothout.perturbation import AdaSmoothOut, SmoothOut

__version__ = "0.1.0"
__all__ = [
    "AdaSmoothOut",
    "SharpnessResult",
    "SmoothOut",
    "SmoothOutCopies",
    "ghosted",
    "interpolate",
    "noise_curve",
    "sharpness",
    "trained",
]

_HOMES = {
    "AdaSmoothOut": "perturbation",
    "SmoothOut": "perturbation",
    "SmoothOutCopies": "copies",
    "ghosted": "ghost",
    "SharpnessResult": "analysis.sharpness",
    "sharpness": "analysis.sharpness",
    "interpolate": "analysis.interpolation",
    "noise_curve": "analysis.sensitivity",
    "trained": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smoothout' has no attribute {name!r}")
    return getattr(importlib.import_module(f"smoothout.{_HOMES[name]}"), name)
