"""Curvature at a model's weights, from products H v: eigenvalues, trace, norm and spectrum without the matrix.

H is the Hessian of the mean loss over all examples, in evaluation mode, with respect to the trainable parameters or a
block of them. For a model with kinks (ReLU, max pooling) it is the Hessian of the smooth region around the weights, and
ignores how the loss changes across the region's boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts, check_positive
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.device_memory import vectors_device
from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.hessian_product import VECTORS, HessianVectorProduct, rademacher, symmetric
from smoothout.analysis.hessian_trace import TraceAndNorm, trace_and_norm
from smoothout.analysis.lanczos import lanczos, outermost_eigenpairs
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches

__all__ = [
    "HessianVectorProduct",
    "Spectrum",
    "TopEigenvalues",
    "TraceAndNorm",
    "hessian_spectrum",
    "rademacher",
    "top_eigenvalues",
    "trace_and_norm",
]

Array = NDArray[np.float64]

SORT_KEYS: dict[str, Callable[[Array], Array]] = {"LA": np.negative, "LM": lambda x: -np.abs(x), "SA": np.positive}


@dataclass(frozen=True)
class TopEigenvalues:
    """Outermost eigenvalues, with bounds of their errors."""

    values: tuple[float, ...]  # LA, LM: falling by value or size; SA: rising; fewer than requested unless converged
    residuals: tuple[float, ...]  # ||H v - value v|| for each unit vector v: bounds the error, up to that of products
    converged: bool
    status: str
    dimension: int  # n, of the block
    products: int  # number of products H v
    vectors: Tensor | None = field(default=None, compare=False)  # float64, (k, n), unit vectors; if requested


@dataclass(frozen=True)
class Spectrum:
    """Ritz values and weights of each probe: a quadrature of the spectral density, normalized to 1."""

    ritz: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]  # the weights of a probe add up to 1
    dimension: int  # n, of the block: a weight w stands for about n w eigenvalues
    products: int  # number of products H v

    def density(self, grid: ArrayLike, width: float) -> Array:
        """The density at each point of ``grid``, convolved with N(0, width^2), averaged over the probes.

        Raises ValueError for a width that is not above 0.
        """
        [width] = check_positive(width=width)
        points = np.asarray(grid, dtype=np.float64)
        total = np.zeros_like(points)
        for values, weights in zip(self.ritz, self.weights, strict=True):
            offsets = (points[..., None] - np.array(values)) / width
            total += np.exp(-0.5 * offsets**2) @ np.array(weights)
        return total / (len(self.ritz) * width * math.sqrt(2 * math.pi))


@torch.inference_mode(mode=False)
def top_eigenvalues(
    model: nn.Module,
    batches: Batches,
    loss: Loss | None = None,
    k: int = 1,
    *,
    which: Literal["LA", "LM", "SA"] = "LA",
    vectors: bool = False,
    block: str | None = None,
    tolerance: float = 1e-4,
    restarts: int = 100,
    basis: int | None = None,
    seed: int = 0,
    weight: Weight | None = None,
    keep_graph: bool | None = None,
    tick: Tick = lambda: None,
) -> TopEigenvalues:
    """[Jastrzebski Fig. 1a] The ``k`` outermost eigenvalues of H, by default the largest, by the Lanczos method.

    It stops as soon as all k are accurate, and needs no extra products for residuals. It may find a multiple eigenvalue
    too few times, because a random start vector contains one vector of each eigenspace.
    Other arguments are as in `HessianVectorProduct`.

    Args:
        k: how many eigenvalues, from 1 to n, the number of weights.
        which: LA: the most positive; SA: the most negative; LM: the largest in absolute value.
        vectors: whether to return eigenvectors too: flattened parameters, those of the block in the model's order.
        tolerance: of a residual, relative to its eigenvalue; at least the rounding of the products. The error of an
            eigenvalue is of the order of the residual squared.
        restarts: maximum number of restarts; if they do not suffice, the status says so.
        basis: maximum number of float64 vectors of length n that are kept; when it is reached, the method restarts from
            the best of them. None is 40 + 4 k, which is rarely reached.

    Raises:
        ValueError: for an impossible argument, such as k above n, and as `HessianVectorProduct`.

    Example:
        The mean of (w_1)^2 and (2 w_2)^2 has the Hessian diag(1, 4):

        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))]
        >>> top = top_eigenvalues(model, batches, torch.nn.functional.mse_loss, k=2)
        >>> [round(value, 4) for value in top.values]
        [4.0, 1.0]
    """
    k, restarts = check_counts(k=k, restarts=restarts)
    [most] = check_counts(k + 2, basis=40 + 4 * k if basis is None else basis)
    [tolerance] = check_positive(tolerance=tolerance)
    if which not in SORT_KEYS:
        raise ValueError(f"which: must be one of {', '.join(SORT_KEYS)}, not {which!r}")
    # Two passes over the batches check that loss and gradient are finite and deterministic.
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, keep_graph=keep_graph, tick=tick)
    n = product.dimension
    if k > n:
        raise ValueError(f"k: must be from 1 to n = {n}, not {k}")
    most = min(n, most)  # there are at most n orthogonal vectors
    # The basis may be many times as large as the model; if it does not fit next to it, it is in CPU memory.
    device = vectors_device(product.parameters, VECTORS + most)
    generator = make_generator(seed, "eigenvector")
    pairs = outermost_eigenpairs(
        symmetric(product),
        # A start vector, and more if the space becomes invariant; drawn on the CPU to be the same on every device.
        lambda: torch.randn(n, generator=generator, dtype=torch.float64, device="cpu").to(device),
        k,
        SORT_KEYS[which],
        tolerance=tolerance,
        rounding=product.rounding,
        most=most,
        restarts=restarts,
    )
    converged = len(pairs.values) == k  # inaccurate pairs are left out
    return TopEigenvalues(
        values=tuple(pairs.values.tolist()),
        residuals=tuple(pairs.residuals.tolist()),
        converged=converged,
        status="converged" if converged else f"{len(pairs.values)} of {k} converged in {restarts} restarts",
        dimension=n,
        products=product.products,
        vectors=pairs.vectors.cpu() if vectors else None,
    )


@torch.inference_mode(mode=False)
def hessian_spectrum(
    model: nn.Module,
    batches: Batches,
    loss: Loss | None = None,
    *,
    probes: int = 4,
    steps: int = 60,
    block: str | None = None,
    seed: int = 0,
    weight: Weight | None = None,
    keep_graph: bool | None = None,
    tick: Tick = lambda: None,
) -> Spectrum:
    """[Ubaru 2017] The density of H's eigenvalues by stochastic Lanczos quadrature, one Lanczos run per probe.

    The outermost Ritz values converge to eigenvalues; an inner one represents many, in proportion to its weight. A run
    keeps ``steps`` float64 vectors (8 n steps bytes; at most n) and orthogonalizes each new vector against all.

    See `HessianVectorProduct` for the other arguments and errors. Raises ValueError for fewer than one probe or step.
    """
    probes, steps = check_counts(probes=probes, steps=steps)
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, keep_graph=keep_graph, tick=tick)
    n = product.dimension
    steps = min(steps, n)
    device = vectors_device(product.parameters, VECTORS + steps)
    times = symmetric(product)
    runs = [lanczos(times, rademacher(n, seed, i).to(device), steps, product.rounding) for i in range(probes)]
    return Spectrum(tuple(ritz for ritz, _ in runs), tuple(weights for _, weights in runs), n, product.products)
