"""Conservative training against Eq. 5 of Keskar et al., whose objective is differentiated as a whole."""

from __future__ import annotations

import pytest
import torch
from helpers.by_hand import SETTINGS, assert_same_epoch
from helpers.trainer_cases import Splits, network, run
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.training.batch import Batch
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD, Optimizer


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(model(images), labels)
    return loss, loss


@pytest.mark.parametrize(("optimizer", "batch", "dropout"), SETTINGS)
@pytest.mark.parametrize("method", [Conservative(0.3), Conservative(0.0, iterations=2)])
def test_an_epoch_is_that_of_the_subproblems_written_out_by_hand(
    method: Conservative, optimizer: Optimizer, batch: Batch, dropout: float
) -> None:
    by_hand = {"steps": method.iterations, "penalty": method.penalty}
    assert_same_epoch(method, optimizer, batch, dropout, cross_entropy, **by_hand)


def test_the_penalty_holds_the_weights_back_and_more_of_it_more(tiny_split: Splits) -> None:
    ends = []
    for method in (NoiseConfig(), Conservative(0.0), Conservative(1.0), Conservative(4.0)):
        model = network()
        start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        run(model, tiny_split, method=method, optimizer=SGD(0.05, momentum=0.0))
        ends.append(float((nn.utils.parameters_to_vector(model.parameters()) - start).detach().norm()))
    plain, free, held, held_more = ends
    assert plain < free
    assert free > held > held_more


def test_a_parameter_without_a_gradient_stays(tiny_split: Splits) -> None:
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    assert torch.equal(run(model, tiny_split, method=Conservative()).model["unused"], torch.ones(3))


@pytest.mark.parametrize("penalty", [-1e-3, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match=r"^penalty: .*>= 0") as error:
        Conservative(penalty)
    assert str(penalty) in str(error.value)


def test_a_single_iteration_is_refused_because_it_is_plain_training() -> None:
    with pytest.raises(ValueError, match=r"^iterations: .*at least 2, not 1"):
        Conservative(iterations=1)


def test_it_is_named_by_its_penalty_and_iterations() -> None:
    assert Conservative().slug == "conservative0.001x3"
    assert Conservative(0.01, 5).slug == "conservative0.01x5"
