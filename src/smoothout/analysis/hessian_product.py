"""Products of a vector with the Hessian of the mean loss over all examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.empirical_risk import EmpiricalRisk, Tick, to_dense
from smoothout.analysis.kept_graphs import KeptGraphs
from smoothout.analysis.models import differentiable, keeping_weights
from smoothout.common.errors import one_line
from smoothout.common.pass_cache import cached_pass
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches, check_batches
from smoothout.nn.parameters import (
    preserve_state,
    set_evaluation_mode,
    trainable_parameters,
    unflatten,
)

VECTORS = 10  # maximum number of float64 vectors for a product with H and its callers
ASYMMETRY = 0.05  # relative; rounding gives 0.008 in bfloat16, and in float32 more than this at losses of 1e-8
NOT_TWICE = "has no second derivative, which products with the Hessian need"


class HessianVectorProduct(EmpiricalRisk):
    """[Pearlmutter 1994] v -> H v, exact up to rounding: the gradient of (gradient . v).

    Every call uses the model's current weights, and leaves the model and its modes exactly unchanged. H is that of all
    trainable parameters, or of those named ``block`` or ``block.*``. ``tick`` is called after each product.

    A product costs about three gradients, or two if the graph of the gradient is kept from one product to the next
    (with bitwise equal results on a CPU). ``keep_graph=None`` keeps it if its saved tensors for all batches need at
    most 2 GiB, or on a GPU half of the free memory. True always keeps it, False never. The graph is discarded when a
    weight or buffer changes.

    A backward pass that is not differentiable (an `autograd.Function` that detaches, or works under `no_grad`) silently
    drops second derivatives. This usually makes products asymmetric, which `matrix`, `top_eigenvalues`,
    `trace_and_norm` and `hessian_spectrum` refuse. If H stays symmetric, the missing derivatives are not detected: for
    example if the function is the loss itself, or an activation whose backward pass detaches only saved tensors.

    Raises:
        ValueError: for an unknown block, no examples, a loss, gradient or product that is not finite, or a model
            without second derivatives; if two passes differ, because randomness (augmentation, dropout) would be
            mistaken for curvature.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss | None = None,
        *,
        block: str | None = None,
        weight: Weight | None = None,
        keep_graph: bool | None = None,
        tick: Tick = lambda: None,
    ) -> None:
        check_batches("batches", batches)
        super().__init__(model, batches, loss, block_parameters(model, block), weight=weight)
        self.tick = tick
        self.dimension = sum(p.numel() for p in self.parameters)
        self.products = 0
        first = self.with_gradient()
        if not first.isfinite().all():
            raise ValueError(f"the model's own loss is {first[0].item()}: must be finite, like its gradient")
        self.check_deterministic(first)
        self.graphs = KeptGraphs(model, self.device, keep_graph)

    def __call__(self, vector: Tensor) -> Tensor:
        """H ``vector``; both are float64, shape (n,), on the device of ``vector``."""
        directions = unflatten(vector, self.parameters)
        result = cached_pass(lambda: self.product(directions)).to(vector.device)
        if not result.isfinite().all():
            raise ValueError("a product H v is not finite: the loss has no second derivative at these weights")
        self.products += 1
        self.tick()
        return result

    def matrix(self) -> NDArray[np.float64]:
        """H itself, symmetrized, shape (n, n), from n products."""
        rows = torch.stack([self(unit) for unit in torch.eye(self.dimension, dtype=torch.float64, device="cpu")])
        check_symmetry((rows - rows.T).norm().item(), rows.norm().item())
        symmetric: NDArray[np.float64] = (0.5 * (rows + rows.T)).numpy()
        return symmetric

    def mean(self, of_batch: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """As in `EmpiricalRisk`, in evaluation mode; the model is restored."""
        with self.evaluated(), keeping_weights(self.model):
            return super().mean(of_batch)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode, and only operations with second derivatives are used.

        Its state is restored at the end.
        """
        with preserve_state(self.model), torch.enable_grad(), differentiable(self.model, twice=True):
            set_evaluation_mode(self.model)
            yield

    def product(self, directions: Sequence[Tensor]) -> Tensor:
        """H times the vector of ``directions``: from kept graphs, or in a pass over all batches."""
        if self.graphs.usable():
            batches = ((weight, self.curved(slopes, directions, keep=True)) for weight, slopes in self.graphs.batches)
            with self.evaluated():  # activation checkpointing runs the model again
                return self.weighted_mean(batches)
        try:
            return self.product_in_a_pass(directions)
        except RuntimeError as error:
            # If the model calls torch.func, its graph does not support saved-tensor hooks and cannot be kept.
            if self.graphs.keep is False or "saved tensor hooks" not in str(error):
                raise
            self.graphs.keep = False
            return self.product_in_a_pass(directions)

    def product_in_a_pass(self, directions: Sequence[Tensor]) -> Tensor:
        """As `product`, from new graphs, which are kept if allowed."""

        def batches() -> Iterator[tuple[float, Sequence[Tensor]]]:
            # Graphs reference the examples, and a loader may write the next batch to the same memory.
            examples = self.batches if self.graphs.keep is False else self.batches.copied()
            for weight, slopes in self.each_batch(self.slopes, examples):
                keep = self.graphs.add(weight, slopes)
                yield weight, self.curved(slopes, directions, keep=keep)
                del slopes  # frees the graph, unless it is kept, before the next one is built

        with self.evaluated(), self.graphs.filling():
            return self.weighted_mean(batches())

    def slopes(self, loss: Tensor) -> list[Tensor]:
        """The gradient, with a graph so that it can be differentiated again."""
        if not loss.requires_grad:  # such as the loss of a batch without valid labels
            return [torch.zeros_like(p) for p in self.parameters]
        slopes = to_dense(torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True))
        if not self.products:
            check_differentiable_twice(slopes)
        return slopes

    def curved(self, slopes: Sequence[Tensor], directions: Sequence[Tensor], *, keep: bool) -> Sequence[Tensor]:
        """The gradient of slopes . directions; ``keep`` retains the graph of the slopes."""
        curved = [(slope, part) for slope, part in zip(slopes, directions, strict=True) if slope.requires_grad]
        if not curved:  # the loss is linear in the block
            return [torch.zeros_like(p) for p in self.parameters]
        outputs, along = zip(*curved, strict=True)
        try:
            curvature = torch.autograd.grad(outputs, self.parameters, along, retain_graph=keep, materialize_grads=True)
        except RuntimeError as error:
            if "not implemented" not in str(error):  # such as EmbeddingBag, Hardsigmoid
                raise
            raise ValueError(f"model: {NOT_TWICE} ({one_line(error, 120)})") from error
        return to_dense(curvature)


def check_differentiable_twice(slopes: Sequence[Tensor]) -> None:
    """Raise ValueError for a backward pass marked as not differentiable (`once_differentiable`).

    Autograd would silently omit its curvature, because the graph node that raises an error is not connected to any
    parameter.
    """
    waiting = [slope.grad_fn for slope in slopes if slope.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise ValueError(f"model: {NOT_TWICE} (a custom autograd function is marked once_differentiable)")
        following = {earlier for earlier, _ in node.next_functions if earlier is not None} - seen
        seen |= following
        waiting += following


def symmetric(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap ``product`` to check, in its first two calls, that the matrix is symmetric; weights must stay the same.

    u . H v is compared with v . H u, which needs no extra product. The check is most sensitive if v is close to H u, as
    in a Lanczos run. Raises ValueError as `check_symmetry`.
    """
    first: tuple[Tensor, Tensor] | None = None
    checked = False

    def product_checked(v: Tensor) -> Tensor:
        nonlocal first, checked
        image = product(v)
        if checked:
            return image
        if first is None:
            first = v, image
            return image
        u, image_of_u = first
        first, checked = None, True  # frees two vectors of n entries
        forms = torch.stack([u @ image, v @ image_of_u]).tolist()
        # Both forms may be 0 up to rounding, so compare with at least their size for random vectors.
        usual = (u.norm() * image.norm() + v.norm() * image_of_u.norm()).item() / math.sqrt(len(v))
        check_symmetry(forms[0] - forms[1], max(usual, *map(abs, forms)))
        return image

    return product_checked


def check_symmetry(difference: float, size: float) -> None:
    """Raise ValueError if ``difference``, relative to ``size``, is too large an asymmetry to be due to rounding."""
    if abs(difference) > ASYMMETRY * size:
        raise ValueError(
            f"model, loss: products H v are not symmetric (by {abs(difference) / size:.0%}): a backward pass that"
            " cannot be differentiated (an autograd.Function with detach or no_grad) drops second derivatives; write"
            " it with torch's operations on the tensors that it gets. Or, if the loss is nearly 0, the rounding of the"
            " model's dtype exceeds the curvature; use model.double()"
        )


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


def rademacher(n: int, seed: int, index: int) -> Tensor:
    """Probe number ``index``: n independent random signs, float64."""
    signs = torch.randint(0, 2, (n,), generator=make_generator(seed, "probe", index), dtype=torch.int8, device="cpu")
    return signs.double().mul_(2.0).sub_(1.0)
