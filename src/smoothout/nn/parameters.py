"""The trainable parameters of a model: select, flatten, write and restore them, and compute norms of filters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from smoothout.common.grouping import grouped
from smoothout.nn.guards import check_layers, check_modules, check_weights
from smoothout.nn.watch import unwatched

T = TypeVar("T")
BATCHNORM = _BatchNorm  # torch's own layers and user-defined ones, but not InstanceNorm


def trainable_parameters(model: nn.Module, batchnorm: bool = True) -> list[nn.Parameter]:
    """The parameters that require a gradient, each once (tied ones too), in the order of the model.

    ``batchnorm=False`` excludes the weight and bias of BatchNorm layers. Raises ValueError if no parameter is left, and
    ValueError or TypeError if the weights cannot be changed (see `guards`).
    """
    modules = check_layers(model)
    check_modules(model, modules)
    trainable = select_trainable(modules, batchnorm)
    check_weights(model, trainable)
    return trainable


def select_trainable(modules: Sequence[nn.Module], batchnorm: bool = True) -> list[nn.Parameter]:
    """As `trainable_parameters`, from ``modules``, without the checks of `guards`."""
    excluded = set() if batchnorm else {id(p) for m in modules if isinstance(m, BATCHNORM) for p in m.parameters()}
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    trainable = list({id(p): p for p in parameters if p.requires_grad and id(p) not in excluded}.values())
    if not trainable:
        where = "" if batchnorm else " outside BatchNorm"
        why = " (all have requires_grad=False)" if parameters and not any(p.requires_grad for p in parameters) else ""
        raise ValueError(f"the model has no trainable parameters{where}{why}")
    return trainable


def group_by(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group the ``items`` that have the same key, in order."""
    return list(grouped([(key(item), item) for item in items]).values())


def group_by_dtype_and_device(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Group the indices of ``tensors`` that have the same dtype and device, in order."""
    return group_by(range(len(tensors)), lambda index: (tensors[index].dtype, tensors[index].device))


def has_float64(device: torch.device) -> bool:
    """Whether ``device`` can hold float64 tensors; Apple's MPS cannot."""
    return device.type != "mps"


def float64_device(tensors: Sequence[Tensor]) -> torch.device:
    """The device for float64 results of ``tensors``: their common device if it has float64, otherwise the CPU."""
    device, *others = {tensor.device for tensor in tensors}
    return device if not others and has_float64(device) else torch.device("cpu")


def in_float64(tensor: Tensor) -> Tensor:
    """``tensor`` in float64 on its `float64_device`, detached."""
    return tensor.detach().to(float64_device([tensor])).double()


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """The entries of ``tensors`` in one vector, (n,), on their `float64_device`, in the promoted dtype.

    Tensors of one device are concatenated there, so that at most one copy to the CPU is needed.
    """
    device = float64_device(tensors)
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    if len({tensor.device for tensor in tensors}) > 1:
        flat = [tensor.to(device) for tensor in flat]
    return torch.cat(flat).to(device)


def parameters_to_vector(tensors: Sequence[Tensor], device: torch.device | None = None) -> Tensor:
    """One float64 vector with the entries of ``tensors``, shape (n,), on ``device``; None is their `float64_device`."""
    flat = concatenate(tensors)
    return flat.to(device or flat.device).double()


def unflatten(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """``vector`` of shape (n,) in the shapes of ``tensors``, rounded to their dtypes, on their devices.

    One copy per device and dtype, not per tensor. Raises RuntimeError for a vector of another length.
    """
    sizes = [tensor.numel() for tensor in tensors]
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) > 1:
        parts = list(vector.split_with_sizes(sizes))
        for members in group_by_dtype_and_device(tensors):
            alike = [tensors[i] for i in members]
            for i, part in zip(members, unflatten(torch.cat([parts[i] for i in members]), alike), strict=True):
                parts[i] = part
        return parts
    rounded = vector.to(tensors[0].dtype).to(tensors[0].device)  # in this order: MPS has no float64
    return [part.view_as(tensor) for part, tensor in zip(rounded.split_with_sizes(sizes), tensors, strict=True)]


def clear_weight_caches() -> None:
    """Clear torch's caches after weights have changed: autocast's copies, and parametrized weights.

    Otherwise a model would keep using the old weights within `torch.autocast` and `torch.nn.utils.parametrize.cached`.
    """
    torch.clear_autocast_cache()
    parametrize._cache.clear()


@torch.no_grad()
def vector_to_parameters(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Write ``vector`` of shape (n,) into ``tensors``, in place, rounding to each one's dtype."""
    torch._foreach_copy_(list(tensors), unflatten(vector, tensors))


def set_evaluation_mode(model: nn.Module) -> None:
    """Put every module into evaluation mode by setting its flag, without calling ``eval()``.

    A module may override `train`, for example to merge LoRA weights into a layer, which `preserve_training_mode` would
    not undo.
    """
    for module in model.modules():
        module.training = False


@contextmanager
def preserve_training_mode(model: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of each module at the end of the block, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Restore parameters, buffers and the mode of each module bit for bit, also after an exception.

    If a pass has replaced parameters, buffers or other tensor attributes of modules, the original objects are restored.
    Raises RuntimeError with the names of tensors that cannot be restored; all others are restored.
    """
    # The values. Torch cannot write to an expanded tensor, so no pass can have changed it.
    named = (*model.named_parameters(), *model.named_buffers())
    saved = [(name, t, t.data, t.detach().clone()) for name, t in named if not is_expanded(t)]
    # The objects. A pass may register others under the same names, or set attributes, as weight_norm's hook does.
    tables: list[dict[str, Any]] = [t for m in model.modules() for t in (m._parameters, m._buffers)]
    registered = [(table, dict(table)) for table in tables]
    attributes_before = [
        (vars(m), {k: v for k, v in vars(m).items() if isinstance(v, Tensor)}) for m in model.modules()
    ]

    def restore() -> None:
        # The objects first, so that the values are written into the original ones.
        for table, before in registered:
            table.clear()
            table.update(before)
        for attributes, tensors in attributes_before:
            attributes.update(tensors)
        failed = {}
        for name, tensor, data, old in saved:
            try:
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    if _moved(tensor, data):  # to other memory, dtype or device
                        tensor.data = data
                    tensor.copy_(old)
            except Exception as error:  # restore the others in any case
                failed[name] = error
        clear_weight_caches()
        if failed:
            reason = next(iter(failed.values()))
            raise RuntimeError(f"{', '.join(failed)}: could not be restored: {reason}") from reason

    with unwatched(model.parameters()):  # outer contexts must not report the restored weights as written to
        try:
            with preserve_training_mode(model):
                yield
        finally:
            try:
                restore()
            except BaseException:  # an interrupt during the restoration
                restore()
                raise


def _moved(tensor: Tensor, data: Tensor) -> bool:
    """Whether ``tensor`` no longer holds ``data``."""
    return tensor.layout == torch.strided and (tensor.data_ptr(), tensor.dtype) != (data.data_ptr(), data.dtype)


def is_expanded(tensor: Tensor) -> bool:
    """Whether several entries share memory, as after `torch.expand`; torch refuses to write to these."""
    if tensor.layout != torch.strided:
        return False
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def filter_norms(tensor: Tensor) -> Tensor:
    """The Euclidean norm of each filter, shaped to broadcast against ``tensor``.

    A filter is a slice along dimension 0: all weights into one output channel or neuron (out of one input channel in
    transposed convolutions). A tensor with one dimension or none (a bias) has filters of one number each. For a weight
    of shape (out, in, k, k) the result is (out, 1, 1, 1).
    """
    if tensor.dim() < 2:
        return tensor.detach().abs()
    norms: Tensor = torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1)
    return norms.view(-1, *[1] * (tensor.dim() - 1))
