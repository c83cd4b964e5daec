"""The engine's recorded updates: a tape stands in for CUDA's graphs, and gives the bits of eager updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.engine_trainings import DIGEST, LR, SIZE, UPDATES, Splits, network, training
from helpers.tape import TapeStream
from torch import Tensor, nn

from smoothout.data.augment import AffineFlip, CropFlip
from smoothout.nn import filter_noise, noise_pair, perturbation
from smoothout.nn.options import NoiseDistribution, NoiseScaling, Precision
from smoothout.training import checkpoint, cuda_graph, noise_contexts, trainer
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.cuda_graph import WARM_UP, GraphedStep
from smoothout.training.engine import Engine, GhostPasses, Launch
from smoothout.training.methods.adversarial import Adversarial
from smoothout.training.methods.arwp import ARWP
from smoothout.training.methods.asam import ASAM
from smoothout.training.methods.averaging import Average, WeightAveraging
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.lpf_sgd import LPFSGD, GammaSchedule
from smoothout.training.methods.mixed_rwp import MixedRWP
from smoothout.training.methods.msam import MSAM
from smoothout.training.methods.nso import NSO
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer, StrengthSchedule
from smoothout.training.methods.stability import Stability
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


def curves(snapshot: TrainingState) -> dict[str, list[float]]:
    return {name: values for name, values in snapshot.curves.items() if name != "seconds"}


def assert_same_end(found: TrainingState, wanted: TrainingState) -> None:
    assert same_bits(found.model, wanted.model)
    assert same_bits(found.best, wanted.best)
    assert curves(found) == curves(wanted)
    assert len(found.curves["train_loss"]) == 3


# Recorded work


def drawn_on_the_device(tensor: Tensor, generator: torch.Generator | None, a: float | Tensor) -> Tensor:
    """How fill_uniform draws where there are graphs: numpy, which it uses on CPUs, cannot be recorded."""
    return tensor.uniform_(-1.0, 1.0, generator=generator).mul_(a)


def normal_on_the_device(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """The same of `normal_`."""
    return tensor.normal_(generator=generator)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets updates be recorded on the CPU, with tapes; fills with 1 for every recording and 0 for every replay."""
    events: list[int] = []
    resolved = Engine.resolved

    def also_here(self: Engine, device: torch.device, precision: Precision, capturable: bool, *more: Any) -> Engine:
        assert capturable or self.launch is Launch.eager
        here = resolved(replace(self, launch=Launch.eager), device, precision, capturable, *more)
        return replace(here, launch=self.launch)

    monkeypatch.setattr(Engine, "resolved", also_here)
    monkeypatch.setattr(cuda_graph, "CaptureStream", lambda device: TapeStream(events))
    monkeypatch.setattr(perturbation, "uniform_", drawn_on_the_device)
    for module in (filter_noise, noise_pair):
        monkeypatch.setattr(module, "normal_", normal_on_the_device)
    monkeypatch.setattr(perturbation, "_draws_at_once", lambda device: True)
    return events


class Sum:
    """Work whose outcome tells how often it ran, on what, and with which random numbers; half its state comes late."""

    def __init__(self) -> None:
        self.total, self.late = torch.zeros((), dtype=torch.float64), list[Tensor]()
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, rows: Tensor) -> None:
        if not self.late:
            self.late.append(torch.zeros(2))
        self.total += rows.sum() + torch.rand((), generator=self.generator)
        self.late[0] += rows[:2]

    def state(self) -> dict[str, list[Tensor]]:
        return {"total": [self.total], "late": self.late}


def test_every_call_does_the_work_once_on_its_own_rows_with_the_random_numbers_of_that_time(graphs: list[int]) -> None:
    plain, work = Sum(), Sum()
    graphed = GraphedStep(torch.device("cpu"), [work.generator])
    calls = [torch.arange(3), torch.arange(3) + 10, torch.arange(5), torch.arange(3) + 20, torch.arange(5) + 1]
    for number, rows in enumerate(calls):
        for one in (plain, work):
            one.generator.manual_seed(number)
        plain(rows.clone())
        graphed(work, rows, work.state)
        rows.zero_()  # the caller's own
        assert work.total == plain.total
        assert torch.equal(work.late[0], plain.late[0])
        assert torch.equal(work.generator.get_state(), plain.generator.get_state())
    assert graphs == [1, 0, 0, 1, 0, 0, 0], "one recording for every number of rows"


# Recorded trainings

METHODS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "adam reset, decayed and clipped": {"optimizer": Adam(LR, 1e-3, clip_norm=0.5, reset_every_epoch=True)},
    "momentum with drops": {"optimizer": SGD(8 * LR, 1e-3), "schedule": Schedule(3, (1, 2), 0.5)},
    "momentum reset and clipped": {"optimizer": SGD(8 * LR, clip_norm=0.5, reset_every_epoch=True)},
    "no momentum": {"optimizer": SGD(8 * LR, momentum=0.0), "method": NoiseConfig(0.1)},
    "smoothout": {"method": NoiseConfig(0.1)},
    "smoothout, annealed": {"method": NoiseConfig(0.1, strength_schedule=StrengthSchedule.anneal)},
    "noise left in, batchnorm's too": {"method": NoiseConfig(0.01, denoise=False, batchnorm=True)},
    "one noise left in": {
        "method": NoiseConfig(0.01, noise_per=NoisePer.batch, denoise=False),
        "batch": Batch(SIZE, 2),
    },
    "gaussian, falling": {
        "method": NoiseConfig(0.1, NoiseDistribution.gaussian, strength_schedule=StrengthSchedule.tanh_falling)
    },
    "adasmoothout, rising": {
        "method": NoiseConfig(0.15, scaling=NoiseScaling.filter, strength_schedule=StrengthSchedule.tanh_rising)
    },
    "relative to each weight": {"method": NoiseConfig(0.15, scaling=NoiseScaling.weight, batchnorm=True)},
    "a draw for each ghost batch": {"method": NoiseConfig(0.1), "batch": Batch(SIZE, 2)},
    "a draw for each batch": {"method": NoiseConfig(0.1, noise_per=NoisePer.batch), "batch": Batch(SIZE, 2)},
    "sam": {"method": SAM(0.5), "optimizer": SGD(8 * LR)},
    "asam": {"method": ASAM(0.5), "optimizer": SGD(8 * LR)},
    "lpf-sgd, rising": {"method": LPFSGD(0.05, GammaSchedule.cosine, 4.0), "batch": Batch(SIZE, 2)},
    "arwp": {"method": ARWP(0.1, 2.0, 0.7), "batch": Batch(SIZE, 2)},
    "nso": {"model": convolutions, "method": NSO(0.05), "batch": Batch(SIZE, 2)},
    "m-rwp": {"method": MixedRWP(0.05, 0.3), "batch": Batch(SIZE, 2)},
    "msam": {"method": MSAM(0.4)},
    "msam, momentum": {"method": MSAM(0.4), "optimizer": SGD(8 * LR, reset_every_epoch=True)},
    "swa": {"method": WeightAveraging(start=0.4)},
    "ema": {"method": WeightAveraging(Average.ema, 0.4, 0.8)},
    "sam, a step for each ghost batch": {"model": convolutions, "method": SAM(0.5), "batch": Batch(SIZE, 2)},
    "conservative": {"method": Conservative(0.1), "batch": Batch(SIZE, 2)},
    "conservative, momentum, clipped": {"method": Conservative(0.1, 2), "optimizer": SGD(8 * LR, clip_norm=0.5)},
    "adversarial": {"model": convolutions, "method": Adversarial(0.3), "batch": Batch(SIZE, 2)},
    "stability": {"model": convolutions, "method": Stability(0.5), "batch": Batch(SIZE, 2)},
    "dropout": {"model": lambda: network(0.5)},
    "dropout under noise": {"model": lambda: network(0.5), "method": NoiseConfig(0.1)},
    "convolutions": {"model": convolutions, "method": NoiseConfig(0.1)},
    "convolutions, adasmoothout": {"model": convolutions, "method": NoiseConfig(0.15, scaling=NoiseScaling.filter)},
    "bfloat16": {"method": NoiseConfig(0.1), "precision": Precision.bfloat16},
    "conservative, bfloat16": {"method": Conservative(0.1), "precision": Precision.bfloat16},
    "adversarial, bfloat16": {"method": Adversarial(0.3), "precision": Precision.bfloat16},
    "stability, bfloat16": {"method": Stability(0.5), "precision": Precision.bfloat16},
    "augmented": {"augmentation": CropFlip((127,)), "method": NoiseConfig(0.1), "batch": Batch(SIZE, 2)},
    "rotated": {"augmentation": AffineFlip((127,)), "batch": Batch(SIZE, 2)},
}


def methods_training(tiny_split: Splits, method: str, launch: Launch, **changes: Any) -> Trainer:
    settings = {"model": network, **METHODS[method], **changes}
    return training(tiny_split, settings.pop("model")(), launch, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_training_ends_with_the_same_bits(
    method: str, tiny_split: Splits, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = methods_training(tiny_split, method, Launch.eager).run()
    assert not graphs
    updates, update = list[int](), trainer.update
    monkeypatch.setattr(trainer, "update", lambda *a, **b: (updates.append(1), update(*a, **b))[1])
    found = methods_training(tiny_split, method, Launch.graph).run()
    assert_same_end(found, wanted)
    recordings = graphs.count(1)
    assert 2 <= recordings <= 4, "one for every kind of update; the last batch of an epoch is smaller"
    steps = getattr(METHODS[method].get("method"), "iterations", 1)
    assert len(updates) == recordings * (WARM_UP + 1) * steps, "all others were replayed"
    assert graphs.count(0) == 3 * UPDATES


@pytest.mark.parametrize("noise", [NoiseConfig(), NoiseConfig(0.1, noise_per=NoisePer.batch)])
def test_a_recorded_training_in_one_pass_ends_with_the_same_bits(
    noise: NoiseConfig, tiny_split: Splits, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curvature is measured at the first update of an epoch alone, for the measured go in turn."""
    monkeypatch.setattr(noise_contexts, "CURVATURE_DRAWS", 1)
    ends = []
    for launch in (Launch.eager, Launch.graph):
        run = training(
            tiny_split,
            convolutions(),
            batch=Batch(SIZE, 2),
            method=noise,
            engine=Engine(launch, ghosts=GhostPasses.batched),
        )
        assert run.engine.ghosts is GhostPasses.batched
        ends.append(run.run())
    assert_same_end(*ends)
    assert graphs.count(1) == (3 if noise.a else 2)


@pytest.mark.parametrize("optimizer", [Adam(0.01), SGD(0.1)])
def test_a_learning_rate_that_float32_rounds_moves_the_end_by_no_more_than_rounding(
    optimizer: Adam | SGD, tiny_split: Splits, graphs: list[int]
) -> None:
    """On the device the rate is a float32, off by up to 3e-8 of itself; a weight is rounded by up to 6e-8 of itself."""
    ends = []
    for launch in (Launch.eager, Launch.graph):
        settings = {"optimizer": optimizer, "method": NoiseConfig(0.1), "schedule": Schedule(3, (1,))}
        ends.append(training(tiny_split, network(), launch, **settings).run())
    for name, tensor in ends[0].model.items():
        torch.testing.assert_close(ends[1].model[name], tensor, rtol=1e-6, atol=1e-6)
    assert ends[1].curves["train_loss"] == pytest.approx(ends[0].curves["train_loss"], rel=1e-6)
    assert graphs


# Captured trainings that stop and resume

STOPPED = {
    "adam": {
        "optimizer": Adam(LR),
        "method": NoiseConfig(0.1, strength_schedule=StrengthSchedule.anneal),
        "model": lambda: network(0.5),
    },
    "momentum": {
        **METHODS["momentum with drops"],
        "batch": Batch(SIZE, 3),
        "method": NoiseConfig(0.15, scaling=NoiseScaling.filter),
    },
    "adam reset": METHODS["adam reset, decayed and clipped"],
}


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("stop", [1, 4, 6])
@pytest.mark.parametrize("modes", [("graph", "eager"), ("eager", "graph"), ("graph", "graph")], ids="-".join)
@pytest.mark.parametrize("method", STOPPED)
def test_a_training_that_was_stopped_resumes_to_the_same_bits_in_either_mode(
    method: str, modes: tuple[str, str], stop: int, tiny_split: Splits, tmp_path: Path
) -> None:
    settings = {"model": network, **STOPPED[method]}
    make = settings.pop("model")
    wanted = training(tiny_split, make(), **settings).run()
    first = training(tiny_split, make(), Launch(modes[0]), **settings)
    for done, _ in enumerate(first, 1):
        if done == stop:
            checkpoint.save(tmp_path / "run.pt", first.state(), DIGEST)
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
        wanted, found = eager.state(), recorded.state()
        assert found.optimizer["param_groups"] == wanted.optimizer["param_groups"]
        assert all(type(group["lr"]) is float for group in found.optimizer["param_groups"])
        assert found.optimizer["state"].keys() == wanted.optimizer["state"].keys()
        for name, state in wanted.optimizer["state"].items():
            assert same_bits(found.optimizer["state"][name], state)
        assert torch.equal(found.sums, wanted.sums)
        assert same_bits(found.model, wanted.model)
    assert_same_end(recorded.state(), eager.state())
