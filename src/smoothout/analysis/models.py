"""The circumstances under which a model has derivatives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


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
