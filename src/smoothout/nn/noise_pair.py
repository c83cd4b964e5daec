"""NSO and m-RWP for your own training loop: two passes, with opposite noise (NSO) or one without noise (m-RWP)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smoothout.common.enums import parse_enum
from smoothout.common.rng import normal_
from smoothout.nn.filter_noise import LPFSGD
from smoothout.nn.flat import FlatGroup
from smoothout.nn.options import StatisticsFrom, check_number, check_strength
from smoothout.nn.passes import Pass, Passes
from smoothout.nn.perturbation import SmoothOut
from smoothout.nn.weight_context import WeightContext


class NSO(Passes):
    """[Zhang 2024, Alg. 1] NSO: the mean of the gradients at w + u and w - u, each entry of u from N(0, sigma^2).

        nso = NSO(model, sigma=0.01)
        for x, y in loader:
            for block in nso:
                with block:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step(); optimizer.zero_grad()

    Terms linear in u cancel, so the gradient has less variance than with two independent draws.

    Args:
        model: a module of any kind that `SmoothOut` takes.
        sigma: standard deviation of the noise; the attribute may be set between batches.
        batchnorm: perturb weight and bias of BatchNorm layers too, as the authors' program does.
        generator: on the model's device; None is torch's global generator.

    Raises:
        TypeError, ValueError: as `SmoothOut`.
        RuntimeError: within the blocks, as `SmoothOut`; if the second block is entered without or inside the first.
    """

    def __init__(
        self, model: nn.Module, sigma: float, *, batchnorm: bool = True, generator: torch.Generator | None = None
    ) -> None:
        self.noise = GaussianPair(model, sigma, batchnorm=batchnorm, generator=generator)
        super().__init__(Pass(model, 0.5, context=self.noise), Pass(model, 0.5, context=self.noise.opposite))

    @property
    def sigma(self) -> float | Tensor:
        """The strength of the noise, as `SmoothOut.a`."""
        return self.noise.a

    @sigma.setter
    def sigma(self, value: float | Tensor) -> None:
        self.noise.a = value


class GaussianPair(SmoothOut):
    """A context where ``model`` is at w + u, with new Gaussian noise u at every entry; in ``opposite``, at w - u."""

    def __init__(
        self, model: nn.Module, sigma: float, *, batchnorm: bool = True, generator: torch.Generator | None = None
    ) -> None:
        strength = check_strength(sigma, "sigma")
        super().__init__(model, strength, "gaussian", batchnorm=batchnorm, generator=generator)
        self.opposite = _Opposite(model, self)
        self.mirrored: list[Tensor] | None = None

    def _fill(self, group: FlatGroup) -> None:
        normal_(group.flat, self.generator).mul_(self.a)

    def _moved(self) -> Sequence[Tensor]:
        self.draw()
        noise, weights = self._buffers.with_strides(), [parameter.detach() for parameter in self.parameters]
        self.mirrored = list(torch._foreach_sub(weights, noise))
        torch._foreach_add_(noise, weights)
        return noise


class _Opposite(WeightContext):
    """A context where the model is at w - u, with the noise u from the last entry of ``pair``."""

    def __init__(self, model: nn.Module, pair: GaussianPair) -> None:
        super().__init__(model)
        self._pair = pair

    def _moved(self) -> Sequence[Tensor]:
        weights, self._pair.mirrored = self._pair.mirrored, None
        if weights is None:
            raise RuntimeError("the second pass needs the noise of the first: enter both blocks for every batch")
        self.parameters = self._pair.parameters
        return weights


class MixedRWP(Passes):
    """[Li 2024, m-RWP] m-RWP: lambda g(w + noise) + (1 - lambda) g(w), with the two gradients g on different batches.

        mixed = MixedRWP(model, gamma=0.01)
        for batches in zip(loader, other_loader):
            for block, (x, y) in zip(mixed, batches):
                with block:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step(); optimizer.zero_grad()

    In the first block the model is at w, in the second it has the noise of `LPFSGD`.

    Args:
        model: a module of any kind that `SmoothOut` takes.
        gamma: strength of the noise, as in `LPFSGD`; ``noise.a`` may be set between batches.
        weight: lambda, in (0, 1).
        batchnorm: perturb weight and bias of BatchNorm layers too, as the authors' program does.
        statistics_from: which passes update BatchNorm's running statistics, "clean" (as in the authors' program),
            "perturbed" or "both".
        generator: on the model's device; None is torch's global one.

    Raises:
        TypeError, ValueError: as `LPFSGD`; for a wrong ``weight`` or ``statistics_from``.
        RuntimeError: within the blocks, as `SmoothOut`; if the second block is entered inside the first.
    """

    def __init__(
        self,
        model: nn.Module,
        gamma: float,
        *,
        weight: float = 0.5,
        batchnorm: bool = True,
        statistics_from: str = StatisticsFrom.clean,
        generator: torch.Generator | None = None,
    ) -> None:
        weight = check_number("weight", weight, lambda number: 0 < number < 1, "lie between 0 and 1")
        statistics = parse_enum(StatisticsFrom, "statistics_from", statistics_from)
        self.noise = LPFSGD(model, gamma, batchnorm=batchnorm, generator=generator)
        super().__init__(
            Pass(model, 1 - weight, updates_statistics=statistics.includes_clean),
            Pass(model, weight, context=self.noise, updates_statistics=statistics.includes_perturbed),
        )
