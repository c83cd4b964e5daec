"""SmoothOut's noise: how it is drawn and scaled, and the context in which a model is perturbed.

    with SmoothOut(model, a=0.0375):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    optimizer.step()

Inside the context the parameters hold w + theta, outside they hold exactly w. w is never written to, because adding and
then subtracting the noise would change about a quarter of all float32 weights by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, assert_never

import torch
from torch import Tensor, nn

from smoothout.common.deprecation import renamed_arguments, renamed_attribute
from smoothout.common.enums import parse_enum
from smoothout.common.rng import uniform_
from smoothout.nn.flat import FlatBuffers, FlatGroup
from smoothout.nn.guards import check_weights
from smoothout.nn.options import NoiseDistribution, NoiseScaling, check_strength
from smoothout.nn.parameters import clear_weight_caches, filter_norms
from smoothout.nn.weight_context import WeightContext, find_parameters, untracked


class SmoothOut(WeightContext):
    """[SmoothOut Eq. 5] Stochastic SmoothOut: a context where ``model`` is at w + theta, theta drawn at every entry.

        noise = SmoothOut(model, a=0.0375)
        for x, y in loader:
            optimizer.zero_grad()
            with noise:
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    One context can be entered at every step, also in `torch.inference_mode`. Between entries, ``a`` and ``generator``
    can be set, and layers can be frozen, replaced or cast. Parameters that require no gradient are not perturbed, tied
    parameters are perturbed once, and an embedding's padding row is perturbed like the others. If a weight is computed
    from parameters (parametrizations, pruning, weight and spectral norm), these are perturbed. Noise below the rounding
    of the weights is lost. For low precision, keep the weights in float32 and use autocast. Parameter objects are never
    replaced. Inside, their data are in a buffer of this context. A tensor that shared memory with a parameter stays
    clean, and a state_dict taken inside must be cloned to outlive the block.

    At the end the clean weights are restored bit for bit, so writes to a perturbed parameter inside are lost.
    ``optimizer.step()`` inside raises an error at once. ``load_state_dict``, ``nn.init``, in-place operations on a
    parameter or a view of it, and replacing a parameter or its data raise an error at the end. Writes to
    ``parameter.data``, or to numpy arrays that share its memory, are not detected; some moving averages and weight
    clipping do this.

    Run the backward pass inside the block. A later one raises an error if it goes through an output of ``model``. If
    only parts of the model were called, autograd raises one unless autocast or activation checkpointing hides the
    changed weights. DistributedDataParallel works as usual.

    Args:
        model: a module of any kind in the table of this folder's README; its parameters are perturbed.
        a: strength; half-width of U(-a, a), or standard deviation of N(0, a^2).
        distribution: "uniform" or "gaussian".
        scaling: "none", "weight" (theta_i is multiplied by |w_i|) or "filter" (AdaSmoothOut).
        batchnorm: perturb weight and bias of BatchNorm layers too.
        denoise: False keeps the noise in the weights (later version, Tables III and IV).
        generator: on the model's device; None is torch's global generator.

    Raises:
        TypeError: for a model that is not a torch.nn.Module, or a generator that is not a torch.Generator.
        ValueError: for a strength that is negative or not finite, an unknown distribution or scaling, nothing to
            perturb, or a kind of model that cannot be perturbed (`guards`); before anything is touched.
        RuntimeError: if the context is entered, or draws noise, while it is still entered; from ``optimizer.step()``
            inside, because the update would be lost (allowed with ``denoise=False``); from a backward pass after the
            block; at the end of the block, with the weights restored, as `SwappedWeights`.
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
        super().__init__(model)
        parameters = find_parameters(model, batchnorm)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: must be a torch.Generator or None, not {generator!r}")
        self.a = a
        self.distribution = parse_enum(NoiseDistribution, "distribution", distribution)
        self.scaling = parse_enum(NoiseScaling, "scaling", scaling)
        self.denoise = denoise
        self.generator = generator
        self._batchnorm = batchnorm
        self._allocate(parameters)

    def __repr__(self) -> str:
        scaling = "" if self.scaling is NoiseScaling.none else f", scaling={self.scaling.value!r}"
        weights = sum(parameter.numel() for parameter in self.parameters)
        return (
            f"<{type(self).__name__}(a={self.a}, distribution={self.distribution.value!r}{scaling}) of"
            f" {weights:,} weights in {type(self._model).__name__}{', entered' if self._entered else ''}>"
        )

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
    def __enter__(self) -> Self:
        if self.denoise:
            return super().__enter__()
        self.draw()
        torch._foreach_add_([p.detach() for p in self.parameters], self._buffers.with_strides())
        clear_weight_caches()
        self._entered = True
        return self

    def _moved(self) -> Sequence[Tensor]:
        self.draw()
        noise = self._buffers.with_strides()
        torch._foreach_add_(noise, [p.detach() for p in self.parameters])  # theta + w equals w + theta bit for bit
        return noise

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
        """Draw theta at the current weights; returns a tensor per parameter, valid until the next entry or draw."""
        self.follow_model()
        for group in self._buffers.groups:
            self._fill(group)
        return self._buffers.views

    def follow_model(self) -> None:
        """Allocate new buffers if parameters have been frozen, replaced, cast or moved; only outside the block."""
        self._check_left()
        parameters = find_parameters(self._model, self._batchnorm)
        if _dtypes_and_devices(parameters) != self._kinds:
            self._allocate(parameters)

    def _fill(self, group: FlatGroup) -> None:
        """Draw the noise of ``group``'s parameters."""
        strength = self.a if self.scaling is NoiseScaling.none else 1.0
        if self.distribution is NoiseDistribution.uniform:
            uniform_(group.flat, self.generator, strength)
        elif self.distribution is NoiseDistribution.gaussian:
            group.flat.normal_(generator=self.generator).mul_(strength)
        else:
            assert_never(self.distribution)
        if self.scaling is not NoiseScaling.none:
            self._scale(group)

    def _scale(self, group: FlatGroup) -> None:
        """Scale the draw to the weights or the filters, times the strength."""
        weights = [self.parameters[index].detach() for index in group.members]
        if self.scaling is NoiseScaling.weight:
            torch._foreach_mul_(group.views, list(torch._foreach_abs(weights)))
            group.flat.mul_(self.a)
        elif _draws_at_once(group.flat.device):
            group.filters.scale(group.flat, weights, self.a)
        else:
            for noise, weight in zip(group.views, weights, strict=True):
                filter_normalize_(noise, weight, self.a)


def _draws_at_once(device: torch.device) -> bool:
    """Whether to scale the filters of all tensors at once: on CUDA, where each operation costs a launch.

    Sums of squares are rounded differently, it saves no time on a CPU, and not every device has segmented sums.
    """
    return device.type == "cuda"


def _dtypes_and_devices(parameters: Sequence[Tensor]) -> list[tuple[object, ...]]:
    """The properties that the buffers depend on: identity, dtype, device, shape and strides of each parameter."""
    return [(id(p), p.dtype, p.device, p.shape, p.stride()) for p in parameters]


class AdaSmoothOut(SmoothOut):
    """AdaSmoothOut: SmoothOut with noise scaled to the length a ||w_filter|| in every filter.

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

    a ||w_i|| theta_i / (||theta_i|| + 1e-6); both tensors have the same shape. In a one-dimensional tensor each entry
    is a filter, so its noise is +-a |w_i|.
    """
    wide = torch.promote_types(direction.dtype, torch.float32)  # float16 ends at 65504
    ratio = filter_norms(weight.to(wide)).mul(a) / (filter_norms(direction.to(wide)) + 1e-6)
    return direction.copy_(direction.to(wide).mul_(ratio))
