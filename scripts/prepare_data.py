"""Download a data set into the data folder, or check the one that is there."""

from smoothout.cli import app  # isort: skip # first, see smoothout.cli
from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig

from smoothout.common.progress import print_line
from smoothout.config.protocols import Data


@dataclass(frozen=True)
class PrepareDataSettings:
    """The settings of configs/prepare_data.yaml."""

    data: Data


@hydra.main(config_path="../configs", config_name="prepare_data", version_base="1.3")
def main(config: DictConfig) -> None:
    """Find or download the data set that ``config`` names, and print its sizes and fingerprint."""
    with app.program_session(config, PrepareDataSettings) as (settings, runtime):
        data = settings.data
        train, test, fingerprint = data.load(Path(runtime.folders.data), runtime.device, runtime.download)
        shape = " x ".join(map(str, data.shape))
        print_line(f"{data.name}: {len(train)} training and {len(test)} test images, {shape}, SHA-256 {fingerprint}")


if __name__ == "__main__":
    app.run(main)
