"""SmoothOut's noise: what is drawn, how it is scaled, and the context inside which a model is perturbed.

    with SmoothOut(model, a=0.0375):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    optimizer.step()

Inside the context the parameters hold w + theta, outside they hold w to the last bit: w is never written to, because
adding and then subtracting the noise leaves rounding behind in about a quarter of all float32 weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from smoothout.common.deprecation import renamed_arguments, renamed_attribute
from smoothout.common.enums import parse_enum
from smoothout.common.rng import uniform_
from smoothout.nn.flat import FlatBuffers
from smoothout.nn.options import NoiseDistribution, NoiseScaling, check_strength
from smoothout.nn.parameters import clear_weight_caches, filter_norms, trainable_parameters


class SmoothOut:
    """[SmoothOut Eq. 5] Stochastic SmoothOut: a context where ``model`` is at w + theta, theta drawn at every entry.

    May be made once and entered at every step; ``a`` and ``generator`` may be set anew between entries, and layers may
    be frozen, replaced or cast. Parameters that require no gradient are left alone, tied ones are perturbed once, an
    embedding's padding row with the rest. Noise below the rounding of the weights is lost: for low precision keep them
    in float32 and use autocast. Parameter objects are never replaced: inside, their data lie in a buffer of
    this context's, so a tensor that shared memory with a parameter before stays clean, a state_dict taken inside must
    be cloned to outlive the block, and what is written to a parameter inside ends with it.

    The backward pass belongs into the block. Autograd refuses one after it, but for activation checkpointing, which
    would compute again with clean weights and tell nobody. DistributedDataParallel goes on as before.

    Args:
        model: any module; its parameters are perturbed.
        a: strength; half-width of U(-a, a), or standard deviation of N(0, a^2).
        distribution: "uniform" or "gaussian".
        scaling: "none", "weight" (theta_i is multiplied by |w_i|) or "filter" (AdaSmoothOut).
        batchnorm: perturb weight and bias of BatchNorm layers too.
        denoise: False leaves the noise in the weights (later version, Tables III and IV).
        generator: source of chance on the model's device; None is torch's global one.

    Raises:
        ValueError: on a strength that is negative or not finite, an unknown law or scaling, nothing to perturb,
            parameters that are not initialised yet, or that are sharded over processes (FSDP).
        RuntimeError: when entered again, or told to draw, before it was left; and by ``optimizer.step()`` inside, whose
            update would be lost with the noise (with ``denoise=False`` it may stand there).
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
        self.a = a
        self.distribution = parse_enum(NoiseDistribution, "distribution", distribution)
        self.scaling = parse_enum(NoiseScaling, "scaling", scaling)
        self.denoise = denoise
        self.generator = generator
        self._model, self._batchnorm = model, batchnorm
        self._clean: list[Tensor] | None = None
        self._guard: RemovableHandle | None = None
        names = {type(thing).__name__ for thing in (*model.modules(), *(p.data for p in model.parameters()))}
        if names & {"FullyShardedDataParallel", "DTensor"}:
            raise ValueError("model: its weights are sharded over processes; a context perturbs whole weights alone")
        self._allocate(trainable_parameters(model, batchnorm))

    law = renamed_attribute("law", "distribution")
    clean = renamed_attribute("clean", "clean_weights")
    noise = renamed_attribute("noise", "current_noise")

    @property
    def a(self) -> float | Tensor:
        """The strength; a tensor, on the device, is taken as it is."""
        return self._a

    @a.setter
    def a(self, value: float | Tensor) -> None:
        self._a = value if isinstance(value, Tensor) else check_strength(value)

    @torch.no_grad()
    def __enter__(self) -> SmoothOut:
        self.draw()
        clean = self._clean = [parameter.data for parameter in self.parameters]
        try:
            if self.denoise:
                self._guard = register_optimizer_step_pre_hook(self._refuse_step)
                perturbed = self._room.with_strides()  # an optimizer may count on the weights' strides
                torch._foreach_add_(perturbed, clean)  # theta + w has the bits of w + theta
                self._bind(perturbed)
            else:
                torch._foreach_add_([p.detach() for p in self.parameters], self._room.with_strides())
        except BaseException:  # an interrupt: the block is never entered, so nothing else would clean the weights
            self.__exit__()
            raise
        clear_weight_caches()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self._leave()
        except BaseException:  # an interrupt half-way
            self._leave()
            raise

    def _leave(self) -> None:
        """Give the clean weights back; it may be done again after it was broken off anywhere."""
        if self._guard is not None:
            self._guard.remove()
        if self.denoise and self._clean is not None:
            self._bind(self._clean)
        self._clean = None
        clear_weight_caches()

    def _refuse_step(self, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        ours = {id(parameter) for parameter in self.parameters}
        if self._clean is not None and any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            raise RuntimeError("optimizer.step() belongs after the block: at its end the clean weights come back")

    @property
    def clean_weights(self) -> list[Tensor]:
        """Inside the context: w, parameter by parameter. Needs ``denoise``."""
        if self._clean is None or not self.denoise:
            raise RuntimeError("there is no w to be had but inside a context that takes its noise out again")
        return self._clean

    def current_noise(self) -> list[Tensor]:
        """Inside the context: theta, parameter by parameter (to the rounding of w + theta). Needs ``denoise``."""
        return list(torch._foreach_sub([p.detach() for p in self.parameters], self.clean_weights))

    def set_strength(self, a: float) -> None:
        """Use ``a`` from the next draw on; where the strength is a tensor on the device, it is written there."""
        if isinstance(self.a, Tensor):
            self.a.fill_(check_strength(a))
        else:
            self.a = a

    def _bind(self, tensors: Sequence[Tensor]) -> None:
        """Let the parameters hold ``tensors``; autograd refuses a backward pass over what it kept of those before."""
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor
        torch.autograd.graph.increment_version(self.parameters)

    def _allocate(self, parameters: list[nn.Parameter]) -> None:
        """Perturb ``parameters`` from now on."""
        self.parameters, self._kinds, self.device = parameters, _dtypes_and_devices(parameters), parameters[0].device
        self._room = FlatBuffers(parameters)

    @torch.no_grad()
    def draw(self) -> Sequence[Tensor]:
        """Draw theta at the present weights; returns it parameter by parameter (valid until the next entry or draw)."""
        if self._clean is not None:
            raise RuntimeError("this SmoothOut context is already entered; make a second one to perturb twice")
        present = trainable_parameters(self._model, self._batchnorm)
        if _dtypes_and_devices(present) != self._kinds:
            self._allocate(present)
        scaled = self.scaling is not NoiseScaling.none
        for flat in (group.flat for group in self._room.groups):
            if self.distribution is NoiseDistribution.uniform:
                uniform_(flat, self.generator, 1.0 if scaled else self.a)
            elif self.distribution is NoiseDistribution.gaussian:
                flat.normal_(generator=self.generator).mul_(1.0 if scaled else self.a)
            else:
                assert_never(self.distribution)
        if scaled:
            self._scale()
        return self._room.views

    def _scale(self) -> None:
        """Multiply what was drawn by the strength and what it is relative to."""
        for group in self._room.groups:
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
    """Whether noise is scaled to the filters of all tensors at once: on CUDA, where each operation costs a launch.

    It rounds sums of squares otherwise, would save a CPU nothing, and not every device has segmented sums.
    """
    return device.type == "cuda"


def _dtypes_and_devices(parameters: Sequence[Tensor]) -> list[tuple[object, ...]]:
    """What buffers are made for: which parameters, of which kind and layout."""
    return [(id(p), p.dtype, p.device, p.shape, p.stride()) for p in parameters]


class AdaSmoothOut(SmoothOut):
    """AdaSmoothOut: SmoothOut whose noise has, in every filter, the length a ||w_filter||.

    Takes what SmoothOut takes, but for ``scaling``; 0.15 is the published strength (ResNet44 on CIFAR-10).
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
    """[SmoothOut Eq. 12] Scale each filter of ``direction`` in place to the length a ||w_filter||, and return it.

    a ||w_i|| theta_i / (||theta_i|| + 1e-6); both tensors have the same shape. In a one-dimensional tensor every
    number is a filter of its own, so its noise is +-a |w_i|.
    """
    wide = torch.promote_types(direction.dtype, torch.float32)  # float16 ends at 65504
    ratio = filter_norms(weight.to(wide)).mul(a) / (filter_norms(direction.to(wide)) + 1e-6)
    return direction.copy_(direction.to(wide).mul_(ratio))
