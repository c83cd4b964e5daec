"""The box around a network's weights that sharpness searches, in the full space or a subspace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smoothout.common.rng import make_generator

BLOCK = 2**16  # rows of A that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Box:
    """The weights x + A (half * z), for z in [-1, 1]^k; A is the identity if ``columns`` is None."""

    center: Tensor  # x, float64, (n,)
    half: Tensor  # half-widths, float64, (k,)
    columns: Tensor | None = None  # A, float32, (n, p)

    def weights(self, z: Tensor) -> Tensor:
        """The weights at ``z``, shape (n,)."""
        offset = self.half * z
        return offset.add_(self.center) if self.columns is None else self.center + self.columns @ offset.float()

    def gradient(self, by_weights: Tensor) -> Tensor:
        """The gradient with respect to z, shape (k,), given the gradient with respect to the weights, shape (n,)."""
        return self.half * (by_weights if self.columns is None else self.columns.T @ by_weights.float())


def box_around(x: Tensor, eps: float, subspace: int | None = None, seed: int = 0) -> Box:
    """[Keskar Eq. 3] The box |y_i| <= eps (|(A^+ x)_i| + 1) around the weights x, float64 of shape (n,).

    With ``subspace`` None, A = I; with an integer p, A is drawn from N(0, 1) in float32, which takes 600 MB for
    n = 1.5 million and p = 100. A and its least-squares problem are computed on the CPU, so that the box is the same on
    every device. The box is on the device of ``x``.
    """
    if subspace is None:
        return Box(x, eps * (x.abs() + 1.0))
    generator = make_generator(seed, "subspace")
    columns = torch.randn(x.numel(), subspace, generator=generator, dtype=torch.float32, device="cpu")
    half = eps * (least_squares(columns, x.cpu()).abs() + 1.0)
    return Box(x, half.to(x.device), columns.to(x.device))


def random_point(k: int, generator: torch.Generator) -> Tensor:
    """A uniform random point of [-1, 1]^k, float64."""
    return torch.empty(k, dtype=torch.float64, device="cpu").uniform_(-1.0, 1.0, generator=generator)


def least_squares(columns: Tensor, x: Tensor) -> Tensor:
    """A^+ x in float64, shape (p,), for A = ``columns``, (n, p) of rank p <= n, and x in float64, (n,).

    It updates the QR decomposition of [A x] by blocks of rows, which needs no second matrix of A's size.
    """
    p = columns.shape[1]
    upper = x.new_empty(0, p + 1)
    for rows, entries in zip(torch.split(columns, BLOCK), torch.split(x, BLOCK), strict=True):
        block = torch.cat([rows.double(), entries.unsqueeze(1)], dim=1)
        upper = torch.linalg.qr(torch.cat([upper, block]), mode="r").R
    solution: Tensor = torch.linalg.solve_triangular(upper[:p, :p], upper[:p, p:], upper=True)
    return solution.squeeze(1)
