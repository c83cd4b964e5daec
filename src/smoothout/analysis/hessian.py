"""Curvature at a model's weights, from products H v: eigenvalues, trace, norm and spectrum without the matrix.

H is the Hessian of the mean loss over all examples, in evaluation mode, with respect to the trainable parameters or a
block of them. For a model with kinks (ReLU, max pooling) it is the Hessian of the smooth region that contains the
weights; changes of the loss from crossing into another region do not count.
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
from smoothout.analysis.batches import Batches, Loss, Weight, check_batches
from smoothout.analysis.device_memory import vectors_device
from smoothout.analysis.empirical_risk import EmpiricalRisk, Tick, machine_epsilon, to_dense
from smoothout.analysis.lanczos import lanczos
from smoothout.analysis.models import differentiable
from smoothout.common.estimates import Estimate, standard_error
from smoothout.common.rng import make_generator
from smoothout.nn.parameters import preserve_state, trainable_parameters, unflatten

Array = NDArray[np.float64]

VECTORS = 8  # float64 vectors that a product with H and its uses need at most
DENSE = 20  # ARPACK makes this many products before its first answer; up to here the dense matrix costs no more
SORT_KEYS: dict[str, Callable[[Array], Array]] = {"LA": np.negative, "LM": lambda x: -np.abs(x), "SA": np.positive}


@dataclass(frozen=True)
class TopEigenvalues:
    """Outermost eigenvalues, and how far to trust them."""

    values: tuple[float, ...]  # LA, LM: falling by value or size; SA: rising; fewer than requested unless converged
    residuals: tuple[float, ...]  # ||H v - value v|| for each unit vector v: an eigenvalue is at most this far away
    converged: bool
    status: str
    dimension: int  # n, of the block
    products: int  # number of products H v
    vectors: Tensor | None = field(default=None, compare=False)  # float64, (k, n), unit vectors; if requested


@dataclass(frozen=True)
class TraceAndNorm:
    """Hutchinson's estimates of the trace of H and of its squared Frobenius norm."""

    trace: Estimate
    squared_norm: Estimate
    dimension: int  # n, of the block
    products: int  # number of products H v


@dataclass(frozen=True)
class Spectrum:
    """Ritz values and weights of each probe: a quadrature of the spectral density, whose integral is 1."""

    ritz: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]  # those of a probe add up to 1
    dimension: int  # n, of the block: a weight w stands for about n w eigenvalues
    products: int  # number of products H v

    def density(self, grid: ArrayLike, width: float) -> Array:
        """The density at each point of ``grid``, convolved with N(0, width^2), averaged over the probes.

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
    """[Pearlmutter 1994] v -> H v, exact up to rounding: the gradient of (gradient . v). It costs about two gradients.

    Every call uses the model's present weights, and leaves it and its modes unchanged to the last bit. H is that of all
    trainable parameters, or of those named ``block`` or ``block.*``. ``tick`` is called after each product.

    Raises:
        ValueError: for an unknown block, no examples, a loss, gradient or product that is not finite, and if two passes
            differ: randomness (augmentation, dropout) would be mistaken for curvature.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss | None = None,
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
            raise ValueError(f"the model's own loss is {first[0].item()}: must be finite, like its gradient")
        self.check_deterministic(first)

    def __call__(self, vector: Tensor) -> Tensor:
        """H ``vector``; both are float64, shape (n,), on the device of ``vector``."""
        parts = unflatten(vector, self.parameters)

        def product(loss: Tensor) -> Sequence[Tensor]:
            gradient = to_dense(torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True))
            curved = [(slope, part) for slope, part in zip(gradient, parts, strict=True) if slope.requires_grad]
            if not curved:  # the loss is linear in the block
                return [torch.zeros_like(p) for p in self.parameters]
            slopes, directions = zip(*curved, strict=True)
            return to_dense(torch.autograd.grad(slopes, self.parameters, directions, materialize_grads=True))

        result = self.mean(product).to(vector.device)
        if not result.isfinite().all():
            raise ValueError("a product H v is not finite: the loss has no second derivative at these weights")
        self.products += 1
        self.tick()
        return result

    def matrix(self) -> Array:
        """H itself, symmetrized, shape (n, n), from n products."""
        rows = torch.stack([self(unit) for unit in torch.eye(self.dimension, dtype=torch.float64)])
        symmetric: Array = (0.5 * (rows + rows.T)).numpy()
        return symmetric

    def mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """As in `EmpiricalRisk`, in evaluation mode; the model is restored."""
        attention = sdpa_kernel(SDPBackend.MATH)  # the faster kernels have no second derivative
        with preserve_state(self.model), torch.enable_grad(), attention, differentiable(self.model, twice=True):
            self.model.eval()
            return super().mean(of_batch)


def block_parameters(model: nn.Module, block: str | None) -> list[nn.Parameter]:
    """The trainable parameters named ``block`` or ``block.*``; all for None. Raises ValueError for an unknown name."""
    trainable = trainable_parameters(model)  # also checks that there are some, and that none is lazy
    if block is None:
        return trainable
    named = [(name, p) for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    parameters = list({id(p): p for name, p in named if name == block or name.startswith(f"{block}.")}.values())
    if not parameters:
        known = dict.fromkeys(name.partition(".")[0] for name, _ in named)
        raise ValueError(f"block: {block!r} has no trainable parameters; known are {', '.join(known)}")
    return parameters


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
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> TopEigenvalues:
    """[Jastrzebski Fig. 1a] The ``k`` outermost eigenvalues of H, by default the largest, by ARPACK's Lanczos method.

    Other arguments are as in `HessianVectorProduct`.

    Args:
        which: LA: the most positive; SA: the most negative; LM: the largest in absolute value.
        vectors: whether to return eigenvectors too: flattened parameters, those of the block in the model's order.
        tolerance: of a residual, relative to its eigenvalue. The error of an eigenvalue is of the order of its square.
        restarts: maximum number of Lanczos restarts; the status reports an answer short of the tolerance.

    Raises:
        ValueError: for an impossible argument, such as k above n, and as `HessianVectorProduct`.

    Example:
        The mean of (w_1)^2 and (2 w_2)^2 has the Hessian diag(1, 4):

        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))]
        >>> top_eigenvalues(model, batches, torch.nn.functional.mse_loss, k=2).values
        (4.0, 1.0)
    """
    k, restarts = check_counts(k=k, restarts=restarts)
    check_positive(tolerance=tolerance)
    if which not in SORT_KEYS:
        raise ValueError(f"which: must be one of {', '.join(SORT_KEYS)}, not {which!r}")
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, tick=tick)
    n = product.dimension
    if k > n:
        raise ValueError(f"k: must be from 1 to n = {n}, not {k}")

    # Eigenpairs: of the dense matrix if it is small, else of ARPACK. Columns are eigenvectors.
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
        except ArpackError as error:  # H is exactly 0: the loss is linear, or saturated
            values, columns, status = np.empty(0), np.empty((n, 0)), str(error)

    # Residuals, with one more product per eigenpair: ARPACK's own are estimates.
    order = np.argsort(SORT_KEYS[which](values))[:k]
    pairs = list(zip(values[order], columns.T[order], strict=True))
    residuals = [product(torch.from_numpy(vector)).numpy() - value * vector for value, vector in pairs]
    return TopEigenvalues(
        values=tuple(float(value) for value, _ in pairs),
        residuals=tuple(float(np.linalg.norm(residual)) for residual in residuals),
        converged=len(order) == k,
        status=status,
        dimension=n,
        products=product.products,
        vectors=torch.from_numpy(columns.T[order]) if vectors else None,
    )


def rademacher(n: int, seed: int, index: int) -> Tensor:
    """The probe number ``index``: n independent random signs, float64."""
    signs = torch.randint(0, 2, (n,), generator=make_generator(seed, "probe", index), dtype=torch.int8)
    return signs.double().mul_(2.0).sub_(1.0)


def estimate(draws: Sequence[float]) -> Estimate:
    """The mean of independent ``draws`` and its standard error."""
    return Estimate(math.fsum(draws) / len(draws), standard_error(draws))


@torch.inference_mode(mode=False)
def trace_and_norm(
    model: nn.Module,
    batches: Batches,
    loss: Loss | None = None,
    *,
    probes: int = 30,
    block: str | None = None,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> TraceAndNorm:
    """[Jastrzebski Fig. 1b] Trace and squared Frobenius norm of H: the means of v . H v and ||H v||^2.

    v holds independent random signs (Hutchinson 1990): the trace is exact if H is diagonal, and its variance is twice
    the sum of the squared off-diagonal entries. The means are unbiased; the square root of the second is not.

    Each of ``probes`` v takes one product; standard errors need two. Raises ValueError for fewer than one probe, and as
    `HessianVectorProduct`, whose arguments the others are.
    """
    [probes] = check_counts(probes=probes)
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, tick=tick)
    device = vectors_device(product.parameters, VECTORS)
    draws = []
    for index in range(probes):
        probe = rademacher(product.dimension, seed, index).to(device)
        image = product(probe)
        draws.append(torch.stack([probe @ image, image @ image]).tolist())
    traces, squares = zip(*draws, strict=True)
    return TraceAndNorm(estimate(traces), estimate(squares), product.dimension, product.products)


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
    tick: Tick = lambda: None,
) -> Spectrum:
    """[Ubaru 2017] The density of H's eigenvalues by stochastic Lanczos quadrature, one Lanczos run per probe.

    The outermost Ritz values converge to eigenvalues; each inner one stands for many, by its weight. A run keeps
    ``steps`` float64 vectors (8 n steps bytes; at most n) and orthogonalizes each new one against all.

    Raises ValueError for fewer than one probe or step, and as `HessianVectorProduct`, whose arguments the others are.
    """
    probes, steps = check_counts(probes=probes, steps=steps)
    product = HessianVectorProduct(model, batches, loss, block=block, weight=weight, tick=tick)
    n = product.dimension
    steps = min(steps, n)
    device = vectors_device(product.parameters, VECTORS + steps)
    runs = [lanczos(product, rademacher(n, seed, i).to(device), steps, product.rounding) for i in range(probes)]
    return Spectrum(tuple(ritz for ritz, _ in runs), tuple(weights for _, weights in runs), n, product.products)
