"""The settings and the outcome of an analysis of the Hessian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.hessian import hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.jobs import base
from smoothout.analysis.options import SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.common.estimates import Estimate
from smoothout.data.split import Split


@dataclass(frozen=True)
class Hessian:
    """Curvature of one run, see ``analysis.hessian``: top eigenvalues, trace and norm, and the spectrum if asked for.

    Args:
        checkpoint: best or last.
        split: train or test.
        eigenvalues: how many of the largest.
        tolerance: relative, of an eigenvalue's residual; its own error is of the order of the square.
        probes: of the trace and the Frobenius norm.
        spectrum_probes: of the spectral density; 0 leaves it out.
        spectrum_steps: products of each of those; each keeps a vector of the network's size in float64.
        seed: of start vectors and probes.
        examples: look at the first so many examples of the split; None is all.
    """

    kind: ClassVar[str] = "hessian"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    split: SplitName = field(default=SplitName.train, metadata={"recorded_as": "part"})
    eigenvalues: int = 3
    tolerance: float = 1e-3
    probes: int = 10
    spectrum_probes: int = 0
    spectrum_steps: int = 60
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_split(self.split)
        base.check_counts(self, "eigenvalues", "spectrum_steps")
        base.check_counts(self, "probes", least=2)  # fewer have no standard error
        base.check_counts(self, "spectrum_probes", least=0)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: must be above 0 and below 1, not {self.tolerance}")

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return f"{run}-{self.split}"

    def ticks(self, train: int, test: int) -> int:
        """About how many products with the Hessian it takes: Lanczos restarts until its eigenvalues are found."""
        lanczos = 2 * max(20, 2 * self.eigenvalues + 1) + self.eigenvalues
        return lanczos + self.probes + self.spectrum_probes * self.spectrum_steps

    def evaluations(self, train: int, test: int) -> int:
        """About how many passes forward and backward it takes: a product costs two, and two look for chance first."""
        return 2 * self.ticks(train, test) + 2 * (3 if self.spectrum_probes else 2)

    examples_seen = base.examples_used_of_split

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """All that is asked for, with standard errors, and the products that it took."""
        given = models[0], base.batches_of(self.split, train, test, self.examples), F.cross_entropy
        n = sum(p.numel() for p in models[0].parameters() if p.requires_grad)
        top = top_eigenvalues(*given, min(self.eigenvalues, n), tolerance=self.tolerance, seed=self.seed, tick=tick)
        sums = trace_and_norm(*given, probes=self.probes, seed=self.seed, tick=tick)
        outcome: dict[str, Any] = {
            "eigenvalues": {name: value for name, value in asdict(top).items() if name != "vectors"},
            "trace": sums.trace._asdict(),
            "squared_norm": sums.squared_norm._asdict(),
            "norm": _root(sums.squared_norm)._asdict(),
            "spectrum": None,
            "dimension": sums.dimension,
            "products": top.products + sums.products,
        }
        if self.spectrum_probes:
            found = hessian_spectrum(
                *given, probes=self.spectrum_probes, steps=self.spectrum_steps, seed=self.seed, tick=tick
            )
            outcome |= {"spectrum": asdict(found), "products": outcome["products"] + found.products}
        return outcome


def _root(squared: Estimate) -> Estimate:
    """The square root of an estimate; its standard error to first order."""
    root = math.sqrt(squared.mean)
    return Estimate(root, squared.standard_error / (2 * root) if root else 0.0)
