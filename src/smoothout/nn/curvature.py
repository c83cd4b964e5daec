"""Estimate the Hessian's trace, at the scale of the noise, from training steps under noise.

A step of SmoothOut draws theta and computes g = grad C(w + theta). If the entries of theta have mean 0 and are
independent of each other and of the data, theta . g / var(theta) estimates the trace of the Hessian of C around w:

- N(0, a^2), variance a^2: Stein's identity, E[theta_i g_i] = a^2 E[C_ii(w + theta)], an average under the noise.
- U(-a, a), variance a^2 / 3: integrating by parts, E[theta_i g_i] = (a^2 / 3) E[C_ii(w + theta')]. theta' is theta
  except for its i-th entry, which has the parabolic density 3 (a^2 - t^2) / (4 a^3): the middle of the box weighs more.
- AdaSmoothOut, filters of d entries and noise of length r = a ||w_f||: variance r^2 / d. For Gaussian noise the
  expectation is the mean of the filter's part of the trace over the ball of radius r, by the divergence theorem.
  Uniform noise has no such closed form, because its directions favor a cube's corners. In a one-dimensional tensor
  d = 1, and the mean is over [-r, r].

If C is quadratic, each expectation is the Hessian's trace. Otherwise it differs from the trace at w for two reasons:
kinks (ReLU) contribute where the noise crosses them, and C is the loss of the training step, with dropout and BatchNorm
in training mode. A single draw is noisy: the slope at w adds |grad C(w)|^2 / variance to the estimate's variance, so
average over many steps. Ghost batches that share their noise are one draw, to be paired with their mean gradient.

The same product is the metric s of [SmoothOut Eq. 9]: dE[C(w + theta)] / da = E[theta . g] / a for all of these
distributions, because theta is a times something that does not depend on a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.common.estimates import Estimate
from smoothout.nn.flat import filter_lengths, segment_sums
from smoothout.nn.norms import at_least_float32
from smoothout.nn.options import NoiseDistribution, NoiseScaling
from smoothout.nn.parameters import filter_norms

Variance = float | Tensor


@dataclass(frozen=True)
class TraceResult:
    """Means over ``count`` draws with standard errors: of the trace, and of each layer's diagonal block."""

    count: int
    total: Estimate
    layers: dict[str, Estimate]


def stein_trace(thetas: Sequence[Tensor], gradients: Sequence[Tensor], variances: Sequence[Variance]) -> Tensor:
    """[Stein 1981] theta . grad C(w + theta) / variance, tensor by tensor: estimates the Hessian's trace from one draw.

    Returns each tensor's part of the trace, (k,), float64 on the device; their sum estimates the trace, without bias as
    described in the module's docstring. It does not synchronize with the device. Raises ValueError if the lists do not
    match, or a variance that is a float is not above 0.

    Args:
        thetas: the noise, one tensor per perturbed parameter.
        gradients: of the loss under that noise, in the same shapes, before clipping and weight decay. It may be the
            mean over several ghost batches with the same noise, but not over several draws.
        variances: variance of the noise's entries, for each tensor: a float, or a tensor that broadcasts to its shape;
            see `noise_variances`. Zeros in such a tensor mark entries without noise, which add 0.
    """
    if not len(thetas) == len(gradients) == len(variances):
        raise ValueError(f"{len(thetas)} thetas, {len(gradients)} gradients, {len(variances)} variances: must match")
    return torch.stack([_part(*arguments) for arguments in zip(thetas, gradients, variances, strict=True)])


def _part(theta: Tensor, gradient: Tensor, variance: Variance) -> Tensor:
    if theta.shape != gradient.shape:
        raise ValueError(f"theta of shape {tuple(theta.shape)}, gradient of shape {tuple(gradient.shape)}: must match")
    theta, gradient = at_least_float32([theta.detach(), gradient.detach()])
    products = theta * gradient
    if isinstance(variance, Tensor):
        return torch.where(variance > 0, products / variance, 0.0).sum(dtype=torch.float64)
    if not 0 < variance < math.inf:
        raise ValueError(f"the noise's variance is {variance}: must be a finite number above 0")
    return products.sum(dtype=torch.float64) / variance


@renamed_arguments(law="distribution")
def noise_variances(
    weights: Sequence[Tensor],
    a: float | Tensor,
    *,
    distribution: NoiseDistribution | str = NoiseDistribution.uniform,
    scaling: NoiseScaling | str = NoiseScaling.none,
) -> list[Variance]:
    """The variance of each entry of SmoothOut's noise of strength ``a``, for each of the clean ``weights``.

    none: a^2 / 3 (uniform) or a^2 (Gaussian). weight: the same times w^2. filter: (a ||w_f||)^2 / d for a filter of d
    entries with both distributions, because its length is fixed (up to the 1e-6 in `filter_normalize_`). Scaled noise
    measures nothing where weights are 0, and little where they are small: the estimate's standard deviation grows as
    slope / weight. Raises ValueError for an unknown distribution or scaling.
    """
    distribution = parse_enum(NoiseDistribution, "distribution", distribution)
    scaling = parse_enum(NoiseScaling, "scaling", scaling)
    if scaling == NoiseScaling.none:
        return [a * a * distribution.variance for _ in weights]
    weights = at_least_float32([w.detach() for w in weights])  # a float16's square may be 0
    if scaling == NoiseScaling.weight:
        return [(a * w) ** 2 * distribution.variance for w in weights]
    return [(a * filter_norms(w)) ** 2 / (w.shape[1:].numel() if w.dim() > 1 else 1) for w in weights]


class FlatSteinTrace:
    """`stein_trace` with `noise_variances` for all parameters of a network at once.

    A call takes the same few operations for any network and does not synchronize with the device, so a CUDA graph can
    capture it. Vectors hold the parameters' entries filter by filter; the order within a filter must be the same for
    all vectors, but is otherwise free. Products are summed in float64, always in the same order. ``weights`` are the
    perturbed parameters, all on one device; only their shapes matter.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        distribution: NoiseDistribution | str = NoiseDistribution.uniform,
        scaling: NoiseScaling | str = NoiseScaling.none,
    ):
        self._distribution = parse_enum(NoiseDistribution, "distribution", distribution)
        self._scaling = parse_enum(NoiseScaling, "scaling", scaling)
        device, lengths = weights[0].device, [filter_lengths(weight) for weight in weights]
        sizes = torch.cat(lengths)
        self._sizes = sizes.to(device, torch.float64)  # entries per filter
        self._filters = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(device)  # where each filter's entries begin
        self._tensors = (
            torch.tensor([0, *map(len, lengths)], device="cpu").cumsum(0).to(device)
        )  # where each tensor's filters begin

    @torch.no_grad()
    def __call__(self, theta: Tensor, gradient: Tensor, weight: Tensor, a: float | Tensor, ghosts: int = 1) -> Tensor:
        """The estimate of each tensor's part of the trace from one draw, (k,), float64 on the device.

        ``theta``, ``gradient`` and the clean ``weight`` are (n,). ``gradient`` is that of the loss under this noise,
        divided by ``ghosts``.
        """
        products = (theta * gradient).double()
        unit = a * (a * ((1.0 if self._scaling is NoiseScaling.filter else self._distribution.variance) / ghosts))
        if self._scaling is NoiseScaling.weight:
            products /= _above_0(weight.double().square() * unit)
        sums = segment_sums(products, self._filters)
        if self._scaling is NoiseScaling.filter:
            sums *= self._sizes
            sums /= _above_0(segment_sums(weight.double().square(), self._filters) * unit)
        parts = segment_sums(sums, self._tensors)
        return parts / unit if self._scaling is NoiseScaling.none else parts


def _above_0(variances: Tensor) -> Tensor:
    """Replace variances of 0, in place: theta is 0 there, so 0 / 0 becomes 0. (No float32's square is 0 in float64.)"""
    return variances.clamp_min_(torch.finfo(variances.dtype).tiny)


class RunningTrace:
    """Mean and standard error of `stein_trace` over many steps, in total and by layer (Welford's recurrence).

    Sums are float64 tensors on the device, changed in place: `add` does not synchronize with the device, and a CUDA
    graph can capture it. The standard error assumes independent draws with a common mean, although the weights move
    from step to step. ``names`` are those of the perturbed parameters, in the order of the draws; a layer is a name up
    to its last dot.
    """

    def __init__(self, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        owners = [name.rpartition(".")[0] or name for name in names]
        self.layers = list(dict.fromkeys(owners))
        members = [[True] * len(owners), *([owner == layer for owner in owners] for layer in self.layers)]
        self._members = torch.tensor(members, device=device)  # (1 + layers, k): in the model and in each layer
        self._none = torch.zeros((), dtype=torch.float64, device=device)
        self._count = torch.zeros_like(self._none)
        self._mean = torch.zeros(1 + len(self.layers), dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._mean)  # sum of squared distances from the mean

    @torch.no_grad()
    def add(self, parts: Tensor) -> None:
        """Add a draw: each tensor's part of its estimate, (k,). Raises ValueError for another k."""
        if parts.shape != self._members.shape[1:]:
            raise ValueError(
                f"parts: must have a number for each of the {self._members.shape[1]} names, not shape"
                f" {tuple(parts.shape)}; name the perturbed parameters (those of BatchNorm only with batchnorm=True)"
            )
        values = torch.where(self._members, parts, self._none).sum(1)
        self._count += 1
        difference = values - self._mean
        self._mean.addcdiv_(difference, self._count)
        self._squares.addcmul_(difference, values - self._mean)

    def result(self) -> TraceResult:
        """The estimates so far; waits for the device. Raises ValueError if there is no draw."""
        count = int(self._count.item())
        if count < 1:
            raise ValueError("no draws were counted: there is no estimate")
        rows = [Estimate(*row) for row in zip(self._mean.tolist(), self._errors().tolist(), strict=True)]
        return TraceResult(count, rows[0], dict(zip(self.layers, rows[1:], strict=True)))

    @property
    def sums(self) -> list[Tensor]:
        """The tensors that `add` changes."""
        return [self._count, self._mean, self._squares]

    def pop_epoch(self) -> dict[str, Any]:
        """Return the estimates so far, [mean, standard error] to six digits (nan without a draw), and start again."""
        mean = torch.where(self._count > 0, self._mean, math.nan)
        numbers = torch.stack([mean, self._errors()], 1).tolist()
        total, *layers = ([float(f"{number:.6g}") for number in row] for row in numbers)
        by_layer = dict(zip(self.layers, layers, strict=True))
        epoch = {"draws": int(self._count.item()), "whole": total, "layers": by_layer}
        for tensor in self.sums:
            tensor.zero_()
        return epoch

    def _errors(self) -> Tensor:
        return (self._squares / (self._count - 1) / self._count).sqrt()  # nan for fewer than two draws

    def state_dict(self) -> dict[str, Any]:
        """The sums as JSON values, without rounding; waits for the device."""
        sums = {"mean": self._mean.tolist(), "squares": self._squares.tolist()}
        return {"layers": list(self.layers), "count": int(self._count.item()), **sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a ``state_dict``, on this object's device. Raises ValueError if the layers differ."""
        if state["layers"] != self.layers:
            raise ValueError(f"layers {state['layers']} are not this trace's {self.layers}")
        for tensor, name in zip(self.sums, ("count", "mean", "squares"), strict=True):
            tensor.copy_(torch.tensor(state[name], dtype=torch.float64, device="cpu"))


def thin_epochs(epochs: Sequence[dict[str, Any]], kept: int = 11) -> list[dict[str, Any]]:
    """Keep the layers' estimates in ``kept`` evenly spaced epochs, first and last included, so that records stay small.

    ``epochs`` are what `RunningTrace.pop_epoch` returned.
    """
    last = len(epochs) - 1
    with_layers = {round(index * last / (kept - 1)) for index in range(kept)}
    return [
        {name: value for name, value in epoch.items() if name != "layers" or index in with_layers}
        for index, epoch in enumerate(epochs)
    ]
