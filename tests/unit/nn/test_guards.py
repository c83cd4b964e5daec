"""Which models the package works on: each kind is perturbed and given back, or refused before anything is touched."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.moved_weights import ANALYSES, INPUTS, INTERPOLATE, LABELS, TRAINING
from helpers.noise_cases import network, seeded, thetas
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_module, init_device_mesh
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.testing._internal.two_tensor import TwoTensor

from smoothout import SmoothOut, interpolate
from smoothout.nn.batchnorm import freeze_running_stats
from smoothout.nn.ghost_batchnorm import ghosted

pytestmark = pytest.mark.filterwarnings(  # torch's own, of kinds on their way out
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
EVERY = {**TRAINING, **ANALYSES, **INTERPOLATE}
Make = Callable[[], Any]


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()  # a process compiles the same code a few times only
    distributed.destroy_process_group()


class Affine(nn.Module):
    """x @ w + b with tensors of your own."""

    def __init__(self, w: Tensor, b: Tensor | None = None, **others: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(torch.zeros(3) if b is None else b)
        for name, tensor in others.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


class Looked(nn.Module):
    """Looks its inputs up in a table of ``kind``."""

    def __init__(self, kind: type[nn.Module], **settings: Any) -> None:
        super().__init__()
        self.table, self.head = kind(10, 8, **settings), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.table(x.abs().mul(2).long().clamp(0, 9)[:, :1]).flatten(1))
        return found


def loaded() -> nn.Module:
    memory = io.BytesIO()
    torch.jit.save(torch.jit.script(network()), memory)
    memory.seek(0)
    return nn.Sequential(torch.jit.load(memory), nn.Linear(3, 3))


def exported(unflatten: bool) -> nn.Module:
    program = torch.export.export(network(), (INPUTS,))
    return torch.export.unflatten(program) if unflatten else nn.Sequential(program.module(), nn.Linear(3, 3))


def sharded(passes: int) -> nn.Module:
    """Only its first layer, which a pass leaves whole."""
    model = network()
    fully_shard(model[0], reshard_after_forward=False)
    for _ in range(passes):
        with torch.no_grad():
            model(INPUTS)
    return model


def partitioned() -> nn.Module:
    """As DeepSpeed's third stage leaves a model between passes."""
    model = network()
    model[0].weight.data, model[0].weight.ds_id = torch.empty(0), 0
    return model


@torch.inference_mode()
def inference(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)


def hooked(change: Callable[[nn.Module], object]) -> nn.Module:
    model = network()
    change(model[3])
    return model


def compiled_with_freezing() -> nn.Module:
    model = network()
    model.compile(options={"freezing": True})
    return nn.Sequential(model, nn.Linear(3, 3))


def columns(shift: int) -> nn.Module:
    whole = torch.randn(5, 7)
    return Affine(whole[:, :3], whole[0, 3 - shift : 6 - shift])


def of_one_matrix(*, frozen: bool) -> nn.Module:
    whole = torch.randn(5, 3)
    model = Affine(whole, **({"codes": whole[0]} if frozen else {}))
    if not frozen:
        model.register_buffer("rows", whole[1:])
    return model


def behind_another_view() -> nn.Module:
    """A buffer, a second one with its first row, and a parameter with its last ones."""
    whole = torch.randn(6, 3)
    model = Affine(whole[1:])
    model.register_buffer("everything", whole)
    model.register_buffer("first", whole[0])
    return model


REFUSED: dict[str, tuple[Make, str]] = {
    "scripted, loaded, inside": (loaded, r"0 \(RecursiveScriptModule\) is TorchScript"),
    "traced": (lambda: torch.jit.trace(network(), INPUTS), "is TorchScript"),
    "exported, inside": (lambda: exported(False), r"0 \(GraphModule\) is TorchScript or an exported program"),
    "exported, unflattened": (lambda: exported(True), "exported program"),
    "sharded": (lambda: sharded(0), "sharded"),
    "sharded, after a pass": (lambda: sharded(2), "sharded"),
    "tensor parallel": (lambda: distribute_module(network(), init_device_mesh("cpu", (1,))), "sharded"),
    "partitioned": (partitioned, "sharded"),
    "lazy weights": (lambda: nn.Sequential(nn.Linear(5, 3), nn.LazyConv1d(3, 1)), r"1 \(LazyConv1d\) .*pass a batch"),
    "lazy statistics": (lambda: nn.Sequential(nn.Linear(5, 3), nn.LazyBatchNorm1d(affine=False)), r"1 .*pass a batch"),
    "quantized": (lambda: torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}), r"0 .* quantized"),
    "compiled with freezing, whole": (
        lambda: torch.compile(network(), options={"freezing": True}),
        r"this OptimizedModule is compiled .*without torch\._inductor\.config\.freezing",
    ),
    "compiled with freezing, inside": (compiled_with_freezing, r"0 \(Sequential\) is compiled .*freezing"),
    "a tensor around others": (lambda: Affine(TwoTensor(torch.randn(5, 3), torch.randn(5, 3))), "w only wraps"),
    "complex": (lambda: Affine(torch.randn(5, 3, dtype=torch.complex64)), r"w is torch\.complex64: .*float32"),
    "float8": (lambda: Affine(torch.randn(5, 3).to(torch.float8_e5m2)), r"w is torch\.float8_e5m2: .*float32"),
    "sparse": (lambda: Affine(torch.eye(5)[:, :3].to_sparse_csr()), "w is sparse"),
    "half on meta": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3, device="meta")), "1.weight .*meta"),
    "statistics made in inference mode": (
        lambda: hooked(lambda layer: layer.register_buffer("mean", inference(torch.zeros, 3))),
        "3.mean .*deepcopy",
    ),
    "made in inference mode": (lambda: inference(network().double), r"0.weight .*inference_mode.*deepcopy"),
    "expanded": (lambda: Affine(torch.randn(3).expand(5, 3)), "w .* share memory"),
    "windows": (lambda: Affine(torch.randn(9).as_strided((5, 3), (1, 2))), "w .* share memory"),
    "a view of another": (lambda: columns(1), "w, b share memory"),
    "a view of a frozen one": (lambda: of_one_matrix(frozen=True), "codes, w share memory"),
    "a buffer's, behind another view of it": (behind_another_view, "everything, w share memory"),
    "a buffer's view": (lambda: of_one_matrix(frozen=False), "w, rows share memory"),
    "max_norm": (lambda: Looked(nn.Embedding, max_norm=1.0), r"table \(Embedding\) .*max_norm"),
    "bag with max_norm": (lambda: Looked(nn.EmbeddingBag, max_norm=1.0), "table .*max_norm"),
    "orthogonal by householder": (
        lambda: parametrizations.orthogonal(nn.Linear(3, 2)),
        "_Orthogonal.* signs .*matrix_exp",
    ),
    "parameters": (lambda: network().parameters(), "torch.nn.Module, not generator"),
    "named parameters": (lambda: dict(network().named_parameters()), "torch.nn.Module, not dict"),
    "its class": (lambda: nn.Linear, "torch.nn.Module, not type"),
    "a function": (lambda: torch.nn.functional.relu, "torch.nn.Module, not function"),
}
HIDING = [name for name in REFUSED if "TorchScript" in REFUSED[name][1] or "exported" in REFUSED[name][1]]


def state(model: Any) -> list[object]:
    """What a model holds, as far as it can be told."""
    if not isinstance(model, nn.Module):
        return []
    tensors = [*model.parameters(), *model.buffers()]
    readable = [t for t in tensors if type(t.data) is Tensor and not t.is_meta and not torch.nn.parameter.is_lazy(t)]
    return [(t._version, t.detach().to_dense().to(torch.complex64).tolist()) for t in readable if not t.is_inference()]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_cannot_be_moved_is_refused_everywhere_before_anything_is_touched(kind: str) -> None:
    make, key = REFUSED[kind]
    model = make()
    before = state(model)
    for name, move in EVERY.items():
        if name in INTERPOLATE and kind == "complex":
            continue  # mixtures of complex weights are
        with pytest.raises((ValueError, TypeError), match=key) as refused:
            move(model)
        assert str(refused.value).startswith("first: " if name in INTERPOLATE else "model: "), name
        assert "\n" not in str(refused.value)
    assert state(model) == before


@pytest.mark.parametrize("kind", [*HIDING, "parameters"])
def test_batchnorm_that_cannot_be_seen_is_not_believed_absent(kind: str) -> None:
    make, key = REFUSED[kind]
    for block in (ghosted(make(), 2), freeze_running_stats(make())):
        with pytest.raises((ValueError, TypeError), match=key), block:
            pass


def test_a_model_that_is_sharded_after_the_context_was_made_is_refused_at_entry() -> None:
    model = network()
    context = SmoothOut(model, 0.1)
    with context:
        pass
    fully_shard(model)
    with torch.no_grad():
        model(INPUTS)
    with pytest.raises(ValueError, match="sharded"):
        context.__enter__()


def test_where_the_compiler_is_to_freeze_weights_compiled_models_are_refused() -> None:
    model = torch.compile(network())
    with torch._inductor.config.patch(freezing=True), pytest.raises(ValueError, match="freezing"):
        SmoothOut(model, 0.1)
    SmoothOut(model, 0.1)


def test_a_part_of_a_sharded_model_that_a_pass_takes_away_is_not_put_back() -> None:
    model = network()
    fully_shard(model)
    with torch.no_grad():
        model(INPUTS)  # which leaves whole weights, in memory that the next backward pass frees
    with pytest.raises(RuntimeError, match=r"^2 former weights: written or replaced"), SmoothOut(model[3], 0.1):
        F.cross_entropy(model(INPUTS), LABELS).backward()
    with pytest.raises(ValueError, match="sharded"):
        SmoothOut(model[3], 0.1)
    F.cross_entropy(model(INPUTS), LABELS).backward()


def test_frozen_whole_numbers_of_interpolated_networks_must_be_equal() -> None:
    first, second = (Affine(torch.randn(5, 3), codes=torch.full((3,), n, dtype=torch.int8)) for n in (1, 2))
    assert len(interpolate(first, first, [(INPUTS, LABELS)], [0.0, 0.5])) == 2
    with pytest.raises(ValueError, match=r"codes differs and is torch\.int8"):
        interpolate(first, second, [(INPUTS, LABELS)])


# Kinds that work


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    model[1].weight = model[0].weight
    return model


def flat() -> nn.Module:
    entries = torch.randn(18)
    return Affine(entries[:15].view(5, 3), entries[15:])


WORKING: dict[str, Make] = {
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "traced by fx": lambda: torch.fx.symbolic_trace(network()),
    "DataParallel": lambda: nn.DataParallel(network()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(network()),
    "weight_norm by a hook": lambda: hooked(nn.utils.weight_norm),
    "spectral_norm by a hook": lambda: hooked(lambda layer: nn.utils.spectral_norm(layer).eval()),
    "pruned": lambda: hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "weight_norm": lambda: hooked(parametrizations.weight_norm),
    "orthogonal": lambda: hooked(lambda layer: parametrizations.orthogonal(layer, orthogonal_map="matrix_exp")),
    "tied": tied,
    "side by side in memory": flat,
    "columns of one matrix": lambda: columns(0),
    "transposed": lambda: Affine(torch.randn(3, 5).T),
    "no entries": lambda: Affine(torch.randn(5, 3), empty=torch.empty(0, 4)).requires_grad_(),
    "frozen codes": lambda: Affine(torch.randn(5, 3), codes=torch.ones(3, dtype=torch.int8)),
    "frozen, around others": lambda: Affine(torch.randn(5, 3), pair=TwoTensor(torch.ones(3), torch.ones(3))),
    "frozen and sparse": lambda: Affine(torch.randn(5, 3), rare=torch.eye(3).to_sparse()),
    "sparse gradients": lambda: Looked(nn.Embedding, sparse=True),
}


def numbers(tensor: Tensor) -> object:
    return repr(tensor) if isinstance(tensor, TwoTensor) else tensor.detach().to_dense().tolist()


def bits(model: nn.Module) -> list[object]:
    """Every bit of a model, and of the weights that hooks make."""
    made = [t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor)]
    tensors = [*model.parameters(), *model.buffers(), *made]
    return [(id(t), None if t.is_sparse else t.data_ptr(), numbers(t)) for t in tensors]


@pytest.mark.parametrize("kind", WORKING)
def test_a_kind_that_works_is_at_w_plus_theta_and_comes_back_to_the_last_bit(kind: str) -> None:
    model = WORKING[kind]()
    weights = [p for p in model.parameters() if p.requires_grad]
    clean = [p.detach().clone() for p in weights]
    drawn = thetas(SmoothOut(model, 0.1, batchnorm=True, generator=seeded(3)))
    places = [p.data_ptr() for p in weights]
    with SmoothOut(model, 0.1, batchnorm=True, generator=seeded(3)):
        assert all(torch.equal(p, w + theta) for p, w, theta in zip(weights, clean, drawn, strict=True))
        F.cross_entropy(model(INPUTS), LABELS).backward()
    assert [p.data_ptr() for p in weights] == places
    assert all(map(torch.equal, weights, clean))
    assert all(p.grad is not None for p in weights if p.numel())
    model(INPUTS)  # weights that a hook makes are made from those that are back
    before = bits(model)
    for name, measure in ANALYSES.items():
        measure(model)
        assert bits(model) == before, name


def test_a_hooks_weight_follows_the_perturbed_parameters_that_it_is_made_from() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 3)))
    layer = model[0]
    with SmoothOut(model, 0.5):
        model(INPUTS)
        direction = layer.weight_v / layer.weight_v.norm(dim=1, keepdim=True)
        torch.testing.assert_close(layer.weight, layer.weight_g * direction)
        noisy = layer.weight.detach().clone()
    model(INPUTS)
    assert not torch.allclose(layer.weight, noisy)


# Inference mode


@pytest.mark.parametrize("made_inside", [False, True])
def test_one_context_serves_training_and_evaluation_in_inference_mode(made_inside: bool) -> None:
    model, optimizer = network(), None
    with torch.inference_mode(made_inside):
        context = SmoothOut(model, 0.1, generator=seeded(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with torch.inference_mode():
            clean = [p.clone() for p in model.parameters()]
            with context:
                assert not torch.equal(model(INPUTS), copy.deepcopy(model)(INPUTS) + 1)
                assert not torch.equal(model[0].weight, clean[0])
            assert all(map(torch.equal, model.parameters(), clean))
        with context:
            F.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
        assert not torch.equal(model[0].weight, clean[0])
    assert not any(p.is_inference() for p in model.parameters())
