"""Number formats of the forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from smoothout.nn.options import Precision


@contextmanager
def precision_context(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run a block in ``precision`` on ``device``; bfloat16 is torch's autocast, with weights in float32.

    Autocast's cache is off, because it would keep using bfloat16 copies of weights after these change. Raises
    RuntimeError if the program has set ``torch.backends.*.fp32_precision``, which torch does not mix with these.
    """
    try:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError as error:
        raise RuntimeError(
            "precision: torch.backends.*.fp32_precision is set; use torch.set_float32_matmul_precision and"
            " torch.backends.cudnn.allow_tf32 instead"
        ) from error
    torch.set_float32_matmul_precision("high" if precision is Precision.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = precision is Precision.tf32  # torch's default lets convolutions use it
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bfloat16, cache_enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
