"""The only source of randomness: a generator for every (seed, purpose, step, ghost batch).

A generator that advances from call to call would have to be saved with every checkpoint, and two methods would get
different noise, orders and initial weights as soon as one of them makes an extra draw. Here each draw has an address
instead. A resumed run therefore needs no generator state, and runs with the same seed share their initial weights and
order of examples, whatever their method: paired comparisons over seeds are valid.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from smoothout.common.integers import whole_number

_SEEDS = 2**63


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed in [0, 2^63) for the draw named by ``purpose`` ("order", ...) at ``position`` (step, ...).

    Equal numbers of different types give the same seed. Raises ValueError for a ``seed`` that is not a whole number.
    """
    text = "/".join([str(whole_number("seed", seed)), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % _SEEDS


def make_generator(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator on ``device`` for the draw at the address of `derive_seed`.

    torch's CPU generators use 32 bits of a seed: among n draws, about n^2 / 2^33 pairs get the same numbers.
    """
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *position))


def uniform_(tensor: Tensor, generator: torch.Generator | None = None, a: float | Tensor = 1.0) -> Tensor:
    """Fill ``tensor`` in place with draws of U(-a, a); ``generator`` None is torch's global one.

    On a CPU, torch draws float32 numbers one at a time, which takes a quarter of a training step of F1. So there each
    number is ``a`` (n + t) / 2^15, where n is a 16-bit integer from numpy's SFC64, seeded by one draw of ``generator``,
    and t is a draw of U(0, 1) that all numbers of a call share. Each number is uniform to the resolution of float32,
    any two have a correlation of 2^-32, and numbers of a call share only their position between two multiples of
    a / 2^15.
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):  # torch's own draw rounds down for these types
        single = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
        return tensor.copy_(uniform_(single, generator, a))
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        return tensor.uniform_(-1.0, 1.0, generator=generator).mul_(a)
    integers, shared = _random_integers(tensor.numel(), generator)
    step = float(a) * 2.0**-15
    common = torch.as_tensor(step * shared, dtype=torch.float32, device="cpu")
    return torch.add(common, tensor.copy_(integers.view(tensor.shape)), alpha=step, out=tensor)


def normal_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``tensor`` in place with draws of N(0, 1); ``generator`` None is torch's global one.

    On a CPU, a float32 number is the quantile of a uniform number +-(n + t) / 2^15, with an independent sign and 15-bit
    integer n, and a t shared by the call, as in `uniform_`. So a call has at most 2^16 different numbers. They are
    looked up in a table, which takes half the time of torch's draw. Their properties are as in `uniform_`.
    """
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        return tensor.normal_(generator=generator)
    integers, shared = _random_integers(tensor.numel(), generator)
    probabilities = torch.arange(2**15, dtype=torch.float64, device="cpu").add_(shared).mul_(2.0**-15)
    quantiles = torch.erfinv(probabilities).mul_(math.sqrt(2)).clamp_(max=9).float()  # erfinv(1) is infinite
    places = integers.view(torch.uint16).to(torch.int32)  # the highest bit is the sign
    torch.index_select(torch.cat([quantiles, -quantiles]), 0, places, out=tensor.view(-1))
    return tensor


def _random_integers(count: int, generator: torch.Generator | None) -> tuple[Tensor, float]:
    """16-bit integers from numpy's SFC64, (count,), and a draw of U(0, 1); one draw of ``generator`` seeds both."""
    seed = int(torch.randint(_SEEDS - 1, (), generator=generator, device="cpu"))
    words = np.random.SFC64(seed).random_raw(1 + (count + 3) // 4)
    return torch.from_numpy(words[1:].view(np.int16))[:count], float(words[0]) * 2.0**-64
