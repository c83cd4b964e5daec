"""Measure the trainer's and the analyses' speed as ratios, and write the report under results/benchmarks/."""

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from smoothout.benchmark import report
from smoothout.cli import app
from smoothout.common.progress import Bar, print_line
from smoothout.config.build import pick_settings


@hydra.main(config_path="../configs", config_name="benchmark", version_base="1.3")
def main(config: DictConfig) -> None:
    """Measure what ``config`` names on its device."""
    with app.program_session(config) as (settings, place):
        rows, only = [], pick_settings(settings, only=tuple[str, ...] | None).only
        comparisons = report.comparisons(place.device, Path(place.folders.data), only)
        with Bar("comparisons", len(comparisons)) as bar:
            for compared in comparisons:
                rows.append(compared())
                bar.tick(rows[-1].what)
        where = place.device, place.environment()
        Console(highlight=False, soft_wrap=True).print(report.markdown(rows, *where), markup=False)
        if not only:
            paths = report.save(rows, *where, Path(place.folders.results) / "benchmarks")
            print_line("\n".join(f"written: {path}" for path in paths))


if __name__ == "__main__":
    app.run(main)
