"""SWA and EMA against `torch.optim.swa_utils` in a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.common import same_bits
from helpers.trainer_cases import EXAMPLES, SIZE, network, run
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from smoothout.common.rng import make_generator
from smoothout.data.split import Split
from smoothout.nn.evaluation import evaluate
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.methods.averaging import Average, WeightAveraging
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule

Splits = Callable[..., Split]
EPOCHS, START = 8, 0.75


def by_hand(model: nn.Module, split: Split, test: Split, average: AveragedModel, *, every_update: bool) -> list[float]:
    """Train, and return the test loss after each epoch, of the average once there is one."""
    optimizer, losses = Adam(0.01).build(model.parameters()), []
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(EXAMPLES, generator=make_generator(0, "order", epoch))
        late = epoch >= START * EPOCHS
        for rows in order.split(SIZE):
            optimizer.zero_grad()
            inputs, labels = split.gather(rows)
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if late and every_update:
                average.update_parameters(model)
        if late and not every_update:
            average.update_parameters(model)
        evaluated = copy.deepcopy(average.module if late else model)
        if late:
            update_bn(split.batches(SIZE), evaluated)
        losses.append(evaluate(evaluated, test.batches(10)).loss)
    update_bn(split.batches(SIZE), average)
    return losses


@pytest.mark.parametrize("kind", Average)
def test_a_training_ends_with_torchs_average_and_its_statistics(kind: Average, tiny_split: Splits) -> None:
    model, ema = network(), kind is Average.ema
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8) if ema else None)
    losses = by_hand(model, tiny_split(EXAMPLES), tiny_split(10, seed=1), average, every_update=ema)
    end = run(network(), tiny_split, method=WeightAveraging(kind, START, 0.8), schedule=Schedule(EPOCHS))
    for name, tensor in average.module.state_dict().items():
        torch.testing.assert_close(end.model[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
    assert end.curves["test_loss"] == pytest.approx(losses, rel=1e-5)
    plain = run(network(), tiny_split, schedule=Schedule(EPOCHS))
    assert end.curves["train_loss"] == plain.curves["train_loss"], "the average changes no update"
    assert not same_bits(end.model, plain.model)


@pytest.mark.parametrize("kind", Average)
def test_a_training_that_is_stopped_between_its_last_update_and_its_end_resumes(
    kind: Average, tiny_split: Splits, tmp_path: Path
) -> None:
    method, schedule = WeightAveraging(kind, 0.4, 0.8), Schedule(3)

    def save(now: TrainingState, state: Callable[[], TrainingState]) -> None:
        if (now.epoch, now.step) == (2, 4):
            checkpoint.save(tmp_path / "run.pt", state(), "digest")

    whole = run(network(), tiny_split, method=method, schedule=schedule, after_step=save)
    snapshot = checkpoint.load(tmp_path / "run.pt", "digest")
    resumed = run(network(seed=7), tiny_split, method=method, schedule=schedule, resume=snapshot)
    assert same_bits(resumed.model, whole.model)
    assert resumed.curves["test_loss"] == whole.curves["test_loss"]


def test_a_last_batch_of_one_example_does_not_reach_the_statistics(tiny_split: Splits) -> None:
    examples = tiny_split(3 * SIZE + 1)
    model = network(batchnorm=True)
    end = run(model, tiny_split, train_split=examples.first(3 * SIZE), method=WeightAveraging(start=0.0))
    statistics = {name: end.model[name] for name in ("2.running_mean", "2.running_var")}
    update_bn(examples.first(3 * SIZE).batches(SIZE), model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in statistics.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 1.0}, r"^start: must be a share of the epochs in \[0, 1\), not 1.0"),
        ({"decay": 1.0}, "^decay: must lie between 0 and 1, not 1.0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightAveraging(**settings)  # type: ignore[arg-type]


def test_names_have_what_matters() -> None:
    assert [WeightAveraging(Average.swa, 0.75, 0.5).slug, WeightAveraging(Average.ema, 0.5).slug] == [
        "swa",
        "ema0.999-start0.5",
    ]
    assert WeightAveraging(decay=0.5).canonicalized() == WeightAveraging()


@pytest.mark.parametrize(
    ("start", "epochs", "averaged"),
    [
        (0.75, 10, [8, 9, 10]),  # 7.5 epochs come before
        (0.75, 8, [7, 8]),
        (0.75, 40, list(range(31, 41))),
        (0.75, 1, [1]),
        (0.0, 3, [1, 2, 3]),
        (0.7, 10, [8, 9, 10]),
        (0.29, 100, list(range(30, 101))),  # 0.29 * 100 is 28.999999999999996
        (0.07, 100, list(range(8, 101))),  # 0.07 * 100 is 7.000000000000001
        (0.999, 10, [10]),
    ],
)
def test_an_epoch_is_averaged_if_it_ends_after_the_start(start: float, epochs: int, averaged: list[int]) -> None:
    assert list(range(1, epochs + 1))[WeightAveraging(start=start).epochs_before(epochs) :] == averaged


def test_the_average_of_the_last_quarter_of_ten_epochs_has_three_weights(tiny_split: Splits) -> None:
    end = run(network(), tiny_split, method=WeightAveraging(), schedule=Schedule(10))
    assert end.method["weights in the average"] == 3
