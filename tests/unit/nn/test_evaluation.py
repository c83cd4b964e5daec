"""Loss and accuracy over a split: every example counts the same, and nothing is left changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from helpers.common import approx_loss, same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from smoothout.nn.evaluation import evaluate
from smoothout.nn.options import Precision
from smoothout.nn.precision import precision_context

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    """BatchNorm and dropout are there to tell evaluation mode from training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    model(torch.randn(50, 5))  # running statistics that are not the defaults
    return model


def examples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def cut(batch: tuple[Tensor, Tensor], sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(batch[0].split(sizes), batch[1].split(sizes), strict=True))


def broken(batch: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    yield batch
    raise OSError("the disk is gone")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_loss_and_accuracy_do_not_depend_on_how_the_examples_are_cut_into_batches(sizes: list[int]) -> None:
    model, batch = network(), examples(sum(sizes))
    found = evaluate(model, cut(batch, sizes))
    logits = model.eval()(batch[0]).detach().double()
    log_shares = logits - logits.exp().sum(1, keepdim=True).log()
    by_hand = [-float(row[label]) for row, label in zip(log_shares, batch[1], strict=True)]
    right = [int(row.argmax()) == int(label) for row, label in zip(logits, batch[1], strict=True)]
    assert found.loss == approx_loss(sum(by_hand) / len(by_hand))
    assert found.accuracy == sum(right) / len(right)


@pytest.mark.parametrize(
    ("outputs", "labels"), [((4, 3), (4, 3)), ((4, 3, 8, 8), (4, 8, 8)), ((4, 3), (5,)), ((4,), (4,))]
)
def test_what_is_no_classifier_of_single_labels_is_refused(outputs: tuple[int, ...], labels: tuple[int, ...]) -> None:
    batches = [(torch.randn(outputs), torch.zeros(labels, dtype=torch.int64))]
    with pytest.raises(ValueError, match=r"logits \(examples, classes\) and labels \(examples,\), not") as raised:
        evaluate(nn.Identity(), batches)
    assert f"not {outputs} and {labels}; for a model that is not a classifier, pass loss=..." in str(raised.value)


def test_labels_that_torch_ignores_are_refused_for_they_would_count_as_examples_without_a_loss() -> None:
    batches = [(torch.randn(4, 3), torch.tensor([0, -100, 2, -100])) for _ in range(2)]
    message = r"^batches: labels must be classes of the logits, 0 to 2; leave out others, such as -100 \(4 in all\)$"
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), batches)


@pytest.mark.parametrize("wrong", [3, -1, 255])
def test_labels_outside_the_classes_are_refused_with_one_of_them(wrong: int) -> None:
    batches = [(torch.randn(2, 3), torch.tensor(labels)) for labels in ([0, 1], [2, wrong], [1, 1])]
    message = (
        rf"^batches: labels must be classes of the logits, 0 to 2; leave out others, such as {wrong} \(1 in all\)$"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), batches)


def test_labels_of_another_process_outside_the_classes_are_refused_too() -> None:
    def add_other_process(sums: Tensor) -> None:
        sums += torch.tensor([3.5, 2.0, 3.0, 4.0], dtype=torch.float64)  # loss, right answers, valid labels, examples

    with pytest.raises(ValueError, match=r"^batches: labels must be .*leave out others \(1, in other processes\)$"):
        evaluate(network(), [examples(5)], add_other_process)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_may_be_whole_numbers_of_any_kind(dtype: torch.dtype) -> None:
    model, (inputs, labels) = network(), examples(20)
    assert evaluate(model, [(inputs, labels.to(dtype))]) == evaluate(model, [(inputs, labels)])


@pytest.mark.parametrize("batches", [[], [(torch.empty(0, 5), torch.empty(0, dtype=torch.int64))]])
def test_an_empty_split_is_refused(batches: list[tuple[Tensor, Tensor]]) -> None:
    model = network()
    with pytest.raises(ValueError, match="the split is empty"):
        evaluate(model, batches)
    assert model.training


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_given_back_also_after_an_exception(mode: bool) -> None:
    model = network().train(mode)
    evaluate(model, [examples(5)])
    assert [module.training for module in model.modules()] == [mode] * 6
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(model, broken(examples(5)))
    assert [module.training for module in model.modules()] == [mode] * 6


def test_evaluation_leaves_the_model_and_the_global_generator_alone() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, [examples(20)])
    assert same_bits(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_bfloat16_is_close_to_float32_but_not_the_same() -> None:
    model, batches = network(), [examples(200)]
    with precision_context(Precision.float32, CPU):
        full = evaluate(model, batches)
    with precision_context(Precision.bfloat16, CPU):
        low = evaluate(model, batches)
        assert model.eval()(batches[0][0]).dtype is torch.bfloat16
    assert full == evaluate(model, batches)
    assert low.loss != full.loss
    assert low.loss == pytest.approx(full.loss, rel=5e-3)
    assert low.accuracy == pytest.approx(full.accuracy, abs=0.02)


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", list(Precision))
def test_the_precision_of_matrix_products_is_set_and_given_back(precision: Precision, before: str) -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")

    old = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with suppress(KeyboardInterrupt), precision_context(precision, CPU):
            inside = settings()
            raise KeyboardInterrupt
        assert settings() == (before, False)
    finally:
        torch.set_float32_matmul_precision(old)
    assert inside == ("high" if precision is Precision.tf32 else "highest", precision is Precision.bfloat16)


def test_a_program_that_uses_torchs_other_settings_of_precision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed() -> str:
        raise RuntimeError("PyTorch is checking whether allow_tf32_new is enabled")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    with (
        pytest.raises(RuntimeError, match=r"^precision: torch\.backends\.\*\.fp32_precision is set; use"),
        precision_context(Precision.float32, CPU),
    ):
        pass
