"""Graphs that are kept between products with the Hessian: the same bits, never those of other weights."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.hessians import dense, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smoothout import SAM, SmoothOut
from smoothout.analysis import kept_graphs
from smoothout.analysis.hessian import HessianVectorProduct, top_eigenvalues, trace_and_norm

Batches = list[tuple[Tensor, Tensor]]


def counted(model: nn.Module) -> list[int]:
    """A list that grows with every forward pass."""
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("keep_graph", [None, True])
def test_kept_graphs_give_the_same_bits_without_a_pass_over_the_batches(batches: Batches, keep_graph: bool | None):
    model, vectors = network().float(), torch.randn(4, 48, dtype=torch.float64)
    batches = [(inputs.float(), targets) for inputs, targets in batches]
    plain = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=False)
    kept = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=keep_graph)
    wanted = [plain(vector) for vector in vectors]
    passes = counted(model)
    assert all(torch.equal(kept(vector), one) for vector, one in zip(vectors, wanted, strict=True))
    assert len(passes) == len(batches)
    assert torch.equal(plain(vectors[0]), wanted[0])
    assert torch.equal(kept(vectors[1]), wanted[1]), "restoring the model does not touch the kept graphs"
    assert len(passes) == 2 * len(batches)


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_an_estimate_does_not_depend_on_what_is_kept(batches: Batches, method: Any):
    found = [
        trace_and_norm(network(), batches, F.cross_entropy, probes=8, method=method, keep_graph=keep)
        for keep in (True, False)
    ]
    assert found[0] == found[1]
    found = [top_eigenvalues(network(), batches, F.cross_entropy, 3, keep_graph=keep) for keep in (True, False)]
    assert found[0] == found[1]


def through_data(model: nn.Module) -> None:
    model[0].weight.data.add_(0.1)


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model[4].bias.mul_(2.0)


def other_tensor(model: nn.Module) -> None:
    model[0].weight.data = model[0].weight.data + 0.1


def running_statistics(model: nn.Module) -> None:
    model[1].running_mean.add_(0.5)


@pytest.mark.parametrize("change", [through_data, in_place, other_tensor, running_statistics])
def test_every_product_is_of_the_present_weights(batches: Batches, change: Callable[[nn.Module], None]):
    model, vector = network(), torch.randn(48, dtype=torch.float64)
    product = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=True)
    product(vector)
    change(model)
    for _ in range(2):
        torch.testing.assert_close(product(vector), dense(model, batches) @ vector, rtol=1e-10, atol=1e-12)


def test_graphs_that_need_too_much_are_not_kept(batches: Batches, monkeypatch: pytest.MonkeyPatch):
    model, vector = network(), torch.randn(48, dtype=torch.float64)
    passes = counted(model)
    product = HessianVectorProduct(model, batches, F.cross_entropy)
    # Enough for the first batch, not for all
    monkeypatch.setattr(kept_graphs, "graph_bytes", lambda device: 5000)
    passes.clear()
    wanted = dense(network(), batches) @ vector
    for number in (1, 2):
        torch.testing.assert_close(product(vector), wanted, rtol=1e-10, atol=1e-12)
        assert len(passes) == number * len(batches)
    assert not product.graphs.batches


def test_an_error_on_the_way_keeps_nothing(batches: Batches):
    model, vector, fail = network(), torch.randn(48, dtype=torch.float64), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if fail and len(targets) == 1:
            raise RuntimeError("at the last batch")
        return F.cross_entropy(outputs, targets)

    product = HessianVectorProduct(model, batches, loss, keep_graph=True)
    fail.append(1)
    with pytest.raises(RuntimeError, match="at the last batch"):
        product(vector)
    fail.clear()
    torch.testing.assert_close(product(vector), dense(model, batches) @ vector, rtol=1e-10, atol=1e-12)


class Slope(nn.Module):
    """A model that calls torch.func, whose graphs take no hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, 2.0], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.func.grad(lambda w: (w**4).sum())(self.w).sum().expand(len(inputs))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = checkpoint(self.inner, inputs, use_reentrant=False)
        return outputs


@pytest.mark.parametrize("keep_graph", [None, True, False])
def test_models_whose_graphs_are_special_get_the_same_products(batches: Batches, keep_graph: bool | None):
    product = HessianVectorProduct(Slope(), batches, lambda outputs, _: outputs.mean(), keep_graph=keep_graph)
    vector = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(product(vector), torch.tensor([12.0, -48.0], dtype=torch.float64))
    product = HessianVectorProduct(Checkpointed(), batches, F.cross_entropy, keep_graph=keep_graph)
    vectors = torch.randn(2, 48, dtype=torch.float64)
    for vector in vectors:
        torch.testing.assert_close(product(vector), dense(network(), batches) @ vector, rtol=1e-10, atol=1e-12)


def test_a_segment_that_runs_again_leaves_buffers_as_they_were(batches: Batches):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3).double()
            self.register_buffer("passes", torch.zeros(()))

        def counted(self, inputs: Tensor) -> Tensor:
            self.passes.add_(1)
            return torch.tanh(self.layer(inputs))

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = checkpoint(self.counted, inputs, use_reentrant=False)
            return outputs

    model = Counting()
    product = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=True)
    for vector in torch.randn(3, 12, dtype=torch.float64):
        product(vector)
    assert model.passes == 0


@pytest.mark.parametrize("keep_graph", [True, False])
def test_a_loader_may_write_every_batch_to_the_same_memory(batches: Batches, keep_graph: bool):
    class Reusing:
        def __iter__(self) -> Any:
            memory = torch.empty(13, 3, dtype=torch.float64), torch.empty(13, dtype=torch.long)
            for batch in batches:
                yield tuple(whole[: len(part)].copy_(part) for whole, part in zip(memory, batch, strict=True))

    vectors = torch.randn(2, 48, dtype=torch.float64)
    plain = HessianVectorProduct(network(), batches, F.cross_entropy, keep_graph=keep_graph)
    reusing = HessianVectorProduct(network(), Reusing(), F.cross_entropy, keep_graph=keep_graph)
    assert all(torch.equal(reusing(vector), plain(vector)) for vector in (*vectors, *vectors))


def test_graphs_belong_to_a_mask_with_nan_too(batches: Batches):
    model = network()
    model.register_buffer("unused", torch.tensor([0.0, math.nan]))
    product = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=True)
    passes = counted(model)
    for vector in torch.randn(3, 48, dtype=torch.float64):
        product(vector)
    assert len(passes) == len(batches)


@pytest.mark.parametrize("keep_graph", [None, True, False])
def test_nothing_holds_a_model_in_memory_after_its_products(batches: Batches, keep_graph: bool | None):
    """Tanh and log_softmax save their outputs, which then must not hold the graph that saves them."""
    model = network()
    product = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=keep_graph)
    for vector in torch.randn(2, 48, dtype=torch.float64):
        product(vector)
    held = [weakref.ref(model), weakref.ref(model[0].weight), weakref.ref(product.graphs)]
    del model, product
    gc.collect()
    assert [reference() for reference in held] == [None] * 3


def test_graphs_from_within_a_block_are_not_used_after_it(batches: Batches):
    model, vector = network().eval(), torch.randn(48, dtype=torch.float64)
    wanted = HessianVectorProduct(model, batches, F.cross_entropy)(vector)
    product = HessianVectorProduct(model, batches, F.cross_entropy, keep_graph=True)
    first, _ = SAM(model)
    with first:
        F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
        assert torch.equal(product(vector), wanted)
    assert torch.equal(product(vector), wanted)


def test_an_unused_parameter_is_allowed_within_a_block(batches: Batches):
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    outside = top_eigenvalues(model, batches, F.cross_entropy)
    with SmoothOut(model, 0.0):
        assert top_eigenvalues(model, batches, F.cross_entropy) == outside
    assert model.unused.eq(1).all()
