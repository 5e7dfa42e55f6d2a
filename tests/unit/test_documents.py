"""What the documents show can be done as they show it."""

import ast
import doctest
import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document):
    """The Python in a document; of a session at the prompt, what was typed."""
    found = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S)
    typed = doctest.DocTestParser().get_examples
    return ["".join(x.source for x in typed(block)) if ">>>" in block else block for block in found]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_compiles_and_imports_what_there_is(document):
    for block in blocks(document):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert name.name != "*", "a reader cannot see where names come from"
                    assert hasattr(module, name.name), (document.name, name.name)


def test_the_readme_names_all_that_its_first_example_uses():
    """But the records, which are the reader's."""
    tree = ast.parse(blocks(ROOT / "README.md")[0])
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert read - imported == {"north", "south", "west", "public_letters"}
    assert not imported - read


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_are_written_as_a_configuration_has_them(document):
    """A table is no key: `encryption = "bfv"` is refused."""
    tables = tomllib.loads((ROOT / "docs/run.toml").read_text())
    named = {name for name, value in tables.items() if isinstance(value, dict)}
    assert "encryption" in named
    wrong = re.findall(rf"`({'|'.join(sorted(named))}) = \"[^`]*`", document.read_text())
    assert not wrong


def headings(document):
    """As a link names them: letters, digits and hyphens."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_are_there(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not heading or heading in headings(target), link
