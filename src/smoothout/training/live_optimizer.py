"""The optimizer of a running training: its learning rate and its state, eager or within a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.training.optimizers import Optimizer


class LiveOptimizer:
    """The optimizer that ``config`` builds for the parameters of ``model``; its ``torch`` is the torch optimizer."""

    def __init__(self, config: Optimizer, model: nn.Module, device: torch.device) -> None:
        self._config, self._model, self._device = config, model, device
        self._on_device = False  # whether a CUDA graph reads the learning rate
        self._build()
        updated = {id(parameter) for group in self.torch.param_groups for parameter in group["params"]}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and id(parameter) not in updated:
                kind = type(config).__name__
                raise ValueError(f"optimizer: {kind} leaves out {name}; must update every trainable parameter")

    def _build(self) -> None:
        self.torch, self._factor = self._config.build(list(self._model.parameters())), math.nan
        self._initial_lrs = [group["lr"] for group in self.torch.param_groups]

    def reset(self) -> None:
        """Reset the state: build a new optimizer or, if a CUDA graph uses its tensors, fill them with zeros."""
        if self._on_device:
            for tensor in chain.from_iterable(self.tensors().values()):
                tensor.zero_()
        else:
            self._build()

    def scale_lr(self, factor: float) -> None:
        """Use ``factor`` times each group's configured learning rate from now on."""
        if factor == self._factor:
            return
        self._factor = factor
        for group, lr in self._groups_and_lrs():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _groups_and_lrs(self) -> Iterator[tuple[dict[str, Any], float]]:
        """The parameter groups, each with its current learning rate."""
        for group, lr in zip(self.torch.param_groups, self._initial_lrs, strict=True):
            yield group, lr * self._factor

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.torch.load_state_dict(state)
        for weight, entries in self.torch.state.items():  # a fused step needs state with the weight's strides
            like = {k: v for k, v in entries.items() if isinstance(v, Tensor) and v.dim() and v.shape == weight.shape}
            entries.update({name: torch.empty_like(weight).copy_(v) for name, v in like.items()})

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, as it would be without a CUDA graph."""
        state: dict[str, Any] = self.torch.state_dict()
        for group in state["param_groups"]:
            group.update(_eager_numbers(group, float(group["lr"])))
        return state

    def tensors(self) -> dict[str, list[Tensor]]:
        """The tensors of the state, by name."""
        tensors = dict[str, list[Tensor]]()
        for entries in self.torch.state.values():
            for name, tensor in entries.items():
                tensors.setdefault(name, []).append(tensor)
        return tensors

    def keep_numbers_on_device(self) -> None:
        """Hold the learning rate in a tensor, where a CUDA graph reads it at every replay."""
        self._on_device = True
        for group in self.torch.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=self._device)
            if "capturable" in group:
                group["capturable"] = self._device.type == "cuda"

    def keep_numbers_on_host(self) -> None:
        """Undo `keep_numbers_on_device`."""
        self._on_device = False
        for group, lr in self._groups_and_lrs():
            group.update(_eager_numbers(group, lr))


def _eager_numbers(group: dict[str, Any], lr: float) -> dict[str, Any]:
    """The entries of a parameter group as they are without a CUDA graph."""
    return {"lr": lr, **({"capturable": False} if "capturable" in group else {})}
