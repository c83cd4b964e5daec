"""What a training's CUDA graphs share with other trainings, and what they leave behind: by stand-ins, on a CPU."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from helpers.engine_trainings import Splits, network, training
from test_engine_graphs import graphs  # noqa: F401  (a fixture)

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


# Randomness


class FakeGenerator:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def get_offset(self) -> int:
        return self.offset


def test_randomness_that_nobody_seeds_is_noticed_on_a_cuda_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
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
