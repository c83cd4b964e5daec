"""Import torchvision, even if its compiled operators do not match the build of torch."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from smoothout.common.errors import needs_experiments

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@needs_experiments()
def import_torchvision() -> ModuleType:
    """Import the module torchvision.

    A torchvision built for CUDA cannot load its operators next to a CPU build of torch; its import then fails with
    "operator torchvision::nms does not exist". This project does not use them, and with their schemas declared the
    import succeeds.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SCHEMA)
    return importlib.import_module("torchvision")
