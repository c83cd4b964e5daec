"""A tape of ATen operations, which stands in for a CUDA graph where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class Tape(TorchDispatchMode):
    """Keeps the operations of a block and their memory; at the end of the block that memory is as it was before."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._seeds = {generator.initial_seed() for generator in generators}
        self._steps: list[tuple[Any, Any, list[Tensor | None]]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage] | None] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a recording cannot wait for a number"
        given = tree_map_only(Tensor, Tensor.detach, (arguments, settings or {}))  # parameters are pointed elsewhere
        chance = given[1].get("generator")
        assert chance is None or chance.initial_seed() in self._seeds, "this generator was not named"
        inputs = {memory.data_ptr(): memory for memory in _memory(given)}
        for at, memory in inputs.items():
            if at not in self._before:
                self._before[at] = memory, memory.clone()
        result = operation(*given[0], **given[1])
        fresh = [one if isinstance(one, Tensor) and _at(one) not in inputs else None for one in tree_leaves(result)]
        self._before |= dict.fromkeys((_at(one) for one in fresh if one is not None), None)
        if operation.namespace == "aten":  # not the profiler's marks
            self._steps.append((operation, given, fresh))
        return result

    def undo(self) -> None:
        for kept in self._before.values():
            if kept is not None:
                kept[0].copy_(kept[1])

    @torch.no_grad()
    def replay(self) -> None:
        for operation, (arguments, settings), fresh in self._steps:
            for old, new in zip(fresh, tree_leaves(operation(*arguments, **settings)), strict=True):
                if old is not None:
                    old.copy_(new)


def _memory(values: Any) -> list[torch.UntypedStorage]:
    return [one.untyped_storage() for one in tree_leaves(values) if isinstance(one, Tensor) and one.numel()]


def _at(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class TapeStream:
    """`cuda_graph.CaptureStream` with tapes for CUDA graphs; notes 1 for every recording, 0 for every replay."""

    def __init__(self, events: list[int]) -> None:
        self._events = events

    def entered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        self._events.append(1)
        replay = record(work, generators)
        return lambda: (self._events.append(0), replay())[1]


def record(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """A function that replays ``work``, whose memory and generators are as if it had not been done."""
    everything = [*generators, torch.default_generator]
    before = [generator.get_state() for generator in everything]
    tape = Tape(generators)
    with tape:
        work()
    tape.undo()
    silent = torch.equal(torch.default_generator.get_state(), before[-1])
    assert silent or torch.default_generator in generators, "torch's own generator was not named"
    for generator, state in zip(everything, before, strict=True):
        generator.set_state(state)
    return tape.replay
