"""The contexts of noise around models that torch.distributed has wrapped, here in a group of one process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.noise_cases import network
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from smoothout import SmoothOut


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_model_under_ddp_is_perturbed_trained_and_given_back() -> None:
    model = DistributedDataParallel(network())
    inputs, optimizer = torch.randn(20, 5), torch.optim.SGD(model.parameters(), lr=0.1)
    context, before = SmoothOut(model, 0.1), [p.detach().clone() for p in model.parameters()]
    clean = model(inputs)
    for _ in range(2):
        with context:
            noisy = model(inputs)
            noisy.square().mean().backward()
    assert not torch.allclose(noisy, clean)
    assert all(map(torch.equal, model.parameters(), before))
    optimizer.step()
    assert not all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
        lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True),
        fully_shard,
    ],
    ids=["FSDP1", "FSDP1, original parameters", "FSDP2"],
)
def test_weights_that_are_sharded_over_processes_are_refused(wrap: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"^model: its weights are sharded over processes"):
        SmoothOut(wrap(network()), 0.1)


def test_a_module_that_replays_a_cuda_graph_is_refused() -> None:
    """Its new forward method, which torch.cuda.make_graphed_callables makes, needs a GPU; here another has its name."""

    def new_forward(x: torch.Tensor) -> torch.Tensor:
        return x

    new_forward.__qualname__ = "make_graphed_callables.<locals>.make_graphed_forward.<locals>.new_fwd"
    assert "def make_graphed_forward" in inspect.getsource(torch.cuda.make_graphed_callables)
    model = network()
    vars(model[0])["forward"] = new_forward
    with pytest.raises(ValueError, match=r"^model: 0 \(Linear\) replays a CUDA graph"):
        SmoothOut(model, 0.1)
