"""Detect a backward pass after the block of its forward pass, when the perturbed weights are gone."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

FRAMEWORKS = (
    "if a framework runs it, use SmoothOutCallback of smoothout.integrations.lightning or .transformers, or a recipe "
    "of smoothout/integrations/README.md (accelerate, timm, ignite, skorch)"
)
DEPTH = 3  # levels of nested objects to search for tensors, because an output may refer to any object
WITHOUT_FORWARD = ("_forward_unimplemented", "LightningModule.forward")


class Block(Protocol):
    """A context that can be entered repeatedly."""

    @property
    def block(self) -> object:
        """An object that identifies the current block; None outside."""
        ...

    def inner_blocks(self) -> list[object]:
        """Objects that identify the blocks around some of the same weights that were entered later, within this one."""
        ...


class LateBackward:
    """A forward hook: backward passes through the model's outputs raise RuntimeError outside the current block.

    They also raise it within another block around the same weights that was entered later. Autograd detects changed
    weights only if it saved them. It does not if autocast saved a copy, or if activation checkpointing recomputes
    outputs.
    """

    @staticmethod
    def register(model: nn.Module, context: Block) -> list[RemovableHandle]:
        """Watch the outputs of ``model``, or of its submodules if it has no forward method."""
        if getattr(type(model).forward, "__qualname__", "") in WITHOUT_FORWARD:
            return [handle for child in model.children() for handle in LateBackward.register(child, context)]
        return [model.register_forward_hook(LateBackward(context), with_kwargs=True)]

    def __init__(self, context: Block | None) -> None:
        self._context = context

    def __reduce__(self) -> tuple[type[LateBackward], tuple[None]]:
        return LateBackward, (None,)  # a copy of the model taken inside the block keeps its noise

    def __call__(self, module: nn.Module, arguments: object, keywords: object, output: object) -> None:
        """Watch the autograd nodes that produced ``output``, but not those of inputs that it returns."""
        context, block = self._context, self._context and self._context.block
        if context is None or block is None or torch.compiler.is_compiling():
            return

        # Weak references, so that a stored graph does not keep the model and both sets of weights alive.
        context_ref, block_ref = weakref.ref(context), weakref.ref(block)
        inner = [*map(weakref.ref, context.inner_blocks())]

        def refuse(*gradients: object) -> None:
            context, block = context_ref(), block_ref()
            if (
                context is None
                or block is None
                or context.block is not block
                or [*map(weakref.ref, context.inner_blocks())] != inner
            ):
                raise RuntimeError(f"the backward pass belongs inside the block, after its forward pass; {FRAMEWORKS}")

        earlier = {leaf.grad_fn for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)}
        for tensor in [output] if isinstance(output, Tensor) else _tensors_in(output):
            if tensor.grad_fn is not None and tensor.grad_fn not in earlier:
                tensor.grad_fn.register_prehook(refuse)


def is_within_block(model: nn.Module) -> bool:
    """Whether ``model`` is within a block, so that backward passes belong inside it."""
    return any(isinstance(hook, LateBackward) for m in model.modules() for hook in m._forward_hooks.values())


def _tensors_in(output: object, depth: int = DEPTH) -> Iterator[Tensor]:
    """The tensors in nested containers, mappings and attributes of objects, such as a dataclass of outputs."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif depth and not isinstance(leaf, nn.Module | type):
            yield from _tensors_in(_entries(leaf), depth - 1)


def _entries(leaf: object) -> list[object]:
    """The values of a mapping that torch does not know, or of an object's attributes."""
    if isinstance(leaf, Mapping):
        return list(leaf.values())
    slots = (name for base in type(leaf).__mro__ for name in _names(vars(base).get("__slots__", ())))
    return [*getattr(leaf, "__dict__", {}).values(), *(getattr(leaf, name, None) for name in slots)]


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return [slots] if isinstance(slots, str) else slots
