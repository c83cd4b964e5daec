"""Networks that a third one is made of: whether they are alike, a copy, and what a mixture of weights leaves wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import tree_leaves

from smoothout.nn.parameters import concatenate

WRAPPERS = ("module", "_orig_mod")  # DistributedDataParallel and AveragedModel; torch.compile
POWER_ITERATIONS = 100


def check_same_architecture(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless two state dicts have the same names and shapes, naming what differs first."""
    here, there = ({name: _form(entry) for name, entry in state.items()} for state in (first, second))
    if here == there:
        return
    for which, wrapped, bare in (("first", here, there), ("second", there, here)):
        for inner in WRAPPERS:
            if bare and all(wrapped.get(f"{inner}.{name}") == shape for name, shape in bare.items()):
                raise ValueError(f"{which}: is wrapped and the other is not: give {which}.{inner}")
    name = next(name for name in here | there if here.get(name) != there.get(name))
    found = " and ".join(str(shapes.get(name, "not there")) for shapes in (here, there))
    raise ValueError(f"first, second: the two networks must have the same architecture, but {name} is {found}")


def _form(entry: object) -> object:
    """A tensor's shape; a module's extra state may be anything, and has its type."""
    return tuple(entry.shape) if isinstance(entry, Tensor) else type(entry).__name__


def check_same_ties_and_buffers(first: nn.Module, second: nn.Module) -> None:
    """Raise ValueError where networks differ in what no state dict tells: tied weights, buffers that it leaves out."""
    tied, untied = (_shared_names(model) for model in (first, second))
    if names := sorted(tied ^ untied):
        raise ValueError(f"first, second: in one of them {' and '.join(names[0])} are one tensor, and not in the other")
    known, others = first.state_dict(), dict(second.named_buffers())
    for name, buffer in first.named_buffers():
        if name not in known and not (name in others and torch.equal(buffer, others[name])):
            raise ValueError(f"first, second: {name} differs, a buffer that is in no state dict")


def equal_entries(first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    """Those of ``names`` whose tensors hold the same numbers in both state dicts, of the same shapes, in one copy."""
    if not names:
        return []
    equal = concatenate([(first[name] == second[name]).all() for name in names]).tolist()
    return [name for name, same in zip(names, equal, strict=True) if same]


def _shared_names(model: nn.Module) -> set[tuple[str, ...]]:
    """The names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {tuple(group) for group in names.values() if len(group) > 1}


def deepcopy_model(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps activations, which torch does not copy while they have a history."""
    kept = (leaf for module in model.modules() for leaf in tree_leaves(vars(module)))
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in kept if isinstance(t, Tensor) and not t.is_leaf})


def reject_hook_spectral_norm(model: nn.Module) -> None:
    """Raise ValueError, with the module's name, for spectral normalisation by a hook."""
    for name, module in model.named_modules():
        if any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
            raise ValueError(f"{name}: its spectral_norm is a hook; use torch.nn.utils.parametrizations.spectral_norm")


@torch.no_grad()
def refresh_spectral_norms(model: nn.Module) -> None:
    """Find the singular vectors of spectrally normalised weights anew, from those that are there, in place.

    These are buffers, which each pass in training mode moves on by a power iteration.
    """
    for weight in model.modules():
        if isinstance(weight, ParametrizationList) and any(isinstance(one, _SpectralNorm) for one in weight):
            mode = weight.training
            weight.train()
            for _ in range(POWER_ITERATIONS):
                weight()
            weight.train(mode)
