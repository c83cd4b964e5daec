"""The notebooks: each runs again from top to bottom and gives the numbers that are committed in it."""

from __future__ import annotations

import os
import re

import nbformat
import pytest
from helpers.notebooks import NOTEBOOKS, execute, missing_packages
from helpers.paths import ROOT

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
FIGURES = {"peers": 1}  # the least number; the others show four


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell printed, and its tables and Markdown; no figures."""
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    data = [output.data for output in cell.outputs if "data" in output and "image/png" not in output.data]
    return [printed, *(one.get("text/markdown", one["text/plain"]) for one in data)]


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert {"smoothout", "landscape_and_hessian", "peers"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_its_committed_numbers_again(path, monkeypatch):
    """What is read from records is the same text; what is trained here depends on the processor's rounding.

    Cells with the tag "varies" hold times: they run, and are not compared.
    """
    if missing := missing_packages(path):
        pytest.skip(f"not installed: {', '.join(missing)}; pip install '.[peers]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    committed = nbformat.read(path, as_version=4)
    for old, new in zip(code(committed), code(execute(path)), strict=True):
        if "varies" in old.metadata.get("tags", []):
            continue
        (was_printed, *were_shown), (printed, *shown) = texts(old), texts(new)
        assert shown == were_shown
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", was_printed)
        numbers, expected = (list(map(float, NUMBER.findall(text))) for text in (printed, was_printed))
        assert numbers == pytest.approx(expected, rel=0.05, abs=2e-3)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_small_outputs_and_says_what_to_see(path):
    book = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    outputs = [output for cell in code(book) for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= FIGURES.get(path.stem, 4)
    assert path.stat().st_size < 1_000_000
    assert sum(cell.cell_type == "markdown" for cell in book.cells) >= 5
