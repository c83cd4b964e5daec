"""Curvature at a model's weights without its matrix: eigenvalues, trace, norm and spectrum from products H v.

H is the Hessian of the mean loss over all examples, in evaluation mode, by the trainable parameters or a block of them.
Where the model has kinks (ReLU, max pooling) it is the Hessian of the smooth piece that the weights lie on: what the
loss gains by crossing into another piece does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from smoothout.analysis.arguments import check_counts, check_positive
from smoothout.analysis.device_memory import vectors_device
from smoothout.analysis.empirical_risk import (
    Batches,
    EmpiricalRisk,
    Loss,
    Tick,
    Weight,
    check_batches,
    dense,
    machine_epsilon,
)
from smoothout.analysis.lanczos import lanczos
from smoothout.common.estimates import Estimate, standard_error
from smoothout.common.rng import make_generator
from smoothout.nn.parameters import preserve_state, trainable_parameters, unflatten

Array = NDArray[np.float64]

VECTORS = 8  # of float64 that a product with H and what is made of it take at most
DENSE = 20  # ARPACK spends that many products before its first answer: up to here the whole matrix costs no more


_ORDERS: dict[str, Callable[[Array], Array]] = {"LA": np.negative, "LM": lambda x: -np.abs(x), "SA": np.positive}


@dataclass(frozen=True)
class TopEigenvalues:
    """The outermost eigenvalues that were found, and how far to trust them."""

    values: tuple[float, ...]  # LA, LM: falling, by value or size; SA: rising; fewer than asked for unless converged
    residuals: tuple[float, ...]  # ||H v - value v|| for each unit vector v: an eigenvalue lies that near
    converged: bool
    status: str
    dimension: int  # n, of the block
    products: int  # H v that were spent
    vectors: Tensor | None = field(default=None, compare=False)  # float64, (k, n), a unit vector a value; if asked for


@dataclass(frozen=True)
class TraceAndNorm:
    """Hutchinson's estimates for H: its trace and its squared Frobenius norm."""

    trace: Estimate
    squared_norm: Estimate
    dimension: int  # n, of the block
    products: int  # H v that were spent


@dataclass(frozen=True)
class Spectrum:
    """Ritz values and weights of each probe: a quadrature of the spectral density, whose integral is 1."""

    ritz: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]  # of each probe they add up to 1
    dimension: int  # n, of the block: a weight w stands for about n w eigenvalues
    products: int  # H v that were spent

    def density(self, grid: ArrayLike, width: float) -> Array:
        """The density at each point of ``grid``, smoothed by N(0, width^2), mean over the probes.

        Raises ValueError for a width that is not above 0.
        """
        check_positive(width=width)
        points = np.asarray(grid, dtype=np.float64)
        total = np.zeros_like(points)
        for values, weights in zip(self.ritz, self.weights, strict=True):
            offsets = (points[..., None] - np.array(values)) / width
            total += np.exp(-0.5 * offsets**2) @ np.array(weights)
        return total / (len(self.ritz) * width * math.sqrt(2 * math.pi))


class HessianVectorProduct(EmpiricalRisk):
    """[Pearlmutter 1994] v -> H v, exact but for rounding: the gradient of (gradient . v), with the model left alone.

    A model of float32 computes each batch's product in float32; sums over batches are float64. It costs
    about two gradients. The model and its modes are as they were to the last bit after each call.

    Args:
        model: twice differentiable by autograd; its present weights count at every call.
        batches: pairs (inputs, targets), the same at every pass.
        loss: ``loss(outputs, targets)``, the mean over the examples of a batch.
        block: None for all trainable parameters; else those named ``block`` or ``block.*``, such as a layer's name.
        weight: as in `sharpness`: how many examples a batch counts as; None is ``len(targets)``.
        tick: called after each product.

    Raises:
        ValueError: for an unknown block, no examples, a loss, gradient or product that is not finite, and a model and
            data that do not answer twice the same: chance in them (augmentation, dropout) would be taken for curvature.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss,
        *,
        block: str | None = None,
        weight: Weight | None = None,
        tick: Tick = lambda: None,
    ) -> None:
        check_batches("batches", batches)
        super().__init__(model, batches, loss, block_parameters(model, block), weight=weight)
        self.tick = tick
        self.dimension = sum(p.numel() for p in self.parameters)
        self.rounding = machine_epsilon(self.parameters)
        self.products = 0
        first = self.with_gradient()
        if not first.isfinite().all():
            raise ValueError(f"the model's own loss is {first[0].item()}: must be finite, as its gradient")
        self.check_deterministic(first)

    def __call__(self, vector: Tensor) -> Tensor:
        """H ``vector``; both are float64, shape (n,), on the device of ``vector``: any that has float64."""
        shaped = unflatten(vector, self.parameters)

        def product(value: Tensor) -> Sequence[Tensor]:
            slopes = dense(torch.autograd.grad(value, self.parameters, create_graph=True, materialize_grads=True))
            curved = [(slope, v) for slope, v in zip(slopes, shaped, strict=True) if slope.requires_grad]
            if not curved:  # the loss is linear in the block
                return [torch.zeros_like(p) for p in self.parameters]
            outputs, along = zip(*curved, strict=True)
            return dense(torch.autograd.grad(outputs, self.parameters, along, materialize_grads=True))

        result = self.mean(product).to(vector.device)
        if not result.isfinite().all():
            raise ValueError("a product H v is not finite: the loss has no second derivative at these weights")
        self.products += 1
        self.tick()
        return result

    def matrix(self) -> Array:
        """H itself, made symmetric, shape (n, n), by n products."""
        rows = torch.stack([self(unit) for unit in torch.eye(self.dimension, dtype=torch.float64)])
        dense: Array = (0.5 * (rows + rows.T)).numpy()
        return dense

    def mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """As of any full loss, in evaluation mode; the model is given back."""
        attention = sdpa_kernel(SDPBackend.MATH)  # the faster ways have no second derivative
        with preserve_state(self.model), torch.enable_grad(), attention:
            self.model.eval()
            return super().mean(of_batch)


def block_parameters(model: nn.Module, block: str | None) -> list[nn.Parameter]:
    """The trainable parameters named ``block`` or ``block.*``; all for None. Raises ValueError for an unknown name."""
    everything = trainable_parameters(model)
    if block is None:
        return everything
    named = [(name, p) for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    found = list({id(p): p for name, p in named if name == block or name.startswith(f"{block}.")}.values())
    if not found:
        known = dict.fromkeys(name.partition(".")[0] for name, _ in named)
        raise ValueError(f"block: {block!r} names no trainable parameters; known are {', '.join(known)}")
    return found


def top_eigenvalues(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    k: int = 1,
    *,
    which: Literal["LA", "LM", "SA"] = "LA",
    vectors: bool = False,
    block: str | None = None,
    tolerance: float = 1e-4,
    restarts: int = 100,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> TopEigenvalues:
    """[Jastrzebski Fig. 1a] The ``k`` outermost eigenvalues of H, the largest ones by default, by ARPACK's Lanczos.

    Args:
        model, batches, loss, block, weight, tick: as in `HessianVectorProduct`, and what it raises.
        k: how many, from 1 to n.
        which: LA: the most positive; SA: the most negative; LM: the largest in size, whatever the sign.
        vectors: whether to give the eigenvectors too; flattened parameters, those of the block in the model's order.
        tolerance: of a residual, relative to its eigenvalue. The error of an eigenvalue is of the order of its square.
        restarts: of Lanczos at most; an answer that stays short of the tolerance says so.
        seed: of the start vector.

    Raises:
        ValueError: for an impossible argument.
    """
    check_counts(k=k, restarts=restarts)
    check_positive(tolerance=tolerance)
    if which not in _ORDERS:
        raise ValueError(f"which: must be one of {', '.join(_ORDERS)}, not {which!r}")
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, tick=tick)
    n = product.dimension
    if k > n:
        raise ValueError(f"k: must be from 1 to n = {n}, not {k}")
    status = "converged"
    if n <= max(DENSE, 2 * k + 1):
        values, columns = np.linalg.eigh(product.matrix())
    else:
        operator = LinearOperator((n, n), matvec=lambda v: product(torch.from_numpy(v.ravel())).numpy(), dtype="f8")
        start = torch.randn(n, generator=make_generator(seed, "eigenvector"), dtype=torch.float64).numpy()
        try:
            values, columns = eigsh(operator, k, which=which, v0=start, tol=tolerance, maxiter=restarts)
        except ArpackNoConvergence as error:
            values, columns = error.eigenvalues, error.eigenvectors
            status = f"{len(values)} of {k} converged in {restarts} restarts"
        except ArpackError as error:  # H is 0 to the last bit: the loss is linear, or saturated
            values, columns, status = np.empty(0), np.empty((n, 0)), str(error)
    order = np.argsort(_ORDERS[which](values))[:k]
    found = columns.T[order]
    images = [product(torch.from_numpy(one)).numpy() for one in found]
    rests = [image - value * one for image, value, one in zip(images, values[order], found, strict=True)]
    return TopEigenvalues(
        values=tuple(map(float, values[order])),
        residuals=tuple(float(np.linalg.norm(rest)) for rest in rests),
        converged=len(order) == k,
        status=status,
        dimension=n,
        products=product.products,
        vectors=torch.from_numpy(found) if vectors else None,
    )


def rademacher(n: int, seed: int, index: int) -> Tensor:
    """The probe of that index: n independent signs, float64."""
    signs = torch.randint(0, 2, (n,), generator=make_generator(seed, "probe", index), dtype=torch.int8)
    return signs.double().mul_(2.0).sub_(1.0)


def estimate(draws: Sequence[float]) -> Estimate:
    """The mean of independent ``draws`` and its standard error."""
    return Estimate(math.fsum(draws) / len(draws), standard_error(draws))


def trace_and_norm(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    probes: int = 30,
    block: str | None = None,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> TraceAndNorm:
    """[Jastrzebski Fig. 1b] Trace and squared Frobenius norm of H: the means of v . H v and ||H v||^2.

    v holds independent signs (Hutchinson 1990): the trace is exact where H is diagonal, its variance is twice the sum
    of the squares off the diagonal. One product a probe. The means are unbiased; the square root of the second is not.

    Args:
        model, batches, loss, block, weight, tick: as in `HessianVectorProduct`, and what it raises.
        probes: how many v; standard errors need two.
        seed: of the probes.

    Raises:
        ValueError: for fewer than one probe.
    """
    check_counts(probes=probes)
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, tick=tick)
    device = vectors_device(product.parameters, VECTORS)
    draws = []
    for index in range(probes):
        probe = rademacher(product.dimension, seed, index).to(device)
        image = product(probe)
        draws.append(torch.stack([probe @ image, image @ image]).tolist())
    traces, squares = zip(*draws, strict=True)
    return TraceAndNorm(estimate(traces), estimate(squares), product.dimension, product.products)


def hessian_spectrum(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    probes: int = 4,
    steps: int = 60,
    block: str | None = None,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> Spectrum:
    """[Ubaru 2017] The density of H's eigenvalues by stochastic Lanczos quadrature, one Lanczos run a probe.

    The outermost Ritz values converge to eigenvalues; between them they stand for many, by their weights. A run keeps
    ``steps`` vectors in float64 (8 n steps bytes) and makes each new one orthogonal to all.

    Args:
        model, batches, loss, block, weight, tick: as in `HessianVectorProduct`, and what it raises.
        probes: how many start vectors.
        steps: products a probe; no more than n are made.
        seed: of the probes.

    Raises:
        ValueError: for fewer than one probe or step.
    """
    check_counts(probes=probes, steps=steps)
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, tick=tick)
    n = product.dimension
    steps = min(steps, n)
    device = vectors_device(product.parameters, VECTORS + steps)
    runs = [lanczos(product, rademacher(n, seed, i).to(device), steps, product.rounding) for i in range(probes)]
    return Spectrum(tuple(ritz for ritz, _ in runs), tuple(weights for _, weights in runs), n, product.products)
