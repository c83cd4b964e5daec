"""Models that do more than compute: they change with their mode, rewrite weights, or have a backward of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.analyses import ANALYSES, WITH_LOSS, Call
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import sharpness
from smoothout.analysis.hessian import HessianVectorProduct

Pairs = list[tuple[Tensor, Tensor]]
EACH = pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)


class Net(nn.Module):
    """Two layers, the first of which ``make`` makes."""

    def __init__(self, make: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = make(3, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.first(x)))
        return logits


class MergedInEvaluation(nn.Module):
    """A linear layer with a trainable part of low rank, which its own `eval` adds to the frozen weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs), requires_grad=False)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
        self.merged = False

    def train(self, mode: bool = True) -> MergedInEvaluation:
        if self.merged is mode:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        fixed = F.linear(x, self.weight)
        return fixed if self.merged else fixed + x @ self.down.T @ self.up.T


@EACH
def test_a_layer_whose_own_eval_merges_weights_is_measured_and_left_as_it_was(analysis: Call, batches: Pairs) -> None:
    class Apart(MergedInEvaluation):
        train = nn.Module.train  # type: ignore[assignment]

    model, before = Net(MergedInEvaluation), Net(MergedInEvaluation).state_dict()
    assert repr(analysis(model, batches, F.cross_entropy)) == repr(analysis(Net(Apart), batches, F.cross_entropy))
    first: Any = model.first
    assert not first.merged
    assert all(module.training for module in model.modules())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


class Clipped(nn.Linear):
    """As a Wasserstein critic's, within its pass."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.clamp_(-0.2, 0.2)
        return super().forward(x)


class Binarized(nn.Linear):
    """As BinaryNet's: the weight is replaced by the signs of one that lies apart."""

    def forward(self, x: Tensor) -> Tensor:
        self.apart = getattr(self, "apart", self.weight.data)
        self.weight.data = self.apart.sign()
        return super().forward(x)


class Normalized(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.div_(self.weight.norm(dim=1, keepdim=True))
        return super().forward(x)


AT_THE_MODEL = (ANALYSES["eigenvalues"], ANALYSES["trace"], ANALYSES["spectrum"], ANALYSES["path"])


@EACH
@pytest.mark.parametrize("make", [Clipped, Binarized, Normalized])
@pytest.mark.parametrize("passed_before", [False, True])
def test_a_pass_that_rewrites_weights_is_refused_and_they_are_left_as_they_were(
    analysis: Call, make: Callable[[int, int], nn.Module], passed_before: bool, batches: Pairs
) -> None:
    model = Net(make)
    if passed_before:  # then a pass changes other weights than the model's own alone
        model(batches[0][0])
        if analysis in AT_THE_MODEL:
            return
    before = [(p.data_ptr(), p.detach().clone()) for p in model.parameters()]
    with pytest.raises(ValueError, match=r"^model: a forward pass rewrites first\.weight, .*parametrize") as refused:
        analysis(model, batches, F.cross_entropy)
    assert "\n" not in str(refused.value)
    for parameter, (place, old) in zip(model.parameters(), before, strict=True):
        assert parameter.data_ptr() == place
        assert torch.equal(parameter, old)


# A backward pass that has no derivative


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        context.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, slope: Tensor) -> Tensor:
        (y,) = context.saved_tensors
        return slope * (1 - y * y)


class TanhLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Tanh.apply(super().forward(x))
        return y


class Bag(nn.EmbeddingBag):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(5, outputs)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = super().forward(x.abs().long().clamp(0, 4))
        return found


class Hard(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(super().forward(x))


@pytest.mark.parametrize("analysis", [ANALYSES[name] for name in ("eigenvalues", "trace", "spectrum")])
@pytest.mark.parametrize(
    ("make", "reason"),
    [(TanhLinear, "once_differentiable"), (Bag, "_embedding_bag_backward"), (Hard, "hardsigmoid_backward")],
)
def test_curvature_that_autograd_would_leave_out_is_refused(
    analysis: Call, make: Callable[[int, int], nn.Module], reason: str, batches: Pairs
) -> None:
    model, before = Net(make), Net(make).state_dict()
    with pytest.raises(ValueError, match=rf"^model: has no second derivative, .*\(.*{reason}") as refused:
        analysis(model, batches, F.cross_entropy)
    assert "\n" not in str(refused.value)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert not sharpness(model, batches, F.cross_entropy, eps=0.1).failed  # which needs one derivative only


class PlainlyNormalized(nn.Module):
    """A linear layer whose weight is g v / ||v||, without torch's own operation for it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        plain = nn.Linear(inputs, outputs)
        self.bias, self.g = plain.bias, nn.Parameter(plain.weight.detach().norm(dim=1, keepdim=True))
        self.v = nn.Parameter(plain.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.g * self.v / self.v.norm(dim=1, keepdim=True), self.bias)


@pytest.mark.parametrize("normalize", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_hessian_of_weight_normalization_is_that_of_its_formula(
    normalize: Callable[[nn.Module], nn.Module], batches: Pairs
) -> None:
    model = Net(lambda inputs, outputs: normalize(nn.Linear(inputs, outputs)))
    found = HessianVectorProduct(model, batches, F.cross_entropy).matrix()
    expected = HessianVectorProduct(Net(PlainlyNormalized), batches, F.cross_entropy).matrix()
    assert found == pytest.approx(expected, abs=1e-12)


@EACH
@pytest.mark.parametrize("where", ["parameter", "layer"])
def test_hooks_on_gradients_are_not_called_and_stay(analysis: Call, where: str, batches: Pairs) -> None:
    called: list[int] = []

    def halve(*given: Any) -> Any:
        called.append(1)
        return given[0] * 0.5 if where == "parameter" else tuple(0.5 * part for part in given[1])

    model = Net()
    if where == "parameter":
        model.first.weight.register_hook(halve)
    else:
        model.last.register_full_backward_hook(halve)
    assert repr(analysis(model, batches, F.cross_entropy)) == repr(analysis(Net(), batches, F.cross_entropy))
    assert not called
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    assert called == [1]


@pytest.mark.parametrize("analysis", WITH_LOSS.values(), ids=WITH_LOSS)
def test_a_batch_without_valid_labels_has_loss_and_curvature_0(analysis: Call, batches: Pairs) -> None:
    def of_valid(outputs: Tensor, targets: Tensor) -> Tensor:
        valid = targets >= 0
        return F.cross_entropy(outputs[valid], targets[valid]) if valid.any() else torch.zeros(()).double()

    def or_0(outputs: Tensor, targets: Tensor) -> Tensor:
        return of_valid(outputs, targets) + 0 * outputs.sum()

    batches = [*batches, (batches[0][0], torch.full_like(batches[0][1], -100))]
    assert repr(analysis(Net(), batches, of_valid)) == repr(analysis(Net(), batches, or_0))


class Shuffled:
    """The same batches in another order at every pass."""

    def __init__(self, batches: Pairs) -> None:
        self.batches, self.generator = batches, torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        return (self.batches[i] for i in torch.randperm(len(self.batches), generator=self.generator))


@EACH
def test_a_loader_may_shuffle_whatever_the_rounding_and_the_sign_of_the_loss(analysis: Call, batches: Pairs) -> None:
    """A frozen part in bfloat16; passes in bfloat16 by autocast; and losses whose mean is near 0."""

    class Frozen(Net):
        def __init__(self) -> None:
            super().__init__()
            self.first.to(torch.bfloat16).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(torch.tanh(self.first(x.bfloat16())).double())
            return logits

    torch.manual_seed(1)
    batches = [(torch.randn(8, 3).double(), torch.randint(3, (8,))) for _ in range(32)]
    analysis(Frozen(), Shuffled(batches), lambda outputs, targets: F.cross_entropy(outputs.bfloat16(), targets))
    single = [(x.float(), y) for x, y in batches]
    with torch.autocast("cpu", torch.bfloat16):
        analysis(Net().float(), Shuffled(single), F.cross_entropy)
    center = torch.stack([F.cross_entropy(Net().float()(x), y).detach() for x, y in single]).mean()
    analysis(Net().float(), Shuffled(single), lambda outputs, targets: F.cross_entropy(outputs, targets) - center)
