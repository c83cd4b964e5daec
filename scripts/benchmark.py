"""Measure the speed of the trainer and the analyses as ratios, and save the report under results/benchmarks/."""

from smoothout.cli import app  # isort: skip # first, see smoothout.cli
from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from smoothout.common.progress import Bar, print_line


@dataclass(frozen=True)
class BenchmarkSettings:
    """The settings of configs/benchmark.yaml."""

    only: tuple[str, ...] | None


@hydra.main(config_path="../configs", config_name="benchmark", version_base="1.3")
def main(config: DictConfig) -> None:
    """Measure the comparisons that ``config`` names, on its device."""
    with app.program_session(config, BenchmarkSettings) as (settings, runtime):
        from smoothout.benchmark import report  # noqa: PLC0415 -- imports torch; signals are deferred here

        comparisons = report.comparisons(runtime.device, Path(runtime.folders.data), settings.only)
        rows = []
        with Bar("comparisons", len(comparisons)) as bar:
            for measure in comparisons:
                rows.append(measure())
                bar.tick(rows[-1].what)
        environment = runtime.environment()
        markdown = report.markdown(rows, runtime.device, environment)
        Console(highlight=False, soft_wrap=True).print(markdown, markup=False)
        if settings.only is None:
            folder = Path(runtime.folders.results) / "benchmarks"
            paths = report.save(rows, runtime.device, environment, folder)
            print_line("\n".join(f"written: {path}" for path in paths))


if __name__ == "__main__":
    app.run(main)
