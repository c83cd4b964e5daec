"""A figure of a paper as the report shows it: the rendered file, and what it lacks."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smoothout.common.errors import DataError, one_line
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.report.coverage import Coverage, command_of, coverage_of_figure, total
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.table import RunSelection

if TYPE_CHECKING:
    from PIL import Image

WIDTH = 1600  # pixels of an embedded image, at most
QUALITY = 82


@dataclass(frozen=True)
class FigureView:
    """A figure in one scope; ``file`` is None if it was not drawn."""

    title: str
    scope: RunSelection
    file: Path | None
    missing: int  # records that it lacks
    jobs: int
    command: str
    networks: dict[str, Coverage]

    @property
    def cost(self) -> str:
        """The cost of what is missing, in words; empty if nothing is missing or the cost is unknown."""
        return total(self.networks.values()).cost

    @property
    def network(self) -> str:
        """The first network that it shows; empty if it shows none."""
        return next(iter(self.networks), "")


def view_figure(plan: FigurePlan, runtime: Runtime, evidence: Evidence) -> FigureView:
    """The figure of ``plan``, from the rendered files."""
    file = Path(runtime.folders.results) / "figures" / f"{plan.stem}.png"
    planned = next(iter(plan.plan().values()))
    missing = [job for job in planned if find_record(job, runtime) is None]
    scope, target = plan.scope, f"figure-{plan.config.name}"
    command = command_of(target, scope) if planned else f"make {target}"
    return FigureView(
        plan.config.title,
        scope,
        file if file.exists() else None,
        len(missing),
        len(planned),
        command,
        coverage_of_figure(planned, command, runtime, evidence),
    )


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image in ``file``. Raises DataError."""
    from PIL import Image  # noqa: PLC0415 -- slow to import

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError) as error:  # a broken PNG is a SyntaxError
        raise DataError(
            f"figures: {file} is not a whole image ({one_line(error, 60)}); draw it again, or delete it"
        ) from error


def embedded(file: Path) -> str:
    """The image in ``file`` as a data URL."""
    with _opened(file) as image:
        embedded = image.convert("RGB")
    embedded.thumbnail((WIDTH, WIDTH * 4))
    content = io.BytesIO()
    embedded.save(content, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def size_of(file: Path) -> tuple[int, int]:
    """Width and height in pixels, so that a page does not move while it loads."""
    with _opened(file) as image:
        return image.size
