"""What analyses ask of a model, and the circumstances under which it has derivatives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


def check_module(name: str, model: object) -> None:
    """Raise TypeError unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: must be a torch.nn.Module, not {type(model).__name__}")


def check_model(model: nn.Module) -> None:
    """Raise TypeError for what is no module, ValueError for weights that cannot be changed or are complex."""
    check_module("model", model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise ValueError(
                f"model: {name} was made within torch.inference_mode and cannot change; use copy.deepcopy(model)"
                " outside of it"
            )
        if tensor.is_complex() and tensor.requires_grad:
            raise ValueError(
                f"model: {name} is complex; must be real (torch.view_as_real), or set requires_grad_(False) on it"
            )


@contextmanager
def differentiable(model: nn.Module, *, twice: bool = False) -> Iterator[None]:
    """Inside, a pass in evaluation mode has the derivatives that torch's fastest code for it lacks.

    cuDNN has no derivative of a recurrent layer in evaluation mode, and compiled code has no second one.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.cudnn.enabled = False
        if twice and "torch._dynamo" in sys.modules:  # it takes seconds to import, and nothing is compiled without it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
