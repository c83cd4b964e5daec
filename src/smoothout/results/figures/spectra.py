"""The spectral density of Hessians, with their largest eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoothout.results.figures.curves import NamedRecords, RunLabel
from smoothout.results.figures.style import color, legend_below, linestyle, mean_and_band

Array = NDArray[np.float64]
Density = Callable[[dict[str, Any], Array, float], Array]  # of a recorded spectrum, at each point, smoothed by a width

WIDTH = 0.01  # smoothing width of a Ritz value, as a share of the drawn range
POINTS = 1001
FOOT = 0.03  # lower limit of the axis, as a share of the expected height of a single eigenvalue


def spectrum(axes: Any, records: NamedRecords, density: Density) -> None:
    """Draw the density of each run's eigenvalues on a logarithmic axis, and triangles for the largest eigenvalues.

    All runs are smoothed by the same width. A line is the mean over seeds, in a band from the lowest to the highest.
    """
    outcomes = [record.outcome for _, record in records]
    grid, width = _grid(outcomes)
    heights = np.array([density(outcome["spectrum"], grid, width) for outcome in outcomes])
    for row, run in enumerate(dict.fromkeys(run for run, _ in records)):
        indices = [index for index, (other, _) in enumerate(records) if other == run]
        look = {"color": color(run.place), "linestyle": linestyle(run.place)}
        mean_and_band(axes, grid.tolist(), heights[indices].T.tolist(), {**look, "label": run.name})
        _mark_largest(axes, run, [outcomes[index]["eigenvalues"] for index in indices], row)
    single = 1 / (max(outcome["dimension"] for outcome in outcomes) * width * math.sqrt(2 * math.pi))
    axes.set_yscale("log")
    axes.set_ylim(FOOT * single, 3 * heights.max())
    axes.set_xlim(grid[0], grid[-1])
    probes = min(len(outcome["spectrum"]["ritz"]) for outcome in outcomes)
    axes.set_title(f"{probes} probes: the height of a single eigenvalue is random")
    axes.set_xlabel(f"eigenvalue of the Hessian, smoothed by {width:.2g}")
    axes.set_ylabel("spectral density")
    legend_below(axes)


def _grid(outcomes: Sequence[dict[str, Any]]) -> tuple[Array, float]:
    """Points from below the lowest Ritz value to above the largest eigenvalue of all, and the smoothing width."""
    probes = [probe for outcome in outcomes for probe in outcome["spectrum"]["ritz"]]
    values = np.concatenate([*probes, *(outcome["eigenvalues"]["values"] for outcome in outcomes)])
    low, high = values.min(), values.max()
    width = WIDTH * float(high - low or 1.0)
    return np.linspace(low - 5 * width, high + 5 * width, POINTS), width


def _mark_largest(axes: Any, run: RunLabel, results: Sequence[dict[str, Any]], row: int) -> None:
    """Mark the largest eigenvalues of all seeds of a run, in that row from the top; the legend has failures."""
    values = [value for result in results for value in result["values"]]
    short = [result["status"] for result in results if not result["converged"]]
    label = "; ".join([f"{run.name}, largest" + (f": up to {max(values):.3g}" if values else ""), *short[:1]])
    look = {"linestyle": "none", "marker": "v", "markersize": 4, "color": color(run.place), "label": label}
    axes.plot(values, [0.96 - 0.045 * row] * len(values), transform=axes.get_xaxis_transform(), **look)
