"""Networks whose Hessian is known."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

Batches = list[tuple[Tensor, Tensor]]


def network(seed: int = 0) -> nn.Sequential:
    """A smooth 3-5-3 network with BatchNorm and dropout, 48 weights, float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    model(torch.randn(32, 3, dtype=torch.float64))
    return model


def dense(model: nn.Module, batches: Batches, block: str = "") -> Tensor:
    """The Hessian of the mean loss by the parameters whose name begins with ``block``, from torch.func."""
    inputs, targets = (torch.cat(column) for column in zip(*batches, strict=True))
    model.eval()
    weights = {k: p.detach() for k, p in model.named_parameters() if k.startswith(block)}
    shapes = [w.shape for w in weights.values()]

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([s.numel() for s in shapes])
        state = {k: v.view(s) for k, v, s in zip(weights, pieces, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, state, (inputs,)), targets)

    with warnings.catch_warnings():  # forward derivatives need torch's decompositions, which call torch.jit
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        hessian = torch.func.hessian(loss)(torch.cat([w.flatten() for w in weights.values()]))
    model.train()
    return hessian


class Quadratic(nn.Module):
    """The loss w . A w / 2 for a symmetric A, whatever the example."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix
        self.weights = nn.Parameter(torch.linspace(-1.0, 1.0, len(matrix), dtype=matrix.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        return (0.5 * self.weights @ (self.matrix @ self.weights)).expand(len(inputs))


ONE = [(torch.zeros(1, 1), torch.zeros(1))]


def height(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def quadratic(values: list[float], seed: int | None = None) -> Quadratic:
    """A quadratic with these eigenvalues, along the axes or (with a seed) along random directions."""
    matrix = torch.diag(torch.tensor(values, dtype=torch.float64))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
        matrix = q @ matrix @ q.T
    return Quadratic(matrix)
