"""What a model must allow to be measured at other weights than its own: derivatives, and weights that a pass keeps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from smoothout.nn.parameters import concatenate


class _PlainWeightNorm(TorchFunctionMode):
    """Computes weight normalization, g v / ||v||, by operations whose second derivatives are right."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        if function is torch._weight_norm:
            v, g, dim = arguments
            return v * (g / torch.norm_except_dim(v, 2, dim))
        return function(*arguments, **(keywords or {}))


@contextmanager
def differentiable(model: nn.Module, *, twice: bool = False) -> Iterator[None]:
    """Inside, a pass in evaluation mode has the derivatives that torch's fastest code for it lacks.

    cuDNN has no derivative of a recurrent layer in evaluation mode, compiled code has no second one, and that of
    torch's weight normalization is wrong.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.cudnn.enabled = False
        if twice:
            stack.enter_context(_PlainWeightNorm())
        if twice and "torch._dynamo" in sys.modules:  # it takes seconds to import, and nothing is compiled without it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


FIRST_PASSES = 3  # that are looked at: at most two of them are at the model's own weights


@contextmanager
def keeping_weights(model: nn.Module) -> Iterator[None]:
    """Raise ValueError at the end if passes inside have rewritten trainable weights of ``model``.

    They would not measure the weights that are set. The model's own do not show it if a pass has clipped or binarized
    them before; others do.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = [weight.detach().clone() for weight in weights.values()]
    yield
    same = [((a == b) | b.isnan()).all() for a, b in zip(weights.values(), before, strict=True)]
    kept = concatenate(same).tolist() if same else []  # one copy from the device
    rewritten = [name for name, unchanged in zip(weights, kept, strict=True) if not unchanged]
    if rewritten:
        raise ValueError(
            f"model: a forward pass rewrites {rewritten[0]}, so it cannot be measured at other weights; let it compute"
            " with a changed copy instead (torch.nn.utils.parametrize)"
        )
