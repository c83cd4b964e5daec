"""Run the notebooks. As a program (`make notebooks`), keep their outputs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from helpers.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PEERS = ("curvlinops", "loss_landscapes", "pyhessian", "pytorch_optimizer")  # the extra [peers]


def missing_packages(path: Path) -> list[str]:
    """What the notebook needs besides the extra [dev] and is not installed."""
    return [name for name in PEERS if path.stem == "peers" and find_spec(name) is None]


def execute(path: Path) -> nbformat.NotebookNode:
    """Run the notebook from top to bottom; returns it with its outputs, and without times."""
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(book, timeout=300, kernel_name="python3", record_timing=False, resources=resources)
    client.coalesce_streams = True  # a cell prints one text, however it was sent
    client.execute()
    book.metadata.language_info = {"name": "python"}
    return book


if __name__ == "__main__":
    for path in NOTEBOOKS:
        if missing := missing_packages(path):
            print(f"left alone: {path} (not installed: {', '.join(missing)}; pip install '.[peers]')")
            continue
        nbformat.write(execute(path), path)
        print(f"written: {path}")
