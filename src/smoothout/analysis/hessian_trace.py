"""The trace and the Frobenius norm of the Hessian, estimated from products H v."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.device_memory import vectors_device
from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.hessian_product import VECTORS, HessianVectorProduct, rademacher, symmetric
from smoothout.analysis.lanczos import KrylovBasis, orthogonalize
from smoothout.common.estimates import Estimate, standard_error
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches

Draws = tuple[Sequence[float], Sequence[float]]  # estimates of the trace, and of the squared norm
METHODS = ("hutch++", "hutchinson")


@dataclass(frozen=True)
class TraceAndNorm:
    """Estimates of the trace of H and of its squared Frobenius norm; their standard errors are 0 if exact."""

    trace: Estimate
    squared_norm: Estimate
    dimension: int  # n, of the block
    products: int  # number of products H v


@torch.inference_mode(mode=False)
def trace_and_norm(
    model: nn.Module,
    batches: Batches,
    loss: Loss | None = None,
    *,
    probes: int = 30,
    method: Literal["hutch++", "hutchinson"] = "hutch++",
    block: str | None = None,
    seed: int = 0,
    weight: Weight | None = None,
    keep_graph: bool | None = None,
    tick: Tick = lambda: None,
) -> TraceAndNorm:
    """[Jastrzebski Fig. 1b] Trace and squared Frobenius norm of H, from ``probes`` products.

    Both methods are unbiased (the square root of the squared norm is not) and average independent draws, so standard
    errors need two products.

    ``hutch++`` (Meyer et al. 2021) is more precise for a network, because its Hessian has a few large eigenvalues.
    Just under half of the products go to a Lanczos run. Its space contains most of these (Chen & Hallman 2023), and
    only the rest of H is estimated with random vectors. It keeps a float64 vector of length n per step. ``hutchinson``
    (Hutchinson 1990) averages v . H v and ||H v||^2 over vectors v of random signs: the trace is exact if H is
    diagonal, and its variance is twice the sum of the squared off-diagonal entries.

    With n probes or more, n products give the exact values, unless ``method`` is ``hutchinson``.

    See `HessianVectorProduct` for the other arguments and errors. Raises ValueError for fewer than one probe or an
    unknown method.
    """
    [probes] = check_counts(probes=probes)
    if method not in METHODS:
        raise ValueError(f"method: must be one of {', '.join(METHODS)}, not {method!r}")
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, keep_graph=keep_graph, tick=tick)
    n = product.dimension
    if method != "hutchinson" and probes >= n:
        matrix = product.matrix()
        trace, squared_norm = (Estimate(float(exact), 0.0) for exact in (np.trace(matrix), np.sum(matrix**2)))
    else:
        draws = (_hutchinson if method == "hutchinson" else _hutch_plus_plus)(product, probes, seed)
        trace, squared_norm = map(_estimate, draws)
    return TraceAndNorm(trace, squared_norm, n, product.products)


def _estimate(draws: Sequence[float]) -> Estimate:
    return Estimate(math.fsum(draws) / len(draws), standard_error(draws))


def _hutchinson(product: HessianVectorProduct, probes: int, seed: int) -> Draws:
    device = vectors_device(product.parameters, VECTORS)
    times, draws = symmetric(product), []
    for index in range(probes):
        probe = rademacher(product.dimension, seed, index).to(device)
        image = times(probe)
        draws.append(torch.stack([probe @ image, image @ image]).tolist())
    traces, squares = zip(*draws, strict=True)
    return traces, squares


def _hutch_plus_plus(product: HessianVectorProduct, probes: int, seed: int) -> Draws:
    """A Lanczos run uses just under half of the products; the others estimate the rest of H."""
    n, steps, times = product.dimension, (probes - 1) // 2, symmetric(product)
    device = vectors_device(product.parameters, VECTORS + steps)

    def draw(*address: int) -> Tensor:
        generator = make_generator(seed, "trace", *address)
        return torch.randn(n, generator=generator, dtype=torch.float64, device="cpu").to(device)

    # 1. H V = V T + r e', where V is the basis, e the last unit vector and r the following vector, as long as ``rest``.
    basis, rest = KrylovBasis(steps, draw), 0.0
    while not basis.full:
        rest = basis.extend(times)
        if rest <= basis.noise(product.rounding):
            break  # the space is invariant
    rows, projected = basis.rows[: basis.size], basis.projected

    # 2. With P = V V': tr H = tr T + tr (1-P)H(1-P) and |H|^2 = |T|^2 + 2 |r|^2 + |(1-P)H(1-P)|^2. A random u within
    # the range of 1-P estimates the last terms; with its length set to its mean it varies less.
    draws = []
    for index in range(probes - basis.size):
        probe, _ = orthogonalize(draw(index), rows)
        image, _ = orthogonalize(times(probe), rows)
        form, square, length = torch.stack([probe @ image, image @ image, probe @ probe]).tolist()
        scale = (n - basis.size) / length
        draws.append((np.trace(projected) + scale * form, np.sum(projected**2) + 2 * rest**2 + scale * square))
    traces, squares = zip(*draws, strict=True)
    return traces, squares
