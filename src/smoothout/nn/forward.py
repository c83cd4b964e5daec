"""Call a model with the inputs of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor, nn


class Keywords(dict[str, Any]):
    """The inputs of a batch that was a mapping, to be passed to the model as keyword arguments."""


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call ``model``. Raises ValueError, with a hint, for inputs of a form that it does not accept."""
    try:
        return model(**inputs) if isinstance(inputs, Keywords) else model(inputs)
    except (TypeError, AttributeError) as error:
        if hint := _hint(model, inputs):
            raise ValueError(f"batches: {hint} ({str(error).partition(chr(10))[0]})") from error
        raise


def _hint(model: nn.Module, inputs: Any) -> str:
    if isinstance(inputs, Keywords):
        if not any(isinstance(entry, Tensor) for entry in inputs.values()):
            return "a mapping must hold tensors; use a DataLoader, which stacks examples"
        with suppress(TypeError):
            inspect.signature(model.forward).bind(**inputs)
            return ""  # the error is the model's own
        return f"the model must take the keys of a mapping as keyword arguments: {', '.join(inputs)}; leave out others"
    if isinstance(inputs, Mapping):
        return "the mapping in a pair is passed as one argument; for keyword arguments, add the targets to it as labels"
    return "inputs are a numpy array; use torch.as_tensor(inputs)" if isinstance(inputs, np.ndarray) else ""
