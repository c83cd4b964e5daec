"""Tables of cells, as CSV (a line per cell), Markdown and LaTeX."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smoothout.common.files import atomic_write_text
from smoothout.common.formatting import format_decimal, format_hours, format_significant

if TYPE_CHECKING:
    import pandas as pd

NOT_RUN = "not run"
IMAGE_BY_IMAGE = "Image by image, best epochs"
IMAGES_NOTE = (
    "Numbers of test images that both trainings of a seed get right, only one of them or none: means over seeds."
    " McNemar's exact test compares the two trainings of a seed on these images. Difference and p are over seeds and"
    " images together, both taken as random samples: they ask whether other seeds would differ on other images. No p is"
    " corrected for their number, nor for the epochs, which were chosen on these images."
)


@dataclass(frozen=True)
class Cell:
    """A number of a table, over seeds."""

    row: str  # the row's name; with the column, "METHOD METRIC", its place in the table
    column: str
    values: dict[int, float] = field(default_factory=dict)  # the number of each seed that has one
    failed: frozenset[int] = frozenset()  # seeds whose search failed
    diverged: frozenset[int] = frozenset()  # seeds whose training diverged
    retrained: frozenset[int] = frozenset()  # seeds measured on other weights than the training's record describes
    published: float | None = None  # the papers' number, or None
    published_std: float | None = None  # its standard deviation over runs, or None
    records: list[str] = field(default_factory=list)  # names of the records with the values
    devices: list[str] = field(default_factory=list)  # the devices that made the records
    command: str = ""  # the command that makes the records
    hours: float | None = None  # estimated cost of the records that are missing, None if unknown
    compared: tuple[str, ...] = ()  # for a difference, its columns: the first minus the second

    @property
    def mean(self) -> float:
        """Mean over seeds, nan without values."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def std(self) -> float:
        """Standard deviation over seeds (n - 1), nan below two values."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan

    @property
    def geometric_mean(self) -> float:
        """Geometric mean over seeds, nan without values or if one of them is not positive."""
        positive = self.values and min(self.values.values()) > 0
        return statistics.geometric_mean(self.values.values()) if positive else math.nan

    def text(self, seeds: int = 1, by_ratio: bool = False) -> str:
        """The cell as text: its value over seeds, lost seeds, and the published number in brackets.

        It states the number of seeds if that is less than ``seeds``. ``by_ratio``: see `Block`.
        """
        measured, published = self.measured_text(seeds, by_ratio), self.published_text(by_ratio)
        return f"{measured} [{published}]" if published else measured

    def measured_text(self, seeds: int = 1, by_ratio: bool = False) -> str:
        """The cell as text without the published number."""
        count = len({*self.values, *self.failed, *self.diverged})
        wrong = {word: len(lost) for word, lost in (("failed", self.failed), ("diverged", self.diverged)) if lost}
        text, hints = " and ".join(wrong) or NOT_RUN, list[str]()
        if self.values:
            text, hints = self._by_ratio() if by_ratio else (self._by_difference(), [])
            hints += [", ".join(f"{n} {word}" for word, n in wrong.items()) + f" of {count}"] if wrong else []
        run = "" if self.values else " run"  # "failed (1 of 2 seeds)" would read as if the other one had not failed
        hints += [f"{count} of {seeds} seeds{run}"] if 0 < count < seeds else []
        hints += [f"{len(self.retrained)} trained again"] if self.retrained else []
        return text + (f" ({'; '.join(hints)})" if hints else "")

    def published_text(self, by_ratio: bool = False) -> str:
        """The published number with its standard deviation, if it has one; empty without."""
        numbers = [number for number in (self.published, self.published_std) if number is not None]
        return " ± ".join(format_decimal(number, 4 if by_ratio else 2) for number in numbers)

    def _by_difference(self) -> str:
        return format_decimal(self.mean, 2) + (f" ± {format_decimal(self.std, 2)}" if len(self.values) > 1 else "")

    def _by_ratio(self) -> tuple[str, list[str]]:
        values = sorted(self.values.values())
        spread = [f"{format_significant(values[0])} to {format_significant(values[-1])}"] if len(values) > 1 else []
        return format_significant(self.geometric_mean), spread


@dataclass(frozen=True)
class Block:
    """Columns of a table below one heading, as {title: the cells' column}.

    ``by_ratio``: the values are positive and compared by ratio. Over seeds they are shown as geometric mean, lowest and
    highest; others as mean and standard deviation.
    """

    heading: str
    columns: dict[str, str]
    by_ratio: bool = False


@dataclass(frozen=True)
class Table:
    """All cells of a table, of one protocol, profile and precision: these are never mixed."""

    name: str
    title: str
    protocol: str
    profile: str
    precision: str
    seeds: tuple[int, ...]
    cells: list[Cell]
    blocks: list[Block]
    notes: list[str]
    image_by_image: list[dict[str, str]] = field(default_factory=list)  # a line for each comparison, see `per_image`
    # By row, the hours (None: unknown) of missing trainings without a command of their own; analyses run them first.
    first_trained: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The name of its files without their endings."""
        return stem(self.name, self.protocol, self.profile, self.precision)

    def long(self) -> pd.DataFrame:
        """One line per cell."""
        import pandas as pd  # noqa: PLC0415 -- slow to import, and not needed to print a table

        # Most papers publish no standard deviation; their tables have no such column.
        spread = any(cell.published_std is not None for cell in self.cells)
        return pd.DataFrame(
            {
                "row": cell.row,
                "column": cell.column,
                "protocol": self.protocol,
                "profile": self.profile,
                "precision": self.precision,
                "n": len(cell.values),
                "mean": cell.mean,
                "std": cell.std,
                "geometric_mean": cell.geometric_mean,
                "lowest": min(cell.values.values(), default=math.nan),
                "highest": max(cell.values.values(), default=math.nan),
                "failed": len(cell.failed),
                "diverged": len(cell.diverged),
                "retrained": len(cell.retrained),
                "published": cell.published,
                **({"published_std": cell.published_std} if spread else {}),
                "difference": cell.mean - cell.published if cell.published is not None else math.nan,
                "device": "; ".join(cell.devices),
                "records": " ".join(cell.records),
                "command": cell.command,
                "hours_to_run": cell.hours,
            }
            for cell in self.cells
        )

    def wide(self, block: Block) -> pd.DataFrame:
        """The cells of a block as text, one line per row."""
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(self.texts(block))

    def texts(self, block: Block) -> dict[str, list[str]]:
        """The cells of a block as text, by column; the first column has the names of the rows."""
        texts = {(cell.row, cell.column): cell.text(len(self.seeds), block.by_ratio) for cell in self.cells}
        rows = list(dict.fromkeys(cell.row for cell in self.cells))
        columns = {title: [texts.get((row, name), "") for row in rows] for title, name in block.columns.items()}
        return {"": rows} | columns

    def caption(self) -> str:
        """Protocol, profile, precision and seeds of the numbers, and the devices that made them."""
        devices = sorted({device for cell in self.cells for device in cell.devices}) or ["none yet"]
        seeds = ", ".join(map(str, self.seeds))
        made = f"Protocol `{self.protocol}`, profile `{self.profile}`, {self.precision}, seeds {seeds}"
        spread = ""
        if len(self.seeds) > 1:
            by_ratio = any(block.by_ratio for block in self.blocks)
            ratios = ", of sharpness geometric mean (lowest to highest)" if by_ratio else ""
            spread = f" Over seeds: mean ± standard deviation{ratios}."
        return f"{made}; made on: {'; '.join(devices)}.{spread}"

    def markdown(self) -> str:
        """The whole table as Markdown."""
        import pandas as pd  # noqa: PLC0415

        parts = [f"# {self.title}", self.caption()]
        for block in self.blocks:
            parts += [f"## {block.heading}", markdown_table(self.wide(block))]
        if self.image_by_image:
            parts += [f"## {IMAGE_BY_IMAGE}", markdown_table(pd.DataFrame(self.image_by_image)), IMAGES_NOTE]
        parts += [*self.notes, *self._missing()]
        return "\n\n".join(parts) + "\n"

    def _missing(self) -> list[str]:
        """What was not run, by row, with its cost."""
        rows: dict[str, dict[str, float | None]] = {}
        for cell in self.cells:
            if cell.command and cell.hours != 0.0:
                rows.setdefault(cell.row, {})[cell.command] = cell.hours
        if not rows:
            return []
        lines = []
        for row, jobs in rows.items():
            line = f"- {row}: {len(jobs)} commands, {_cost(list(jobs.values()))}"
            if first := self.first_trained.get(row):
                line += f", which first train {len(first)} runs, {_cost(first)}"
            lines.append(line)
        hint = (
            "The CSV file has the command of every cell. Costs are for the device that made this page if it has made"
            " similar records, else for two CPU cores."
        )
        return ["## Not run", hint, "\n".join(lines)]

    def latex(self) -> str:
        """The whole table as LaTeX, a tabular per block."""
        parts = []
        for block in self.blocks:
            frame = self.wide(block).map(_latex_text).rename(columns=_latex_text)
            body = frame.to_latex(index=False, column_format="l" + "r" * len(block.columns))
            parts.append(f"% {self.title}: {block.heading}. {self.caption()}\n{body}")
        return "\n".join(parts)

    def save(self, folder: Path) -> list[Path]:
        """Write <folder>/<stem>.md, .csv and .tex; returns their paths."""
        texts = {".md": self.markdown(), ".csv": self.long().to_csv(index=False), ".tex": self.latex()}
        paths = [folder / f"{self.stem}{ending}" for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            atomic_write_text(path, text)
        return paths


def _cost(hours: Sequence[float | None]) -> str:
    return "of unknown cost" if None in hours else format_hours(hours)


def markdown_table(frame: pd.DataFrame) -> str:
    """``frame`` as a Markdown table, its texts as they are."""
    return frame.to_markdown(index=False, disable_numparse=True)


def _latex_text(text: str) -> str:
    """``text`` with LaTeX's own characters escaped."""
    escaped = re.sub(r"[&%$#_{}]", r"\\\g<0>", text.replace("\\", r"\textbackslash "))
    return escaped.replace("^", r"\^{}").replace("~", r"\~{}").replace("±", r"\textpm{}")


def difference(one: Cell, other: Cell, published: float | None, column: str) -> Cell:
    """``one`` minus ``other`` for each seed that both have; a seed that diverged in either counts as diverged."""
    values = {seed: value - other.values[seed] for seed, value in one.values.items() if seed in other.values}
    records = [*other.records, *one.records] if values else []
    devices = sorted({*one.devices, *other.devices}) if values else []
    return Cell(
        one.row,
        column,
        values,
        diverged=one.diverged | other.diverged,
        retrained=(one.retrained | other.retrained) & values.keys(),
        published=published,
        records=records,
        devices=devices,
        compared=(one.column, other.column),
    )


def stem(name: str, protocol: str, profile: str, precision: str) -> str:
    """The name of rendered files without their endings; it has no precision for float32, the reference."""
    return "-".join([name, protocol, profile, *([] if precision == "float32" else [precision])])
