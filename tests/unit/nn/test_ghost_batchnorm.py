"""Ghost batches in one pass, compared with the same ghost batches one after another."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import textwrap
from collections.abc import Callable, Sequence

import pytest
import torch
from helpers.ghost_networks import SETTINGS, batch, network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import smoothout.nn.ghost_batchnorm
from smoothout.nn.ghost_batchnorm import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    convert_ghost_batchnorm,
    ghosted,
    revert_ghost_batchnorm,
)
from smoothout.training.ghost_batches import buffer_use

CHANNELS = 3
SHAPES = {"(N, C)": (), "(N, C, L)": (4,), "2d": (3, 2), "3d": (2, 3, 2)}
PLAIN = {"(N, C)": nn.BatchNorm1d, "(N, C, L)": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "3d": nn.BatchNorm3d}


def layer(kind: str, **settings: object) -> nn.Module:
    """In float64, with a weight and a bias that differ from channel to channel, after two batches."""
    made = PLAIN[kind](CHANNELS, **settings).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(CHANNELS))
    for _ in range(2):
        made(1 + 2 * torch.randn(5, CHANNELS, *SHAPES[kind], dtype=torch.float64))
    return made


def backward(model: nn.Module, pieces: Sequence[Tensor], slopes: Sequence[Tensor]) -> list[Tensor]:
    """The pieces through ``model`` one after another; outputs, gradients of the inputs, of the weights, and buffers."""
    inputs = [piece.detach().clone().requires_grad_() for piece in pieces]
    model.zero_grad()
    outputs = [model(one) for one in inputs]
    torch.autograd.backward(outputs, slopes)
    found = [torch.cat([o.detach() for o in outputs]), torch.cat([i.grad for i in inputs if i.grad is not None])]
    return [*found, *(p.grad.clone() for p in model.parameters() if p.grad is not None), *model.buffers()]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", SHAPES)
@given(examples=st.integers(2, 40), ghosts=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_a_layer_gives_what_its_ghost_batches_give_in_turn(
    kind: str, settings: dict[str, object], examples: int, ghosts: int, seed: int
) -> None:
    torch.manual_seed(seed)
    in_turn, at_once = layer(kind, **settings), None
    at_once = copy.deepcopy(in_turn)
    inputs, slopes = (torch.randn(examples, CHANNELS, *SHAPES[kind], dtype=torch.float64) for _ in range(2))
    pieces = inputs.chunk(ghosts)
    convert_ghost_batchnorm(at_once, ghosts)
    if kind == "(N, C)" and min(map(len, pieces)) == 1:
        for model in (in_turn, at_once):
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                backward(model, [inputs] if model is at_once else pieces, [slopes])
        return
    wanted = backward(in_turn, pieces, slopes.chunk(ghosts))
    found = backward(at_once, [inputs], [slopes])
    assert len(found) == 2 + 2 * settings.get("affine", True) + 3 * settings.get("track_running_stats", True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)  # float64: 1e-7
    if at_once.num_batches_tracked is not None:
        assert at_once.num_batches_tracked == 2 + len(pieces)


def test_the_running_statistics_are_those_of_the_recurrence_by_hand() -> None:
    """Ghost batches of 4, 4 and 2; the variance is the unbiased one."""
    torch.manual_seed(0)
    made = nn.BatchNorm1d(CHANNELS, momentum=0.25).double()
    inputs = torch.randn(10, CHANNELS, dtype=torch.float64)
    average, variance = made.running_mean.clone(), made.running_var.clone()
    for piece in (inputs[:4], inputs[4:8], inputs[8:]):
        average = 0.75 * average + 0.25 * piece.mean(0)
        variance = 0.75 * variance + 0.25 * piece.var(0, correction=1)
    convert_ghost_batchnorm(made, 3)
    made(inputs)
    torch.testing.assert_close(made.running_mean, average)
    torch.testing.assert_close(made.running_var, variance)
    assert made.num_batches_tracked == 3


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ghosts", [3, 4])
def test_images_keep_their_layout_and_low_precision_its_type(memory: torch.memory_format, ghosts: int) -> None:
    made = nn.BatchNorm2d(5)
    wanted = copy.deepcopy(made)
    images = torch.randn(12, 5, 3, 3).contiguous(memory_format=memory).bfloat16()
    with ghosted(made, ghosts):
        found = made(images)
    assert found.is_contiguous(memory_format=memory)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.cat([wanted(piece) for piece in images.chunk(ghosts)]))
    torch.testing.assert_close(made.running_var, wanted.running_var)


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("examples", [20, 18])
def test_a_networks_gradient_in_one_pass_is_the_sum_of_those_of_its_ghost_batches(
    *, convolutions: bool, examples: int
) -> None:
    wanted, found, (inputs, labels) = network(convolutions=convolutions), network(convolutions=convolutions), batch(20)
    for piece, answers in zip(inputs[:examples].chunk(4), labels[:examples].chunk(4), strict=True):
        F.cross_entropy(wanted(piece), answers).backward()
    with ghosted(found, 4):
        pieces = found(inputs[:examples]).chunk(4)
    sum(F.cross_entropy(*pair) for pair in zip(pieces, labels[:examples].chunk(4), strict=True)).backward()
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(found.buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("examples", [20, 18])
def test_large_ghost_batches_on_a_cpu_have_the_bits_of_one_call_each(
    kind: str, settings: dict[str, object], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients of inputs; other sums have another order. 18 examples are 5, 5, 5, 3."""
    monkeypatch.setattr(smoothout.nn.ghost_batchnorm, "LARGE_GHOST", 5 * CHANNELS * math.prod(SHAPES[kind]))
    in_turn = layer(kind, **settings)
    at_once = copy.deepcopy(in_turn)
    for ghost in (GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d):
        monkeypatch.setattr(ghost, "_side_by_side", None)  # not used
    inputs, slopes = (torch.randn(examples, CHANNELS, *SHAPES[kind], dtype=torch.float64) for _ in range(2))
    wanted = backward(in_turn, inputs.chunk(4), slopes.chunk(4))
    with ghosted(at_once, 4):
        found = backward(at_once, [inputs], [slopes])
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found, wanted)


class Checkpointed(nn.Sequential):
    """Keeps no activations: the backward pass computes them again."""

    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(super().forward, inputs, use_reentrant=True)


def test_the_example_gives_the_gradient_of_its_ghost_batches_also_where_activations_are_computed_again() -> None:
    """In float64: BatchNorm over two examples that lie close together magnifies rounding up to 1 / sqrt(eps) = 316."""
    layers = [layer.double() for layer in (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))]
    model, labels = nn.Sequential(*layers), torch.randint(0, 3, (32,))
    inputs = torch.randn(32, 4, dtype=torch.float64, requires_grad=True)
    torch.stack(
        [F.cross_entropy(model(x), y) for x, y in zip(inputs.chunk(16), labels.chunk(16), strict=True)]
    ).mean().backward()
    wanted = [p.grad for p in model.parameters()]
    model.zero_grad()
    [example] = re.findall(r"(?m)(?:^    .*\n)+", smoothout.nn.ghost_batchnorm.__doc__ or "")
    exec(
        textwrap.dedent(example), {"F": F, "ghosted": ghosted, "model": Checkpointed(*layers), "x": inputs, "y": labels}
    )
    torch.testing.assert_close([p.grad for p in model.parameters()], wanted)


# Models that are turned


def test_evaluation_is_the_same_to_the_last_bit() -> None:
    made, (inputs, _) = network(convolutions=True), batch(20)
    made(inputs)
    made.eval()
    plain = made(inputs)
    with ghosted(made, 4):
        assert torch.equal(made(inputs), plain)
    statless = nn.BatchNorm1d(3, track_running_stats=False).eval()
    plain = statless(inputs[:, 0, 0, :3].float())
    convert_ghost_batchnorm(statless, 4)
    assert torch.equal(statless(inputs[:, 0, 0, :3].float()), plain)


def test_layers_stay_the_same_objects_with_the_same_state() -> None:
    made = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm3d(3)), nn.InstanceNorm2d(3))
    kinds, ghosts = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d], [GhostBatchNorm1d, GhostBatchNorm2d]
    layers = [made[0], made[1], made[2][0]]
    before, names = [*made.modules(), *made.parameters(), *made.buffers()], list(made.state_dict())
    convert_ghost_batchnorm(made, 5)
    assert [type(one) for one in layers] == [*ghosts, GhostBatchNorm3d]
    assert all(isinstance(one, kind) and one.ghosts == 5 for one, kind in zip(layers, kinds, strict=True))
    assert type(made[3]) is nn.InstanceNorm2d
    for one, other in zip([*made.modules(), *made.parameters(), *made.buffers()], before, strict=True):
        assert one is other
    assert list(made.state_dict()) == names
    revert_ghost_batchnorm(made)
    assert [type(one) for one in layers] == kinds
    assert not any(hasattr(one, "ghosts") for one in layers)
    revert_ghost_batchnorm(made)
    assert [type(one) for one in layers] == kinds


class OwnBatchNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, OwnBatchNorm])
@pytest.mark.parametrize("turn", [convert_ghost_batchnorm, lambda model, ghosts: ghosted(model, ghosts).__enter__()])
def test_another_kind_of_batchnorm_is_refused_and_the_model_left_alone(
    kind: type[nn.Module], turn: Callable[[nn.Module, int], None]
) -> None:
    made = nn.Sequential(nn.BatchNorm2d(3), kind(3))
    line = f"^{kind.__name__}: only BatchNorm1d, BatchNorm2d and BatchNorm3d support ghost batches$"
    with pytest.raises(ValueError, match=line):
        turn(made, 2)
    assert [type(one) for one in made] == [nn.BatchNorm2d, kind]
    assert buffer_use(made, torch.ones(1, 3, 2, 2), 2) is None
    assert buffer_use(made[:1], torch.ones(1, 3, 2, 2), 2).fits_one_pass


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["deepcopy", "pickle", "save"],
)
def test_a_copy_has_plain_layers(copied: Callable[[nn.Module], nn.Module]) -> None:
    made, (inputs, _) = network(convolutions=True), batch(18)
    kinds = [type(module) for module in made]
    with ghosted(made, 4):
        other = copied(made)
        assert [type(module) for module in made] != kinds
    assert [type(module) for module in other] == kinds
    assert not any("ghosts" in vars(module) for module in other)
    torch.testing.assert_close(other(inputs), made(inputs), rtol=0, atol=0)
    assert all(map(torch.equal, other.state_dict().values(), made.state_dict().values()))


def test_a_compiled_network_takes_ghost_batches() -> None:
    wanted, found, (inputs, _) = network(convolutions=True), network(convolutions=True), batch(18)
    compiled = torch.compile(found, dynamic=False, fullgraph=True, backend="aot_eager")
    with ghosted(wanted, 4), ghosted(found, 4):
        torch.testing.assert_close(compiled(inputs), wanted(inputs))
    torch.testing.assert_close(compiled(inputs), wanted(inputs))  # and whole ones again
    for one, other in zip(found.buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_an_empty_batch_is_that_of_plain_batchnorm() -> None:
    layer = nn.BatchNorm2d(3)
    with ghosted(layer, 2):
        assert layer(torch.randn(0, 3, 2, 2)).shape == (0, 3, 2, 2)
