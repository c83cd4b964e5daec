"""How a model is called with the inputs of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn


class Keywords(dict[str, Any]):
    """Inputs that a model takes as keyword arguments: a batch that was a mapping."""


def forward(model: nn.Module, inputs: Any) -> Any:
    """The outputs of ``model``. Raises ValueError, which says how to wrap them, for inputs that it does not take."""
    try:
        return model(**inputs) if isinstance(inputs, Keywords) else model(inputs)
    except (TypeError, AttributeError) as error:
        if hint := _hint(inputs):
            raise ValueError(f"batches: {hint} ({str(error).partition(chr(10))[0]})") from error
        raise


def _hint(inputs: Any) -> str:
    if isinstance(inputs, Keywords):
        if not any(isinstance(entry, Tensor) for entry in inputs.values()):
            return "a mapping must hold tensors; use a DataLoader, which stacks examples"
        return f"the model must take the keys of a mapping as keyword arguments: {', '.join(inputs)}; leave out others"
    if isinstance(inputs, Mapping):
        return "the mapping of a pair is one argument; for keyword arguments, put the targets into it as labels"
    return "inputs are a numpy array; use torch.as_tensor(inputs)" if isinstance(inputs, np.ndarray) else ""
