"""Losses as shapes: the plane around a network as contours and as a surface, and the toy loss of Figure 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smoothout.results.figures.curves import NamedRecords
from smoothout.results.figures.style import COLOURS, legend_below

DECADES = (-4, 2)  # the same colours for the same losses in all pictures
COPIES_SHOWN = 4  # as in the paper


def contours(axes: Any, records: NamedRecords) -> None:
    """Lines of equal loss, three a decade, whole decades bold; darker is lower. Of several seeds the first.

    Between the points of the grid the loss's logarithm is taken to be linear: a cell may span a decade.
    """
    from matplotlib.patheffects import withStroke  # noqa: PLC0415  (slow to import)

    alphas, betas, losses = _plane(records)
    heights, ladder = np.log10(losses), np.linspace(*DECADES, 3 * (DECADES[1] - DECADES[0]) + 1)
    axes.contourf(alphas, betas, heights, ladder, cmap="Blues_r", extend="both")
    axes.contour(alphas, betas, heights, ladder, colors="0.3", linewidths=0.4, linestyles="-")
    decades = axes.contour(alphas, betas, heights, ladder[::3], colors="0.1", linewidths=1.1, linestyles="-")
    for label in axes.clabel(decades, fmt=lambda height: f"{10**height:g}", fontsize=7):
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    axes.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=2)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.set_xlabel("alpha, along the first direction")
    axes.set_ylabel("beta, along the second direction")


def surface(axes: Any, records: NamedRecords) -> None:
    """The same as a surface over the plane, with the loss on a logarithmic axis. Of several seeds the first."""
    alphas, betas, losses = _plane(records)
    across, along = np.meshgrid(alphas, betas)
    axes.plot_surface(
        across, along, np.log10(losses), cmap="Blues_r", vmin=DECADES[0], vmax=DECADES[1], lw=0.2, ec="0.3"
    )
    axes.view_init(elev=28, azim=-55)
    axes.set_xlabel("alpha")
    axes.set_ylabel("beta")
    axes.set_zlabel("log10 of the cross entropy")


def _plane(records: NamedRecords) -> tuple[NDArray[np.float64], ...]:
    """alphas, betas, and the losses with a row a beta, nan without a value."""
    outcome = records[0][1].outcome
    losses = np.array(outcome["losses"], dtype=np.float64)  # None becomes nan
    return np.array(outcome["alphas"]), np.array(outcome["betas"]), losses.T


def toy_loss(axes: Any, w: ArrayLike, loss: ArrayLike) -> None:
    """Figure 1a: the loss of one weight."""
    axes.plot(w, loss, color=COLOURS[0], linewidth=2, label="C(w)")
    _toy_axes(axes)


def toy_copies(axes: Any, w: ArrayLike, copies: NDArray[np.float64], mean: ArrayLike, expectation: ArrayLike) -> None:
    """Figure 1b: a few of the shifted copies, the mean over all of them, and what it approaches."""
    for index, copy in enumerate(copies[:COPIES_SHOWN]):
        label = f"{COPIES_SHOWN} of the {len(copies)} shifted copies" if not index else None
        axes.plot(w, copy, color=COLOURS[1], linewidth=0.8, label=label)
    axes.plot(w, mean, color=COLOURS[4], linewidth=2.2, label=f"mean of the {len(copies)}")
    axes.plot(w, expectation, color=COLOURS[2], linewidth=1, linestyle=":", label="expectation")
    _toy_axes(axes)


def _toy_axes(axes: Any) -> None:
    axes.set_xlabel("w")
    axes.set_ylabel("loss")
    legend_below(axes, columns=3)
