"""Where an analysis keeps its vectors: float64 and as long as a model's weights, they may fill a device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smoothout.nn.parameters import float64_device

SEARCH_VECTORS = 16  # vectors of a search for the highest loss: the box, the points that it compares, and scratch


def vectors_device(parameters: Sequence[Tensor], vectors: int) -> torch.device:
    """Where to keep so many ``vectors`` of float64, each as long as all ``parameters`` together.

    With the parameters, where their device has float64 and the vectors need less than half of its free memory, for a
    pass needs room too; else on the CPU.
    """
    device = float64_device(parameters)
    needed = 8 * vectors * sum(parameter.numel() for parameter in parameters)
    return device if 2 * needed < free_memory(device) else torch.device("cpu")


def free_memory(device: torch.device) -> float:
    """Bytes that new tensors on ``device`` may take: inf on a CPU, 0 on a device that is not CUDA and does not tell."""
    if device.type != "cuda":
        return math.inf if device.type == "cpu" else 0.0
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own cache
    return torch.cuda.mem_get_info(device)[0] + unused
