"""Check that a model's weights can be perturbed and restored, before anything is changed.

README.md has a table of the kinds of models that work or are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

SHARDED = "its weights are sharded over processes: only whole weights can be changed; use the model before sharding"
GRAPH = "is TorchScript or an exported program, which hides its layers; use the original module"
LAZY = "is not initialized yet (lazy); pass a batch through the model first"
RENORMALIZED = "rewrites its weight at every pass (max_norm); use max_norm=None, and renormalize it after each update"
INFERENCE = "was created in torch.inference_mode(), and cannot be changed outside; use copy.deepcopy(model) outside it"
HOUSEHOLDER = "keeps signs among its weights (orthogonal by householder); use orthogonal_map='matrix_exp'"
QUANTIZED = "is quantized: weights must be floating-point; use the model before it is quantized"
FROZEN = "is compiled with its weights as constants; compile it without torch._inductor.config.freezing"
GRAPHED = "replays a CUDA graph, which reads its weights where they were; use the module before make_graphed_callables"
WRAPPER = "only wraps the tensors that hold its values; must be a plain tensor"

# Names, because importing these classes takes longer than the rest of the package.
_GRAPHS = {"ScriptModule", "InterpreterModule", "UnflattenedModule"}
_SHARDED = {"FSDPModule", "FullyShardedDataParallel", "DTensor", "ShardedTensor"}
_ASKED = {
    *("GraphModule", "LazyModuleMixin", "UninitializedTensorMixin", "Embedding", "EmbeddingBag", "OptimizedModule"),
    "_Orthogonal",
}
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def check_layers(model: object, name: str = "model") -> list[nn.Module]:
    """The modules of ``model``, itself first; error messages call it ``name``.

    Raises TypeError unless it is a module, and ValueError for TorchScript and exported programs, which hide their
    layers.
    """
    if not isinstance(model, nn.Module):
        hint = "; pass the model itself" if isinstance(model, Iterable) else ""
        raise TypeError(f"{name}: must be a torch.nn.Module, not {type(model).__name__}{hint}")
    modules = list(model.modules())
    for module in modules:
        kinds = _kinds(module)
        # An exported program is a GraphModule with an attribute ``train`` that forbids changing its mode.
        if kinds and (kinds & _GRAPHS or ("GraphModule" in kinds and "train" in vars(module))):
            raise ValueError(f"{name}: {_described(model, module)} {GRAPH}")
    return modules


def check_modules(model: nn.Module, modules: Iterable[nn.Module], name: str = "model") -> None:
    """Raise ValueError for weights that are sharded, uninitialized, quantized, compiled in, or rewritten by a pass."""
    for module in modules:
        kinds = _kinds(module)
        if ("OptimizedModule" in kinds or module._compiled_call_impl is not None) and _has_frozen_code(module):
            raise ValueError(f"{name}: {_described(model, module)} {FROZEN}")
        if "make_graphed_callables" in getattr(vars(module).get("forward"), "__qualname__", ""):
            raise ValueError(f"{name}: {_described(model, module)} {GRAPHED}")
        if not kinds:
            continue
        if kinds & _SHARDED:  # also after a pass has gathered whole weights, because their memory is freed later
            raise ValueError(f"{name}: {SHARDED}")
        if "LazyModuleMixin" in kinds and module.has_uninitialized_params():  # type: ignore[operator]
            raise ValueError(f"{name}: {_described(model, module)} {LAZY}")
        if "quantized" in kinds:
            raise ValueError(f"{name}: {_described(model, module)} {QUANTIZED}")
        if "_Orthogonal" in kinds and module.orthogonal_map.name == "householder":  # type: ignore[union-attr]
            raise ValueError(f"{name}: {_described(model, module)} {HOUSEHOLDER}")
        if getattr(module, "max_norm", None) is not None and any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"{name}: {_described(model, module)} {RENORMALIZED}")


def check_all(**models: nn.Module) -> None:
    """Raise TypeError or ValueError for a model with weights that cannot be changed, including frozen ones.

    Complex weights, which can be mixed, and integer weights, which are frozen, are not checked.
    """
    for name, model in models.items():
        check_modules(model, check_layers(model, name), name)
        check_weights(model, [weight for weight in model.parameters() if weight.is_floating_point()], name)


def check_weights(model: nn.Module, weights: Sequence[nn.Parameter], name: str = "model") -> None:
    """Raise ValueError unless ``weights`` of ``model`` can be perturbed and restored, and its other tensors used."""
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise ValueError(f"{name}: {key} {INFERENCE}")
    for weight in weights:
        if is_sharded(weight):
            raise ValueError(f"{name}: {SHARDED}")
        if refusal := _refusal(weight):
            raise ValueError(f"{name}: {names_of(model, [weight])} {refusal}")
    _check_memory(model, weights, name)


def _has_frozen_code(module: nn.Module) -> bool:
    """Whether compiled code of ``module`` may contain its weights as constants, so that changes have no effect.

    It checks the compiler's configuration when the module was compiled, and the current one.
    """
    config_of = getattr(module._compiled_call_impl or module, "get_compiler_config", None)
    options = (config_of() if config_of else None) or {}
    freezing = getattr(sys.modules.get("torch._inductor.config"), "freezing", False)
    return bool(options.get("freezing") or freezing)


def is_sharded(weight: object) -> bool:
    """Whether a parameter holds only this process's part of a weight."""
    return bool(_kinds(weight) & _SHARDED) or hasattr(weight, "ds_id")  # DeepSpeed's third stage


def is_wrapper(tensor: object) -> bool:
    """Whether a tensor only wraps other tensors that hold its values, as quantized tensors of torchao do."""
    return is_traceable_wrapper_subclass(tensor)


def names_of(model: nn.Module, weights: Iterable[Tensor]) -> str:
    """The names of at most three of ``weights`` in ``model``, and how many others there are."""
    wanted = {id(weight) for weight in weights}
    names = [name for name, weight in model.named_parameters() if id(weight) in wanted][:3]
    more = len(wanted) - len(names)
    return ", ".join(names + ([f"{more} {'more' if names else 'former'} weights"] if more else []))


def _described(model: nn.Module, module: nn.Module) -> str:
    name = next(name for name, candidate in model.named_modules() if candidate is module)
    return f"{name} ({type(module).__name__})" if name else f"this {type(module).__name__}"


def _refusal(weight: Tensor) -> str:
    """The reason why ``weight`` cannot be perturbed, or an empty string."""
    if "UninitializedTensorMixin" in _kinds(weight):
        return LAZY
    if weight.dtype not in _DTYPES:
        return f"is {weight.dtype}: perturbed weights must be float16, bfloat16, float32 or float64"
    for refused, why in (
        (weight.layout is not torch.strided, "is sparse: must be dense; use weight.to_dense()"),
        (weight.is_meta and type(weight) is nn.Parameter, "has no data (meta device); use to_empty, and load weights"),
        (is_wrapper(weight), WRAPPER),
        (_overlaps_itself(weight), "has entries that share memory (expand); use weight.clone()"),
    ):
        if refused:
            return why
    return ""


def _overlaps_itself(weight: Tensor) -> bool:
    if weight.layout is not torch.strided or weight.is_contiguous():
        return False
    reach = 0  # offset of the last entry along the dimensions before
    for stride, size in sorted(zip(weight.stride(), weight.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _check_memory(model: nn.Module, weights: Sequence[Tensor], name: str) -> None:
    """Raise ValueError if one of ``weights`` shares entries with another, a frozen parameter or a buffer.

    Such entries would be perturbed twice, or change a tensor that must stay fixed. Adjacent parts of a flat tensor, or
    its columns, share no entries.
    """
    perturbed = {id(weight) for weight in weights}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # Lists, because torch.compile breaks its graph at data_ptr and cannot always carry a generator across the break.
    plain = [(key, t) for key, t in named.items() if t.layout is torch.strided and not is_wrapper(t)]
    spans = sorted([(tensor.data_ptr(), key) for key, tensor in plain if not tensor.is_meta])
    reaching: list[str] = []  # tensors that begin earlier and may overlap the current one
    for start, key in spans:
        reaching = [other for other in reaching if start < named[other].data_ptr() + _reach(named[other])]
        for other in reaching:
            moved = id(named[other]) in perturbed or id(named[key]) in perturbed
            if moved and start and _share_entries(named[other], named[key]):
                raise ValueError(
                    f"{name}: {other}, {key} share memory; make them one parameter (tied), or clone one of them"
                )
        reaching.append(key)


def _reach(weight: Tensor) -> int:
    """Bytes from the start of the first entry to the end of the last."""
    steps = sum(stride * (size - 1) for stride, size in zip(weight.stride(), weight.shape, strict=True))
    return (steps + 1) * weight.element_size() if weight.numel() else 0


def _share_entries(first: Tensor, other: Tensor) -> bool:
    """Whether two tensors with overlapping memory have entries in common; ``first`` begins first."""
    if first.dtype != other.dtype or first.device != other.device:
        return first.device == other.device
    size = first.element_size()
    between = (other.data_ptr() - first.data_ptr()) // size
    users = torch.zeros(max(_reach(first), _reach(other) + between * size) // size, dtype=torch.int8, device="cpu")
    for tensor, offset in ((first, 0), (other, between)):
        users.as_strided(tensor.shape, tensor.stride(), offset).add_(1)
    return bool((users > 1).any())


def _kinds(thing: object) -> frozenset[str]:
    """The names of the classes of a module or tensor that need further checks."""
    return _kinds_of(type(thing))  # type: ignore[arg-type]  # mypy assumes that a class with __eq__ has no hash


@lru_cache(maxsize=1024)
def _kinds_of(cls: type) -> frozenset[str]:
    names = {base.__name__ for base in cls.__mro__} & (_GRAPHS | _SHARDED | _ASKED)
    return frozenset(names | ({"quantized"} if ".ao.nn.quantized" in cls.__module__ else set()))
