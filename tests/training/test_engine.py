"""The engine: what it chooses and refuses, and that updates which are recorded, laid out or compiled are the same.

CUDA graphs need a GPU. Here a tape takes their place: it keeps the operations of an update with the very memory that
they used, undoes them, and repeats them one by one. Like a graph it knows nothing of Python, so a number that a
recorded update would have to look up anew each time (a learning rate, a strength, a seed) stays what it was.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from smoothout import perturbation
from smoothout.data.augment import CropFlip
from smoothout.data.images import Split
from smoothout.evaluation import Precision
from smoothout.models.shallow import Shallow
from smoothout.perturbation import Course, Draw, Law, Noise, Scaling
from smoothout.randomness import address, stream
from smoothout.training import checkpoint, engine, loop
from smoothout.training.checkpoint import Snapshot
from smoothout.training.engine import TOGETHER, WARM_UP, Engine, Ghosts, Launch, Layout, Repeated, keep_memory
from smoothout.training.loop import Training
from smoothout.training.optimizers import Adam, Momentum
from smoothout.training.schedule import Schedule
from smoothout.training.step import Batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EXAMPLES, SIZE, UPDATES = 22, 6, 4  # the last batch of an epoch has 4 examples
LR = 2.0**-7  # float32 holds it exactly, as it holds the lower ones after a drop to a half
DIGEST = "e7" * 32
Splits = Callable[..., Split]


def network(dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    first = nn.Linear(16, 12, bias=False)  # before BatchNorm a bias has a gradient of rounding alone
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


def training(tiny_split: Splits, model: nn.Module, launch: Launch = Launch.eager, **changes: Any) -> Training:
    """A training of three epochs of four updates; anything can be changed."""
    settings: dict[str, Any] = {
        "optimizer": Adam(LR),
        "schedule": Schedule(3),
        "batch": Batch(SIZE),
        "noise": Noise(),
        "seed": 0,
        "engine": Engine(launch),
        **changes,
    }
    return Training(model, tiny_split(EXAMPLES), tiny_split(10, seed=1), **settings)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def curves(snapshot: Snapshot) -> dict[str, list[float]]:
    return {name: values for name, values in snapshot.curves.items() if name != "seconds"}


def assert_same_end(found: Snapshot, wanted: Snapshot) -> None:
    assert equal(found.model, wanted.model)
    assert equal(found.best, wanted.best)
    assert curves(found) == curves(wanted)
    assert len(found.curves["train_loss"]) == 3


# Choices


@pytest.mark.parametrize(
    ("device", "precision", "recordable", "found"),
    [
        (CPU, Precision.float32, True, Engine(Launch.eager, False, Layout.channels_last, 1, Ghosts.in_turn)),
        (CPU, Precision.bfloat16, True, Engine(Launch.eager, False, Layout.channels_last, 1, Ghosts.in_turn)),
        (CPU, Precision.float32, False, Engine(Launch.eager, False, Layout.channels_last, 1, Ghosts.in_turn)),
        (CUDA, Precision.float32, True, Engine(Launch.graph, False, Layout.channels_first, TOGETHER, Ghosts.in_turn)),
        (CUDA, Precision.tf32, True, Engine(Launch.graph, False, Layout.channels_last, TOGETHER, Ghosts.in_turn)),
        (CUDA, Precision.bfloat16, True, Engine(Launch.graph, False, Layout.channels_last, TOGETHER, Ghosts.in_turn)),
        (CUDA, Precision.float32, False, Engine(Launch.eager, False, Layout.channels_first, TOGETHER, Ghosts.in_turn)),
    ],
)
def test_auto_is_resolved_by_device_precision_and_what_can_be_recorded(
    device: torch.device, precision: Precision, recordable: bool, found: Engine
) -> None:
    assert Engine().resolved(device, precision, recordable) == found


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_was_chosen_stays(device: torch.device) -> None:
    for layout, together in product((Layout.channels_first, Layout.channels_last), (1, 5)):
        chosen = Engine(Launch.eager, True, layout, together, Ghosts.in_turn)
        assert chosen.resolved(device, Precision.float32, recordable=True) == chosen
        assert chosen.laid_out(device, Precision.bfloat16) is layout
        assert chosen.turns(device) == together
    graph = Engine(Launch.graph, False, Layout.channels_last, 1, Ghosts.in_turn)
    assert graph.resolved(CUDA, Precision.float32, recordable=True) == graph


@pytest.mark.parametrize(
    ("device", "recordable", "line"),
    [
        (CPU, True, "launch: graph needs a CUDA device, not cpu; take auto or eager"),
        (
            CUDA,
            False,
            "launch: a graph holds no copies, photographs, several processes,"
            " or dropout over several ghost batches; take auto",
        ),
    ],
)
def test_a_graph_that_cannot_be_had_is_refused_in_one_line(device: torch.device, recordable: bool, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        Engine(Launch.graph).resolved(device, Precision.float32, recordable)


@pytest.mark.parametrize("together", [0, -1])
def test_less_than_one_training_at_a_time_is_refused_in_one_line(together: int) -> None:
    with pytest.raises(ValueError, match=f"^together: must be null or a whole number >= 1, not {together}$"):
        Engine(together=together)


@pytest.mark.parametrize(
    ("chosen", "device", "one_noise", "found"),
    [
        *((ghosts, device, None, "in_turn") for ghosts in Ghosts for device in (CPU, CUDA)),
        *(("in_turn", device, one, "in_turn") for one in (True, False) for device in (CPU, CUDA)),
        *(("one_pass", device, one, "one_pass") for one in (True, False) for device in (CPU, CUDA)),
        ("auto", CPU, True, "in_turn"),
        ("auto", CPU, False, "in_turn"),
        ("auto", CUDA, True, "one_pass"),
        ("auto", CUDA, False, "in_turn"),
    ],
)
def test_ghost_batches_go_in_one_pass_where_it_is_chosen_and_possible(
    chosen: str, device: torch.device, one_noise: bool | None, found: str
) -> None:
    engine = Engine(ghosts=Ghosts(chosen))
    assert engine.resolved(device, Precision.float32, True, one_noise).ghosts is Ghosts(found)
    compiled = replace(engine, compile=True).resolved(device, Precision.float32, True, one_noise)
    assert compiled.ghosts is Ghosts("in_turn" if one_noise is False else found)


def test_another_word_for_ghosts_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^ghosts: 'together' is not one of auto, in_turn, one_pass$"):
        Engine(ghosts="together")  # type: ignore[arg-type]


def test_a_training_makes_its_engines_choices_and_refuses_what_it_cannot_do(tiny_split: Splits) -> None:
    choices = training(tiny_split, network(), Launch.auto).engine
    assert choices == Engine(Launch.eager, False, Layout.channels_last, 1, Ghosts.in_turn)
    with pytest.raises(ValueError, match=r"^launch: graph needs a CUDA device, not cpu; take auto or eager$"):
        training(tiny_split, network(), Launch.graph)


@pytest.mark.parametrize(
    ("noise", "dropout", "ghosts", "recordable"),
    [
        (Noise(), 0.0, 1, True),
        (Noise(), 0.0, 3, True),
        (Noise(0.1), 0.0, 3, True),
        (Noise(0.1), 0.5, 1, True),
        (Noise(), 0.5, 2, False),
        (Noise(0.1), 0.5, 2, False),
        (Noise(0.1, copies=2), 0.0, 1, False),
        (Noise(0.0, copies=2), 0.0, 1, True),  # no strength: no copies
    ],
)
def test_all_but_copies_and_dropout_over_several_ghost_batches_can_be_recorded(
    *, noise: Noise, dropout: float, ghosts: int, recordable: bool, tiny_split: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, resolved = list[bool](), Engine.resolved

    def look(self: Engine, device: torch.device, precision: Precision, recordable: bool, *more: Any) -> Engine:
        found.append(recordable)
        return resolved(self, device, precision, recordable, *more)

    monkeypatch.setattr(Engine, "resolved", look)
    training(tiny_split, network(dropout), noise=noise, batch=Batch(SIZE, SIZE // ghosts))
    assert found == [recordable]


# Recorded work


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
        assert chance is None or chance.initial_seed() in self._seeds, "this source of chance was not named"
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


def record(work: Callable[[], None], generators: list[torch.Generator]) -> Callable[[], None]:
    """What engine.record does with a CUDA graph, with a tape."""
    everything = [*generators, torch.default_generator]
    before = [generator.get_state() for generator in everything]
    tape = Tape(generators)
    with tape:
        work()
    tape.undo()
    silent = torch.equal(torch.default_generator.get_state(), before[-1])
    assert silent or torch.default_generator in generators, "torch's own source of chance was not named"
    for generator, state in zip(everything, before, strict=True):
        generator.set_state(state)
    return tape.replay


def drawn_on_the_device(tensor: Tensor, generator: torch.Generator | None, a: float | Tensor) -> Tensor:
    """How fill_uniform draws where there are graphs: numpy, which it uses on CPUs, cannot be recorded."""
    return tensor.uniform_(-1.0, 1.0, generator=generator).mul_(a)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets updates be recorded on the CPU, with tapes; fills with 1 for every recording and 0 for every replay."""
    events: list[int] = []
    resolved = Engine.resolved

    def taped(work: Callable[[], None], generators: list[torch.Generator]) -> Callable[[], None]:
        events.append(1)
        replay = record(work, generators)
        return lambda: (events.append(0), replay())[1]

    def also_here(self: Engine, device: torch.device, precision: Precision, recordable: bool, *more: Any) -> Engine:
        assert recordable or self.launch is Launch.eager
        here = resolved(replace(self, launch=Launch.eager), device, precision, recordable, *more)
        return replace(here, launch=self.launch)

    monkeypatch.setattr(Engine, "resolved", also_here)
    monkeypatch.setattr(engine, "warm_up", lambda work: [work() for _ in range(WARM_UP)])
    monkeypatch.setattr(engine, "record", taped)
    monkeypatch.setattr(perturbation, "fill_uniform", drawn_on_the_device)
    return events


class Sum:
    """Work whose outcome tells how often it was done, on what, and with which chance; half its state is made late."""

    def __init__(self) -> None:
        self.total, self.late = torch.zeros((), dtype=torch.float64), list[Tensor]()
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, rows: Tensor) -> None:
        if not self.late:
            self.late.append(torch.zeros(2))
        self.total += rows.sum() + torch.rand((), generator=self.generator)
        self.late[0] += rows[:2]

    def state(self) -> list[Tensor]:
        return [self.total, *self.late]


def test_every_call_does_the_work_once_on_its_own_rows_with_the_chance_of_that_time(graphs: list[int]) -> None:
    plain, work = Sum(), Sum()
    repeated = Repeated(work, work.state, [work.generator])
    calls = [torch.arange(3), torch.arange(3) + 10, torch.arange(5), torch.arange(3) + 20, torch.arange(5) + 1]
    for number, rows in enumerate(calls):
        for one in (plain, work):
            one.generator.manual_seed(number)
        plain(rows.clone())
        repeated(rows)
        rows.zero_()  # the caller's own
        assert work.total == plain.total
        assert torch.equal(work.late[0], plain.late[0])
        assert torch.equal(work.generator.get_state(), plain.generator.get_state())
    assert graphs == [1, 0, 0, 1, 0, 0, 0], "one recording for every number of rows"


@pytest.mark.usefixtures("graphs")
def test_a_warm_up_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    work, done = Sum(), list[int]()
    work.total += 7
    chance = work.generator.get_state()

    def look(begun: Callable[[], None], generators: list[torch.Generator]) -> Callable[[], None]:
        assert work.total == 7
        assert torch.equal(work.late[0], torch.zeros(2))
        assert torch.equal(work.generator.get_state(), chance)
        assert generators == [work.generator]
        return lambda: done.append(1)

    monkeypatch.setattr(engine, "record", look)
    Repeated(work, work.state, [work.generator])(torch.arange(3))
    assert done == [1]


# Recorded trainings

METHODS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "adam reset, decayed and clipped": {"optimizer": Adam(LR, 1e-3, clip_norm=0.5, reset_every_epoch=True)},
    "momentum with drops": {"optimizer": Momentum(8 * LR, 1e-3), "schedule": Schedule(3, (1, 2), 0.5)},
    "momentum reset and clipped": {"optimizer": Momentum(8 * LR, clip_norm=0.5, reset_every_epoch=True)},
    "no momentum": {"optimizer": Momentum(8 * LR, momentum=0.0), "noise": Noise(0.1)},
    "smoothout": {"noise": Noise(0.1)},
    "smoothout, annealed": {"noise": Noise(0.1, course=Course.anneal)},
    "noise left in, batchnorm's too": {"noise": Noise(0.01, denoise=False, batchnorm=True)},
    "gaussian, falling": {"noise": Noise(0.1, Law.gaussian, course=Course.tanh_falling)},
    "adasmoothout, rising": {"noise": Noise(0.15, scaling=Scaling.filter, course=Course.tanh_rising)},
    "relative to each weight": {"noise": Noise(0.15, scaling=Scaling.weight, batchnorm=True)},
    "a draw for each ghost batch": {"noise": Noise(0.1), "batch": Batch(SIZE, 2)},
    "a draw for each batch": {"noise": Noise(0.1, draw=Draw.batch), "batch": Batch(SIZE, 2)},
    "dropout": {"model": lambda: network(0.5)},
    "dropout under noise": {"model": lambda: network(0.5), "noise": Noise(0.1)},
    "convolutions": {"model": convolutions, "noise": Noise(0.1)},
    "bfloat16": {"noise": Noise(0.1), "precision": Precision.bfloat16},
    "augmented": {"augmentation": CropFlip((127,)), "noise": Noise(0.1), "batch": Batch(SIZE, 2)},
}


def methods_training(tiny_split: Splits, method: str, launch: Launch, **changes: Any) -> Training:
    settings = {"model": network, **METHODS[method], **changes}
    return training(tiny_split, settings.pop("model")(), launch, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_training_ends_with_the_same_bits(
    method: str, tiny_split: Splits, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = methods_training(tiny_split, method, Launch.eager).run()
    assert not graphs
    updates, update = list[int](), loop.update
    monkeypatch.setattr(loop, "update", lambda *a, **b: (updates.append(1), update(*a, **b))[1])
    found = methods_training(tiny_split, method, Launch.graph).run()
    assert_same_end(found, wanted)
    recordings = graphs.count(1)
    assert 2 <= recordings <= 4, "one for every kind of update; the last batch of an epoch is smaller"
    assert len(updates) == recordings * (WARM_UP + 1), "all others were replayed"
    assert graphs.count(0) == 3 * UPDATES


@pytest.mark.parametrize("noise", [Noise(), Noise(0.1, draw=Draw.batch), Noise(0.1)])
def test_a_recorded_training_in_one_pass_ends_with_the_same_bits(
    noise: Noise, tiny_split: Splits, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curvature is measured at the first update of an epoch alone, for the measured go in turn."""
    monkeypatch.setattr(loop, "CURVATURE_DRAWS", 1)
    ends = []
    for launch in (Launch.eager, Launch.graph):
        run = training(
            tiny_split, convolutions(), batch=Batch(SIZE, 2), noise=noise, engine=Engine(launch, ghosts=Ghosts.one_pass)
        )
        assert run.engine.ghosts is Ghosts.one_pass
        ends.append(run.run())
    assert_same_end(*ends)
    assert graphs.count(1) == (3 if noise.a else 2)


@pytest.mark.parametrize(("size", "events"), [(11, [1, *[0] * 6]), (SIZE, [1, 0, 0, 0, 1, 0, *[0] * 8])])
def test_batches_of_one_size_are_recorded_once(
    size: int, events: list[int], tiny_split: Splits, graphs: list[int]
) -> None:
    training(tiny_split, network(), Launch.graph, batch=Batch(size)).run()
    assert graphs == events


def test_methods_end_at_different_weights(tiny_split: Splits) -> None:
    """Without this the test above could pass with settings that do nothing."""
    ends = [curves(methods_training(tiny_split, method, Launch.eager).run()) for method in METHODS]
    assert not any(ends[i] == ends[j] for i in range(len(ends)) for j in range(i))


@pytest.mark.parametrize("optimizer", [Adam(0.01), Momentum(0.1)])
def test_a_learning_rate_that_float32_rounds_moves_the_end_by_no_more_than_rounding(
    optimizer: Adam | Momentum, tiny_split: Splits, graphs: list[int]
) -> None:
    """On the device the rate is a float32, off by up to 3e-8 of itself; a weight is rounded by up to 6e-8 of itself."""
    ends = []
    for launch in (Launch.eager, Launch.graph):
        settings = {"optimizer": optimizer, "noise": Noise(0.1), "schedule": Schedule(3, (1,))}
        ends.append(training(tiny_split, network(), launch, **settings).run())
    for name, tensor in ends[0].model.items():
        torch.testing.assert_close(ends[1].model[name], tensor, rtol=1e-6, atol=1e-6)
    assert ends[1].curves["train_loss"] == pytest.approx(ends[0].curves["train_loss"], rel=1e-6)
    assert graphs


@pytest.mark.usefixtures("graphs")
def test_a_trainings_warm_up_leaves_no_trace(tiny_split: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = training(tiny_split, model, Launch.graph, noise=Noise(0.1), optimizer=Momentum(LR, 1e-3))

    class Looked(Exception):  # noqa: N818
        pass

    def look(work: Callable[[], None], generators: list[torch.Generator]) -> Callable[[], None]:
        assert equal(model.state_dict(), before)
        now = run.frozen()
        assert torch.equal(now.sums, torch.zeros(2, dtype=torch.float64))
        assert [len(state) for state in now.optimizer["state"].values()] == [1] * 5
        assert not any(tensor.any() for state in now.optimizer["state"].values() for tensor in state.values())
        noise, dropout = (torch.Generator().manual_seed(address(0, name, 0, 0)) for name in ("noise", "dropout"))
        assert generators[1] is torch.default_generator
        for found, wanted in zip(generators, (noise, dropout), strict=True):
            assert torch.equal(torch.rand(9, generator=found), torch.rand(9, generator=wanted))
        raise Looked

    monkeypatch.setattr(engine, "record", look)
    with pytest.raises(Looked):
        run.run()


# Recorded trainings that stop and go on

STOPPED = {
    "adam": {"optimizer": Adam(LR), "noise": Noise(0.1, course=Course.anneal), "model": lambda: network(0.5)},
    "momentum": {
        **METHODS["momentum with drops"],
        "batch": Batch(SIZE, 3),
        "noise": Noise(0.15, scaling=Scaling.filter),
    },
    "adam reset": METHODS["adam reset, decayed and clipped"],
}


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("stop", [1, 4, 6])
@pytest.mark.parametrize("modes", [("graph", "eager"), ("eager", "graph"), ("graph", "graph")], ids="-".join)
@pytest.mark.parametrize("method", STOPPED)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits_in_either_mode(
    method: str, modes: tuple[str, str], stop: int, tiny_split: Splits, tmp_path: Path
) -> None:
    settings = {"model": network, **STOPPED[method]}
    make = settings.pop("model")
    wanted = training(tiny_split, make(), **settings).run()
    first = training(tiny_split, make(), Launch(modes[0]), **settings)
    for done, _ in enumerate(first, 1):
        if done == stop:
            checkpoint.save(tmp_path / "run.pt", first.frozen(), DIGEST)
            break
    snapshot = checkpoint.load(tmp_path / "run.pt", DIGEST)
    assert (snapshot.epoch, snapshot.step) == ((stop - 1) // UPDATES, (stop - 1) % UPDATES + 1)
    torch.manual_seed(999)  # whatever the new process did before
    second = training(tiny_split, make(), Launch(modes[1]), resume=snapshot, **settings)
    assert_same_end(second.run(), wanted)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("method", STOPPED)
def test_what_a_recorded_training_saves_on_the_way_is_what_an_eager_one_saves(method: str, tiny_split: Splits) -> None:
    """And saving does not change the training."""
    settings = {"model": network, **STOPPED[method]}
    make = settings.pop("model")
    eager, recorded = (training(tiny_split, make(), launch, **settings) for launch in (Launch.eager, Launch.graph))
    for _ in zip(eager, recorded, strict=True):
        wanted, found = eager.frozen(), recorded.frozen()
        assert found.optimizer["param_groups"] == wanted.optimizer["param_groups"]
        assert all(type(group["lr"]) is float for group in found.optimizer["param_groups"])
        assert found.optimizer["state"].keys() == wanted.optimizer["state"].keys()
        for name, state in wanted.optimizer["state"].items():
            assert equal(found.optimizer["state"][name], state)
        assert torch.equal(found.sums, wanted.sums)
        assert equal(found.model, wanted.model)
    assert_same_end(recorded.frozen(), eager.frozen())


def test_a_checkpoint_holds_plain_settings_while_the_optimizer_keeps_those_of_a_recording(tiny_split: Splits) -> None:
    made: list[torch.optim.Optimizer] = []

    class Capturable(Adam):
        def build(self, parameters: Any) -> torch.optim.Optimizer:
            made.append(torch.optim.Adam(parameters, lr=torch.tensor(self.lr), fused=True, capturable=True))
            return made[0]

    run = training(tiny_split, network(), optimizer=Capturable(LR))
    for _ in run:
        [saved], [live] = run.frozen().optimizer["param_groups"], made[0].param_groups
        assert (type(saved["lr"]), saved["lr"], saved["capturable"]) == (float, LR, False)
        assert isinstance(live["lr"], Tensor)
        assert live["capturable"] is True


# Layout

OTHER = {Layout.channels_first: Layout.channels_last, Layout.channels_last: Layout.channels_first}


def pictures(examples: int, seed: int = 0) -> Split:
    """Images of 12 x 12 colours in three classes that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    pixels = torch.randint(0, 120, (examples, 12, 12, 3), generator=generator) + 60 * labels.view(-1, 1, 1, 1)
    return Split(pixels.to(torch.uint8), labels, (0.5,) * 3, (0.5,) * 3)


def shallow(start: Layout = Layout.channels_first) -> nn.Sequential:
    torch.manual_seed(0)
    model = Shallow().build((3, 12, 12), 3)
    return start.applied_to(model)


def laid_out(layout: Layout, model: nn.Module, **changes: Any) -> Training:
    """Two epochs of three updates; anything can be changed."""
    settings: dict[str, Any] = {
        "optimizer": Momentum(0.01),
        "schedule": Schedule(2),
        "batch": Batch(8),
        "noise": Noise(),
        "seed": 0,
        "engine": Engine(layout=layout),
        **changes,
    }
    return Training(model, pictures(24), pictures(16, seed=1), **settings)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """How far two ends lie apart, as a share of the way from the start; of all weights the one with the most."""
    way = {name: weight.detach() for name, weight in shallow().named_parameters()}
    return max(float((one[name] - other[name]).norm() / (one[name] - start).norm()) for name, start in way.items())


KEPT, MOVED = [Noise(), Noise(0.05, denoise=False)], [Noise(0.05), Noise(0.15, scaling=Scaling.filter)]
MOVED += [Noise(0.05, copies=2)]  # the parameters are pointed at other memory


@pytest.mark.parametrize(
    ("noise", "start"),
    [
        *product(KEPT + MOVED, [Layout.channels_last]),
        *product(KEPT, [Layout.channels_first]),
        *((noise, Layout.channels_first) for noise in MOVED),
    ],
)
def test_trainings_end_together_in_both_layouts_whatever_the_models_own(noise: Noise, start: Layout) -> None:
    """A sum of up to 1600 products in another order is off by 5e-6, and six updates add some; measured: 5e-5."""
    wanted = laid_out(Layout.channels_first, shallow(), noise=noise).run()
    found = laid_out(Layout.channels_last, shallow(start), noise=noise).run()
    assert apart(found.model, wanted.model) < 1e-3
    assert found.curves["train_loss"] == pytest.approx(wanted.curves["train_loss"], rel=1e-4)


@pytest.mark.parametrize("noise", [Noise(), Noise(0.05)])
def test_an_update_in_bfloat16_is_the_same_in_both_layouts_but_for_its_rounding(noise: Noise) -> None:
    """Every product is rounded to 8 bits, so an update is off by a good part of itself; a wrong one is off by 1."""
    settings: dict[str, Any] = {"noise": noise, "precision": Precision.bfloat16, "batch": Batch(24)}
    ends = [
        laid_out(layout, shallow(layout), schedule=Schedule(1), **settings).run()
        for layout in (Layout.channels_first, Layout.channels_last)
    ]
    assert apart(ends[1].model, ends[0].model) < 0.5
    assert ends[1].curves["train_loss"] == pytest.approx(ends[0].curves["train_loss"], rel=0.02)


@pytest.mark.parametrize("layouts", OTHER.items(), ids="-".join)
def test_a_training_goes_on_in_another_layout(layouts: tuple[Layout, Layout], tmp_path: Path) -> None:
    wanted = laid_out(layouts[0], shallow(layouts[0])).run()
    first = laid_out(layouts[0], shallow(layouts[0]))
    next(iter(first))
    checkpoint.save(tmp_path / "run.pt", first.frozen(), DIGEST)
    snapshot = checkpoint.load(tmp_path / "run.pt", DIGEST)
    found = laid_out(layouts[1], shallow(layouts[1]), resume=snapshot).run()
    assert apart(found.model, wanted.model) < 1e-3


@pytest.mark.parametrize("precision", [Precision.float32, Precision.bfloat16])
@pytest.mark.parametrize("noise", [Noise(), Noise(0.05)])
@pytest.mark.parametrize("layout", [Layout.channels_first, Layout.channels_last])
def test_convolutions_see_images_and_weights_in_the_layout(layout: Layout, noise: Noise, precision: Precision) -> None:
    """Outside the noise and inside, in training and evaluation, from the first layer on."""
    model, seen = shallow(layout), set()

    def look(module: nn.Conv2d, given: tuple[Tensor]) -> None:
        seen.add((module.in_channels, module.training, lying(given[0]), lying(module.weight)))

    for module in (model[0], model[4]):
        module.register_forward_pre_hook(look)
    end = laid_out(layout, model, noise=noise, precision=precision, schedule=Schedule(1)).run()
    assert seen == {(channels, mode, layout, layout) for channels in (3, 64) for mode in (True, False)}
    assert lying(end.model["4.weight"]) is lying(end.best["4.weight"]) is layout


def lying(tensor: Tensor) -> Layout:
    [layout] = (one for one in OTHER if tensor.is_contiguous(memory_format=one.memory_format))
    return layout


def test_the_noise_is_the_same_in_both_layouts_to_the_last_bit() -> None:
    for noise in (Noise(0.05), Noise(0.05, Law.gaussian), Noise(0.15, scaling=Scaling.weight)):
        inside = []
        for layout in OTHER:
            model = shallow(layout)
            context = noise.on(model)
            context.generator = stream(0, "noise", 0, 0)
            with context:
                inside.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        assert equal(*inside)
        assert not torch.equal(inside[0]["4.weight"], shallow().state_dict()["4.weight"])


# Compilation


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
@pytest.mark.parametrize("noise", [Noise(), Noise(0.1)])
def test_a_compiled_training_ends_where_an_eager_one_ends(noise: Noise, tiny_split: Splits) -> None:
    """Compiled sums are added up in another order: 1e-7 of each, and a little more with every update."""
    ends = []
    for compiled in (False, True):
        settings: dict[str, Any] = {"optimizer": Momentum(0.1), "noise": noise}
        run = training(tiny_split, network(), engine=Engine(compile=compiled), **settings)
        assert run.engine.compile is compiled
        ends.append(run.run())
    for name, tensor in ends[0].model.items():
        torch.testing.assert_close(ends[1].model[name], tensor, rtol=1e-4, atol=1e-5)
    assert ends[1].curves["train_loss"] == pytest.approx(ends[0].curves["train_loss"], rel=1e-5)
    assert ends[1].curves["test_loss"] == pytest.approx(ends[0].curves["test_loss"], rel=1e-5)


# Memory


def test_memory_is_kept_by_telling_the_c_library_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            assert name is None  # the one that this process runs with

        @staticmethod
        def mallopt(option: int, value: int) -> int:
            told.append((option, value))
            return 1

    monkeypatch.setattr(engine.ctypes, "CDLL", Library)
    keep_memory()
    assert dict(told) == {-4: 0, -1: 2**31 - 1, -2: 2**28}  # of malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
    keep_memory()
    assert len(told) == 6


@pytest.mark.parametrize("lacking", [OSError, AttributeError])
def test_another_c_library_is_left_alone(lacking: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Library:
        def __init__(self, name: None) -> None:
            asked.append(lacking)
            if lacking is OSError:
                raise OSError

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    monkeypatch.setattr(engine.ctypes, "CDLL", Library)
    keep_memory()
    assert asked == [lacking]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_faulted_in_again() -> None:
    """A tensor of 64 MiB is 16384 pages; given back, all of them are faulted in again at each of eight rounds.

    In a process of its own: one that was ever refused memory has another heap.
    """
    program = """
import resource, torch
from smoothout.training.engine import keep_memory
keep_memory()
keep_memory()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        assert torch.ones(2**24).sum() == 2**24
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(8)  # until the heap has found its size
print(faults(8))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 4 * 16384
