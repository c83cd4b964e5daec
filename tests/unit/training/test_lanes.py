"""What a training's CUDA graphs share with other trainings, and what they leave behind: by stand-ins, on a CPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.engine_trainings import Splits, network, training
from test_engine_graphs import graphs  # noqa: F401  (a fixture)

from smoothout.training.cuda_graph import GraphedStep
from smoothout.training.dropout import DropoutRng
from smoothout.training.engine import Launch
from smoothout.training.methods.smoothout import NoiseConfig


@pytest.mark.usefixtures("graphs")
def test_recordings_are_gone_as_soon_as_a_training_is_done_or_dropped(tiny_split: Splits) -> None:
    """A reference cycle would keep them, and their memory on the device, until Python's collector comes by."""
    done = training(tiny_split, network(), Launch.graph, method=NoiseConfig(0.1))
    dropped = training(tiny_split, network(), Launch.graph, method=NoiseConfig(0.1))
    recordings = [weakref.ref(run._graphed) for run in (done, dropped) if run._graphed]
    models = [weakref.ref(run._model) for run in (done, dropped)]
    assert len(recordings) == 2
    gc.collect()
    gc.disable()
    try:
        done.run()
        assert recordings[0]() is None
        steps = iter(dropped)
        next(steps)
        del steps, dropped, done
        assert recordings[1]() is None
        assert [model() for model in models] == [None, None]
    finally:
        gc.enable()


class FakeStream:
    def __init__(self, device: Any = None) -> None:
        self.device = device
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


class FakeCUDA:
    """Stands in for what `Lane` asks of torch.cuda, and notes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = self.current = FakeStream()
        self.captures: list[tuple[Any, Any]] = []
        self.registered = list[torch.Generator]()
        self.devices, self.benchmark = list[Any](), list[bool]()
        fake = self

        class Graph:
            def __init__(self, graph: Any, pool: Any = None, stream: Any = None) -> None:
                fake.captures.append((pool, stream))
                fake.benchmark.append(torch.backends.cudnn.benchmark)

            def __enter__(self) -> None: ...
            def __exit__(self, *_: object) -> None: ...

        class CUDAGraph:
            def register_generator_state(self, generator: torch.Generator) -> None:
                fake.registered.append(generator)

            def replay(self) -> None: ...

        stand_ins = {
            "Stream": FakeStream,
            "graph": Graph,
            "CUDAGraph": CUDAGraph,
            "current_stream": lambda device=None: fake.current,
            "default_stream": lambda device=None: fake.default,
            "graph_pool_handle": object,
            "stream": self.on,
            "device": self.at,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    @contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def at(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        yield


def replayed(device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
    graphed = GraphedStep(device, generators)
    for rows in (torch.arange(3), torch.arange(2), torch.arange(3)):
        graphed(lambda rows: None, rows, lambda: {"nothing": []})


def test_a_training_records_on_a_stream_and_in_a_pool_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS' workspaces go by stream: graphs recorded on one stream and replayed on several would share them."""
    cuda, device = FakeCUDA(monkeypatch), torch.device("cuda", 1)
    before = torch.backends.cudnn.benchmark
    replayed(device)
    replayed(device)
    (pool_a, stream_a), (pool_a2, stream_a2), (pool_b, stream_b), _ = cuda.captures
    assert stream_a is stream_a2 is not cuda.default
    assert pool_a is pool_a2 is not None
    assert stream_a is not stream_b
    assert pool_a is not pool_b
    assert set(cuda.devices) == {device}, "also where another device is the current one"
    assert all(cuda.benchmark)
    assert torch.backends.cudnn.benchmark is before
    assert stream_a.waited == [cuda.default] * 2, "the warm-up comes after all that came before"
    assert cuda.default.waited == [stream_a] * 2 + [stream_b] * 2


# Chance


class FakeGenerator:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def get_offset(self) -> int:
        return self.offset


def test_chance_that_nobody_seeds_is_noticed_on_a_cuda_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = FakeGenerator(8)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    for drawn in (0, 4):
        dropout = DropoutRng(network(), 0, torch.device("cuda"))
        watched = dropout.checked()
        with watched if not drawn else pytest.raises(ValueError, match="draws from torch's global generator"):
            if drawn:
                with watched:
                    generator.offset += drawn
        generator.offset += 4  # later draws are not looked at
        with dropout.checked():
            generator.offset += 4
