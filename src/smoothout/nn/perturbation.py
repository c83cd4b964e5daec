"""SmoothOut's noise: how it is drawn and scaled, and the context inside which a model is perturbed.

    with SmoothOut(model, a=0.0375):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    optimizer.step()

Inside the context the parameters hold w + theta, outside they hold w to the last bit. w is never written to: adding and
then subtracting the noise would change about a quarter of all float32 weights by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from smoothout.common.deprecation import renamed_arguments, renamed_attribute
from smoothout.common.enums import parse_enum
from smoothout.common.rng import uniform_
from smoothout.nn.flat import FlatBuffers, FlatGroup
from smoothout.nn.guards import check_layers, check_modules, check_weights
from smoothout.nn.late_backward import FRAMEWORKS, LateBackward
from smoothout.nn.options import NoiseDistribution, NoiseScaling, check_strength
from smoothout.nn.parameters import clear_weight_caches, filter_norms, select_trainable
from smoothout.nn.swapped import SwappedWeights


@contextmanager
def untracked() -> Iterator[None]:
    """Inside, autograd records nothing, and tensors are usual ones also within `torch.inference_mode`."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class SmoothOut:
    """[SmoothOut Eq. 5] Stochastic SmoothOut: a context where ``model`` is at w + theta, theta drawn at every entry.

    One context can be entered at every step, also in `torch.inference_mode`; ``a`` and ``generator`` can be set between
    entries, and layers can be frozen, replaced or cast. Parameters that require no gradient are left alone, tied ones
    are perturbed once, an embedding's padding row like the others. Of a weight that is made from parameters
    (parametrizations, pruning, weight and spectral norm), these are perturbed. Noise below the rounding of the weights
    is lost: for low precision keep the weights in float32 and use autocast. Parameter objects are never replaced.
    Inside, their data are in a buffer of this context: a tensor that shared memory with a parameter stays clean, and a
    state_dict taken inside must be cloned to outlive the block.

    What is written to a perturbed parameter inside is lost at the end, where the clean weights come back to the last
    bit. ``load_state_dict``, ``nn.init``, an in-place operation on a parameter or a view of it, other data or another
    parameter in its place raise an error there, and ``optimizer.step()`` at once. Not noticed are writes to
    ``parameter.data`` and to numpy arrays that share its memory, as some moving averages and weight clipping do.

    The backward pass belongs inside the block. A later one raises if it comes through an output of ``model``; if only
    parts of the model were called, autograd refuses it unless autocast or activation checkpointing hides the weights.
    DistributedDataParallel works as before.

    Args:
        model: a module of any kind in the table of this folder's README; its parameters are perturbed.
        a: strength; half-width of U(-a, a), or standard deviation of N(0, a^2).
        distribution: "uniform" or "gaussian".
        scaling: "none", "weight" (theta_i is multiplied by |w_i|) or "filter" (AdaSmoothOut).
        batchnorm: perturb weight and bias of BatchNorm layers too.
        denoise: False keeps the noise in the weights (later version, Tables III and IV).
        generator: on the model's device; None is torch's global one.

    Raises:
        TypeError: for a model or a generator that is none.
        ValueError: for a strength that is negative or not finite, an unknown distribution or scaling, nothing to
            perturb, or a kind of model that cannot be perturbed (`guards`); before anything is touched.
        RuntimeError: if it is entered, or asked to draw, before it was left; by ``optimizer.step()`` inside, whose
            update would be lost with the noise (with ``denoise=False`` it is allowed); by a backward pass after the
            block; at its end, with the weights given back, as `SwappedWeights`.
    """

    @renamed_arguments(law="distribution")
    def __init__(
        self,
        model: nn.Module,
        a: float,
        distribution: str = "uniform",
        *,
        scaling: str = "none",
        batchnorm: bool = False,
        denoise: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        present = _perturbed(model, batchnorm)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: must be a torch.Generator or None, not {generator!r}")
        self.a = a
        self.distribution = parse_enum(NoiseDistribution, "distribution", distribution)
        self.scaling = parse_enum(NoiseScaling, "scaling", scaling)
        self.denoise = denoise
        self.generator = generator
        self._model, self._batchnorm = model, batchnorm
        self._entered = False
        self._swapped: SwappedWeights | None = None
        self._guards: list[RemovableHandle] = []
        self._allocate(present)

    law = renamed_attribute("law", "distribution")
    clean = renamed_attribute("clean", "clean_weights")
    noise = renamed_attribute("noise", "current_noise")

    @property
    def a(self) -> float | Tensor:
        """The strength, a float or a tensor on the device; a tensor is not checked."""
        return self._a

    @a.setter
    def a(self, value: float | Tensor) -> None:
        self._a = value if isinstance(value, Tensor) else check_strength(value)

    @untracked()
    def __enter__(self) -> SmoothOut:
        self.draw()
        noise = self._buffers.with_strides()  # an optimizer may count on the weights' strides
        try:
            self._entered = True
            if self.denoise:
                self._guards.append(register_optimizer_step_pre_hook(self._refuse_step))
                self._guards.extend(LateBackward.register(self._model, self))
                self._swapped = SwappedWeights(self._model, self.parameters, noise)
                torch._foreach_add_(noise, self._swapped.clean)  # theta + w has the bits of w + theta
                self._swapped.__enter__()
            else:
                torch._foreach_add_([p.detach() for p in self.parameters], noise)
                clear_weight_caches()
        except BaseException:  # an interrupt: the block is never entered, so nothing else would restore the weights
            self.__exit__(BaseException)
            raise
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self._leave(*error)
        except BaseException:  # an interrupt half-way
            self._leave(*error)
            raise

    def _leave(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Restore the clean weights; can be repeated after an interruption anywhere."""
        for guard in self._guards:
            guard.remove()
        self._guards.clear()
        if self._swapped is not None:
            self._swapped.__exit__(*error)
        self._swapped, self._entered = None, False

    def _refuse_step(self, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        ours = {id(parameter) for parameter in self.parameters}
        if self._entered and any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            raise RuntimeError(
                f"optimizer.step() belongs after the block, which restores the clean weights at its end; {FRAMEWORKS}"
            )

    @property
    def block(self) -> object:
        """Identifies the present block; None outside."""
        return self._swapped

    @property
    def clean_weights(self) -> list[Tensor]:
        """Inside the context: w, parameter by parameter. Needs ``denoise``."""
        if self._swapped is None:
            raise RuntimeError("clean weights exist only inside a context with denoise=True")
        return self._swapped.clean

    def current_noise(self) -> list[Tensor]:
        """Inside the context: theta, parameter by parameter (to the rounding of w + theta). Needs ``denoise``."""
        return list(torch._foreach_sub([p.detach() for p in self.parameters], self.clean_weights))

    def set_strength(self, a: float) -> None:
        """Use ``a`` from the next draw on; a strength that is a tensor is changed in place."""
        if isinstance(self.a, Tensor):
            self.a.fill_(check_strength(a))
        else:
            self.a = a

    @untracked()
    def _allocate(self, parameters: list[nn.Parameter]) -> None:
        """Make buffers for the noise of ``parameters``."""
        check_weights(self._model, parameters)
        self._buffers = FlatBuffers(parameters)  # first, because memory may not suffice
        self.parameters, self._kinds, self.device = parameters, _dtypes_and_devices(parameters), parameters[0].device

    @untracked()
    def draw(self) -> Sequence[Tensor]:
        """Draw theta at the present weights; returns it parameter by parameter (valid until the next entry or draw)."""
        if self._entered:
            raise RuntimeError(
                f"this SmoothOut context is already entered: leave it first (to perturb twice, use two); {FRAMEWORKS}"
            )
        present = _perturbed(self._model, self._batchnorm)
        if _dtypes_and_devices(present) != self._kinds:
            self._allocate(present)
        strength = self.a if self.scaling is NoiseScaling.none else 1.0
        for group in self._buffers.groups:
            if self.distribution is NoiseDistribution.uniform:
                uniform_(group.flat, self.generator, strength)
            elif self.distribution is NoiseDistribution.gaussian:
                group.flat.normal_(generator=self.generator).mul_(strength)
            else:
                assert_never(self.distribution)
            if self.scaling is not NoiseScaling.none:
                self._scale(group)
        return self._buffers.views

    def _scale(self, group: FlatGroup) -> None:
        """Multiply the draw by the strength and by what it is relative to."""
        weights = [self.parameters[index].detach() for index in group.members]
        if self.scaling is NoiseScaling.weight:
            torch._foreach_mul_(group.views, list(torch._foreach_abs(weights)))
            group.flat.mul_(self.a)
        elif _draws_at_once(group.flat.device):
            group.filters.scale(group.flat, weights, self.a)
        else:
            for noise, weight in zip(group.views, weights, strict=True):
                filter_normalize_(noise, weight, self.a)


def _perturbed(model: nn.Module, batchnorm: bool) -> list[nn.Parameter]:
    """`trainable_parameters` without a look at each, which an entry needs for new ones only."""
    modules = check_layers(model)
    check_modules(model, modules)
    return select_trainable(modules, batchnorm)


def _draws_at_once(device: torch.device) -> bool:
    """Whether to scale the filters of all tensors at once: on CUDA, where each operation costs a launch.

    It rounds sums of squares differently, saves a CPU nothing, and not every device has segmented sums.
    """
    return device.type == "cuda"


def _dtypes_and_devices(parameters: Sequence[Tensor]) -> list[tuple[object, ...]]:
    """What the buffers depend on: which parameters, of which kind and layout."""
    return [(id(p), p.dtype, p.device, p.shape, p.stride()) for p in parameters]


class AdaSmoothOut(SmoothOut):
    """AdaSmoothOut: SmoothOut whose noise has, in every filter, the length a ||w_filter||.

    Takes the arguments of SmoothOut except ``scaling``; 0.15 is the published strength (ResNet44 on CIFAR-10).
    """

    @renamed_arguments(law="distribution")
    def __init__(
        self,
        model: nn.Module,
        a: float,
        distribution: str = "uniform",
        *,
        batchnorm: bool = False,
        denoise: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            model, a, distribution, scaling="filter", batchnorm=batchnorm, denoise=denoise, generator=generator
        )


def filter_normalize_(direction: Tensor, weight: Tensor, a: float | Tensor = 1.0) -> Tensor:
    """[SmoothOut later Eq. 12] Scale each filter of ``direction`` in place to the length a ||w_filter||, and return it.

    a ||w_i|| theta_i / (||theta_i|| + 1e-6); both tensors have the same shape. In a one-dimensional tensor each number
    is a filter, so its noise is +-a |w_i|.
    """
    wide = torch.promote_types(direction.dtype, torch.float32)  # float16 ends at 65504
    ratio = filter_norms(weight.to(wide)).mul(a) / (filter_norms(direction.to(wide)) + 1e-6)
    return direction.copy_(direction.to(wide).mul_(ratio))
