"""The only source of chance: a generator for every (seed, purpose, step, ghost batch).

A generator that advances from call to call would have to be saved with every checkpoint, and would give two methods
different noise, orders and start weights as soon as one of them draws once more. Here each draw has an address
instead. A resumed run therefore needs no generator state, and two runs with the same seed share their start weights
and their order of examples, whatever their method: paired comparisons over seeds are valid.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_SEEDS = 2**63


def address(seed: int, purpose: str, *position: int) -> int:
    """A seed in [0, 2^63) for the draw named by ``purpose`` ("order", ...) at ``position`` (step, ...)."""
    text = "/".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % _SEEDS


def stream(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device`` for the draw at that address."""
    return torch.Generator(device).manual_seed(address(seed, purpose, *position))


def fill_uniform(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``tensor`` in place with i.i.d. draws of U(-1, 1); ``generator`` None is torch's global one.

    On a CPU, torch draws float32 numbers one by one; 32-bit integers of numpy's SFC64, seeded by one draw of
    ``generator`` and scaled by 2^-31, have a finer grid than torch's 24 bits and take a third of the time.
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):  # torch's own draw rounds down in these
        return tensor.copy_(fill_uniform(torch.empty(tensor.shape, device=tensor.device), generator))
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        return tensor.uniform_(-1.0, 1.0, generator=generator)
    seed = int(torch.randint(_SEEDS - 1, (), generator=generator))
    words = np.random.SFC64(seed).random_raw((tensor.numel() + 1) // 2)
    integers = torch.from_numpy(words.view(np.int32))[: tensor.numel()]
    return tensor.copy_(integers.view(tensor.shape)).mul_(2.0**-31)
