"""Evaluation and recomputed running statistics take the batches that people have, and refuse others in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import same_bits
from helpers.other_device import OtherDevice
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.evaluation import evaluate
from smoothout.nn.forward import Keywords, forward

Pairs = list[tuple[Tensor, Tensor]]


@dataclass
class Output:
    """Outputs as those of transformers."""

    logits: Tensor


class Classifier(nn.Module):
    """Logits (examples, 3) of inputs (examples, 4), as they are or as ``kind`` carries them."""

    def __init__(self, kind: Callable[..., Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        logits = self.layers(x)
        return logits if self.kind is None else self.kind(logits=logits)


class WithLabels(Classifier):
    """The same, given its labels too."""

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        assert len(labels) == len(x)
        return super().forward(x)


@pytest.fixture
def pairs() -> Pairs:
    return [(torch.randn(n, 4), torch.randint(0, 3, (n,))) for n in (8, 8, 5)]


def as_mappings(pairs: Pairs) -> list[dict[str, Tensor]]:
    return [{"x": inputs, "labels": targets} for inputs, targets in pairs]


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[Pairs], Any]]] = {
    "mappings": (Classifier, as_mappings),
    "mappings that the model takes whole": (WithLabels, as_mappings),
    "outputs with logits": (lambda: Classifier(Output), list),
    "mappings of logits": (lambda: Classifier(dict), as_mappings),
    "lists": (Classifier, lambda pairs: [list(pair) for pair in pairs]),
    "a generator": (Classifier, iter),
}


@pytest.mark.parametrize(("make", "form"), FORMS.values(), ids=list(FORMS))
def test_every_form_of_batches_gives_the_numbers_of_pairs(
    pairs: Pairs, make: Callable[[], nn.Module], form: Callable[[Pairs], Iterable[Any]]
) -> None:
    plain, model = Classifier(), make()
    recalibrate_batchnorm(plain, pairs)
    recalibrate_batchnorm(model, form(pairs))
    assert same_bits(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert plain.layers[1].running_mean.any()
    assert evaluate(model, form(pairs)) == evaluate(plain, pairs)


def test_batches_are_moved_to_the_device_of_the_model(pairs: Pairs) -> None:
    expected = Classifier()
    recalibrate_batchnorm(expected, pairs)
    with OtherDevice() as device:
        model = device.moved(Classifier())
        recalibrate_batchnorm(model, as_mappings(pairs))
        found = evaluate(model, pairs)
        buffers = {name: buffer.cpu() for name, buffer in model.named_buffers()}
    assert same_bits(buffers, dict(expected.named_buffers()))
    assert found == evaluate(expected, pairs)


@pytest.mark.parametrize("measure", [evaluate, recalibrate_batchnorm])
@pytest.mark.parametrize(
    ("batches", "hint"),
    [
        (TensorDataset, "DataLoader"),
        (lambda x, y: (x, y), r"\[\(inputs, targets\)\]"),
        (lambda x, y: {"x": x, "labels": y}, r"\[\(inputs, targets\)\]"),
        (lambda x, y: x, r"\[\(inputs, targets\)\]"),
        (lambda x, y: [(x, y, y)], "3 elements"),
        (lambda x, y: [{"inputs": x, "labels": y}], "keyword arguments: inputs"),
        (lambda x, y: [(np.asarray(x), y)], "torch.as_tensor"),
        (lambda x, y: None, "NoneType"),
    ],
)
def test_what_holds_no_batches_is_refused_with_the_model_unchanged(
    pairs: Pairs, measure: Callable[..., Any], batches: Callable[..., Any], hint: str
) -> None:
    model = Classifier()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    with pytest.raises(ValueError, match=hint) as error:
        measure(model, batches(*pairs[0]))
    assert "\n" not in str(error.value)
    assert model.training
    if hint not in ("keyword arguments: inputs", "torch.as_tensor"):  # the pass had begun
        assert same_bits(model.state_dict(), before)


def test_an_error_of_the_models_own_is_not_blamed_on_the_batch() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return self.missing(x)  # type: ignore[no-any-return,operator]

    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        forward(Broken(2, 2), Keywords(x=torch.ones(1, 2)))
    with pytest.raises(ValueError, match="the model must take the keys of a mapping as keyword arguments: x; leave"):
        forward(nn.Linear(2, 2), Keywords(x=torch.ones(1, 2)))
