"""The graphs of the gradients of all batches, kept from one product with the Hessian to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from smoothout.analysis.device_memory import graph_bytes
from smoothout.nn.guards import is_wrapper
from smoothout.nn.late_backward import is_within_block
from smoothout.nn.parameters import concatenate


class KeptGraphs:
    """Gradients that can be differentiated again: one list of ``slopes`` per batch, with the batch's weight.

    ``keep`` says whether to keep the graphs; None keeps them if their saved tensors need at most `graph_bytes`.
    """

    def __init__(self, model: nn.Module, device: torch.device, keep: bool | None) -> None:
        self.model, self.device, self.keep = model, device, keep
        self.batches: list[tuple[float, list[Tensor]]] = []
        self._state: list[Tensor] = []  # the weights and buffers that the graphs belong to
        self._saved: dict[int, int] = {}  # the bytes of each storage in the graphs
        self._limit = 0.0  # of their sum

    def usable(self) -> bool:
        """Whether there are graphs of the model's current weights and buffers."""
        if not self.batches:
            return False
        current = self._current_state()
        if [t.shape for t in current] != [t.shape for t in self._state]:
            return False
        # Version counters do not show writes to ``.data``, so compare values; this takes one copy from the device.
        same = [((a == b) | (a.isnan() & b.isnan())).all() for a, b in zip(current, self._state, strict=True)]
        return all(concatenate(same).tolist())

    @contextmanager
    def filling(self) -> Iterator[None]:
        """A context for a pass over all batches that rebuilds their graphs and passes each to `add`.

        Within a block of SmoothOut or another method they are discarded at the end: they cannot be used outside it.
        """
        self._discard()
        self._limit = graph_bytes(self.device)  # now, because the graphs will take from the free memory
        hooks: AbstractContextManager[None] = nullcontext()
        if self.keep is not False:
            self._state = [tensor.detach().clone() for tensor in self._current_state()]
            # With hooks, a graph stays usable after equal weights are written (a restored model); see `usable`.
            hooks = saved_tensors_hooks(partial(_packed, self._saved), lambda tensor: tensor)
        try:
            with hooks:
                yield
        except BaseException:
            self._discard()
            raise
        if is_within_block(self.model):
            self._discard()

    def add(self, weight: float, slopes: list[Tensor]) -> bool:
        """Keep the graph of a batch if there is room. Returns whether it is kept; if not, all graphs are discarded."""
        if self.keep is None and sum(self._saved.values()) > self._limit:
            self.keep = False
            self._discard()
        if self.keep is not False:
            self.batches.append((weight, slopes))
        return self.keep is not False

    def _current_state(self) -> list[Tensor]:
        tensors = (*self.model.parameters(), *self.model.buffers())
        return [t for t in tensors if t.layout == torch.strided and not is_wrapper(t)]

    def _discard(self) -> None:
        self.batches, self._state, self._saved = [], [], {}


def _packed(saved: dict[int, int], tensor: Tensor) -> Tensor:
    """The data of a ``tensor`` that a graph saves; adds their size to ``saved``.

    Without `detach`, an operation that saves its output (tanh, exp) and this output would form a reference cycle that
    is never freed. So would the graph and its owner if this were a method.
    """
    if tensor.layout == torch.strided:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
    return tensor.detach()
