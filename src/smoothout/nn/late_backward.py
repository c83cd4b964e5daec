"""What notices a backward pass that comes after the block of its forward pass, when the perturbed weights are gone."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

FRAMEWORKS = (
    "if a framework runs it, use SmoothOutCallback of smoothout.integrations.lightning or .transformers, or a recipe "
    "of smoothout/integrations/README.md (accelerate, timm, ignite, skorch)"
)
WITHOUT_FORWARD = ("_forward_unimplemented", "LightningModule.forward")


class Block(Protocol):
    """A context that can be entered again and again."""

    @property
    def block(self) -> object:
        """Identifies the present block; None outside."""
        ...


class LateBackward:
    """A forward hook by which a backward pass through the model's outputs raises RuntimeError after the present block.

    Autograd notices changed weights only where it saved them: not where autocast saved a copy, and not under
    activation checkpointing, which computes outputs again.
    """

    @staticmethod
    def register(model: nn.Module, context: Block) -> list[RemovableHandle]:
        """Watch the outputs of ``model``, or of the modules in it if it has no forward pass of its own."""
        if getattr(type(model).forward, "__qualname__", "") in WITHOUT_FORWARD:
            return [handle for child in model.children() for handle in LateBackward.register(child, context)]
        return [model.register_forward_hook(LateBackward(context))]

    def __init__(self, context: Block | None) -> None:
        self._context = context

    def __reduce__(self) -> tuple[type[LateBackward], tuple[None]]:
        return LateBackward, (None,)  # a copy of the model, made inside the block, keeps its noise

    def __call__(self, module: nn.Module, arguments: object, output: object) -> None:
        """Watch the nodes that made ``output``."""
        context, block = self._context, self._context and self._context.block
        if context is None or block is None or torch.compiler.is_compiling():
            return

        def refuse(*gradients: object) -> None:
            if context.block is not block:
                raise RuntimeError(f"the backward pass belongs inside the block, after its forward pass; {FRAMEWORKS}")

        for tensor in [output] if isinstance(output, Tensor) else tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(refuse)
