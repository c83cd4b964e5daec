"""MSAM for your own training loop: the gradient after a step against the momentum, in a single pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.nn.norms import at_least_float32, scale_to_norm_
from smoothout.nn.options import check_positive
from smoothout.nn.parameters import trainable_parameters
from smoothout.nn.sharpness_aware import add_weights
from smoothout.nn.weight_context import WeightContext


class MSAM(WeightContext):
    """[Becker 2024, Alg. 1] MSAM: a context where ``model`` is at w - rho v / ||v||, v the momentum of ``optimizer``.

        with MSAM(model, optimizer, rho=0.3):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()

    v accumulates gradients, so the step has the direction of SGD's update, as in Nesterov's method, but its length is
    rho for any learning rate. The direction is known before the pass, so one pass suffices. v is SGD's
    ``momentum_buffer`` or the ``exp_avg`` of Adam and its variants, with weight decay if the optimizer adds it to the
    gradient. Before the first update it is 0.

    Args:
        model: a module of any kind that `SmoothOut` takes.
        optimizer: the optimizer of the model's parameters; the attribute may be set between batches.
        rho: the length of the step over all trainable parameters. The defaults of the authors' program are 0.3 for SGD
            and 1 for AdamW; the examples in its README use 3.

    Raises:
        TypeError: for a model that `SmoothOut` refuses, or an ``optimizer`` that is not a torch.optim.Optimizer.
        ValueError: for a model that `SmoothOut` refuses, a ``rho`` that is not finite and above 0, or an optimizer that
            has no momentum, shares its state among processes, or updates none of the model's parameters.
        RuntimeError: as `SmoothOut`. Entering the block raises ValueError if the optimizer's state has no momentum
            under one of torch's names.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, rho: float = 0.3) -> None:
        super().__init__(model)
        self.rho, self.optimizer = check_positive("rho", rho), optimizer
        self.parameters = trainable_parameters(model)
        momentum_name(optimizer, self.parameters)

    def _moved(self) -> list[Tensor]:
        self.parameters = trainable_parameters(self._model)
        name, state = momentum_name(self.optimizer, self.parameters), self.optimizer.state
        momenta = [_momentum(state[p], name) if p in state else None for p in self.parameters]
        pairs = zip(self.parameters, momenta, strict=True)
        momentum = at_least_float32(torch.zeros_like(p) if m is None else m for p, m in pairs)
        direction = list(torch._foreach_neg(momentum))  # new tensors: the momentum is the optimizer's
        scale_to_norm_(direction, self.rho)
        return add_weights(self.parameters, direction)


def _momentum(state: Mapping[str, Any], name: str) -> Tensor | None:
    """The momentum in the ``state`` of a parameter; None before its first update."""
    if state and name not in state:
        raise ValueError(
            f"optimizer: keeps no {name} in a parameter's state, which has {', '.join(map(str, state))}; use an"
            " optimizer of torch.optim"
        )
    momentum: Tensor | None = state.get(name)
    return momentum


def momentum_name(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> str:
    """The momentum's name in the state of ``optimizer``.

    Raises TypeError if it is not an optimizer, and ValueError if it has no momentum, shares its state among processes,
    or updates none of ``parameters``.
    """
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"optimizer: must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        raise ValueError("optimizer: ZeroRedundancyOptimizer keeps each momentum in one process; MSAM needs them all")
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if updated.isdisjoint(map(id, parameters)):
        raise ValueError("optimizer: must be the model's, but it updates none of the model's trainable parameters")
    if all("betas" in group for group in optimizer.param_groups):
        return "exp_avg"
    if all(group.get("momentum", 0) for group in optimizer.param_groups):
        return "momentum_buffer"
    raise ValueError(
        f"optimizer: MSAM steps along the momentum, and {type(optimizer).__name__} has none with these settings; use"
        " SGD with momentum above 0, or Adam"
    )
