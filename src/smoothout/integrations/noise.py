"""Base classes of the callbacks: settings, and SmoothOut blocks around passes run by a framework."""

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
from smoothout.nn.filter_noise import ARWP
from smoothout.nn.noise_pair import MixedRWP
from smoothout.nn.options import NoiseDistribution, check_strength
from smoothout.nn.parameters import clear_weight_caches
from smoothout.nn.passes import Passes
from smoothout.nn.perturbation import AdaSmoothOut, SmoothOut
from smoothout.nn.watch import Paused
from smoothout.nn.weight_context import WeightContext


class CallbackBlocks:
    """Base class of the callbacks: blocks of a context around passes run by a framework, one training at a time.

    Args:
        seed: seed of the noise. The noise of micro-batch i (0 without accumulation) of optimizer step s comes from a
            generator seeded with ``smoothout.common.rng.derive_seed(seed, "noise", s, i)``, so it is the same in every
            process and after resuming. None draws from torch's global generator.

    Raises:
        ValueError: for a seed that is not an integer.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = None if seed is None else whole_number("seed", seed)
        self._noise: WeightContext | None = None
        self._noisy: list[Tensor] = []  # the perturbed weights, while the model holds the clean ones
        self._paused = Paused(())
        self._position = (-1, 0)
        self._wrapped: list[tuple[Any, str, Any]] = []  # object, name of the method, and its wrapper

    def _start(self, model: nn.Module, optimizer: Any = None) -> None:
        """Set up the noise for a training run of ``model``."""
        self._stop()
        self._noise = self._make(model, optimizer)
        if self.seed is not None and isinstance(self._noise, SmoothOut):
            self._noise.generator = torch.Generator(self._noise.device)
        self._position = (-1, 0)

    def _make(self, model: nn.Module, optimizer: Any) -> WeightContext | None:
        """The context of the blocks, or the one that draws noise for several passes; None without noise."""
        raise NotImplementedError

    def _stop(self) -> None:
        """Leave any open block, restore wrapped methods and release the model; safe to call twice."""
        self._leave()
        self._noise = None
        self._unwrap()

    def _unwrap(self) -> None:
        """Restore wrapped methods; a wrapper that another one has wrapped only calls the method from now on."""
        while self._wrapped:
            owner, name, wrapper = self._wrapped.pop()
            wrapper.retired = True
            while getattr(vars(owner).get(name), "retired", False):
                vars(owner).update(vars(owner).pop(name).before)

    def _wrap(self, owner: Any, name: str, within: Callable[..., Any]) -> None:
        """Until `_stop`, replace the method ``name`` of ``owner`` by ``within(method, ...)``."""
        method = getattr(owner, name)

        @wraps(method)
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            return method(*arguments, **keywords) if marks.retired else within(method, *arguments, **keywords)

        marks: Any = wrapper
        marks.retired, marks.before = False, {name: vars(owner)[name]} if name in vars(owner) else {}
        setattr(owner, name, wrapper)
        self._wrapped.append((owner, name, wrapper))

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
        self._address_noise(step)
        self._noise.__enter__()

    def _address_noise(self, step: int) -> None:
        """Count the micro-batch and seed its noise."""
        before, micro_batch = self._position
        self._position = (step, micro_batch + 1 if step == before else 0)
        if self.seed is not None and isinstance(self._noise, SmoothOut) and self._noise.generator is not None:
            self._noise.generator.manual_seed(derive_seed(self.seed, "noise", *self._position))

    def _leave(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._resume()
        if self._noise is not None and self._noise.block is not None:
            self._noise.__exit__(*error)

    def _pause(self) -> None:
        """Load the clean weights between the two passes, so that other hooks see them.

        Autograd saves leaf tensors by reference and compares version numbers, which swapping ``data`` does not change.
        A backward pass after `_resume` is therefore exact; before it, it would silently use the clean weights.
        """
        assert self._noise is not None
        self._paused = Paused(self._noise.parameters)  # allows writes to the clean weights in between
        self._noisy = [parameter.data for parameter in self._noise.parameters]
        self._put(self._noise.clean_weights)

    def _resume(self) -> None:
        if self._noisy:
            self._put(self._noisy)
            self._noisy = []
            self._paused.renew()

    def _put(self, weights: list[Tensor]) -> None:
        assert self._noise is not None
        for parameter, weight in zip(self._noise.parameters, weights, strict=True):
            parameter.data = weight
        clear_weight_caches()


class CallbackNoise(CallbackBlocks):
    """SmoothOut's and AdaSmoothOut's blocks, with the callbacks' arguments.

    Args:
        a: strength, as in `SmoothOut`; the attribute ``a`` may be changed during training.
        adaptive: AdaSmoothOut instead of SmoothOut.
        distribution: "uniform" or "gaussian".
        batchnorm: perturb weight and bias of BatchNorm layers too.
        seed: of the noise, see `CallbackBlocks`.

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
        super().__init__(seed)
        self.a = check_strength(a)
        self.adaptive, self.batchnorm = adaptive, batchnorm
        self.distribution = parse_enum(NoiseDistribution, "distribution", distribution)

    def _make(self, model: nn.Module, optimizer: Any) -> SmoothOut:
        kind = AdaSmoothOut if self.adaptive else SmoothOut
        return kind(model, self.a, self.distribution, batchnorm=self.batchnorm)

    def _address_noise(self, step: int) -> None:
        super()._address_noise(step)
        assert isinstance(self._noise, SmoothOut)
        self._noise.a = self.a


class CallbackMethod(CallbackBlocks):
    """The blocks of any method of the library.

    Args:
        make: called with the model and its optimizer when training starts; returns a context for one pass (`LPFSGD`,
            `ARWP`, `MSAM`) or the blocks of two (`SAM`, `ASAM`, `NSO`).
        seed: of the noise, see `CallbackBlocks`.

    Raises:
        TypeError: when training starts, if ``make`` returns something else.
        ValueError: for a seed that is not an integer; when training starts, for `MixedRWP`, which needs two batches,
            and for ``denoise=False``.
    """

    def __init__(self, make: Callable[[nn.Module, Any], WeightContext | Passes], *, seed: int | None = None) -> None:
        super().__init__(seed)
        self.make = make
        self._passes: Passes | None = None

    def _make(self, model: nn.Module, optimizer: Any) -> WeightContext | None:
        method = self.make(model, optimizer)
        if isinstance(method, MixedRWP):
            needs = "two batches per update, and a callback sees one; use ARWP or LPFSGD"
            raise ValueError(f"make: MixedRWP needs {needs}")  # noqa: TRY004
        if isinstance(method, SmoothOut) and not method.denoise:
            raise ValueError("make: denoise=False keeps the noise in the weights; a callback needs denoise=True")
        if not isinstance(method, WeightContext | Passes):
            raise TypeError(f"make: must return a context or blocks of the library, not {type(method).__name__}")
        self._passes = method if isinstance(method, Passes) else None
        return method if isinstance(method, WeightContext) else getattr(method, "noise", None)

    def _stop(self) -> None:
        super()._stop()
        self._passes = None

    def _observe(self, scale: float = 1.0) -> None:
        """Pass the gradients, ``scale`` times too large, to a method that uses them."""
        if isinstance(self._noise, ARWP):
            self._noise.observe(scale)
