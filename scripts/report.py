"""Write the report: one page with every table, figure and claim, from records and rendered files; runs nothing."""

from smoothout.cli import app, show  # isort: skip # first, see smoothout.cli
from pathlib import Path

import hydra
from omegaconf import DictConfig

from smoothout.common.errors import needs_experiments
from smoothout.common.progress import Bar
from smoothout.reproduction.report.settings import ReportConfig


@hydra.main(config_path="../configs", config_name="report", version_base="1.3")
def main(config: DictConfig) -> None:
    """Write <results>/report/index.html, and the same in <results>/report/site/."""
    with app.program_session(config, ReportConfig) as (settings, runtime), needs_experiments():
        from smoothout.reproduction.report import page  # noqa: PLC0415 -- its packages may be missing
        from smoothout.reproduction.report.build import ReportBuilder  # noqa: PLC0415

        builder = ReportBuilder(settings, runtime, app.config_folders(), app.published_folder())
        with Bar("report", builder.steps) as bar:
            report = builder.build(bar.tick)
        show.print_written(page.save(report, Path(runtime.folders.results) / "report"))


if __name__ == "__main__":
    app.run(main)
