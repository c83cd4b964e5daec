"""When a CUDA graph is recorded, believed and given up, and what it shares with others: by stand-ins, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.engine_trainings import UPDATES, Splits, network, training
from helpers.tape import TapeStream, record
from test_engine_graphs import assert_same_end, graphs  # noqa: F401  (a fixture)
from torch import nn

from smoothout.training.cuda_graph import CaptureError, difference
from smoothout.training.engine import Engine, Launch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.trainer import Trainer

CPU = torch.device("cpu")
LR = 2.0**-7


def failing(error: Exception) -> Callable[..., Any]:
    """A capture that is broken off by ``error``, as torch reports it."""

    def capture(self: TapeStream, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Any:
        work()  # up to the operation that fails
        try:
            raise error
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    return capture


def noisy(tiny_split: Splits, launch: Launch, together: int = 1, **changes: Any) -> Trainer:
    settings = {"method": NoiseConfig(0.1), "optimizer": Adam(LR, clip_norm=1.0, reset_every_epoch=True), **changes}
    return training(tiny_split, network(0.5), engine=Engine(launch, concurrent_trainings=together), **settings)


@pytest.fixture
def auto_records(graphs: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:  # noqa: F811
    """Lets launch=auto choose graphs on the CPU, as it does on a CUDA device."""
    also_here = Engine.resolved

    def resolved(self: Engine, *arguments: Any) -> Engine:
        found = also_here(self, *arguments)
        return found if found.launch is not Launch.auto else Engine(**{**vars(found), "launch": Launch.graph})

    monkeypatch.setattr(Engine, "resolved", resolved)
    return graphs


@pytest.mark.usefixtures("auto_records")
@pytest.mark.parametrize("optimizer", [Adam(LR, clip_norm=1.0, reset_every_epoch=True), SGD(LR, 1e-3)])
def test_a_recording_that_fails_leaves_the_training_as_if_it_had_not_been_tried(
    optimizer: Any, tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = noisy(tiny_split, Launch.eager, optimizer=optimizer)
    wanted.run()
    monkeypatch.setattr(TapeStream, "capture", failing(RuntimeError("operation not permitted when\ncapturing")))
    found = noisy(tiny_split, Launch.auto, optimizer=optimizer)
    assert found.engine.launch is Launch.graph
    line = r"^no CUDA graph of this update \(operation not permitted when capturing\); it runs eagerly$"
    with pytest.warns(UserWarning, match=line) as warned:
        found.run()
    assert len(warned) == 1
    assert found.engine.launch is Launch.eager
    assert_same_end(found.state(), wanted.state())
    for one, other in zip(
        found.state().optimizer["param_groups"], wanted.state().optimizer["param_groups"], strict=True
    ):
        assert one == other


@pytest.mark.usefixtures("auto_records")
def test_the_reason_is_not_an_error_that_the_caller_was_handling(
    tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapeStream, "capture", failing(RuntimeError("not permitted")))
    found = noisy(tiny_split, Launch.auto)
    try:
        {}["something else"]
    except KeyError:
        with pytest.warns(UserWarning, match=r"^no CUDA graph of this update \(not permitted\); it runs eagerly$"):
            found.run()


@pytest.mark.usefixtures("graphs")
def test_with_launch_graph_a_recording_that_fails_is_an_error(
    tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = noisy(tiny_split, Launch.graph)
    before = {name: tensor.clone() for name, tensor in run.state().model.items()}
    monkeypatch.setattr(TapeStream, "capture", failing(RuntimeError("operation not permitted when capturing")))
    with pytest.raises(CaptureError, match=r"^operation not permitted when capturing$"):
        run.run()
    assert same_bits(run.state().model, before)


def other_rows(self: TapeStream, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    replay = record(work, generators)
    return lambda: (replay(), replay())[1]  # as if the warm-up had not been undone


@pytest.mark.usefixtures("auto_records")
def test_a_replay_that_ends_elsewhere_than_the_eager_update_is_not_believed(
    tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = noisy(tiny_split, Launch.eager).run()
    monkeypatch.setattr(TapeStream, "capture", other_rows)
    found = noisy(tiny_split, Launch.auto)
    with pytest.warns(UserWarning, match="the first replay and the eager update differ"):
        found.run()
    assert_same_end(found.state(), wanted)


class Replaces(nn.Module):
    """A layer whose forward pass puts new tensors in the place of its buffers, the second of another size."""

    def __init__(self, grows: bool) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(0))
        self.grows = grows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls = self.calls + 1
            if self.grows:
                self.seen = torch.cat([self.seen, x.detach().mean()[None]])
        return x * (1.0 + 0.01 * self.calls)


@pytest.mark.usefixtures("auto_records")
@pytest.mark.parametrize("grows", [False, True])
def test_an_update_that_replaces_buffers_is_eager_and_its_snapshots_hold_the_new_ones(
    grows: bool, tiny_split: Splits
) -> None:
    """A replay would read the old buffer again and again; the first one ends where the eager update ends."""

    def ended(launch: Launch) -> Trainer:
        torch.manual_seed(0)
        made = training(tiny_split, nn.Sequential(nn.Flatten(), nn.Linear(16, 3), Replaces(grows)), launch)
        made.run()
        return made

    wanted = ended(Launch.eager)
    with pytest.warns(UserWarning, match="no CUDA graph of this update" if grows else "replaces tensors"):
        found = ended(Launch.auto)
    assert_same_end(found.state(), wanted.state())
    assert float(found.state().model["2.calls"]) == 3 * UPDATES


# How far a replay may be from the eager update


def tensors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(values[:2]), torch.tensor(values[2:])]


def test_the_difference_is_a_share_of_the_way_less_rounding() -> None:
    before, wanted = tensors(1.0, 1.0, 1.0), tensors(1.3, 1.4, 1.0)  # half a unit of way
    assert difference(wanted, wanted, before) == 0.0
    found = tensors(1.3, 1.4, 1.1)
    assert difference(found, wanted, before) == pytest.approx(0.1 / 0.5, rel=1e-4)
    nearly = tensors(1.3, 1.4, 1.0 + 1e-6)
    assert difference(nearly, wanted, before) == 0.0
    assert difference(before, wanted, before) == pytest.approx(1.0, rel=1e-4)
