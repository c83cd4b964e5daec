"""The one place that imports torchvision."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """The module torchvision, also where its compiled operators do not fit torch.

    A torchvision built for CUDA beside a CPU torch cannot load its operators, and its import then fails with "operator
    torchvision::nms does not exist". Nothing here uses those operators: declaring their schemas lets the import pass.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
    return importlib.import_module("torchvision")
