"""The Lanczos method for a symmetric matrix that is known only through products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal
from torch import Tensor


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, rounding: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Ritz values of a symmetric ``product``, and their weights: the squared components of ``start``.

    The basis is kept on the device of ``start``. The method stops early once the vectors span an invariant space, up
    to ``rounding`` relative to the matrix.
    """
    basis = start.new_empty(steps, len(start))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    vector = start / start.norm()
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal.append((vector @ image).item())
        # Orthogonalize against the whole basis, twice: once leaves rounding errors that grow from step to step.
        previous = basis[: step + 1]
        for _ in range(2):
            image = image - previous.T @ (previous @ image)
        length = image.norm().item()
        if step + 1 == steps or length <= rounding * max(map(abs, [*diagonal, *off_diagonal])):
            break
        off_diagonal.append(length)
        vector = image / length
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
    return tuple(map(float, values)), tuple(map(float, vectors[0] ** 2))
