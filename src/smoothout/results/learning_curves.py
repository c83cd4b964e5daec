"""How far two trainings' learning curves are apart."""

from __future__ import annotations

import math

import numpy as np

from smoothout.results.records import Record

CURVES = ("train_accuracy", "test_accuracy")  # the second is on held-out images if a training has them


def curve_distance(one: Record, other: Record) -> float:
    """[Jastrzebski Fig. 4] The mean absolute difference of two trainings' accuracies in points.

    The mean is over the epochs that both have, and over the curves of both splits; an epoch whose accuracy is not a
    number counts as accuracy 0. The paper judges by eye.
    """
    distances = []
    for name in CURVES:
        curves = [[value or 0.0 for value in record.outcome["curves"][name]] for record in (one, other)]
        epochs = min(map(len, curves))
        a, b = (np.array(curve[:epochs]) for curve in curves)
        distances.append(float(np.mean(np.abs(a - b))))
    return 100 * math.fsum(distances) / len(distances)
