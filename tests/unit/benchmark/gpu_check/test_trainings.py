"""The checks of trainings hold on a CPU, and fail when a fault is planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from smoothout.benchmark import workloads
from smoothout.benchmark.gpu_check import concurrency, networks, trainings
from smoothout.benchmark.gpu_check.concurrency import ConcurrentTrainings
from smoothout.benchmark.gpu_check.networks import mlp
from smoothout.benchmark.gpu_check.trainings import KINDS, PLAIN
from smoothout.benchmark.workloads import Workload, advance
from smoothout.models.mlp import MLP
from smoothout.training.checkpoint import TrainingState
from smoothout.training.engine import Engine, GhostPasses, Launch
from smoothout.training.trainer import Trainer

CPU = torch.device("cpu")
SHORT = 320  # examples
BIASED = "1.weight"


class Disturbed(Trainer):
    """A training that sometimes ends with slightly different weights."""

    concerned: Callable[[Engine], bool]

    def __init__(self, *arguments: Any, engine: Engine, **settings: Any) -> None:
        self._concerned = type(self).concerned(engine)
        eager = Engine(Launch.eager, ghosts=engine.ghosts)  # a CPU has no graphs
        super().__init__(*arguments, engine=eager, **settings)

    def run(self) -> TrainingState:
        end = super().run()
        if self._concerned:
            weights = next(t for name, t in end.model.items() if t.is_floating_point() and t.dim() > 1)
            weights += 0.1 * weights.std() * torch.randn_like(weights)
        return end


def disturb(monkeypatch: pytest.MonkeyPatch, concerned: Callable[[Engine], bool]) -> None:
    monkeypatch.setattr(networks, "Trainer", type("Planted", (Disturbed,), {"concerned": staticmethod(concerned)}))


@pytest.mark.parametrize("kind", ["plain", "C1, bfloat16"])
def test_a_graph_that_ends_as_eager_updates_do_holds_and_another_fails(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, lambda engine: False)
    finding = trainings.graph_equals_eager(CPU, kind, SHORT)
    assert finding.passed, finding.text
    assert "the same bits" in finding.text
    disturb(monkeypatch, lambda engine: engine.launch is Launch.graph)
    finding = trainings.graph_equals_eager(CPU, kind, SHORT)
    assert finding.passed is False
    assert "apart by" in finding.text


def test_every_kind_can_be_trained_and_they_differ() -> None:
    ends = []
    for kind, settings in KINDS.items():
        run = networks.training(CPU, Launch.eager, examples=128, **settings)
        now = advance(iter(run), 2)
        ends.append((kind, float(next(iter(now.model.values())).double().sum())))
    assert len({end for _, end in ends}) >= len(KINDS) - 2, ends  # float32 and tf32 are one on a CPU
    assert len(KINDS) >= 13


@pytest.mark.parametrize("noise", [PLAIN, trainings.ONE_NOISE], ids=["none", "one"])
def test_one_pass_that_ends_as_in_turn_holds_and_another_fails(noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = trainings.batched_equals_sequential(CPU, noise)
    assert finding.passed, finding.text
    disturb(monkeypatch, lambda engine: engine.ghosts is GhostPasses.batched)
    assert trainings.batched_equals_sequential(CPU, noise, SHORT).passed is False


def test_a_resumed_training_that_is_the_unbroken_one_holds() -> None:
    finding = trainings.resumed_equals_uninterrupted(CPU, SHORT)
    assert (finding.passed, finding.text) == (True, "the same bits")


def test_a_training_that_resumes_without_its_optimizer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(*arguments: Any) -> TrainingState:
        snapshot = load(*arguments)
        snapshot.optimizer = {}
        return snapshot

    load = trainings.checkpoint.load
    monkeypatch.setattr(trainings.checkpoint, "load", forgetful)
    assert trainings.resumed_equals_uninterrupted(CPU, SHORT).passed is False


GROUP = ConcurrentTrainings(Workload(MLP(8, 1), (1, 4, 4)), batch=8, count=3, updates=6)


def test_trainings_at_once_that_end_as_each_alone_hold() -> None:
    finding = concurrency.concurrent_equal_alone(CPU, GROUP)
    assert (finding.passed, finding.text) == (True, "3 trainings of 6 updates of 8: the same bits")


def test_trainings_that_share_memory_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several live, the second's last update is computed with a number of the first's."""
    living: list[int] = []

    class Sharing(Trainer):
        def __iter__(self) -> Iterator[TrainingState]:
            living.append(self._seed)
            try:
                for now in super().__iter__():
                    if self._seed == 1 and len(living) > 1:
                        now.model[BIASED].view(-1)[0] += 2.0**-20
                    yield now
            finally:
                living.remove(self._seed)

    monkeypatch.setattr(workloads, "Trainer", Sharing)
    finding = concurrency.concurrent_equal_alone(CPU, GROUP)
    assert (finding.passed, finding.text) == (False, "3 trainings of 6 updates of 8: number 1 ended elsewhere")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a GPU has reserved: a training takes 100 MiB, of which it leaves ``left`` behind."""
    state = SimpleNamespace(reserved=0, peak=0, left=0)

    def trained(*_: Any, **__: Any) -> SimpleNamespace:
        state.peak = max(state.peak, state.reserved + 100 * 2**20)
        state.reserved += state.left
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(concurrency, "training", trained)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: state.reserved)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: state.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    return state


@pytest.mark.parametrize(("left", "holds"), [(0, True), (5 * 2**20, True), (30 * 2**20, False), (90 * 2**20, False)])
def test_memory_that_trainings_leave_behind_is_seen(left: int, holds: bool, memory: SimpleNamespace) -> None:
    memory.left = left
    finding = concurrency.memory_is_freed(CPU)
    assert finding.passed is holds
    assert finding.text == f"five trainings that need 100 MiB each left {5 * left // 2**20} MiB behind"


def test_the_networks_of_checks_have_no_weight_whose_gradient_is_only_rounding() -> None:
    """A bias before BatchNorm: Adam would blow its rounding up, and ends would differ for no fault."""
    for network in (mlp(), networks.smooth(), networks.resnet8(), networks.c1()):
        layers = [m for m in network.modules() if not list(m.children())]
        for layer, following in pairwise(layers):
            if isinstance(following, nn.BatchNorm1d | nn.BatchNorm2d):
                assert getattr(layer, "bias", None) is None
