"""Replace a model's weights within a block, and restore them at its end."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from smoothout.nn.guards import is_sharded, names_of
from smoothout.nn.parameters import clear_weight_caches
from smoothout.nn.watch import Paused, Watch


class SwappedWeights:
    """Inside, ``parameters`` of ``model`` hold ``tensors``; at the end, the old data are restored bit for bit.

    Run the backward pass inside, because autograd refuses it once weights have changed since the forward pass. Writes
    to the parameters inside are lost; see `Watch` for which are detected.

    Raises:
        RuntimeError: at the end, with the weights restored: if a parameter was written to or replaced inside (unless
            the block ends with an exception); if blocks around the same weights are not left in reverse order; if a
            weight cannot be restored (all others are).
    """

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor]) -> None:
        self._model, self._parameters, self._tensors = model, parameters, tensors
        self.clean = [parameter.data for parameter in parameters]
        by_id = {id(parameter): parameter for parameter in parameters}
        tables = [module._parameters for module in model.modules()]
        self._slots = [(table, name, by_id[id(p)]) for table in tables for name, p in table.items() if id(p) in by_id]
        self._watch = Watch(parameters, tensors, self.clean, self._give_back)
        self._around: Paused | None = None
        self._given_back = False

    def __enter__(self) -> SwappedWeights:
        try:
            self._around = Paused(self._parameters)
            bind(self._parameters, self._tensors)
            self._watch.begin()
        except BaseException:  # an interrupt: the block is never entered, so nothing else would restore the weights
            self.__exit__(BaseException)
            raise
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._given_back:
            return
        try:
            self._give_back()
        except BaseException:  # an interrupt during the restoration
            self._give_back()
            raise
        if self._watch.written and not any(error):
            raise RuntimeError(
                f"{names_of(self._model, self._watch.written)}: written or replaced within the block; this is lost,"
                " because the block restores its weights at the end; load, initialize and average weights outside it"
            )

    def inner_blocks(self) -> list[object]:
        """See `WeightContext.inner_blocks`."""
        return list[object](self._watch.inside())

    def _give_back(self) -> None:
        """Restore the weights; can be repeated after an interruption anywhere."""
        if self._given_back:
            return
        inside = self._watch.inside()
        for watch in inside:
            watch.give_back()
        self._watch.end()
        for table, name, parameter in self._slots:
            if table.get(name) is not parameter:
                self._watch.written.append(parameter)
                if table.get(name) is not None and not is_sharded(table[name]):  # FSDP has freed the old one's memory
                    table[name] = parameter
        failed: dict[Tensor, Exception] = {}
        for parameter, tensor in zip(self._parameters, self.clean, strict=True):
            try:
                parameter.data = tensor
            except Exception as error:  # restore the others in any case
                failed[parameter] = error
        torch.autograd.graph.increment_version(list(self._parameters))
        clear_weight_caches()
        if self._around is not None:
            self._around.renew()
        self._given_back = True
        if failed:
            reason = next(iter(failed.values()))
            raise RuntimeError(f"{names_of(self._model, failed)}: could not be restored: {reason}") from reason
        if inside:
            raise RuntimeError("blocks around the same weights must be left in reverse order; all are restored now")


def bind(parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor]) -> None:
    """Make ``parameters`` hold ``tensors``, mark them as changed for autograd, and clear weight caches."""
    for parameter, tensor in zip(parameters, tensors, strict=True):
        parameter.data = tensor
    torch.autograd.graph.increment_version(list(parameters))
    clear_weight_caches()
