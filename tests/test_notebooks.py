"""The notebooks in docs run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

#: Name of a notebook -> texts that its outputs hold.
EXPECTED = {
    "one-image": ("Egyptian cat", "espresso", "% of the map on the cat", "image/png", "<img"),
    "dataset": ("espresso/broken.jpg", "not an image that can be read", "(4, 4)", "report.html"),
    "comparing-methods": ("cfcam-sharp", "average_drop", "image/png", "report.html"),
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
    client = pytest.importorskip("nbclient", reason="needs the extra dev")
    pytest.importorskip("ipykernel", reason="needs the extra dev")
    notebook: Any = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = json.dumps([cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"])
    for text in EXPECTED[path.stem]:
        assert text in outputs, text


def test_there_are_three_and_they_hold_no_outputs():
    assert {path.stem for path in NOTEBOOKS} == set(EXPECTED)
    for path in NOTEBOOKS:
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
        assert path.stat().st_size < 20_000
