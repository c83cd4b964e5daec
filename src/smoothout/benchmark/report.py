"""The report: every comparison of this device, what was reached, and where the time goes when a bar is missed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from smoothout.benchmark.comparisons import COMPARISONS
from smoothout.benchmark.image_loading import FROM_FILES
from smoothout.benchmark.rows import Row
from smoothout.common.environment import device_of
from smoothout.common.errors import ConfigError
from smoothout.common.files import atomic_write_text

_VERDICT = {True: "met", False: "missed", None: ""}


def comparisons(device: torch.device, data: Path, only: Sequence[str] | None = None) -> list[Callable[[], Row]]:
    """What measures each row of ``device``; photographs come from the folder ``data``.

    ``only`` names those that are wanted, None all of them. Raises SettingsError for a name that is none.
    """
    here = {name: partial(comparison, device) for name, comparison in COMPARISONS[device.type].items()}
    known = {**here, **{name: partial(comparison, device, data) for name, comparison in FROM_FILES.items()}}
    unknown = sorted(set(only or []) - set(known))
    if unknown:
        raise ConfigError(f"only: {unknown[0]!r} is not one of {', '.join(known)}")
    return [comparison for name, comparison in known.items() if only is None or name in only]


def not_measured(device: torch.device) -> list[str]:
    """The names of comparisons that belong to other devices."""
    return [
        f"{kind}: {name}"
        for kind, names in COMPARISONS.items()
        for name in names
        if name not in COMPARISONS[device.type]
    ]


def markdown(rows: list[Row], device: torch.device, environment: Mapping[str, Any]) -> str:
    """The report for people."""
    frame = pd.DataFrame(
        {
            "comparison": row.what,
            "bar": _bar(row),
            "reached": _figure(row),
            "quartiles": "" if row.spread is None else f"{row.spread[0]:.3g} to {row.spread[1]:.3g}",
            "": _VERDICT[row.target_met],
        }
        for row in rows
    )
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [
        f"# Speed on {device_of(environment)}",
        "",
        f"{environment['threads']} threads of {environment['cores']} cores, {versions}, commit {environment['commit']}."
        " Medians of interleaved turns within one run, on images of noise and imagenette's photographs."
        " `make bench` makes this page.",
        "",
        str(frame.to_markdown(index=False)),
        "",
        *(f"- {row.what}: {row.note}." for row in rows if row.note),
    ]
    missed = [row for row in rows if row.target_met is False and row.hot_spots]
    if missed:
        lines += ["", "## Where the time goes in what misses its bar", ""]
        lines += [f"- {row.what}: {', '.join(f'{op} {share:.0%}' for op, share in row.hot_spots)}." for row in missed]
    lines += ["", f"Not measured on this device: {', '.join(not_measured(device))}."]
    return "\n".join(lines) + "\n"


def _bar(row: Row) -> str:
    if row.bar is None:
        return ""
    return f"{'>=' if row.at_least else '<='} {row.bar:g}" + (f" {row.unit}" if row.unit else "")


def _figure(row: Row) -> str:
    if row.reached is None:
        return "not measured"
    return f"{row.reached:.3g}" + (f" {row.unit}" if row.unit else "")


def save(rows: list[Row], device: torch.device, environment: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report as Markdown and JSON; returns the paths."""
    where = f"{device.type} {device_of(environment)} {environment['threads']} threads"
    slug = re.sub(r"[^a-z0-9]+", "-", where.lower()).strip("-")
    content = {"environment": dict(environment), "rows": [{**asdict(row), "met": row.target_met} for row in rows]}
    paths = [folder / f"{slug}.md", folder / f"{slug}.json"]
    for path, text in zip(paths, (markdown(rows, device, environment), json.dumps(content, indent=1)), strict=True):
        atomic_write_text(path, text)
    return paths
