"""Measure the trainer's and the analyses' speed as ratios, and write the report under results/benchmarks/."""

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from smoothout import cli
from smoothout.bench import report
from smoothout.progress import Bar, say
from smoothout.settings import SettingsError, chosen


@hydra.main(config_path="../configs", config_name="benchmark", version_base="1.3")
def main(config: DictConfig) -> None:
    """Measure what ``config`` names on its device."""
    with cli.task(config) as (settings, place):
        rows, data = [], Path(place.folders.data)
        only = chosen(settings, only=tuple[str, ...] | None).only
        try:
            with Bar("comparisons", len(only or report.comparisons(place.device, data))) as bar:
                for row in report.measure(place.device, only, data):
                    rows.append(row)
                    bar.step(row.what)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        where = place.device, place.environment()
        Console(highlight=False, soft_wrap=True).print(report.markdown(rows, *where), markup=False)
        if not only:
            paths = report.save(rows, *where, Path(place.folders.results) / "benchmarks")
            say("\n".join(f"written: {path}" for path in paths))


if __name__ == "__main__":
    cli.run(main)
