"""Gaussian noise relative to the norms of filters: LPF-SGD, which others call RWP, and its adaptive form ARWP."""

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
    """[Bisla 2022, Alg. 1] LPF-SGD: a context where ``model`` is at w + N(0, (gamma ||w_filter||)^2) per number.

        with LPFSGD(model, gamma=0.01):  # new noise at every entry
            F.cross_entropy(model(x), y).backward()
        optimizer.step()

    Li et al. (2022, 2024) call it random weight perturbation (RWP). A filter is a slice along dimension 0, as in
    `filter_norms`; unlike there, a tensor with one dimension is one filter, as in both papers' programs. Noise is thus
    longer than AdaSmoothOut's: gamma sqrt(d) times a filter of d numbers. What else holds for `SmoothOut` holds here;
    the attribute ``a`` is gamma.

    Args:
        model: a module of any kind that `SmoothOut` takes.
        gamma: standard deviation of each number, relative to its filter's norm.
        batchnorm: perturb weight and bias of BatchNorm layers too, as the papers do.
        generator: on the model's device; None is torch's global one.

    Raises:
        TypeError: as `SmoothOut`.
        ValueError: as `SmoothOut`, for a ``gamma`` that is negative or not finite too.
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
        """The standard deviation of the noise of each of these parameters, broadcasting to its shape."""
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

    F <- beta F + ||g_filter||^2 with the gradient g of an update, at the perturbed weights; it is 0 at first. (In the
    authors' program, and so here, a tensor with one dimension has an F of its own for each number.) F is ``fisher``, a
    tensor for each parameter, in float32 at least. Checkpoints must hold it: save ``arwp.state_dict()``. Copies, casts
    and moves to another device keep it; for a parameter that is frozen, or changes its name or shape, it is lost.

    Args:
        model: as `LPFSGD`'s.
        sigma: gamma of `LPFSGD`.
        eta: weight of F, above 0; `LPFSGD` is without F.
        beta: what each update leaves of F, in [0, 1).
        batchnorm: as `LPFSGD`'s.
        generator: as `LPFSGD`'s.

    Raises:
        TypeError: as `SmoothOut`.
        ValueError: as `LPFSGD`, for ``eta`` and ``beta`` too.
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
        self._names_and_shapes: list[tuple[str, torch.Size]] = []  # of the parameters that `fisher` is of
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
    def observe(self) -> None:
        """Take the parameters' present ``grad`` into F; a gradient that is None or not finite adds nothing."""
        for parameter, fisher in zip(self.parameters, self.fisher, strict=True):
            fisher.mul_(self.beta)
            if parameter.grad is not None:
                [gradient] = at_least_float32([parameter.grad])
                squares = filter_norms(gradient).square_()
                fisher.add_(torch.where(squares.isfinite(), squares, 0))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """F by parameter name, under "fisher": the tensors themselves, as in torch's state dicts."""
        return {"fisher": {name: f for (name, _), f in zip(self._names_and_shapes, self.fisher, strict=True)}}

    @untracked()
    def load_state_dict(self, state_dict: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue with the F of ``state_dict``, which is copied.

        Raises ValueError, with nothing changed, if it is of parameters of other names or shapes; RuntimeError inside
        the block.
        """
        self._check_left()
        self._follow_model()
        own, saved = self.state_dict()["fisher"], state_dict.get("fisher", {})
        if {name: f.shape for name, f in own.items()} != {name: f.shape for name, f in saved.items()}:
            raise ValueError(
                "state_dict: its F is of parameters of other names or shapes than the model's trainable ones"
            )
        for name, fisher in own.items():
            fisher.copy_(saved[name])


def whole_norms(tensor: Tensor) -> Tensor:
    """`filter_norms`, in which a tensor with one dimension or none is one filter: shape (1,) or ()."""
    if tensor.dim() > 1:
        return filter_norms(tensor)
    norm: Tensor = torch.linalg.vector_norm(tensor.detach())
    return norm.view([1] * tensor.dim())
