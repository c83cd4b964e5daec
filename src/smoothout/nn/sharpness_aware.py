"""SAM and ASAM for your own training loop: the gradient at nearby weights where the loss is highest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smoothout.common.enums import parse_enum
from smoothout.nn.norms import at_least_float32, global_norm, scale_, scale_to_norm_
from smoothout.nn.options import StatisticsFrom, check_positive
from smoothout.nn.parameters import trainable_parameters
from smoothout.nn.passes import Gradient, Pass, Passes
from smoothout.nn.weight_context import WeightContext


class SAM(Passes):
    """[Foret 2021, Eq. 2] SAM: one pass at w computes g, a second one at w + rho g / ||g|| the gradient of the update.

        sam = SAM(model, rho=0.05)
        for x, y in loader:
            for block in sam:
                with block:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step(); optimizer.zero_grad()

    The first pass does not change the ``grad`` of the model's parameters. Others, such as those of a criterion, get the
    gradients of both passes. With gradient accumulation, each micro-batch takes a separate step (m-SAM).

    Args:
        model: a module of any kind that `SmoothOut` takes.
        rho: radius, in the Euclidean norm over all trainable parameters.
        statistics_from: passes that update BatchNorm's running statistics: "clean" (as in a program of the paper),
            "perturbed" or "both".

    Raises:
        TypeError, ValueError: for a model that `SmoothOut` refuses, a wrong ``rho`` or ``statistics_from``.
        RuntimeError: within the blocks, as `SmoothOut`; if the second block is entered without or inside the first.
    """

    def __init__(self, model: nn.Module, rho: float = 0.05, *, statistics_from: str = StatisticsFrom.clean) -> None:
        self._model, self.rho = model, check_positive("rho", rho)
        trainable_parameters(model)
        statistics = parse_enum(StatisticsFrom, "statistics_from", statistics_from)
        nearby = _Nearby(model, self)
        super().__init__(
            Pass(model, 0, updates_statistics=statistics.includes_clean, on_gradient=nearby.keep_gradient),
            Pass(model, 1, updates_statistics=statistics.includes_perturbed, context=nearby),
        )

    def _highest(self, parameters: Sequence[Tensor], gradient: list[Tensor]) -> list[Tensor]:
        """The weights of the second pass."""
        return ascend(parameters, gradient, self.rho)


class ASAM(SAM):
    """[Kwon 2021, Alg. 1] ASAM: SAM with the step rho T^2 g / ||T g||, which follows the scale of the weights.

    T is |w| + eta for each entry of a parameter with "weight" in its name, and 1 for others. As in the authors'
    program, both passes update the running statistics. Other arguments and errors are those of `SAM`.
    """

    def __init__(
        self, model: nn.Module, rho: float = 0.5, *, eta: float = 0.01, statistics_from: str = StatisticsFrom.both
    ) -> None:
        self.eta = check_positive("eta", eta)
        super().__init__(model, rho, statistics_from=statistics_from)

    def _highest(self, parameters: Sequence[Tensor], gradient: list[Tensor]) -> list[Tensor]:
        return ascend_adaptively(parameters, gradient, self.rho, self.eta, named_weight(self._model, parameters))


class _Nearby(WeightContext):
    """A context at the nearby weights with the highest loss, to first order in the gradient of the first pass."""

    def __init__(self, model: nn.Module, sam: SAM) -> None:
        super().__init__(model)
        self._sam = sam
        self._gradient: Gradient | None = None

    def keep_gradient(self, gradient: Gradient) -> None:
        """Keep the gradient of the first pass."""
        self._gradient = gradient

    def _moved(self) -> list[Tensor]:
        self.parameters = trainable_parameters(self._model)
        gradient, self._gradient = self._gradient, None
        if gradient is None or len(gradient) != len(self.parameters) or all(g is None for g in gradient):
            raise RuntimeError(
                "the second pass needs the gradient of the first: enter both blocks for every batch, and backpropagate"
                " in both"
            )
        pairs = zip(self.parameters, gradient, strict=True)
        return self._sam._highest(self.parameters, [torch.zeros_like(p) if g is None else g for p, g in pairs])


@torch.no_grad()
def ascend(parameters: Sequence[Tensor], gradient: list[Tensor], rho: float) -> list[Tensor]:
    """w + rho g / ||g||, in new tensors with the parameters' strides; ``gradient`` may be overwritten.

    If ``gradient`` is not finite, the step is 0.
    """
    gradient = at_least_float32(gradient)
    scale_to_norm_(gradient, rho)
    return add_weights(parameters, gradient)


@torch.no_grad()
def ascend_adaptively(
    parameters: Sequence[Tensor], gradient: list[Tensor], rho: float, eta: float, scaled: Sequence[bool]
) -> list[Tensor]:
    """w + rho T^2 g / ||T g||, T = |w| + eta where ``scaled``, and 1 elsewhere; ``gradient`` may be overwritten."""
    gradient = at_least_float32(gradient)
    weights = [p.detach() for p, is_scaled in zip(parameters, scaled, strict=True) if is_scaled]
    factors = [weight.abs().add_(eta) for weight in weights]
    selected = [g for g, is_scaled in zip(gradient, scaled, strict=True) if is_scaled]
    if selected:
        torch._foreach_mul_(selected, factors)
    norm = global_norm(gradient)
    if selected:
        torch._foreach_mul_(selected, factors)
    scale_(gradient, rho / (norm + 1e-16))
    return add_weights(parameters, gradient)


@torch.no_grad()
def add_weights(parameters: Sequence[Tensor], steps: list[Tensor]) -> list[Tensor]:
    """w + step, with the parameters' strides, which an optimizer may rely on.

    ``steps`` with the parameters' strides and dtypes are overwritten with the sum, which saves passes over memory.
    """
    for index, (parameter, step) in enumerate(zip(parameters, steps, strict=True)):
        if step.stride() != parameter.stride() or step.dtype != parameter.dtype:
            steps[index] = torch.empty_like(parameter).copy_(step)
    torch._foreach_add_(steps, [parameter.detach() for parameter in parameters])
    return steps


def named_weight(model: nn.Module, parameters: Sequence[Tensor]) -> list[bool]:
    """For each parameter, whether its name in ``model`` contains "weight"."""
    weights = {id(parameter) for name, parameter in model.named_parameters() if "weight" in name}
    return [id(parameter) in weights for parameter in parameters]
