"""One update, compared with the same update written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from smoothout import SmoothOut, SmoothOutCopies
from smoothout.common.rng import make_generator
from smoothout.training.batch import Batch
from smoothout.training.update import GhostBatch, update

Piece = tuple[Tensor, Tensor]
Backward = Callable[[GhostBatch], None]


def network(batchnorm: bool = True) -> nn.Sequential:
    """In float64, so that two ways of adding up agree to 12 digits."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6) if batchnorm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3)).double()


def pieces(*sizes: int) -> list[Piece]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for size in sizes:
        inputs = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        made.append((inputs, torch.randint(0, 3, (size,), generator=generator)))
    return made


def under(perturb: Callable[[int], Sequence[AbstractContextManager[object]]]) -> Backward:
    """Backpropagate in each of the contexts that ``perturb`` gives for a ghost batch."""

    def backward(ghost_batch: GhostBatch) -> None:
        contexts = perturb(ghost_batch.index)
        for context in contexts:
            with context:
                ghost_batch.backward(len(contexts))

    return backward


def sgd(model: nn.Module, **settings: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.5, **settings})


def gradients(model: nn.Module, weights: dict[str, Tensor], piece: Piece) -> dict[str, Tensor]:
    """Of the mean cross entropy over ``sample_box`` at ``weights``; the model itself is left alone."""
    moved = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    loss = F.cross_entropy(functional_call(model, {**moved, **buffers}, (piece[0],)), piece[1])
    return dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def mean(many: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in many]).mean(0) for name in many[0]}


def noise(a: float, draw: Callable[[int], int] = lambda ghost: ghost) -> Callable[[nn.Module], Backward]:
    """SmoothOut of strength ``a`` from the stream of each ghost batch."""

    def on(model: nn.Module) -> Backward:
        context = SmoothOut(model, a, batchnorm=True)

        def perturb(ghost: int) -> list[SmoothOut]:
            context.generator = make_generator(0, "noise", 0, draw(ghost))
            return [context]

        return under(perturb)

    return on


def moved_weights(model: nn.Module, a: float, ghost: int) -> dict[str, Tensor]:
    """The weights plus the noise of that ghost batch."""
    drawn = SmoothOut(model, a, batchnorm=True, generator=make_generator(0, "noise", 0, ghost)).draw()
    return {name: p.detach() + theta for (name, p), theta in zip(model.named_parameters(), drawn, strict=True)}


# Without noise


def test_a_whole_batch_makes_the_sgd_step_written_out_by_hand() -> None:
    model, [piece] = network(), pieces(9)
    before = weights_of(model)
    slopes = gradients(model, before, piece)
    update(model, sgd(model), [piece], 1)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * slopes[name])
        assert torch.equal(parameter.grad, slopes[name])


@pytest.mark.parametrize("sizes", [(5, 5), (4, 4, 4), (6, 6, 2)])
def test_ghost_batches_take_the_mean_of_their_own_mean_gradients(sizes: tuple[int, ...]) -> None:
    model, batch = network(), pieces(*sizes)
    before = weights_of(model)
    slopes = mean([gradients(model, before, piece) for piece in batch])
    update(model, sgd(model), iter(batch), len(batch))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * slopes[name])


def test_batchnorms_running_statistics_take_each_ghost_batch_in_turn() -> None:
    model, batch = network(), pieces(5, 7, 4)
    average, variance = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for inputs, _ in batch:
        hidden = model[0](inputs).detach()
        average = 0.9 * average + 0.1 * hidden.mean(0)
        variance = 0.9 * variance + 0.1 * hidden.var(0)
    update(model, sgd(model), batch, len(batch))
    assert model[1].num_batches_tracked == 3
    torch.testing.assert_close(model[1].running_mean, average)
    torch.testing.assert_close(model[1].running_var, variance)


def test_the_sums_of_loss_and_right_answers_are_over_examples_not_over_ghost_batches() -> None:
    model, batch = network(), pieces(7, 2)
    copy = network()
    logits = [copy(inputs).detach() for inputs, _ in batch]
    losses = [
        float(-row.log_softmax(0)[label])
        for rows, (_, labels) in zip(logits, batch, strict=True)
        for row, label in zip(rows, labels, strict=True)
    ]
    right = sum(int((rows.argmax(1) == labels).sum()) for rows, (_, labels) in zip(logits, batch, strict=True))
    loss, correct = update(model, sgd(model), batch, len(batch))
    assert float(loss) == pytest.approx(sum(losses), rel=1e-12)
    assert float(correct) == right
    assert loss.dtype == correct.dtype == torch.float64


@pytest.mark.parametrize(("limit", "bites"), [(0.01, True), (100.0, False)])
def test_the_gradient_is_clipped_to_its_global_norm(limit: float, bites: bool) -> None:
    model, batch = network(), pieces(5, 5)
    before = weights_of(model)
    slopes = mean([gradients(model, before, piece) for piece in batch])
    norm = float(torch.cat([g.flatten() for g in slopes.values()]).norm())
    assert (norm > limit) is bites
    update(model, sgd(model), batch, len(batch), clip_norm=limit)
    share = limit / norm if bites else 1.0
    for name, parameter in model.named_parameters():
        # torch adds 1e-6 to the norm before it divides
        torch.testing.assert_close(before[name] - parameter.detach(), 0.5 * share * slopes[name], rtol=1e-4, atol=1e-12)


# With noise


def test_noise_of_strength_0_changes_no_bit() -> None:
    states = []
    for a in (None, 0.0):
        model = network().float()
        batch = [(inputs.float(), labels) for inputs, labels in pieces(5, 4)]
        found = update(
            model, sgd(model, momentum=0.9), batch, len(batch), *([] if a is None else [noise(a)(model)]), clip_norm=0.1
        )
        states.append([*model.state_dict().values(), *found])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_the_gradient_is_taken_at_w_plus_theta_and_the_weight_decay_at_w() -> None:
    model, [piece] = network(), pieces(9)
    before = weights_of(model)
    slopes = gradients(model, moved_weights(model, 0.3, 0), piece)
    clean = gradients(model, before, piece)
    update(model, sgd(model, weight_decay=0.1), [piece], 1, noise(0.3)(model))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * (slopes[name] + 0.1 * before[name]))
    assert (slopes["3.weight"] - clean["3.weight"]).norm() > 0.05 * clean["3.weight"].norm()


@pytest.mark.parametrize("draw", ["ghost", "batch"])
def test_each_ghost_batch_has_its_noise_and_the_mean_gradient_is_applied_once(draw: str) -> None:
    model, batch = network(), pieces(5, 5, 3)
    before = weights_of(model)
    places = [ghost if draw == "ghost" else 0 for ghost in range(3)]
    slopes = mean(
        [gradients(model, moved_weights(model, 0.3, place), piece) for place, piece in zip(places, batch, strict=True)]
    )
    update(model, sgd(model), batch, len(batch), noise(0.3, places.__getitem__)(model))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * slopes[name])


def test_copies_are_averaged_over_copies_and_ghost_batches() -> None:
    model, batch = network(), pieces(5, 3)
    before = weights_of(model)
    many, losses = [], []
    for piece in batch:
        for index in range(3):
            drawn = SmoothOut(model, 0.3, batchnorm=True, generator=make_generator(5, "copy", index)).draw()
            moved = {name: before[name] + theta for name, theta in zip(before, drawn, strict=True)}
            many.append(gradients(model, moved, piece))
            buffers = {name: b.clone() for name, b in model.named_buffers()}
            logits = functional_call(model, {**moved, **buffers}, (piece[0],))
            losses.append(float(F.cross_entropy(logits, piece[1], reduction="sum")) / 3)
    slopes = mean(many)
    copies = SmoothOutCopies(SmoothOut(model, 0.3, batchnorm=True), 3, seed=5)
    loss, correct = update(model, sgd(model), batch, len(batch), under(lambda ghost: copies))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * slopes[name])
    assert float(loss) == pytest.approx(sum(losses), rel=1e-12)
    assert 0 <= float(correct) <= 8


def test_noise_that_stays_in_is_where_the_update_starts_from() -> None:
    model, [piece] = network(), pieces(9)
    start = moved_weights(model, 0.3, 0)
    slopes = gradients(model, start, piece)
    context = SmoothOut(model, 0.3, batchnorm=True, denoise=False, generator=make_generator(0, "noise", 0, 0))
    update(model, sgd(model), [piece], 1, under(lambda ghost: [context]))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), start[name] - 0.5 * slopes[name])


# Batches


@given(st.integers(1, 300), st.data())
def test_a_batch_has_as_many_ghost_batches_as_fit(size: int, data: st.DataObject) -> None:
    ghost = data.draw(st.integers(1, size))
    pieces = Batch(size, ghost).ghosts_per_update
    assert pieces * ghost <= size < (pieces + 1) * ghost
    assert Batch(size, ghost).updates_per_epoch(1000) == Batch(size).updates_per_epoch(1000)


def test_a_method_that_records_no_loss_is_refused_and_one_that_asks_for_it_records_it() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = F.cross_entropy(model(inputs), labels).item()

    def backward(ghost_batch: GhostBatch, record: bool) -> None:
        model.weight.grad, model.bias.grad = ghost_batch.gradient([model.weight, model.bias], record=record)

    with pytest.raises(RuntimeError, match=r"^method: recorded no loss; must call ghost_batch.backward\(\)"):
        update(model, optimizer, [(inputs, labels)], 1, partial(backward, record=False))
    sums = update(model, optimizer, [(inputs, labels)], 1, partial(backward, record=True))
    assert sums[0].item() == pytest.approx(6 * loss)
