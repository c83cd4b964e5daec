"""What measures a loss's shape refuses batches that change from pass to pass, and takes them in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.common import same_bits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from smoothout import sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import top_eigenvalues

MEASURES: dict[str, Callable[..., object]] = {
    "sharpness": sharpness,
    "adaptive": lambda *given: adaptive_sharpness(*given, 0.01),
    "hessian": top_eigenvalues,
}


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    torch.manual_seed(0)
    inputs = torch.randn(500, 8)
    return TensorDataset(inputs, (inputs[:, 0] + 0.5 * torch.randn(500) > 0).long())


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("how", ["augmented", "one batch left out"])
def test_batches_that_differ_from_pass_to_pass_are_refused(measure, how, minimum, data):
    loader = Augmented(data) if how == "augmented" else DataLoader(data, 64, shuffle=True, drop_last=True)
    before = {name: tensor.clone() for name, tensor in minimum.state_dict().items()}
    with pytest.raises(ValueError, match=r"^model, batches: .* differ in the loss"):
        measure(minimum, loader, F.cross_entropy)
    assert same_bits(minimum.state_dict(), before)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_same_examples_in_another_order_are_taken_at_a_minimum_too(measure, minimum, data):
    assert measure(minimum, DataLoader(data, 64, shuffle=True), F.cross_entropy)
