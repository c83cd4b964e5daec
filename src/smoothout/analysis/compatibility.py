"""Check that two networks can be mixed, copy a network, and recompute the spectral norms of a mixture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import tree_leaves

from smoothout.nn.batches import WRAPPERS
from smoothout.nn.parameters import concatenate

POWER_ITERATIONS = 100


def check_same_architecture(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the first difference, unless two state dicts have the same names, shapes and dtypes.

    Integer or boolean arrays cannot be mixed and must be equal; scalars are counters.
    """
    shapes = [{name: _form(entry) for name, entry in state.items()} for state in (first, second)]
    if shapes[0] == shapes[1]:
        for name, entry in first.items():
            _check_same_kind(name, entry, second[name])
        return
    for which, wrapped, bare in (("first", shapes[0], shapes[1]), ("second", shapes[1], shapes[0])):
        for wrapper in WRAPPERS:
            if bare and all(wrapped.get(f"{wrapper}.{name}") == shape for name, shape in bare.items()):
                raise ValueError(f"{which}: is wrapped but the other network is not; use {which}.{wrapper}")
    name = next(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
    forms = " and ".join(str(entries.get(name, "missing")) for entries in shapes)
    raise ValueError(f"first, second: must have the same architecture, but {name} is {forms}")


def _check_same_kind(name: str, entry: object, other: object) -> None:
    if not (isinstance(entry, Tensor) and isinstance(other, Tensor)):
        return
    if entry.dtype != other.dtype:
        raise ValueError(f"first, second: must have the same dtypes, but {name} is {entry.dtype} and {other.dtype}")
    if entry.device != other.device:
        raise ValueError(f"first, second: must be on one device, but {name} is on {entry.device} and {other.device}")
    is_discrete = not (entry.is_floating_point() or entry.is_complex())
    if is_discrete and entry.dim() and not torch.equal(entry, other):
        raise ValueError(f"first, second: {name} differs and is {entry.dtype}, which cannot be mixed; make both equal")


def _form(entry: object) -> object:
    """The shape of a tensor; the type of anything else, such as a module's extra state."""
    return tuple(entry.shape) if isinstance(entry, Tensor) else type(entry).__name__


def check_same_ties_and_buffers(first: nn.Module, second: nn.Module) -> None:
    """Raise ValueError if networks differ in tied weights or non-persistent buffers, which a state dict lacks."""
    if names := sorted(_tied_names(first) ^ _tied_names(second)):
        raise ValueError(f"first, second: only one of them ties {' and '.join(names[0])}; tie them in both or neither")
    persistent, others = first.state_dict(), dict(second.named_buffers())
    for name, buffer in first.named_buffers():
        if name not in persistent and not (name in others and torch.equal(buffer, others[name])):
            raise ValueError(f"first, second: the non-persistent buffer {name} differs; must be the same in both")


def equal_entries(first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    """The ``names`` of equal tensors in both state dicts, given equal shapes; one copy from the device."""
    if not names:
        return []
    equal = concatenate([(first[name] == second[name]).all() for name in names]).tolist()
    return [name for name, same in zip(names, equal, strict=True) if same]


def _tied_names(model: nn.Module) -> set[tuple[str, ...]]:
    """The names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {tuple(group) for group in names.values() if len(group) > 1}


def deepcopy_model(model: nn.Module) -> nn.Module:
    """Deep-copy a model, even if it stores activations with a graph, which torch refuses to copy."""
    leaves = (leaf for module in model.modules() for leaf in tree_leaves(vars(module)))
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in leaves if isinstance(t, Tensor) and not t.is_leaf})


def reject_hook_spectral_norm(model: nn.Module) -> None:
    """Raise ValueError, with the module's name, for spectral normalization by a hook."""
    for name, module in model.named_modules():
        if any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
            raise ValueError(f"{name}: its spectral_norm is a hook; use torch.nn.utils.parametrizations.spectral_norm")


@torch.no_grad()
def refresh_spectral_norms(model: nn.Module) -> None:
    """Recompute the singular vectors of spectrally normalized weights, starting from the current ones, in place.

    They are buffers; each forward pass in training mode updates them by one power iteration.
    """
    for weight in model.modules():
        if isinstance(weight, ParametrizationList) and any(isinstance(step, _SpectralNorm) for step in weight):
            training = weight.training
            weight.train()
            for _ in range(POWER_ITERATIONS):
                weight()
            weight.train(training)
