"""The files that the page shows are read by the program, and have every key that it knows."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from privfed.cli import hub_file, node_file, public_file
from privfed.cli.hub_file import hub_of
from privfed.cli.node_file import load_node_file
from privfed.cli.public_file import load_public_run

PAGE = (Path(__file__).parents[3] / "docs/between-organisations.md").read_text()
BLOCKS = re.findall(r"^```(console|toml)\n(.*?)^```", PAGE, re.M | re.S)
FILES = {body.splitlines()[0].removeprefix("# "): body for kind, body in BLOCKS if kind == "toml"}
PARTIES = {"ministry", "hub", "north", "south", "west"}
AUTHORITY = "8f" * 32


def uncommented(text, *, but=()):
    """With every key that stands in a comment, but for some."""
    keys = re.compile(r"^# (\w+) = ", re.M)
    return keys.sub(lambda found: found[0] if found[1] in but else f"{found[1]} = ", text)


@pytest.fixture
def folder(tmp_path):
    """What a hospital has, but for the model."""
    lines = [f"Thank you for referring patient {number}" for number in range(40)]
    for name, taken in (("held-out.jsonl", lines[:10]), ("letters.jsonl", lines[10:])):
        rows = [json.dumps({"text": one, "department": "oncology"}) for one in taken]
        (tmp_path / name).write_text("\n".join(rows))
    run = FILES["ministry/run.toml"].replace("AUTHORITY", AUTHORITY)
    (tmp_path / "run.toml").write_text(run)
    return tmp_path


def test_the_public_file_is_read(folder):
    settings = load_public_run(folder / "run.toml").settings
    assert [client.id for client in settings.clients] == ["north", "south", "west"]
    assert settings.enrolment.authority == AUTHORITY
    assert hub_of(folder / "run.toml")["address"] == "hub.example.org:8443"


def test_the_public_file_is_read_with_its_other_keys(folder):
    (folder / "run.toml").write_text(uncommented((folder / "run.toml").read_text()))
    load_public_run(folder / "run.toml")
    hub = hub_of(folder / "run.toml")
    assert (hub["timeout_s"], hub["patience_s"]) == (3600.0, 600.0), "the page says: default"
    assert hub["key_holder"]


@pytest.mark.parametrize("name", ["north", "south", "west"])
def test_a_hospitals_file_is_read(folder, name):
    (folder / f"{name}.toml").write_text(FILES[f"{name}/{name}.toml"])
    file = load_node_file(folder / f"{name}.toml")
    assert (file.name, file.pump, file.share_ledger) == (name, True, False)
    assert file.agreement == "AGREEMENT"
    assert len(file.client.records) == 30


def test_a_hospitals_file_is_read_with_its_other_keys_whose_defaults_are_as_shown(folder):
    text = FILES["north/north.toml"]
    own = ("device", "base", "hub", "socket", "person", "chunk_tokens", "continues")
    (folder / "north.toml").write_text(text)
    (folder / "all.toml").write_text(uncommented(text, but=own))
    (plain, full) = (load_node_file(folder / name) for name in ("north.toml", "all.toml"))
    for field in ("identity", "transport", "results", "share_ledger", "pump"):
        assert getattr(plain, field) == getattr(full, field), field
    text = text.replace("5c0e...", "5c" * 32)
    (folder / "all.toml").write_text(uncommented(text, but=("person", "chunk_tokens")))
    full = load_node_file(folder / "all.toml")
    assert (full.hub, str(full.socket)) == ("10.0.0.7:8443", "/run/privfed/node.sock")
    assert full.client.continues == f"17:{'5c' * 32}"


def known_keys(module):
    """Literal names that a module takes from a table."""
    for call in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            first = call.args[0] if call.args else None
            named = isinstance(first, ast.Constant) and isinstance(first.value, str)
            if named and call.func.attr in ("take", "take_all", "section", "optional"):
                yield first.value


@pytest.mark.parametrize("module", [hub_file, node_file, public_file])
def test_every_key_that_the_program_knows_is_shown(module):
    found = set(known_keys(module))
    assert found, "a module that takes no key is none of these"
    shown = "\n".join(FILES.values())
    assert not [
        key for key in found if not re.search(rf"(^#? ?|\[data\.|\[){key}( = |\])", shown, re.M)
    ]


def test_every_command_stands_behind_the_name_of_a_party():
    lines = [line for kind, body in BLOCKS if kind == "console" for line in body.splitlines()]
    for line in lines:
        assert line == "# runs until the run is over" or line.split("$ ")[0] in PARTIES, line


def test_the_words_of_shared_key_are_those_that_the_program_asks_for():
    assert PAGE.count(f'accept = "{public_file.SHARED_KEY_ACCEPTED}"') >= 4
