"""Base of the callbacks: their settings, and SmoothOut blocks around passes that a framework runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.common.enums import parse_enum
from smoothout.common.integers import whole_number
from smoothout.common.rng import derive_seed
from smoothout.nn.options import NoiseDistribution, check_strength
from smoothout.nn.parameters import clear_weight_caches
from smoothout.nn.perturbation import AdaSmoothOut, SmoothOut
from smoothout.nn.watch import Watch, pause_all


class CallbackNoise:
    """Base class of the callbacks, with their arguments; one callback serves one training run at a time.

    Args:
        a: strength, as in `SmoothOut`; the attribute ``a`` may be changed during training.
        adaptive: AdaSmoothOut instead of SmoothOut.
        distribution: "uniform" or "gaussian".
        batchnorm: perturb weight and bias of BatchNorm layers too.
        seed: seed of the noise. The noise of micro-batch i (0 without accumulation) of optimizer step s comes from a
            generator seeded with ``smoothout.common.rng.derive_seed(seed, "noise", s, i)``, so it is the same in every
            process and after resuming. None draws from torch's global generator.

    Raises:
        ValueError: for a strength that is negative or not finite, an unknown distribution, or a seed that is not an
            integer.
    """

    def __init__(
        self,
        a: float,
        *,
        adaptive: bool = False,
        distribution: str = "uniform",
        batchnorm: bool = False,
        seed: int | None = None,
    ) -> None:
        self.a = check_strength(a)
        self.adaptive, self.batchnorm = adaptive, batchnorm
        self.seed = None if seed is None else whole_number("seed", seed)
        self.distribution = parse_enum(NoiseDistribution, "distribution", distribution)
        self._noise: SmoothOut | None = None
        self._noisy: list[Tensor] = []  # the perturbed weights, while the clean ones are in their place
        self._paused: list[Watch] = []
        self._position = (-1, 0)
        self._wrapped: list[tuple[Any, str]] = []

    def _start(self, model: nn.Module) -> None:
        """Set up the noise for a training run of ``model``."""
        self._stop()
        kind = AdaSmoothOut if self.adaptive else SmoothOut
        self._noise = kind(model, self.a, self.distribution, batchnorm=self.batchnorm)
        if self.seed is not None:
            self._noise.generator = torch.Generator(self._noise.device)
        self._position = (-1, 0)

    def _stop(self) -> None:
        """Leave any open block, restore wrapped methods and release the model; safe to call twice."""
        self._leave()
        self._noise = None
        while self._wrapped:
            owner, name = self._wrapped.pop()
            vars(owner).pop(name, None)

    def _wrap(self, owner: Any, name: str, within: Callable[..., Any]) -> None:
        """Until `_stop`, replace the method ``name`` of ``owner`` by ``within(method, ...)``."""
        method = getattr(owner, name)
        setattr(owner, name, wraps(method)(lambda *arguments, **keywords: within(method, *arguments, **keywords)))
        self._wrapped.append((owner, name))

    @contextmanager
    def _block(self, step: int) -> Iterator[None]:
        """One block around both passes of a micro-batch of optimizer step ``step``."""
        with self._left_by_errors():
            self._enter(step)
            yield
            self._leave()

    @contextmanager
    def _forward_half(self, step: int) -> Iterator[None]:
        """The first half of a block, around the forward pass; the weights are clean from its end to the second half."""
        with self._left_by_errors():
            self._enter(step)
            yield
            self._pause()

    @contextmanager
    def _backward_half(self) -> Iterator[None]:
        """The second half, around the backward pass."""
        with self._left_by_errors():
            self._resume()
            yield
            self._leave()

    @contextmanager
    def _left_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._leave(type(error), error, error.__traceback__)
            raise

    def _enter(self, step: int) -> None:
        self._leave()  # a forward pass without a backward pass
        assert self._noise is not None
        before, micro_batch = self._position
        self._position = (step, micro_batch + 1 if step == before else 0)
        if self.seed is not None and self._noise.generator is not None:
            self._noise.generator.manual_seed(derive_seed(self.seed, "noise", *self._position))
        self._noise.a = self.a
        self._noise.__enter__()

    def _leave(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._resume()
        if self._noise is not None and self._noise.block is not None:
            self._noise.__exit__(*error)

    def _pause(self) -> None:
        """Swap the clean weights in between the two passes, so that other hooks see them.

        Autograd saves leaf tensors by reference and compares version numbers, which swapping ``data`` does not change.
        So a backward pass after `_resume` is exact; one before it would silently use the clean weights.
        """
        assert self._noise is not None
        self._paused = pause_all()  # so that writes to the clean weights in between are kept
        self._noisy = [parameter.data for parameter in self._noise.parameters]
        self._put(self._noise.clean_weights)

    def _resume(self) -> None:
        if self._noisy:
            self._put(self._noisy)
            self._noisy = []
            for watch in self._paused:
                watch.renew()

    def _put(self, weights: list[Tensor]) -> None:
        assert self._noise is not None
        for parameter, weight in zip(self._noise.parameters, weights, strict=True):
            parameter.data = weight
        clear_weight_caches()
