"""Run the notebooks. As a program (`make notebooks`), keep their outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from helpers.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


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
        nbformat.write(execute(path), path)
        print(f"written: {path}")
