"""Choose the device for an analysis's float64 vectors of all weights, which may not fit next to the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smoothout.nn.parameters import float64_device, parameters_to_vector, trainable_parameters

SEARCH_VECTORS = 16  # vectors of a search for the highest loss: the box, compared points, and scratch


def search_center(model: nn.Module, columns: int = 0) -> Tensor:
    """The initial weights of a search, float64 (n,), on a device with memory for its vectors and ``columns``."""
    parameters = trainable_parameters(model)
    return parameters_to_vector(parameters, vectors_device(parameters, SEARCH_VECTORS + columns))


def vectors_device(parameters: Sequence[Tensor], vectors: int) -> torch.device:
    """The device for ``vectors`` float64 vectors, each as long as all ``parameters`` together.

    It is the parameters' device if that supports float64 and the vectors need less than half of its free memory,
    because the passes need memory too. Otherwise it is the CPU.
    """
    device = float64_device(parameters)
    needed = 8 * vectors * sum(parameter.numel() for parameter in parameters)
    return device if 2 * needed < free_memory(device) else torch.device("cpu")


def graph_bytes(device: torch.device) -> float:
    """Maximum number of bytes for kept graphs on ``device``: 2 GiB on a CPU, half of the free memory on a GPU."""
    return 2 * 2**30 if device.type == "cpu" else free_memory(device) / 2


def free_memory(device: torch.device) -> float:
    """Bytes available for new tensors: inf on a CPU, 0 if unknown (on devices other than CUDA)."""
    if device.type != "cuda":
        return math.inf if device.type == "cpu" else 0.0
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch can reuse it
    return torch.cuda.mem_get_info(device)[0] + cached
