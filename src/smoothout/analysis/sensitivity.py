"""How loss and accuracy of a trained network bear noise in its weights."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from smoothout.evaluation import evaluate
from smoothout.parameters import restored
from smoothout.perturbation import SmoothOut
from smoothout.randomness import stream


class NoisePoint(NamedTuple):
    """The mean loss and accuracy at strength ``a``."""

    a: float
    loss: float
    accuracy: float


def noise_curve(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    strengths: Sequence[float],
    *,
    noise: str = "uniform",
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[NoisePoint]:
    """[SmoothOut Fig. 3b] C(w; a) = E C(w + theta) at every strength, theta drawn anew for each batch.

    All parameters are perturbed, BatchNorm's too; running averages are kept; evaluation mode. The papers use batches of
    100. The draws for a batch have the same directions at every strength, so a curve is as smooth as its mean. The
    model is given back to the last bit.

    Raises:
        ValueError: on a strength that is negative or not finite, or an unknown law.
    """
    points = []
    with restored(model):
        for a in strengths:
            with closing(_perturbed(SmoothOut(model, a, noise, batchnorm=True), batches, seed)) as noisy:
                points.append(NoisePoint(float(a), *evaluate(model, noisy)))
            tick()
    return points


def _perturbed(
    context: SmoothOut, batches: Iterable[tuple[Tensor, Tensor]], seed: int
) -> Generator[tuple[Tensor, Tensor]]:
    """The batches; while one is being used, the model is perturbed."""
    for index, batch in enumerate(batches):
        context.generator = stream(seed, "sensitivity", index, device=context.device)
        with context:
            yield batch


def noise_slopes(points: Sequence[NoisePoint]) -> list[float]:
    """[SmoothOut Eq. 9] s = change of C(w; a) over change of a, from each strength to the next."""
    return [(right.loss - left.loss) / (right.a - left.a) for left, right in pairwise(points)]
