"""Gaussian noise relative to the norms of filters: LPF-SGD (also called RWP) and its adaptive form ARWP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smoothout.common.rng import normal_
from smoothout.nn.flat import FlatGroup
from smoothout.nn.norms import at_least_float32
from smoothout.nn.options import check_fisher, check_strength
from smoothout.nn.parameters import filter_norms
from smoothout.nn.perturbation import SmoothOut
from smoothout.nn.weight_context import untracked


class LPFSGD(SmoothOut):
    """[Bisla 2022, Alg. 1] LPF-SGD: a context where ``model`` is at w + N(0, (gamma ||w_filter||)^2) per entry.

        with LPFSGD(model, gamma=0.01):  # new noise at every entry
            F.cross_entropy(model(x), y).backward()
        optimizer.step()

    Li et al. (2022, 2024) call it random weight perturbation (RWP). A filter is a slice along dimension 0, as in
    `filter_norms`, but a tensor with one dimension is a single filter, as in both papers' programs. The noise of a
    filter of d entries is about gamma sqrt(d) times as long as the filter, so longer than AdaSmoothOut's. Otherwise it
    works like `SmoothOut`; the attribute ``a`` is gamma.

    Args:
        model: a module of any kind that `SmoothOut` takes.
        gamma: standard deviation of each entry's noise, relative to its filter's norm.
        batchnorm: perturb weight and bias of BatchNorm layers too, as the papers do.
        generator: on the model's device; None is torch's global generator.

    Raises:
        TypeError: as `SmoothOut`.
        ValueError: as `SmoothOut`; for a ``gamma`` that is negative or not finite.
    """

    def __init__(
        self, model: nn.Module, gamma: float, *, batchnorm: bool = True, generator: torch.Generator | None = None
    ) -> None:
        strength = check_strength(gamma, "gamma")
        super().__init__(model, strength, "gaussian", batchnorm=batchnorm, generator=generator)

    def _fill(self, group: FlatGroup) -> None:
        normal_(group.flat, self.generator)
        torch._foreach_mul_(group.views, self._deviations(group.members))

    def _deviations(self, members: Sequence[int]) -> list[Tensor]:
        """The standard deviation of each parameter's noise, shaped to broadcast against the parameter."""
        norms = [whole_norms(self.parameters[index]) for index in members]
        torch._foreach_mul_(norms, self.a)
        return norms


class ARWP(LPFSGD):
    """[Li 2024, ARWP] ARWP: LPF-SGD's noise divided by sqrt(1 + eta F), F a running sum of squared gradients.

        arwp = ARWP(model, sigma=0.01)
        for x, y in loader:
            with arwp:
                F.cross_entropy(model(x), y).backward()
            arwp.observe()  # gradients without a scaler's factor: after scaler.unscale_(optimizer), if there is one
            optimizer.step()
            optimizer.zero_grad()

    F starts at 0, and each update sets F <- beta F + ||g_filter||^2, where g is the gradient at the perturbed weights.
    (As in the authors' program, a tensor with one dimension has one F per entry.) The attribute ``fisher`` holds F, a
    tensor for each parameter, in float32 at least. Save it in checkpoints with ``arwp.state_dict()``. Copying, casting
    and moving the model keep F. It restarts at 0 for a parameter that was frozen, renamed or reshaped.

    Args:
        model: as in `LPFSGD`.
        sigma: strength of the noise, the ``gamma`` of `LPFSGD`.
        eta: weight of F, above 0; for 0, use `LPFSGD`.
        beta: decay factor of F per update, in [0, 1).
        batchnorm: as in `LPFSGD`.
        generator: as in `LPFSGD`.

    Raises:
        TypeError: as `SmoothOut`.
        ValueError: as `LPFSGD`; for an impossible ``eta`` or ``beta``.
    """

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        *,
        eta: float = 0.1,
        beta: float = 0.99,
        batchnorm: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        self.eta, self.beta = check_fisher(eta, beta)
        self.fisher: list[Tensor] = []
        self._names_and_shapes: list[tuple[str, torch.Size]] = []  # of the parameters in `fisher`
        super().__init__(model, check_strength(sigma, "sigma"), batchnorm=batchnorm, generator=generator)

    @untracked()
    def _allocate(self, parameters: list[nn.Parameter]) -> None:
        super()._allocate(parameters)
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        before = dict(zip(self._names_and_shapes, self.fisher, strict=True))
        self._names_and_shapes = [(names[id(parameter)], parameter.shape) for parameter in parameters]
        zeros = [torch.zeros_like(filter_norms(parameter)) for parameter in at_least_float32(parameters)]
        self.fisher = [before.get(key, zero).to(zero) for key, zero in zip(self._names_and_shapes, zeros, strict=True)]

    def _deviations(self, members: Sequence[int]) -> list[Tensor]:
        shrinkage = [self.fisher[index] * self.eta + 1 for index in members]
        torch._foreach_sqrt_(shrinkage)
        return [norm / root for norm, root in zip(super()._deviations(members), shrinkage, strict=True)]

    @untracked()
    def observe(self, scale: float = 1.0) -> None:
        """Update F with the parameters' current ``grad``; a gradient that is None or not finite adds nothing.

        ``scale`` is the factor of a gradient scaler if ``grad`` has not been unscaled.
        """
        for parameter, fisher in zip(self.parameters, self.fisher, strict=True):
            fisher.mul_(self.beta)
            if parameter.grad is not None:
                [gradient] = at_least_float32([parameter.grad])
                squares = filter_norms(gradient).div_(scale).square_()
                fisher.add_(torch.where(squares.isfinite(), squares, 0))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """F by parameter name, under "fisher": the tensors themselves, as in torch's state dicts."""
        return {"fisher": {name: f for (name, _), f in zip(self._names_and_shapes, self.fisher, strict=True)}}

    @untracked()
    def load_state_dict(self, state_dict: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copy F from ``state_dict``.

        Raises ValueError, with nothing changed, if names or shapes do not match the model's trainable parameters, and
        RuntimeError inside the block.
        """
        self.follow_model()
        current, saved = self.state_dict()["fisher"], state_dict.get("fisher", {})
        if {name: f.shape for name, f in current.items()} != {name: f.shape for name, f in saved.items()}:
            raise ValueError("state_dict: the names or shapes of F do not match the model's trainable parameters")
        for name, fisher in current.items():
            fisher.copy_(saved[name])


def whole_norms(tensor: Tensor) -> Tensor:
    """As `filter_norms`, but a tensor with at most one dimension is a single filter: shape (1,) or ()."""
    if tensor.dim() > 1:
        return filter_norms(tensor)
    norm: Tensor = torch.linalg.vector_norm(tensor.detach())
    return norm.view([1] * tensor.dim())
