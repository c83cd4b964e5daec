"""SmoothOut: smoothing out sharp minima, measured.

    SmoothOut        a context in which a model is at w + theta, the noise theta drawn at every entry
    AdaSmoothOut     the same with noise as long as a share of each filter
    LPFSGD           a context of Gaussian noise relative to the norm of each filter (also known as RWP)
    ARWP             the same, smaller where squared gradients have added up
    SAM, ASAM        blocks for two passes: the gradient where the loss nearby is highest
    MSAM             a context at the weights against the momentum
    NSO              blocks for two passes, under noise and under its opposite
    MixedRWP         blocks for two passes, one of them under LPFSGD's noise
    averaged         a context in which a model has averaged weights (SWA, EMA)
    SmoothOutCopies  deterministic SmoothOut: N perturbations of one model, drawn once
    ghosted          a context in which BatchNorm takes its statistics over parts of a batch
    sharpness        how far the loss rises in a small box around the weights: a SharpnessResult
    interpolate      loss and accuracy on the way between two networks
    noise_curve      loss and accuracy under noise of growing strength
    trained          the network of a recorded run

Each is loaded when it is first used, so that reading records needs no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; `typing` would take longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from smoothout.analysis.interpolation import interpolate
    from smoothout.analysis.noise_sensitivity import noise_curve
    from smoothout.analysis.sharpness import SharpnessResult, sharpness
    from smoothout.jobs.load import trained
    from smoothout.nn.averaging import averaged
    from smoothout.nn.copies import SmoothOutCopies
    from smoothout.nn.filter_noise import ARWP, LPFSGD
    from smoothout.nn.ghost_batchnorm import ghosted
    from smoothout.nn.momentum_aware import MSAM
    from smoothout.nn.noise_pair import NSO, MixedRWP
    from smoothout.nn.perturbation import AdaSmoothOut, SmoothOut
    from smoothout.nn.sharpness_aware import ASAM, SAM

__version__ = "0.1.0"
__all__ = [
    "ARWP",
    "ASAM",
    "LPFSGD",
    "MSAM",
    "NSO",
    "SAM",
    "AdaSmoothOut",
    "MixedRWP",
    "SharpnessResult",
    "SmoothOut",
    "SmoothOutCopies",
    "averaged",
    "ghosted",
    "interpolate",
    "noise_curve",
    "sharpness",
    "trained",
]

_HOMES = {
    "ARWP": "nn.filter_noise",
    "LPFSGD": "nn.filter_noise",
    "ASAM": "nn.sharpness_aware",
    "SAM": "nn.sharpness_aware",
    "MSAM": "nn.momentum_aware",
    "NSO": "nn.noise_pair",
    "MixedRWP": "nn.noise_pair",
    "averaged": "nn.averaging",
    "AdaSmoothOut": "nn.perturbation",
    "SmoothOut": "nn.perturbation",
    "SmoothOutCopies": "nn.copies",
    "ghosted": "nn.ghost_batchnorm",
    "SharpnessResult": "analysis.sharpness",
    "sharpness": "analysis.sharpness",
    "interpolate": "analysis.interpolation",
    "noise_curve": "analysis.noise_sensitivity",
    "trained": "jobs.load",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'smoothout' has no attribute {name!r}")
        import importlib  # noqa: PLC0415

        return getattr(importlib.import_module(f"smoothout.{_HOMES[name]}"), name)
