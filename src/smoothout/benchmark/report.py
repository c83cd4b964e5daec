"""The report: every comparison of this device, what was measured, and where the time goes if a target is missed."""

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


def comparisons(device: torch.device, data: Path, only: Sequence[str] | None = None) -> list[Callable[[], Row]]:
    """The functions that measure each row of ``device``; image files come from the folder ``data``.

    ``only`` names some of them, None is all. Raises ConfigError for an unknown name, and for none.
    """
    known: dict[str, Callable[[], Row]] = {
        **{name: partial(comparison, device) for name, comparison in COMPARISONS[device.type].items()},
        **{name: partial(comparison, device, data) for name, comparison in FROM_FILES.items()},
    }
    if only is not None and not only:
        raise ConfigError(f"only: must be null (all) or some of {', '.join(known)}, not []")
    unknown = sorted(set(only or []) - set(known))
    if unknown:
        raise ConfigError(f"only: {unknown[0]!r} is not one of {', '.join(known)}")
    return [comparison for name, comparison in known.items() if only is None or name in only]


def markdown(rows: list[Row], device: torch.device, environment: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    frame = pd.DataFrame(
        {
            "comparison": row.what,
            "target": _target(row),
            "measured": _figure(row),
            "quartiles": "" if row.spread is None else f"{row.spread[0]:.3g} to {row.spread[1]:.3g}",
            "": {True: "met", False: "missed", None: ""}[row.target_met],
        }
        for row in rows
    )
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [
        f"# Speed on {device_of(environment)}",
        "",
        f"{environment['threads']} threads of {environment['cores']} cores, {versions}, commit {environment['commit']}."
        " Medians of interleaved turns within one run, on random images and imagenette's images."
        " `make bench` writes this page.",
        "",
        str(frame.to_markdown(index=False)),
        "",
        *(f"- {row.what}: {row.note}." for row in rows if row.note),
    ]
    missed = [row for row in rows if row.target_met is False and row.hot_spots]
    if missed:
        lines += ["", "## Where the time goes in what misses its target", ""]
        lines += [f"- {row.what}: {', '.join(f'{op} {share:.0%}' for op, share in row.hot_spots)}." for row in missed]
    here = COMPARISONS[device.type]
    elsewhere = [f"{kind}: {name}" for kind, names in COMPARISONS.items() for name in names if name not in here]
    lines += ["", f"Not measured on this device: {', '.join(elsewhere)}."]
    return "\n".join(lines) + "\n"


def _target(row: Row) -> str:
    return "" if row.target is None else f"{'>=' if row.at_least else '<='} {row.target:g} {row.unit}".rstrip()


def _figure(row: Row) -> str:
    return "not measured" if row.measured is None else f"{row.measured:.3g} {row.unit}".rstrip()


def save(rows: list[Row], device: torch.device, environment: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report as Markdown and JSON; returns the paths."""
    machine = f"{device.type} {device_of(environment)} {environment['threads']} threads"
    slug = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    content = {"environment": dict(environment), "rows": [{**asdict(row), "met": row.target_met} for row in rows]}
    texts = {"md": markdown(rows, device, environment), "json": json.dumps(content, indent=1)}
    for suffix, text in texts.items():
        atomic_write_text(folder / f"{slug}.{suffix}", text)
    return [folder / f"{slug}.{suffix}" for suffix in texts]
