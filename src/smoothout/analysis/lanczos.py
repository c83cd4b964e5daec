"""The Lanczos method for a symmetric matrix given by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

Array = NDArray[np.float64]
Product = Callable[[Tensor], Tensor]
COLUMNS = 2**16  # columns of a basis that a restart rewrites at a time


def orthogonalize(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """``vector`` without its components along the orthonormal rows of ``basis``, and these components."""
    components = basis.new_zeros(len(basis))
    for _ in range(2):  # after a single pass, rounding errors would grow from step to step
        along = basis @ vector
        vector, components = vector - basis.T @ along, components + along
    return vector, components


def lanczos(
    product: Product, start: Tensor, steps: int, rounding: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Ritz values of the symmetric matrix of ``product``, and their weights: the squared components of ``start``.

    The basis is on the device of ``start``. The method stops early if the vectors span an invariant space, up to
    ``rounding`` relative to the matrix.
    """
    basis = start.new_empty(steps, len(start))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    vector = start / start.norm()
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal.append((vector @ image).item())
        image, _ = orthogonalize(image, basis[: step + 1])
        length = image.norm().item()
        if step + 1 == steps or length <= rounding * max(map(abs, [*diagonal, *off_diagonal])):
            break
        off_diagonal.append(length)
        vector = image / length
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
    return tuple(map(float, values)), tuple(map(float, vectors[0] ** 2))


class Eigenpairs(NamedTuple):
    """Approximate eigenpairs (value, v) of a matrix A, where v has length 1."""

    values: Array  # (k,)
    residuals: Array  # (k,), bounds of ||A v - value v||
    vectors: Tensor  # (k, n)


class KrylovBasis:
    """Orthonormal ``rows``, (most, n), of which ``size`` are in use, and a matrix projected onto these."""

    def __init__(self, most: int, draw: Callable[[], Tensor]) -> None:
        first = draw()
        self.rows = first.new_empty(most, len(first))
        self.projected = np.zeros((most, most))
        self.size = 0
        self.draw = draw
        self.following = first / first.norm()  # the next row

    @property
    def full(self) -> bool:
        """Whether there is no room for another row."""
        return self.size == len(self.rows)

    def extend(self, product: Product) -> float:
        """Add the row ``following``; its image becomes the next row. Returns the image's length outside the rows."""
        self.rows[self.size] = self.following
        self.size += 1
        outside, components = orthogonalize(product(self.following), self.rows[: self.size])
        length = outside.norm()
        *column, size = torch.cat([components, length.view(1)]).tolist()
        self.projected[self.size - 1, : self.size] = self.projected[: self.size, self.size - 1] = column
        self.following = outside / length
        return float(size)

    def noise(self, rounding: float) -> float:
        """The length outside the rows that rounding may cause, for a relative error ``rounding`` of products."""
        return float(10 * rounding * np.abs(self.projected).max())

    def restart(self) -> None:
        """Continue with a random direction, because the rows span an invariant space."""
        outside, _ = orthogonalize(self.draw(), self.rows[: self.size])
        self.following = outside / outside.norm()

    def compress(self, values: Array, vectors: Array) -> None:
        """Reduce the space to eigenvectors of the projected matrix, ``vectors`` with ``values``."""
        mix = torch.from_numpy(vectors.T.copy()).to(self.rows)
        for columns in torch.split(self.rows[: self.size], COLUMNS, dim=1):
            columns[: len(mix)] = mix @ columns
        self.size = len(mix)
        self.projected[:] = 0.0
        np.fill_diagonal(self.projected[: self.size, : self.size], values)


def outermost_eigenpairs(
    product: Product,
    draw: Callable[[], Tensor],
    k: int,
    key: Callable[[Array], Array],
    *,
    tolerance: float,
    rounding: float,
    most: int,
    restarts: int,
) -> Eigenpairs:
    """The ``k`` eigenpairs whose values sort first by ``key``, with residuals of at most ``tolerance`` |value|.

    Thick-restart Lanczos (Wu & Simon 2000) with full reorthogonalization. It stops as soon as all k are accurate;
    residuals need no extra products. It restarts when ``most`` vectors are kept, which must be more than k. The result
    has fewer pairs if ``restarts`` do not suffice.

    Args:
        draw: Returns random vectors, shape (n,), on the device of the basis.
        rounding: Error of products, relative to the norm of the matrix.
    """
    basis = KrylovBasis(most, draw)
    invariant_values: Array | None = None  # the wanted values when the basis last spanned an invariant space
    while True:
        length = basis.extend(product)
        floor = basis.noise(rounding)
        complete = basis.size == basis.rows.shape[1]
        invariant = complete or length <= floor
        if basis.size >= k or invariant:
            values, vectors = np.linalg.eigh(basis.projected[: basis.size, : basis.size])
            order = np.argsort(key(values), kind="stable")
            wanted = order[:k]
            residuals = (0.0 if invariant else length) * np.abs(vectors[-1, wanted])
            limits = np.maximum(tolerance * np.abs(values[wanted]), floor)
            accurate = residuals <= limits
            done = len(wanted) == k and bool(accurate.all())
            if invariant:
                # A random start finds one vector of each eigenspace. Restart with random vectors orthogonal to the
                # space until one of them no longer changes the result.
                before, invariant_values = invariant_values, values[wanted]
                done = complete or (done and before is not None and _close(before, values[wanted], limits))
            else:
                done = done and invariant_values is None
            if done or (basis.full and not restarts):
                chosen = torch.from_numpy(vectors[:, wanted[accurate]].T.copy()).to(basis.rows)
                return Eigenpairs(
                    values[wanted][accurate], (residuals + floor)[accurate], chosen @ basis.rows[: basis.size]
                )
            if basis.full:
                restarts -= 1
                kept = order[: (k + most) // 2]
                basis.compress(values[kept], vectors[:, kept])
        if invariant:
            basis.restart()


def _close(before: Array, after: Array, limits: Array) -> bool:
    return len(before) == len(after) and bool((np.abs(before - after) <= limits).all())
