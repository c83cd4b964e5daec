"""Print tables and the results of choices in the terminal, and save tables and figures.

Importable without torch, so that tables are printed without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from smoothout.common.progress import console, print_line
from smoothout.jobs.runtime import Runtime
from smoothout.results.records import Record
from smoothout.results.tables import IMAGE_BY_IMAGE, IMAGES_NOTE

if TYPE_CHECKING:
    from smoothout.reproduction.figure import FigurePlan
    from smoothout.reproduction.table import TablePlan
    from smoothout.results.tables import Table

FILE_WIDTH = 200  # columns for output into a file or a pipe; enough for every table
out = Console(highlight=False)
if not out.is_terminal:
    out.width = FILE_WIDTH


def can_save(runtime: Runtime) -> bool:
    """Whether tables and figures can be written; prints a warning if not."""
    folder = Path(runtime.folders.results)
    if folder.exists() and not os.access(folder, os.W_OK):
        console.print(f"warning: folders.results: {folder} cannot be written, so nothing is saved", markup=False)
        return False
    return True


def save_figure(figure: FigurePlan, runtime: Runtime) -> list[Path]:
    """Draw ``figure`` from the records that exist, and print which are missing; returns the files, if any."""
    written = figure.save(runtime, Path(runtime.folders.results) / "figures")
    for name in figure.missing(runtime):
        print_line(f"figure {figure.name}: not run: {name}")
    if not written:
        print_line(f"figure {figure.name} lacks records of its runs: not drawn")
    return written


def print_written(paths: Iterable[Path]) -> None:
    """Print the names of the files that were written."""
    for path in paths:
        print_line(f"written: {path}")


def show_table(
    table: TablePlan, runtime: Runtime, rows: Sequence[str] | None, *, all_seeds: bool, save: bool
) -> list[Path]:
    """Print the ``rows`` of ``table``, and ``save`` all of them; returns the files.

    Files have all recorded seeds. The terminal shows these, too, with ``all_seeds``, otherwise the table's own.
    """
    complete = table.with_recorded_seeds(runtime) if all_seeds or save else table
    in_files = complete.render(runtime)
    printed = in_files if all_seeds or complete.scope == table.scope else table.render(runtime)
    try:
        return in_files.save(Path(runtime.folders.results) / "tables") if save else []
    finally:  # print the table even if the disk is full
        print_table(printed, rows)


def print_table(table: Table, only: Sequence[str] | None = None) -> None:
    """Print the table, or its rows whose name contains one of the texts ``only``."""

    def is_shown(row: str) -> bool:
        return only is None or any(text in row for text in only)

    out.print(f"\n{table.title}\n{table.caption()}", markup=False)
    for block in table.blocks:
        columns = table.texts(block)
        grid = Grid(*map(escape, columns), title=escape(block.heading), title_justify="left", box=box.SIMPLE)
        for row in zip(*columns.values(), strict=True):
            if is_shown(row[0]):
                grid.add_row(*map(escape, row))
        out.print(grid)
    if lines := [line for line in table.image_by_image if is_shown(line["row"])]:
        grid = Grid(*lines[0], title=IMAGE_BY_IMAGE, title_justify="left", box=box.SIMPLE)
        for line in lines:
            grid.add_row(*map(escape, line.values()))
        out.print(grid)
        out.print(IMAGES_NOTE)
    for note in table.notes:
        out.print(note, markup=False)


def print_choice(record: Record) -> None:
    """Print a record of kind strength."""
    outcome = record.outcome
    images, epoch = outcome["examples"]["held_out"], record.settings["weights"]
    out.print(f"\n{record.name}: accuracy in % on {images} held-out images, {epoch} epoch", soft_wrap=True)
    name = outcome.get("field", "a")
    grid = Grid(name, "mean", "standard error", "", box=box.SIMPLE)
    for row in outcome["strengths"]:
        error = "" if row["standard_error"] is None else f"{100 * row['standard_error']:.2f}"
        notes = [f"{row['diverged']} diverged"] if row["diverged"] else []
        notes += ["chosen"] if row["a"] == outcome["chosen"] else []
        grid.add_row(f"{row['a']:g}", f"{100 * row['mean']:.2f}", error, ", ".join(notes))
    out.print(grid)
    tried = [row["a"] for row in outcome["strengths"]]
    ends = {tried[0]: "; it is the smallest that was tried", tried[-1]: "; it is the largest that was tried"}
    edge = ends.get(outcome["chosen"], "") if len(tried) > 1 else ""
    out.print(f"method.{name}={outcome['chosen']:g}: {outcome['rule']}{edge}", soft_wrap=True)
