"""Whole training steps that torch.compile traces, with the blocks of methods inside."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.noise_cases import examples
from torch import nn
from torch.nn import functional as F

from smoothout import ASAM, MSAM, SAM
from smoothout.nn.passes import Passes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("method", [SAM, ASAM, lambda m: MSAM(m, torch.optim.SGD(m.parameters(), 0.1, momentum=0.9))])
def test_a_compiled_step_has_the_gradient_of_an_eager_one(
    method: Callable[[nn.Module], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after any exec() in the namespace of builtins: dynamo then recurses without end from a generator it must keep.
    monkeypatch.setitem(vars(builtins), "__builtins__", vars(builtins))
    inputs, labels = examples(8)
    gradients = []
    for compiled in (False, True):
        model = network()
        blocks = method(model)

        def step(model: nn.Module = model, blocks: Any = blocks) -> None:
            for block in blocks if isinstance(blocks, Passes) else [blocks]:
                with block:
                    F.cross_entropy(model(inputs), labels).backward()

        (torch.compile(step, backend="eager") if compiled else step)()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
