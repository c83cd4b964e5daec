"""The Euclidean norm of a gradient or of a momentum over all of its tensors, also in low precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from smoothout.nn.parameters import group_by


def at_least_float32(tensors: Iterable[Tensor]) -> list[Tensor]:
    """``tensors`` with float16 and bfloat16 converted to float32, and sparse tensors made dense.

    Squares may exceed 65504, the largest number in float16, which also rounds anything below 3e-8 to 0.
    """
    return [tensor.to_dense().to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The norm over all entries of ``tensors`` (see `at_least_float32`): a scalar on the device of the first."""
    norms = torch._foreach_norm(tensors)
    norm: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    return norm


def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply ``tensors``, on any devices, by the scalar ``factor``, in place.

    All become zeros if it is 0 or nan, as one divided by a norm that is not finite: gradients may overflow that a
    scaler has multiplied. It then skips the update, but a pass at weights that are not finite would have left its
    traces in running statistics.
    """
    for alike in group_by(tensors, lambda tensor: tensor.device):
        own = factor.to(alike[0].device)
        torch._foreach_mul_(alike, own)
        for tensor in alike:
            tensor.masked_fill_(~(own > 0), 0.0)


def scale_to_norm_(tensors: list[Tensor], norm: float) -> None:
    """Scale ``tensors`` (see `at_least_float32`) to this global norm, in place; zeros stay zeros.

    Numbers that are not finite become zeros, all of them.
    """
    scale_(tensors, norm / (global_norm(tensors) + 1e-12))
