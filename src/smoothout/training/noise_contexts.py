"""The perturbed models of each ghost batch of each update, every draw from its own address."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn

from smoothout.common.rng import derive_seed
from smoothout.nn.copies import SmoothOutCopies
from smoothout.nn.curvature import FlatSteinTrace, RunningTrace
from smoothout.nn.flat import group_by_filter
from smoothout.nn.ghost_batchnorm import supports_ghost_batchnorm
from smoothout.nn.perturbation import SmoothOut
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer


class NoiseContexts:
    """For a ghost batch of the present update: the contexts of its perturbed models. Dropout's chance is set too.

    Args:
        model: what is perturbed.
        noise: how.
        seed: of the training.
        total: updates of the whole training, which the strength's course refers to.
        every: so many updates lie between two that ``trace`` is fed by.
        ghosts: ghost batches an update, at most.
        device: of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: NoiseConfig,
        *,
        seed: int,
        total: int,
        every: int,
        ghosts: int,
        device: torch.device,
    ) -> None:
        self._noise, self._seed, self._total, self._update = noise, seed, total, 0
        self._drops = any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in model.modules())
        stochastic = bool(noise.a) and not noise.copies
        self._context = noise.context_for(model) if stochastic else None
        self._copies = (
            SmoothOutCopies(noise.context_for(model), noise.copies, seed) if noise.a and noise.copies else None
        )
        self._generators = [torch.Generator(device) for _ in range(ghosts)] if stochastic else []
        self.passes = noise.copies if self._copies is not None else 1  # of a ghost batch
        self._device, self._every, self._watched = device, every, False
        self._dropout = torch.Generator(device) if self._drops and device.type == "cuda" else None
        measurable = self._context is not None and noise.denoise
        self._names = _names(model, self._context)
        self.trace = RunningTrace(self._names, device) if measurable else None
        self._stein = (
            FlatSteinTrace(self._context.parameters, noise.distribution, noise.scaling) if self._context else None
        )
        self._later: Callable[[], None] | None = None  # measures, when the update's gradient is there
        clean = measurable or self._context is None  # no noise stays in
        self._at_once = clean and not self._drops and self._copies is None and supports_ghost_batchnorm(model)
        self.recordable = self._copies is None and (ghosts == 1 or not self._drops)

    @property
    def generators(self) -> list[torch.Generator]:
        """What an update draws from, dropout included."""
        return [*self._generators, self._dropout or self._shared] if self._drops else self._generators

    @contextmanager
    def own_dropout(self) -> Iterator[None]:
        """Within the block dropout on a CUDA device draws from this training's own generator.

        Graphs of several trainings must not share torch's default one: up to torch 2.12 it has a single place on the
        device for its seed, which a replay on one stream would overwrite before another stream's has read it.
        """
        if self._dropout is None:
            yield
            return
        shared = self._shared
        before = shared.graphsafe_get_state()
        shared.graphsafe_set_state(self._dropout)
        try:
            yield
        finally:
            shared.graphsafe_set_state(before)

    @property
    def _shared(self) -> torch.Generator:
        """Torch's own source of chance on the device."""
        cuda = self._device.type == "cuda"
        return torch.cuda.default_generators[self._device.index or 0] if cuda else torch.default_generator

    def _position(self) -> object:
        """Where in its stream torch's own source of chance is; nothing waits for the device."""
        return self._shared.get_offset() if self._device.type == "cuda" else self._shared.get_state().numpy().tobytes()

    @contextmanager
    def check_rng_use(self) -> Iterator[None]:
        """Within the block, the first time, raise ValueError where the network draws chance that nobody seeds."""
        if self._watched:
            yield
            return
        before = self._position()
        yield
        self._watched = True
        if not self._drops and self._position() != before:
            raise ValueError(
                "model: draws from torch's global generator, not by a torch.nn.Dropout: no seed reaches it"
            )

    def set_update(self, update: int) -> None:
        """Set the strength and every source of chance for ``update``, counted from the start of the training."""
        self._update, self._later = update, None
        for ghost, generator in enumerate(self._generators):
            generator.manual_seed(
                derive_seed(self._seed, "noise", update, ghost if self._noise.noise_per is NoisePer.ghost else 0)
            )
        self._seed_dropout(0)
        if self._context is not None:
            self._context.set_strength(self._noise.strength_at(update, self._total))

    @property
    def measuring(self) -> bool:
        """Whether the present update adds to ``trace``, which estimates the Hessian's trace (see ``curvature``)."""
        return self.trace is not None and self._update % self._every == 0

    @property
    def shares_noise(self) -> bool:
        """Whether one noise, or none, serves all ghost batches of a batch, so that they can go in one pass."""
        return self._at_once and (self._context is None or self._noise.noise_per is NoisePer.batch)

    def skip(self, ghosts: Iterable[int]) -> None:
        """Leave ``ghosts_per_batch`` to other ranks; where their noise stays in, it does so here too."""
        if self._context is not None and not self._noise.denoise:
            for ghost in ghosts:
                for context in self(ghost):
                    with context:
                        pass

    def measure(self) -> None:
        """Add to ``trace`` what is left to measure; ``grad`` of each parameter is the whole update's now.

        One theta for all ghost batches (``draw=batch``) goes with the mean gradient of all: the estimate is as unbiased
        as that of one ghost batch, and has less variance. With noise of their own it is the first one's theta and
        gradient. Where ranks share an update, it is the first rank that measures.
        """
        later, self._later = self._later, None
        if later is not None:
            later()

    @torch.no_grad()
    def _add(self, theta: Tensor, weight: Tensor, gradient: Tensor, ghosts: int) -> None:
        assert self.trace is not None
        assert self._stein is not None
        assert self._context is not None
        self.trace.add_parts(self._stein(theta, gradient, weight, self._context.a, ghosts))

    def keep_strength_on_device(self) -> None:
        """Hold the strength in a tensor, whose value a recorded update reads at every replay."""
        if self._context is not None:
            self._context.a = torch.zeros((), dtype=torch.float64, device=self._device)

    def keep_strength_on_host(self) -> None:
        """Hold the strength in a number again, as at the start."""
        if self._context is not None:
            self._context.a = self._noise.strength_at(self._update, self._total)

    def __call__(self, ghost: int, count: int = 1) -> Sequence[AbstractContextManager[object]]:
        """The contexts for the ``ghost``-th of an update's ``count`` ghost batches.

        A noise of the batch's that stays in comes with the first.
        """
        if ghost:
            self._seed_dropout(ghost)
        if self._copies is not None:
            return self._copies
        there = ghost and self._noise.noise_per is NoisePer.batch and not self._noise.denoise
        if self._context is None or there:
            return [nullcontext()]
        self._context.generator = self._generators[ghost]
        if ghost == 0 and self.measuring:
            return [_Watched(self._context, partial(self._see, count))]
        return [self._context]

    def _see(self, count: int) -> None:
        """Measure at the end of the first of ``count`` ghost batches; with one noise for all, when they are through."""
        assert self._context is not None
        parameters, clean = self._context.parameters, _by_filter(self._context.clean_weights)
        theta = _by_filter(parameters) - clean
        if self._noise.noise_per is NoisePer.batch:
            self._later = lambda: self._add(theta, _by_filter(parameters), _gradients(parameters), 1)
        else:
            self._add(theta, clean, _gradients(parameters), count)

    def _seed_dropout(self, ghost: int) -> None:
        if self._drops:
            # torch.manual_seed would format the call stack for devices that are not there, 0.1 ms at every call.
            (self._dropout or self._shared).manual_seed(derive_seed(self._seed, "dropout", self._update, ghost))


@dataclass(frozen=True)
class _Watched:
    """A context that calls ``see`` at its end, before it takes its noise out again."""

    context: SmoothOut
    see: Callable[[], None]

    def __enter__(self) -> SmoothOut:
        return self.context.__enter__()

    @torch.no_grad()
    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            if error[0] is None:
                self.see()
        finally:
            self.context.__exit__(*error)


def _by_filter(tensors: Iterable[Tensor]) -> Tensor:
    """All entries, (n,), as `FlatSteinTrace` takes them: no tensor need be copied, whatever its memory format is."""
    return torch.cat([group_by_filter(tensor.detach()) for tensor in tensors])


def _gradients(parameters: Sequence[Tensor]) -> Tensor:
    """The parameters' gradients, laid out as they are, (n,)."""
    found = ((p, _gradient(p)) for p in parameters)
    return _by_filter(g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in found)


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _names(model: nn.Module, context: SmoothOut | None) -> list[str]:
    """The names of the perturbed parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in (context.parameters if context else [])]
