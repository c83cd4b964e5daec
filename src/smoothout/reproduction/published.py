"""The papers' numbers, in the CSV files of results/published/."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from smoothout.common.errors import ConfigError
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.schema import RowConfig, TableConfig


class PublishedNumber(NamedTuple):
    """A number of a paper, and its standard deviation over runs if the file has that as COLUMN_sd."""

    value: float
    std: float | None


class PublishedNumbers:
    """The papers' numbers for a table's cells; ``folder`` has the CSV files."""

    def __init__(self, table: TableConfig, folder: Path) -> None:
        self._table, self._folder = table, folder

    def of_metric(self, row: RowConfig, method: str, metric: str) -> PublishedNumber | None:
        """The number of a cell, or None; another paper's if the row says where. Raises ConfigError."""
        source = row.published_elsewhere.get(f"{method} {metric}")
        if source is None:
            if column := self._table.methods[method].published.get(metric):
                return self._of_row(row, method, column)
            return self.of_quantity(row, method, METRICS[metric].published)
        file, line, column = source
        first = next(iter(_read(self._folder / file)[0]))
        return self._number(file, {first: line}, column, f"{row.name}: published_elsewhere.{method} {metric}")

    def of_quantity(self, row: RowConfig, method: str, quantity: str | None) -> PublishedNumber | None:
        """The number of a row and method: of accuracy, improvement, gap or sharpness. Raises ConfigError."""
        return self._of_row(row, method, getattr(self._table.methods[method], quantity) if quantity else None)

    def _of_row(self, row: RowConfig, method: str, column: str | None) -> PublishedNumber | None:
        if self._table.published is None or column is None:
            return None
        match = (row.match or {}) | self._table.methods[method].match
        return self._number(self._table.published, match, column, f"{row.name}: {method}")

    def _number(self, file: str, match: dict[str, object], column: str, cell: str) -> PublishedNumber | None:
        lines = _read(self._folder / file)
        for name in (*match, column):
            if name not in lines[0]:
                raise ConfigError(f"table: {cell}: {file} has no column {name!r}")
        lines = [line for line in lines if all(line[name] == value for name, value in match.items())]
        if len(lines) != 1:
            raise ConfigError(f"table: {cell}: {len(lines)} lines of {file} have {match}, not 1")
        number, std = lines[0][column], lines[0].get(f"{column}_sd", "")
        return None if number == "" else PublishedNumber(float(number), None if std == "" else float(std))


@lru_cache
def _read(path: Path) -> list[dict[str, str | float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _number_or_text(text) for name, text in line.items()} for line in csv.DictReader(file)]


def _number_or_text(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
