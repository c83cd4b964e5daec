"""SmoothOut during a training: the gradient at perturbed weights, and the Hessian's trace that it estimates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from smoothout.nn.copies import SmoothOutCopies
from smoothout.nn.curvature import FlatSteinTrace, RunningTrace
from smoothout.nn.flat import group_by_filter
from smoothout.training.methods.base import GradientEstimator, TrainingPlan
from smoothout.training.methods.perturbed import NoisyGradient
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer
from smoothout.training.update import GhostBatch

CURVATURE_DRAWS = 8  # updates per epoch that estimate the trace; they cost half a percent of the time


class CopiesGradient(GradientEstimator):
    """The mean of the gradients at N perturbed copies with noise drawn once (see `SmoothOutCopies`)."""

    shares_weights = False

    def __init__(self, model: nn.Module, noise: NoiseConfig, plan: TrainingPlan) -> None:
        self._copies = SmoothOutCopies(noise.context_for(model), noise.copies, plan.seed)
        self.forward_passes = self.statistics_passes = noise.copies

    def backward(self, ghost_batch: GhostBatch) -> None:
        """Backpropagate at each copy."""
        for copy in self._copies:
            with copy:
                ghost_batch.backward(len(self._copies))


class NoiseContexts(NoisyGradient):
    """The gradient under new noise at every update, and the trace of the Hessian that this noise estimates.

    ``model`` must already have its final memory format.
    """

    def __init__(self, model: nn.Module, noise: NoiseConfig, plan: TrainingPlan) -> None:
        self._context = noise.context_for(model)
        super().__init__(model, self._context, plan, noise)
        self._per_batch, self._denoise = noise.noise_per is NoisePer.batch, noise.denoise
        self.shares_weights = self.shares_weights and noise.denoise

        # Noise that is removed again gives an estimate of the Hessian's trace, at a few updates per epoch.
        self._theta: Tensor | None = None  # the noise whose gradient is not complete yet, see `before_step`
        self._interval = max(1, plan.updates_per_epoch // CURVATURE_DRAWS)
        if noise.denoise:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            self.trace = RunningTrace([names[id(p)] for p in self._context.parameters], plan.device)
            self._stein = FlatSteinTrace(self._context.parameters, noise.distribution, noise.scaling)

    def _backward(self, ghost_batch: GhostBatch) -> None:
        with self.noise_of(ghost_batch.index):
            ghost_batch.backward()
            if self.variant and ghost_batch.index == 0:
                self._measure(ghost_batch.num_ghosts)

    @property
    def variant(self) -> bool:
        """Whether the current update estimates the trace, which takes additional operations."""
        return self.trace is not None and self._update % self._interval == 0

    def noise_of(self, ghost: int) -> AbstractContextManager[object]:
        """As in `NoisyGradient`, but noise per batch that stays in the weights is added at the first ghost batch."""
        return nullcontext() if ghost and self._per_batch and not self._denoise else super().noise_of(ghost)

    def skip(self, ghosts: Iterable[int]) -> None:
        """If noise stays in the weights, add the noise of other processes' ghost batches too."""
        if not self._denoise:
            for ghost in ghosts:
                with self.noise_of(ghost):
                    pass

    def before_step(self) -> None:
        """Add to ``trace`` the estimate that needs the gradient of the whole update.

        One theta for all ghost batches (``noise_per=batch``) is paired with their mean gradient. The estimate is
        unbiased, like that of one ghost batch, with less variance. With noise per ghost batch, only theta and gradient
        of the first one are used. If processes share an update, the first process estimates.
        """
        theta, self._theta = self._theta, None
        if theta is not None:
            self._add(theta, _by_filter(self._context.parameters), 1)

    def _measure(self, ghosts: int) -> None:
        """Measure after the first of ``ghosts`` ghost batches, or, with one noise for all of them, after the last."""
        clean = _by_filter(self._context.clean_weights)
        theta = _by_filter(self._context.parameters) - clean
        if self._per_batch:
            self._theta = theta
        else:
            self._add(theta, clean, ghosts)

    def _add(self, theta: Tensor, clean: Tensor, ghosts: int) -> None:
        """Add to the trace the estimate from ``theta`` and the current gradient, which was divided by ``ghosts``."""
        assert self.trace is not None
        self.trace.add(self._stein(theta, _gradients(self._context.parameters), clean, self._context.a, ghosts))


def _by_filter(tensors: Iterable[Tensor]) -> Tensor:
    """All entries, (n,), in the order of `FlatSteinTrace`, which needs no contiguous copies in any memory format."""
    return torch.cat([group_by_filter(tensor.detach()) for tensor in tensors])


def _gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters' gradients in the same order, (n,); zeros for a parameter without a gradient."""
    pairs = ((p, torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters)
    return _by_filter(g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in pairs)
