"""The Euclidean norm of a gradient or momentum over all its tensors, also in low precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from smoothout.nn.parameters import group_by


def at_least_float32(tensors: Iterable[Tensor]) -> list[Tensor]:
    """``tensors`` with float16 and bfloat16 converted to float32, and sparse tensors made dense.

    In float16, squares above 65504 overflow, and squares below 3e-8 are rounded to 0.
    """
    return [tensor.to_dense().to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The norm over all entries of ``tensors`` (see `at_least_float32`): a scalar on the device of the first."""
    norms = torch._foreach_norm(tensors)
    norm: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    return norm


def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply ``tensors``, on any devices, by the scalar ``factor``, in place.

    All become zeros if ``factor`` is 0 or nan, as after dividing by a norm that is not finite. Gradients that a scaler
    has multiplied may overflow. The scaler then skips the update, but a pass at non-finite weights would have corrupted
    the running statistics.
    """
    for alike in group_by(tensors, lambda tensor: tensor.device):
        local = factor.to(alike[0].device)
        torch._foreach_mul_(alike, local)
        for tensor in alike:
            tensor.masked_fill_(~(local > 0), 0.0)


def scale_to_norm_(tensors: list[Tensor], norm: float) -> None:
    """Scale ``tensors`` (see `at_least_float32`) to this global norm, in place; zeros stay zeros.

    If any number is not finite, all become zeros.
    """
    scale_(tensors, norm / (global_norm(tensors) + 1e-12))
