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


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed in [0, 2^63) for the draw named by ``purpose`` ("order", ...) at ``position`` (step, ...)."""
    text = "/".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % _SEEDS


def make_generator(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device`` for the draw at that address.

    torch's generators of CPUs keep 32 bits of a seed: among n draws about n^2 / 2^33 pairs have the same chance.
    """
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *position))


def uniform_(tensor: Tensor, generator: torch.Generator | None = None, a: float | Tensor = 1.0) -> Tensor:
    """Fill ``tensor`` in place with draws of U(-a, a); ``generator`` None is torch's global one.

    On a CPU, torch draws float32 numbers one by one, a fourth of a training step of F1. There, a number is
    ``a`` (n + t) / 2^15: n an integer of 16 bits from numpy's SFC64, seeded by one draw of ``generator``, and t one
    draw of U(0, 1) that all numbers of a call share. So each number is uniform to float32's resolution, any two have a
    correlation of 2^-32, and numbers of one call share nothing but their position between two multiples of a / 2^15.
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):  # torch's own draw rounds down in these
        single = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
        return tensor.copy_(uniform_(single, generator, a))
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        return tensor.uniform_(-1.0, 1.0, generator=generator).mul_(a)
    seed = int(torch.randint(_SEEDS - 1, (), generator=generator, device="cpu"))
    words = np.random.SFC64(seed).random_raw(1 + (tensor.numel() + 3) // 4)
    integers = torch.from_numpy(words[1:].view(np.int16))[: tensor.numel()]
    step = float(a) * 2.0**-15
    common = torch.as_tensor(step * (float(words[0]) * 2.0**-64), dtype=torch.float32, device="cpu")
    return torch.add(common, tensor.copy_(integers.view(tensor.shape)), alpha=step, out=tensor)
