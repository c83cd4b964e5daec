"""Analysis of the Hessian as a job."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import DataSplit, Models, SplitJob, Tick, check_running_stats, count
from smoothout.analysis.options import RunningStats
from smoothout.common.estimates import Estimate


@dataclass(frozen=True, kw_only=True)
class Hessian(SplitJob):
    """Curvature of one run: largest eigenvalues, trace, norm and optionally the spectrum; see `analysis.hessian`."""

    kind: ClassVar[str] = "hessian"
    numerics: ClassVar[int] = 2  # 2: Hutch++ instead of Hutchinson's estimator; Lanczos stops once it is accurate
    valid_numerics: ClassVar[tuple[int, ...]] = (1,)  # less precise, but within their standard errors
    in_name: ClassVar[tuple[str, ...]] = ("split",)
    in_name_if_changed: ClassVar[tuple[str, ...]] = ("running_stats",)

    eigenvalues: int = count(3)  # how many of the largest
    tolerance: float = 1e-3  # of `top_eigenvalues`
    probes: int = count(10, least=2)  # products of `trace_and_norm`; one has no standard error
    spectrum_probes: int = count(0, least=0)  # of `hessian_spectrum`; 0 leaves the spectrum out
    spectrum_steps: int = count(60)
    seed: int = 0  # of start vectors and probes
    running_stats: RunningStats = RunningStats.kept  # BatchNorm's: kept, or recomputed from the training split

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: must be above 0 and below 1, not {self.tolerance}")
        check_running_stats(self.running_stats)

    def ticks(self, train: int, test: int) -> int:
        """Approximate number of products with the Hessian: Lanczos steps until the eigenvalues converge, and probes."""
        return 15 + 4 * self.eigenvalues + self.probes + self.spectrum_probes * self.spectrum_steps

    def evaluations(self, train: int, test: int) -> int:
        """About two per product, and two per function to check that the loss is deterministic."""
        return 2 * self.ticks(train, test) + 2 * (3 if self.spectrum_probes else 2)

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """All estimates with their standard errors, and the number of products."""
        with self.with_running_stats(self.running_stats, models[0], train):
            return self._estimates(models, self.split_batches(train, test), tick)

    def _estimates(self, models: Models, batches: Any, tick: Tick) -> dict[str, Any]:
        from torch.nn.functional import cross_entropy  # noqa: PLC0415

        from smoothout.analysis.hessian import hessian_spectrum, top_eigenvalues, trace_and_norm  # noqa: PLC0415

        loss = models[0], batches, cross_entropy
        n = sum(p.numel() for p in models[0].parameters() if p.requires_grad)
        top = top_eigenvalues(*loss, min(self.eigenvalues, n), tolerance=self.tolerance, seed=self.seed, tick=tick)
        sums = trace_and_norm(*loss, probes=self.probes, seed=self.seed, tick=tick)
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
            spectrum = hessian_spectrum(
                *loss, probes=self.spectrum_probes, steps=self.spectrum_steps, seed=self.seed, tick=tick
            )
            outcome |= {"spectrum": asdict(spectrum), "products": outcome["products"] + spectrum.products}
        return outcome


def _root(squared: Estimate) -> Estimate:
    """The square root of an estimate; its standard error to first order."""
    root = math.sqrt(squared.mean)
    return Estimate(root, squared.standard_error / (2 * root) if root else 0.0)
