"""The loss on the plane around a network as contours and as a surface, and the toy loss of Figure 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smoothout.results.figures.curves import NamedRecords
from smoothout.results.figures.style import COLORS, legend_below

DECADES = (-4, 2)  # of the loss; a color means the same loss in all figures
COPIES_SHOWN = 4  # as in the paper


def contours(axes: Any, records: NamedRecords) -> None:
    """Draw lines of equal loss, three per decade, decades bold; darker is lower. Of several seeds, draw the first.

    Between grid points the logarithm of the loss is interpolated linearly, because a grid cell may span a decade.
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
    """Draw the loss as a surface over the plane, on a logarithmic axis. Of several seeds, draw the first."""
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
    """The alphas, the betas, and the losses of shape (betas, alphas), nan if there is no value."""
    outcome = records[0][1].outcome
    losses = np.array(outcome["losses"], dtype=np.float64)  # None becomes nan
    return np.array(outcome["alphas"]), np.array(outcome["betas"]), losses.T


def toy_loss(axes: Any, w: ArrayLike, loss: ArrayLike) -> None:
    """Draw Figure 1a, a loss of one weight."""
    axes.plot(w, loss, color=COLORS[0], linewidth=2, label="C(w)")
    _toy_axes(axes)


def toy_copies(axes: Any, w: ArrayLike, copies: NDArray[np.float64], mean: ArrayLike, expectation: ArrayLike) -> None:
    """Draw Figure 1b: a few of the shifted copies, their mean, and the expectation that it approaches."""
    for index, copy in enumerate(copies[:COPIES_SHOWN]):
        label = f"{COPIES_SHOWN} of the {len(copies)} shifted copies" if not index else None
        axes.plot(w, copy, color=COLORS[1], linewidth=0.8, label=label)
    axes.plot(w, mean, color=COLORS[4], linewidth=2.2, label=f"mean of the {len(copies)}")
    axes.plot(w, expectation, color=COLORS[2], linewidth=1, linestyle=":", label="expectation")
    _toy_axes(axes)


def _toy_axes(axes: Any) -> None:
    axes.set_xlabel("w")
    axes.set_ylabel("loss")
    legend_below(axes, columns=3)
