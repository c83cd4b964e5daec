"""What several test files use beside fixtures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from smoothout.ledger import Record


def tree(folder: Path) -> dict[str, str]:
    """Every folder and file under ``folder``, with the content's digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def a_record(kind: str, outcome: dict[str, Any], **given: Any) -> Record:
    """A record that no program made: for drawing."""
    labels = {"model": "m", "data": "d", "method": "baseline", "batch": 32, "epochs": 1, "seed": 0}
    fields: dict[str, Any] = {"name": "name", "digest": "digest", "identity": {}, "settings": {}, "inputs": []}
    labels |= given.pop("labels", {})
    return Record(kind=kind, outcome=outcome, labels=labels, environment={}, **{**fields, **given})
