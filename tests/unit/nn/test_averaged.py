"""Averaged weights in a model, with running statistics by torch's `update_bn`."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.noise_cases import examples
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from smoothout import averaged
from smoothout.nn.averaging import put_average
from smoothout.nn.evaluation import evaluate


def network(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), norm or nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = examples(8 * count)
    return list(zip(inputs.double().split(8), labels.split(8), strict=True))


def test_averaged_weights_are_those_of_torch_with_its_statistics() -> None:
    model = network()
    average, wanted = AveragedModel(model), copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for inputs, labels in batches():
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        average.update_parameters(model)
    before = copy.deepcopy(model.state_dict())
    wanted.load_state_dict({**wanted.state_dict(), **dict(average.module.named_parameters())})
    update_bn(batches(), wanted)
    model.train()
    with averaged(model, average.module.parameters(), batches()):
        assert all(torch.equal(one, wanted.state_dict()[name]) for name, one in model.state_dict().items())
        assert evaluate(model, batches()).loss == evaluate(wanted, batches()).loss
    assert model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


class ByKeyword(nn.Module):
    """A model that takes the entries of a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out


def test_batches_may_be_mappings() -> None:
    model, wanted = ByKeyword(), network()
    mappings = [{"images": inputs, "labels": labels} for inputs, labels in batches()]
    weights = [p.detach() + 1 for p in model.parameters()]
    put_average(wanted, weights, batches())
    model.train(mode=False)
    with averaged(model, weights, mappings):
        assert all(map(torch.equal, model.state_dict().values(), wanted.state_dict().values()))
        assert not any(module.training for module in model.modules())
    with (
        pytest.raises(ValueError, match=r"^batches: the model must take the keys"),
        averaged(model, weights, [{"x": weights[0]}]),
    ):
        pass


def test_a_batch_that_fails_leaves_a_model_for_averages_as_it_was() -> None:
    model = network()
    before, momenta = copy.deepcopy(model.state_dict()), [getattr(layer, "momentum", None) for layer in model.modules()]
    wrong = [(inputs[:, :1], labels) for inputs, labels in batches()]
    with pytest.raises(RuntimeError), averaged(model, [p + 1 for p in model.parameters()], wrong):
        pass
    assert [getattr(layer, "momentum", None) for layer in model.modules()] == momenta
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_without_a_batch_running_statistics_are_refused_and_nothing_is_written() -> None:
    model = network()
    update_bn(batches(), model)
    before = copy.deepcopy(model.state_dict())
    weights = [p.detach() + 1 for p in model.parameters()]
    for empty in ([], iter([])):
        with pytest.raises(ValueError, match=r"^batches: there must be at least one$"), averaged(model, weights, empty):
            pass
        with pytest.raises(ValueError, match=r"^batches: there must be at least one$"):
            put_average(model, weights, empty)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(8, track_running_stats=False)])
def test_without_running_statistics_no_batch_is_needed(norm: nn.Module) -> None:
    model = network(norm)
    weights = [p.detach() + 1 for p in model.parameters()]
    with averaged(model, weights, []):
        assert all(map(torch.equal, model.parameters(), weights))


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^weights: must have the shapes"), averaged(network(), [], batches()):
        pass


def test_frozen_whole_numbers_are_left_alone() -> None:
    model = network()
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    weights = [p.detach() if p.dtype == torch.long else p.detach() + 1 for p in model.parameters()]
    with averaged(model, weights, batches()):
        assert model.codes.tolist() == [0, 1, 2]


class Frozen(nn.Module):
    """One BatchNorm layer stays in evaluation mode, another is not used, and dropout is off."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()
        self.norm, self.unused, self.dropout = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Dropout(0.9)
        self.double()
        for layer in (self.norm, self.unused):
            layer.running_mean.fill_(7.0)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.norm(self.layers(x)))
        return out


def test_layers_that_no_pass_in_training_mode_reaches_keep_statistics_and_modules_their_mode() -> None:
    model = Frozen().train()
    model.dropout.eval()
    before = model.layers[1].running_mean.clone()
    with averaged(model, [p.detach().clone() for p in model.parameters()], batches()):
        assert model.norm.running_mean.eq(7).all()
        assert model.unused.running_mean.eq(7).all()
        assert not model.layers[1].running_mean.equal(before)
        assert model.layers.training
        assert not model.dropout.training


def test_empty_batches_do_not_count_in_the_statistics() -> None:
    model, (first, *others) = network(), batches()
    weights = [p.detach().clone() for p in model.parameters()]
    empty = (first[0][:0], first[1][:0])
    put_average(model, weights, [first, *others])
    wanted = copy.deepcopy(model.state_dict())
    put_average(model, weights, [empty, first, empty, *others])
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="there must be at least one"):
        put_average(model, weights, [empty])
