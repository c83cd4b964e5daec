"""What the contract of methods holds beyond noise and SAM: state of the weights' size, inputs, gradients, refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from subprocess import run as run_process

import pytest
import torch
from helpers.common import same_bits
from helpers.trainer_cases import UPDATES, network, run
from torch import Tensor, nn

from smoothout.data.split import Split
from smoothout.nn.evaluation import evaluate
from smoothout.nn.options import StatisticsFrom
from smoothout.nn.swapped import SwappedWeights
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods import adversarial
from smoothout.training.methods.arwp import ARWP
from smoothout.training.methods.asam import ASAM
from smoothout.training.methods.averaging import WeightAveraging
from smoothout.training.methods.base import GradientEstimator, Method, TrainingPlan
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.lpf_sgd import LPFSGD
from smoothout.training.methods.mixed_rwp import MixedRWP
from smoothout.training.methods.msam import MSAM
from smoothout.training.methods.nso import NSO
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.methods.stability import Stability
from smoothout.training.schedule import Schedule
from smoothout.training.update import GhostBatch

Splits = Callable[..., Split]


class Averaging(GradientEstimator):
    """An exponential average of the weights, at which epochs are evaluated."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def begin_update(self, update: int) -> None:
        for name, parameter in self._model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 0.25 if update else 0.0)

    def evaluation_weights(self) -> AbstractContextManager[object]:
        return SwappedWeights(self._model, list(self._model.parameters()), list(self.average.values()))

    def tensors(self) -> dict[str, Tensor]:
        return self.average


class Adversarial(GradientEstimator):
    """Each image moved along the sign of its gradient."""

    def backward(self, ghost_batch: GhostBatch) -> None:
        inputs = ghost_batch.inputs.requires_grad_()
        [slope] = ghost_batch.gradient([inputs])
        ghost_batch.inputs = inputs.detach() + 0.1 * slope.sign()
        ghost_batch.backward()


class Late(GradientEstimator):
    """State that is made in the first update, which a resumed training would begin without."""

    def before_step(self) -> None:
        self._count = torch.ones(())

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self._count} if hasattr(self, "_count") else {}


class Written(GradientEstimator):
    """A gradient that the method writes itself."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def before_step(self) -> None:
        for parameter in self._model.parameters():
            parameter.grad = torch.zeros_like(parameter)


@dataclass(frozen=True)
class Custom(Method):
    """A method that this package does not know."""

    kind: type[GradientEstimator] = GradientEstimator

    @property
    def slug(self) -> str:
        return "custom"

    def build(self, model: nn.Module, plan: TrainingPlan) -> GradientEstimator:
        assert (plan.updates, plan.updates_per_epoch, plan.processes) == (3 * UPDATES, UPDATES, 1)
        return self.kind(model) if self.kind in (Averaging, Written) else self.kind()  # type: ignore[call-arg]


def test_a_resumed_training_does_not_lose_state_that_was_made_late(tiny_split: Splits) -> None:
    done = run(network(), tiny_split, method=Custom(Late))
    with pytest.raises(ValueError, match=r"^method: its state is \[\] before the first update, and \['count'\] in the"):
        run(network(), tiny_split, method=Custom(Late), resume=done)


def test_the_defaults_are_plain_training(tiny_split: Splits) -> None:
    assert same_bits(run(network(), tiny_split, method=Custom()).model, run(network(), tiny_split).model)


def test_averaged_weights_are_evaluated_kept_as_the_best_and_resumed(tiny_split: Splits, tmp_path: Path) -> None:
    plain, unbroken = run(network(), tiny_split), run(network(), tiny_split, method=Custom(Averaging))
    assert same_bits(unbroken.model, plain.model), "the average changes no weight that is trained"
    model = network()
    model.load_state_dict(unbroken.best)
    test = evaluate(model, tiny_split(10, seed=1).batches(10))
    assert test.loss == pytest.approx(unbroken.curves["test_loss"][unbroken.best_epoch], rel=1e-6)
    assert unbroken.curves["test_loss"] != plain.curves["test_loss"]

    def save(now: TrainingState, state: Callable[[], TrainingState]) -> None:
        if (now.epoch, now.step) == (1, 2):
            checkpoint.save(tmp_path / "run.pt", state(), "digest")

    run(network(), tiny_split, method=Custom(Averaging), after_step=save)
    snapshot = checkpoint.load(tmp_path / "run.pt", "digest")
    resumed = run(network(seed=7), tiny_split, method=Custom(Averaging), resume=snapshot)
    assert same_bits(resumed.model, unbroken.model)
    assert same_bits(resumed.best, unbroken.best)
    assert resumed.curves["test_loss"] == unbroken.curves["test_loss"]


def test_inputs_may_be_replaced_by_adversarial_ones(tiny_split: Splits) -> None:
    plain, moved = (run(network(), tiny_split, method=Custom(kind)) for kind in (GradientEstimator, Adversarial))
    assert moved.curves["train_loss"][0] > plain.curves["train_loss"][0]


def test_a_method_may_write_the_gradient_itself(tiny_split: Splits) -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    run(model, tiny_split, method=Custom(Written))
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (NoiseConfig(0.1), 1),
        (NoiseConfig(0.1, copies=3), 3),
        (LPFSGD(), 1),
        (ARWP(), 1),
        (MSAM(), 1),
        (WeightAveraging(), 1),
        (SAM(), 2),
        (ASAM(), 2),
        (NSO(), 2),
        (MixedRWP(), 2),
        (adversarial.Adversarial(), 2),
        (Stability(), 2),
        (Conservative(iterations=4), 4),
    ],
    ids=lambda value: getattr(value, "slug", ""),
)
def test_the_passes_of_a_method_are_known_without_a_model(method: Method, passes: int) -> None:
    estimator = method.build(network(), TrainingPlan(0, 10, 5, 1, 1, torch.device("cpu")))
    assert method.passes == passes == estimator.forward_passes * estimator.steps_per_batch


@pytest.mark.parametrize(
    ("method", "forward_only"),
    [
        (LPFSGD(), 0),
        (LPFSGD(statistics_from=StatisticsFrom.clean), 1),
        (ARWP(statistics_from=StatisticsFrom.both), 1),
        (NSO(), 0),
        (NSO(statistics_from=StatisticsFrom.clean), 1),
        (MSAM(statistics_from=StatisticsFrom.clean), 1),
        (SAM(), 0),
        (SAM(statistics_from=StatisticsFrom.perturbed), 0),
        (MixedRWP(statistics_from=StatisticsFrom.both), 0),
    ],
    ids=lambda value: getattr(value, "slug", ""),
)
def test_passes_are_those_with_a_gradient(method: Method, forward_only: int, tiny_split: Splits) -> None:
    model, counts = network(), {True: 0, False: 0}

    def count(module: nn.Module, *unused: object) -> None:
        counts[torch.is_grad_enabled()] += module.training

    model.register_forward_hook(count)
    run(model, tiny_split, method=method, schedule=Schedule(1))
    assert counts == {True: UPDATES * method.passes, False: UPDATES * forward_only}


def test_settings_of_trainings_are_read_without_torch() -> None:
    names = ["batch", "schedule", "optimizers", "engine"]
    methods = ["base", "smoothout", "sam", "conservative", "adversarial", "stability"]
    methods += ["asam", "lpf_sgd", "arwp", "mixed_rwp", "nso", "msam", "averaging", "perturbed"]
    modules = [f"smoothout.training.{name}" for name in names] + [f"smoothout.training.methods.{m}" for m in methods]
    modules += ["smoothout.nn.options"]
    code = f"import sys; sys.modules.update(dict.fromkeys(['torch', 'numpy']))\nimport {', '.join(modules)}"
    assert (
        run_process([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )
