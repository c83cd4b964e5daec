"""Contexts for measurements at changed weights: enable derivatives, check that passes keep the weights."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as of_all_modules
from torch.overrides import TorchFunctionMode

from smoothout.nn.parameters import concatenate

# cuDNN's switch, the attention kernels and the compiler's stance are of the whole process, so threads take turns.
_process_settings = threading.RLock()


class _PlainWeightNorm(TorchFunctionMode):
    """Compute weight normalization, g v / ||v||, with operations whose second derivatives are correct."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        return (_weight_norm if function is torch._weight_norm else function)(*arguments, **(keywords or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """As `torch._weight_norm`."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


@contextmanager
def differentiable(model: nn.Module, *, twice: bool = False) -> Iterator[None]:
    """Inside, passes in evaluation mode avoid fast implementations without derivatives.

    cuDNN has no derivative of a recurrent layer in evaluation mode. Compiled code and the faster attention kernels have
    no second derivative, and that of torch's weight normalization is wrong. Gradient hooks are not called, because they
    may clip or mask the gradient.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with ExitStack() as stack:
        if recurrent or twice:
            stack.enter_context(_process_settings)
        stack.enter_context(_without_gradient_hooks(model))
        stack.enter_context(torch.inference_mode(mode=False))
        if recurrent:
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.cudnn.enabled = False
        if twice:
            stack.enter_context(_PlainWeightNorm())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if twice and "torch._dynamo" in sys.modules:  # importing it takes seconds; without it nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _without_gradient_hooks(model: nn.Module) -> Iterator[None]:
    """Inside, gradient hooks of ``model``'s parameters and modules are not registered, nor those of all modules."""
    tables = [parameter._backward_hooks for parameter in model.parameters()]
    tables += [table for module in model.modules() for table in (module._backward_hooks, module._backward_pre_hooks)]
    tables += [of_all_modules._global_backward_hooks, of_all_modules._global_backward_pre_hooks]
    registered = [(table, dict(table)) for table in tables if table]
    for table, _ in registered:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in registered:
            table.update(hooks)


FIRST_PASSES = 3  # number of checked passes: at most two of them are at the model's original weights


@contextmanager
def keeping_weights(model: nn.Module) -> Iterator[None]:
    """Raise ValueError at the end if passes inside have rewritten trainable weights of ``model``.

    Such passes would not measure the given weights. At the model's original weights this may be undetectable, if an
    earlier pass has clipped or binarized them.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = [weight.detach().clone() for weight in weights.values()]
    yield
    same = [((a == b) | b.isnan()).all() for a, b in zip(weights.values(), before, strict=True)]
    kept = concatenate(same).tolist() if same else []  # one copy from the device
    rewritten = [name for name, unchanged in zip(weights, kept, strict=True) if not unchanged]
    if rewritten:
        raise ValueError(
            f"model: a forward pass rewrites {rewritten[0]}, so it cannot be measured at other weights; make it compute"
            " with a modified copy instead (torch.nn.utils.parametrize)"
        )
