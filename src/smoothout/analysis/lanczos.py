"""Lanczos' method for a symmetric matrix that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal
from torch import Tensor


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, rounding: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Ritz values of a symmetric ``product`` and their weights, the squared shares that ``start`` has in them.

    The basis lies on the device of ``start``; a step waits for it twice, and as often as ``product`` does. Ends early
    where the vectors span an invariant space, to ``machine_epsilon`` relative to the matrix.
    """
    basis = start.new_empty(steps, len(start))
    diagonal: list[float] = []
    beside: list[float] = []
    vector = start / start.norm()
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal.append((vector @ image).item())
        known = basis[: step + 1]
        for _ in range(2):  # once leaves rounding behind that grows from step to step
            image = image - known.T @ (known @ image)
        length = image.norm().item()
        if step + 1 == steps or length <= rounding * max(map(abs, [*diagonal, *beside])):
            break
        beside.append(length)
        vector = image / length
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return tuple(map(float, values)), tuple(map(float, vectors[0] ** 2))
