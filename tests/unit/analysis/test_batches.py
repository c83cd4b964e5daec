"""What analyses take as batches: pairs and mappings, wherever their tensors are; and what they refuse in one line."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.analyses import ANALYSES, CURVES, WITH_LOSS, Call
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.nn.batches import to_device

EACH = pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)


class Bare(nn.Module):
    """Logits (examples, 3) of inputs (examples, 3), one of them masked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.into(x)))
        return logits


@dataclass
class Output:
    """Outputs with attributes, as those of transformers."""

    logits: Tensor
    loss: Tensor | None = None


class Outputs(Bare):
    """The same network by keywords; it computes its own loss if it gets labels."""

    kind: Call = Output

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        logits = super().forward(x)
        return self.kind(logits=logits, loss=None if labels is None else F.cross_entropy(logits, labels))


class Dicts(Outputs):
    kind = dict


class Tuples(Outputs):
    kind = staticmethod(lambda logits, loss: (loss, logits))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = Outputs()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def mappings(kind: Call, batches: Any) -> list[Any]:
    return [kind({"x": inputs, "labels": targets}) for inputs, targets in batches]


# Mappings


@EACH
@pytest.mark.parametrize("model", [Outputs, Dicts, Wrapped])
def test_mappings_give_the_bits_of_pairs_with_and_without_a_loss(analysis: Call, model: Call, batches: Any) -> None:
    expected = repr(analysis(Bare(), batches, F.cross_entropy))
    for kind in (dict, UserDict, OrderedDict):
        assert repr(analysis(model(), mappings(kind, batches), F.cross_entropy)) == expected
    if analysis not in CURVES.values():
        assert repr(analysis(model(), mappings(UserDict, batches), None)) == expected


@pytest.mark.parametrize("analysis", CURVES.values(), ids=CURVES)
def test_without_a_loss_curves_take_the_models_own_and_its_accuracy(analysis: Call, batches: Any) -> None:
    def numbers(found: Any) -> list[float]:
        points = [found.losses[0] + found.accuracies[0]] if hasattr(found, "losses") else found
        return [float(x) for point in points for part in point for x in np.atleast_1d(np.array(part, dtype=float))]

    expected = numbers(analysis(Bare(), batches, None))
    for given in (mappings(dict, batches), batches):  # logits of a pair, or with a loss of a mapping
        assert numbers(analysis(Outputs(), given, None)) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    plain = numbers(analysis(Bare(), mappings(dict, batches), None))  # its forward pass takes no labels
    assert plain == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_a_loss_of_the_models_own_is_taken_even_if_it_is_no_cross_entropy(batches: Any) -> None:
    class Regression(Outputs):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
            out = Bare.forward(self, x)[:, :1]
            return {"loss": F.mse_loss(out[:, 0], labels), "logits": out}

    given = [{"x": inputs, "labels": inputs[:, 0]} for inputs, _ in batches]
    [point] = noise_curve(Regression(), given, [0.0])
    assert point.loss == pytest.approx(sharpness(Regression(), given).loss, rel=1e-12)
    assert np.isnan(point.accuracy)


def test_labels_that_are_no_classes_do_not_count_for_a_models_own_loss(batches: Any) -> None:
    """A binary classifier with one logit; and one whose loss ignores labels."""

    class Binary(Outputs):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
            out = Bare.forward(self, x)[:, :1]
            return {"loss": F.binary_cross_entropy_with_logits(out[:, 0], labels.to(out)), "logits": out}

    [point] = noise_curve(Binary(), [{"x": x, "labels": y.clamp(max=1)} for x, y in batches], [0.0])
    assert np.isfinite(point.loss)
    assert np.isnan(point.accuracy)

    ignored = [(x, torch.where(y == 2, -100, y)) for x, y in batches]
    kept = [(x[y != 2], y[y != 2]) for x, y in batches if (y != 2).any()]
    [some], [few] = (noise_curve(Outputs(), mappings(dict, pairs), [0.0]) for pairs in (ignored, kept))
    assert some.accuracy == few.accuracy


def test_mappings_are_weighed_by_their_labels_their_first_tensor_or_the_callers_weight(batches: Any) -> None:
    class Spans(Outputs):
        def forward(self, x: Tensor, start: Tensor, note: Any = None) -> Any:  # type: ignore[override]
            return {"loss": F.cross_entropy(Bare.forward(self, x), start)}

    expected = sharpness(Bare(), batches, F.cross_entropy)
    spans = [{"note": "a question", "x": inputs, "start": targets} for inputs, targets in batches]
    assert sharpness(Spans(), spans) == expected
    assert sharpness(Outputs(), mappings(dict, batches), weight=lambda inputs, labels: len(inputs["x"])) == expected
    even = sharpness(Outputs(), mappings(dict, batches), weight=lambda inputs, labels: 1)
    assert even.loss != pytest.approx(expected.loss)
    assert noise_curve(Outputs(), mappings(dict, batches), [0.0], weight=lambda *_: 1)[0].loss == even.loss


def test_a_model_that_needs_the_labels_for_more_than_its_loss_gets_them(batches: Any) -> None:
    class Decoder(Outputs):
        def forward(self, x: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
            return Output(Bare.forward(self, x) * labels[:, None])

    given = mappings(dict, batches)
    found = sharpness(Decoder(), given, lambda logits, labels: logits.square().mean())
    pairs = [((batch["x"], batch["labels"]), batch["labels"]) for batch in given]
    model = Decoder()
    model.forward = lambda both: Decoder.forward(model, *both)  # type: ignore[method-assign]
    assert found == sharpness(model, pairs, lambda outputs, labels: outputs.logits.square().mean())


def test_running_statistics_are_recomputed_from_mappings(batches: Any) -> None:
    class Normalized(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Sequential(self.into, nn.BatchNorm1d(4).double())

    kept = [pair for pair in batches if len(pair[1]) > 1]
    found = [
        interpolate(Normalized(), Normalized(), given, [0.0], running_stats="recomputed", running_stats_from=given)
        for given in (kept, mappings(dict, kept))
    ]
    assert found[0] == found[1]


# Devices


class Named(NamedTuple):
    x: Tensor
    note: str


def test_every_tensor_of_a_batch_is_moved_and_all_else_is_kept() -> None:
    x, meta = torch.ones(2), torch.device("meta")
    nested = {"a": [x, (x, "text")], "b": UserDict(c=x), "d": Named(x, "e"), "f": 3}
    moved = to_device(nested, meta)
    assert moved["a"][0].device == moved["a"][1][0].device == moved["b"]["c"].device == moved["d"].x.device == meta
    assert (moved["a"][1][1], type(moved["b"]), type(moved["d"]), moved["f"]) == ("text", UserDict, Named, 3)
    assert nested["b"]["c"] is x  # the caller's batch is left alone
    packed = pack_sequence([x, x[:1]])
    for unmoved in (nested, packed, [x]):
        assert to_device(unmoved, x.device) is unmoved
        assert to_device(unmoved, None) is unmoved
    copied = to_device(nested, None, copy=True)
    for copy, original in ((copied["a"][1][0], x), (copied["b"]["c"], x), (copied["d"].x, x)):
        assert torch.equal(copy, original)
        assert copy.data_ptr() != original.data_ptr()


# What is refused


class OnePass:
    def __init__(self, batches: Any) -> None:
        self._left = iter(batches)

    def __iter__(self) -> Iterator[Any]:
        return self._left


class Stacked(Dataset[Any]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return torch.ones(4, 3)[index], 0


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(Stacked())


X, Y = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
REFUSED: dict[str, tuple[Any, str]] = {
    "generator": ((pair for pair in [(X, Y)]), r"more than one pass, not <generator.*list"),
    "zip": (zip([X], [Y], strict=True), r"more than one pass, not <zip.*list"),
    "empty loader": (DataLoader(TensorDataset(X[:0], Y[:0]), 2), r"not empty \(DataLoader\)"),
    "a tensor": (X, r"not a Tensor; use \[\(inputs, targets\)\]"),
    "an array": (X.numpy(), r"not a ndarray; use \[\(inputs, targets\)\]"),
    "one pair": ((X.numpy(), Y.numpy()), r"one pair of arrays; use \[\(inputs, targets\)\]"),
    "one mapping": ({"x": X, "labels": Y}, r"not a dict; use \["),
    "data set": (TensorDataset(X, Y), r"examples \(TensorDataset\); use .*DataLoader\(dataset"),
    "own data set": (Stacked(), r"examples \(Stacked\); use .*DataLoader\(dataset"),
    "a function": (lambda: [(X, Y)], r"not a function; use a DataLoader"),
    "a path": ("data/mnist", r"must be a pair \(inputs, targets\) or a mapping, not str"),
}


@EACH
@pytest.mark.parametrize("given", REFUSED)
def test_what_is_no_batches_is_refused_in_one_line_that_says_what_to_do(analysis: Call, given: str) -> None:
    batches, hint = REFUSED[given]
    model = Bare()
    model.register_forward_pre_hook(lambda *_: pytest.fail("used"))
    with pytest.raises(ValueError, match=rf"^(batches|train): .*{hint}") as refused:
        analysis(model, batches, F.cross_entropy)
    assert "\n" not in str(refused.value)


LATER: dict[str, tuple[Call, Any, Any, str]] = {
    "numpy": (Bare, [(X.numpy(), Y)], F.cross_entropy, r"^batches: inputs are a numpy array; use torch\.as_tensor"),
    "lists": (
        Bare,
        [{"x": [1.0, 2.0], "labels": Y}] * 2,
        F.cross_entropy,
        r"^batches: .* must hold tensors; use",
    ),
    "numpy targets": (Bare, [(X, Y.numpy())], F.cross_entropy, r"^batches: targets .* but ndarray"),
    "stream": (Bare, Stream(), F.cross_entropy, r"^batches: targets .* but int; use a DataLoader"),
    "single examples": (Bare, [(X[0], Y[0])], F.cross_entropy, r"^batches: targets .* shape \(\); use a DataLoader"),
    "other keys": (Bare, [{"input": X, "labels": Y}], F.cross_entropy, r"^batches: .* keyword arguments: input; "),
    "no labels": (Bare, [{"x": X, "y": Y}], F.cross_entropy, r"^batches: .* keyword arguments: x, y; "),
    "unlabeled": (Bare, [{"x": X}], F.cross_entropy, r'^batches: .*\(x\) has no "labels" .* pairs'),
    "pair of mapping": (
        Bare,
        [({"x": X}, Y)],
        F.cross_entropy,
        r"^batches: the mapping in a pair is passed as one argument; .* as labels",
    ),
    "no loss": (Bare, [(X, Y)], None, r"^loss: is needed, .*\(Tensor\) carry none"),
    "tuple": (Tuples, [{"x": X, "labels": Y}], None, r"^loss: is needed, .*\(tuple\) carry none"),
    "loss None": (Outputs, [(X, Y)], None, r"^loss: is needed, .*\(Output\) carry none"),
}


@pytest.mark.parametrize("analysis", WITH_LOSS.values(), ids=WITH_LOSS)
@pytest.mark.parametrize("given", LATER)
def test_what_shows_in_the_first_batch_is_refused_in_one_line_with_the_model_restored(
    analysis: Call, given: str
) -> None:
    make, batches, loss, line = LATER[given]
    model = make()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=line) as refused:
        analysis(model, batches, loss)
    assert "\n" not in str(refused.value)
    assert all(map(torch.equal, model.parameters(), before))
    assert model.training


def test_batches_that_hide_that_they_allow_one_pass_only_are_refused() -> None:
    for analysis in ANALYSES.values():
        with pytest.raises(ValueError, match=r"^(batches: |nothing to evaluate)"):
            analysis(Bare(), OnePass([(X, Y)] * 3), F.cross_entropy)


def test_normalized_logits_need_a_loss_and_are_found_in_outputs(batches: Any) -> None:
    with pytest.raises(ValueError, match=r"^normalize_logits: needs a loss"):
        adaptive_sharpness(Outputs(), mappings(dict, batches), None, 0.1, normalize_logits=True)
    given = (Outputs(), mappings(dict, batches)), (Outputs(), batches), (Bare(), batches)
    found = [adaptive_sharpness(*pair, F.cross_entropy, 0.1, normalize_logits=True) for pair in given]
    assert found[0] == found[1] == found[2]
