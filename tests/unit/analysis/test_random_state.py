"""What measures a loss's shape refuses batches that change from pass to pass, and takes them in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.search_comparison import compare_searches

POINTS = [(torch.ones(4, 8), torch.ones(4, dtype=torch.long))]
MEASURES: dict[str, Callable[..., object]] = {
    "sharpness": sharpness,
    "adaptive": lambda *given: adaptive_sharpness(*given, 0.01),
    "train": lambda model, loader, loss: compare_searches(model, loader, POINTS, loss, subspace=None, budget=2),
    "test": lambda model, loader, loss: compare_searches(model, POINTS, loader, loss, subspace=None, budget=2),
    "hessian": top_eigenvalues,
    "trace": trace_and_norm,
    "spectrum": hessian_spectrum,
    "path": lambda model, loader, loss: interpolate(model, model, loader, [0.5, 1.0], loss=loss),
    "noise": lambda model, loader, loss: noise_curve(model, loader, [0.1], loss=loss),
    "line": lambda model, loader, loss: landscape_line(model, loader, [0.5, 1.0], loss=loss),
    "plane": lambda model, loader, loss: landscape_plane(model, loader, [0.5], [1.0], loss=loss),
    "classifier": lambda model, loader, loss: landscape_line(model, loader, [0.5, 1.0]),
}


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    torch.manual_seed(0)
    inputs = torch.randn(500, 8)
    return TensorDataset(inputs, (inputs[:, 0] + 0.5 * torch.randn(500) > 0).long())


@pytest.fixture
def minimum(data: TensorDataset) -> nn.Module:
    """Logistic regression at its optimum: the mean gradient nearly vanishes, those of batches do not."""
    torch.manual_seed(1)
    model = nn.Linear(8, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_change=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.tensors[0]), data.tensors[1])
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.cat([p.grad.flatten() for p in model.parameters()]).norm() < 1e-4
    return model


class Augmented:
    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.data.tensors
        yield inputs + 0.1 * torch.randn_like(inputs), targets


class Drawn(IterableDataset[Any]):
    """Other examples at every pass."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self.data[i] for i in torch.randperm(len(self.data))[:400].tolist())


LOADERS: dict[str, Callable[[TensorDataset], Any]] = {
    "augmented": Augmented,
    "one batch left out": lambda data: DataLoader(data, 64, shuffle=True, drop_last=True),
    "with replacement": lambda data: DataLoader(data, 64, sampler=RandomSampler(data, replacement=True)),
    "weighted": lambda data: DataLoader(data, 64, sampler=WeightedRandomSampler(torch.arange(500.0), 500)),
    "stream": lambda data: DataLoader(Drawn(data), 64),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("how", LOADERS)
def test_batches_that_differ_from_pass_to_pass_are_refused_at_the_first_point(measure, how, minimum, data):
    calls, before = [], {name: tensor.clone() for name, tensor in minimum.state_dict().items()}
    minimum.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=r"^model, batches: .* differ in the loss"):
        measure(minimum, LOADERS[how](data), F.cross_entropy)
    assert same_bits(minimum.state_dict(), before)
    if measure is not MEASURES["test"]:  # which comes after ``train``
        assert len(calls) <= 2 * len(DataLoader(data, 64))


class Dropping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5))  # in evaluation mode too


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_model_that_is_random_in_evaluation_mode_is_refused(measure, data):
    with pytest.raises(ValueError, match=r"^model, batches: .* differ in the loss; .* randomness"):
        measure(Dropping(8, 2), DataLoader(data, 250), F.cross_entropy)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_same_examples_in_another_order_are_taken_at_a_minimum_too(measure, minimum, data):
    assert measure(minimum, DataLoader(data, 64, shuffle=True), F.cross_entropy)


def test_running_statistics_from_batches_that_change_are_refused(data):
    """Each point would have statistics of its own, even if only the order changes: batches have other variances."""
    model, held_out = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), DataLoader(data, 250)
    for loader in (DataLoader(data, 64, shuffle=True), Augmented(data)):
        with pytest.raises(ValueError, match=r"^running_stats_from: .* shuffling and augmentation"):
            interpolate(model, model, held_out, [0.5], running_stats="recomputed", running_stats_from=loader)
    assert interpolate(model, model, held_out, [0.5], running_stats="recomputed", running_stats_from=held_out)
