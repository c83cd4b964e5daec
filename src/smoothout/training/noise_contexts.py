"""SmoothOut during a training: the perturbed models of each ghost batch, with a seed for every draw of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from smoothout.nn.copies import SmoothOutCopies
from smoothout.nn.curvature import FlatSteinTrace, RunningTrace
from smoothout.nn.flat import group_by_filter
from smoothout.nn.perturbation import SmoothOut
from smoothout.training.methods.base import GradientEstimator, TrainingPlan
from smoothout.training.methods.perturbed import seed_noise
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer
from smoothout.training.update import GhostBatch

CURVATURE_DRAWS = 8  # updates per epoch that estimate the trace; they cost half a percent of the time


class NoiseContexts(GradientEstimator):
    """SmoothOut's gradients in one training, and the trace of the Hessian that its noise estimates.

    ``model`` must already have its final memory format.
    """

    def __init__(self, model: nn.Module, noise: NoiseConfig, plan: TrainingPlan) -> None:
        self._noise, self._plan, self._update = noise, plan, 0

        # Noise that is drawn per update, or N copies drawn once before training.
        context = noise.context_for(model) if noise.a else None
        self._copies = SmoothOutCopies(context, noise.copies, plan.seed) if context and noise.copies else None
        self._context = None if self._copies else context
        self.forward_passes = self.statistics_passes = noise.copies if self._copies else 1
        self.shares_weights = context is None or (
            not noise.copies and noise.denoise and noise.noise_per is NoisePer.batch
        )
        self.generators = [torch.Generator(plan.device) for _ in range(plan.ghosts_per_update if self._context else 0)]

        # Fresh noise that is removed again gives an estimate of the Hessian's trace, at a few updates per epoch.
        self._finish_measuring: Callable[[], None] | None = None  # called when the update's gradient is complete
        self._interval = max(1, plan.updates_per_epoch // CURVATURE_DRAWS)
        if self._context is not None and noise.denoise:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            self.trace = RunningTrace([names[id(p)] for p in self._context.parameters], plan.device)
            self._stein = FlatSteinTrace(self._context.parameters, noise.distribution, noise.scaling)

    def begin_update(self, update: int) -> None:
        """Set the strength and seed the noise of each ghost batch."""
        self._update, self._finish_measuring = update, None
        seed_noise(self.generators, self._plan.seed, update, self._noise.noise_per)
        if self._context is not None:
            self._context.set_strength(self._noise.strength_at(update, self._plan.updates))

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Backpropagate at each of the ghost batch's perturbed models."""
        contexts = self.contexts(ghost_batch.index)
        for context in contexts:
            with context:
                ghost_batch.backward(len(contexts))
                if self._context is not None and self.variant and ghost_batch.index == 0:
                    self._measure(self._context, ghost_batch.num_ghosts)

    @property
    def variant(self) -> bool:
        """Whether the current update estimates the trace, which takes additional operations."""
        return self.trace is not None and self._update % self._interval == 0

    def skip(self, ghosts: Iterable[int]) -> None:
        """If noise stays in the weights, also add the noise of other processes' ghost batches."""
        if self._context is not None and not self._noise.denoise:
            for ghost in ghosts:
                for context in self.contexts(ghost):
                    with context:
                        pass

    def before_step(self) -> None:
        """Add to ``trace`` the estimate that needs the gradient of the whole update.

        One theta for all ghost batches (``noise_per=batch``) is paired with their mean gradient: the estimate is
        unbiased, as that of one ghost batch is, with less variance. With noise per ghost batch, only theta and gradient
        of the first one are used. If processes share an update, the first process estimates.
        """
        finish, self._finish_measuring = self._finish_measuring, None
        if finish is not None:
            finish()

    def keep_numbers_on_device(self) -> None:
        """Hold the strength in a tensor."""
        if self._context is not None:
            self._context.a = torch.zeros((), dtype=torch.float64, device=self._plan.device)

    def keep_numbers_on_host(self) -> None:
        """Hold the strength in a float again."""
        if self._context is not None:
            self._context.a = self._noise.strength_at(self._update, self._plan.updates)

    def contexts(self, ghost: int) -> Sequence[AbstractContextManager[object]]:
        """The contexts of the ``ghost``-th ghost batch's perturbed models; their gradients have equal weights.

        Noise per batch that stays in the weights is added at the first ghost batch.
        """
        if self._copies is not None:
            return self._copies
        already_in = ghost and self._noise.noise_per is NoisePer.batch and not self._noise.denoise
        if self._context is None or already_in:
            return [nullcontext()]
        self._context.generator = self.generators[ghost]
        return [self._context]

    @torch.no_grad()
    def _measure(self, context: SmoothOut, ghosts: int) -> None:
        """Measure after the first of ``ghosts`` ghost batches, or, with one noise for all of them, after the last."""
        clean = _by_filter(context.clean_weights)
        theta = _by_filter(context.parameters) - clean
        if self._noise.noise_per is NoisePer.batch:
            self._finish_measuring = partial(self._add, context, theta, 1)
        else:
            self._add(context, theta, ghosts, clean)

    @torch.no_grad()
    def _add(self, context: SmoothOut, theta: Tensor, ghosts: int, clean: Tensor | None = None) -> None:
        """Add to the trace the estimate from ``theta`` and the current gradient, which was divided by ``ghosts``."""
        assert self.trace is not None
        clean = _by_filter(context.parameters) if clean is None else clean
        self.trace.add(self._stein(theta, _gradients(context.parameters), clean, context.a, ghosts))


def _by_filter(tensors: Iterable[Tensor]) -> Tensor:
    """All entries, (n,), in the order of `FlatSteinTrace`, which needs no contiguous copies in any memory format."""
    return torch.cat([group_by_filter(tensor.detach()) for tensor in tensors])


def _gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters' gradients in the same order, (n,); zeros for a parameter without one."""
    pairs = ((p, torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters)
    return _by_filter(g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in pairs)
