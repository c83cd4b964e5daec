"""The form of configs/table/ and configs/figure/, and the other papers' numbers that a table's rows point to."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from smoothout.analysis.options import Convention, WhichWeights
from smoothout.common.errors import ConfigError
from smoothout.config.build import pick_settings, unknown_key

METHOD = ("title", "overrides", "accuracy", "improvement", "gap", "sharpness", "match", "by_name")
ROW = ("name", "overrides", "match", "methods", "also")


def published_elsewhere(row: dict[str, Any], column: str, folder: Path) -> float | None:
    """What another paper than the table's published of a row's cell, None where the row names nothing.

    A row's ``also`` has by column [FILE of ``folder``, the first entry of a LINE of it, COLUMN]. Raises SettingsError.
    """
    source = row.get("also", {}).get(column)
    if source is None:
        return None
    file, line, name = source
    numbers = pd.read_csv(folder / file)
    found = numbers[numbers.iloc[:, 0] == line]
    if len(found) != 1 or name not in found:
        raise ConfigError(f"table: {row['name']}: also.{column}: {file} has no {name!r} of {line!r}")
    return float(found[name].iloc[0])


def check_table(table: dict[str, Any], published: Path) -> None:
    """Raise SettingsError where the table's config lacks something, or has it in another form."""
    texts = tuple[str, ...]
    top: dict[str, Any] = {"name": str, "title": str, "published": str | None, "notes": texts}
    top["sharpness"] = tuple[Convention, ...]
    if "recomputed" in table:
        top["recomputed"] = tuple[WhichWeights, ...]
    _refuse_unknown(table, (*top, "recomputed", "small", "network", "methods", "rows"), "table.")
    named = pick_settings(table, "table.", **top).published
    if named and not (published / named).is_file():
        known = ", ".join(sorted(path.name for path in published.glob("*.csv")))
        raise ConfigError(f"table.published: {named!r} is not one of {known}")
    methods, rows = table.get("methods"), table.get("rows")
    if not (isinstance(methods, dict) and methods and isinstance(rows, list) and rows):
        raise ConfigError("table: needs methods (a group, each with title and overrides) and a list of rows")
    for name, method in methods.items():
        pick_settings(method, f"table.methods.{name}.", title=str, overrides=texts)
        _refuse_unknown(method, METHOD, f"table.methods.{name}.")
    for number, row in enumerate(rows):
        key = f"table.rows.{number}."
        pick_settings(row, key, name=str, overrides=texts)
        _refuse_unknown(row, ROW, key)
        if named and not isinstance(row.get("match"), dict):
            raise ConfigError(f"{key}match: must say which rows of {named} these are, column: value")
        _check_also(row.get("also", {}), f"{key}also", methods, published)
        own = row.get("methods", {})
        if not isinstance(own, dict):
            raise ConfigError(f"{key}methods: must be a group, each with its overrides, not {own!r}")
        for name in own:
            if name not in methods:
                raise ConfigError(f"{key}methods: {name!r} is not one of {', '.join(methods)}")
            pick_settings(own, f"{key}methods.", **{name: texts})
    if table.get("small", next(iter(methods))) not in methods:
        raise ConfigError(f"table.small: {table['small']!r} is not one of {', '.join(methods)}")


def check_figure(figure: Any) -> None:
    """Raise SettingsError where a figure's config lacks something, or has it in another form."""
    texts = tuple[str, ...]
    form: dict[str, Any] = {"name": str, "title": str, "overrides": texts, "columns": int | None}
    usual = {"overrides": [], "columns": None} | figure if isinstance(figure, dict) else figure
    given = pick_settings(usual, "figure.", **form)
    _refuse_unknown(figure, (*form, "panels"), "figure.")
    if given.columns is not None and given.columns < 1:
        raise ConfigError(f"figure.columns: must be null (all panels in a row) or at least 1, not {given.columns}")
    panels = figure.get("panels")
    if not (isinstance(panels, list) and panels and all(isinstance(panel, dict) for panel in panels)):
        raise ConfigError(f"figure.panels: must be a list of at least one panel, not {panels!r}")
    for panel in panels:
        key = f"figure {given.name}: {panel.get('kind')}: "
        for name in ("runs", "over", "analysis", "draw"):
            if not isinstance(panel.get(name, {}), dict):
                raise ConfigError(f"{key}{name}: must be a group, not {panel[name]!r}")
        pick_settings({"overrides": []} | panel, key, overrides=texts)
        for run, own in panel.get("runs", {}).items():
            pick_settings({"overrides": own}, f"{key}runs.{run}: ", overrides=texts)
        for setting, values in panel.get("over", {}).items():
            if not (isinstance(values, list) and values):
                raise ConfigError(f"{key}over.{setting}: must be a list of its values, not {values!r}")


def _refuse_unknown(given: dict[str, Any], known: Collection[str], prefix: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(unknown_key(f"{prefix}{name}", known))


def _check_also(also: Any, key: str, methods: Collection[str], published: Path) -> None:
    """A row's ``also``: by column of the table, [FILE, LINE, COLUMN] of another paper's number."""
    if not isinstance(also, dict):
        raise ConfigError(f"{key}: must be a group, for a column [FILE, LINE, COLUMN], not {also!r}")
    others = [convention for convention in Convention if convention is not Convention.released]
    recomputed = [f"{weights} recomputed" for weights in WhichWeights]
    quantities = ["late", "last", *recomputed, *(f"sharpness {convention}" for convention in others)]
    columns = [f"{method} {quantity}" for method in methods for quantity in quantities]
    for column, source in also.items():
        if column not in columns:
            raise ConfigError(f"{key}: {column!r} is not one of {', '.join(columns)}")
        if not (isinstance(source, list) and len(source) == 3 and (published / str(source[0])).is_file()):
            raise ConfigError(f"{key}.{column}: must be [FILE, LINE, COLUMN] of {published}, not {source!r}")
