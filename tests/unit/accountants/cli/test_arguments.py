"""What can be typed, what cannot, and what the text of an option becomes."""

import re
from pathlib import Path

import pytest

from accountants.__main__ import main
from accountants.cli.arguments import parser
from accountants.guarantees import Neighbouring
from accountants.ledger.chain import Anchor
from tests.unit.accountants.command_line import ADD, SCHEDULE


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["audit"],
        ["epsilon", *SCHEDULE, "--delta", "1e-5"],  # neighbours of which kind?
        ["delta", *SCHEDULE, "--epsilon", "1"],
        ["calibrate", "--epsilon", "1", "--delta", "1e-5", "--sample-rate", "1", "--steps", "1"],
        ["epsilon", *ADD, *SCHEDULE],
        ["epsilon", *ADD, *SCHEDULE, "--delta", "x"],
        ["epsilon", *ADD, "--delta", "1e-5"],
        ["epsilon", *ADD, "--noise-multiplier", "1", "--delta", "1e-5"],
        ["epsilon", *ADD, *SCHEDULE[:4], "--phase", "1,1,1", "--delta", "1e-5"],
        ["epsilon", *ADD, "--phase", "1,0.5", "--delta", "1e-5"],
        ["epsilon", *ADD, "--phase", "1,0.5,2.5", "--delta", "1e-5"],
        ["epsilon", *SCHEDULE, "--delta", "1e-5", "--neighbouring", "other"],
        ["epsilon", *ADD, *SCHEDULE, "--del", "1e-5"],
        ["epsilon", *ADD, *SCHEDULE, "--delta", "1e-5", "--group-size", "1.5"],
        ["epsilon", *ADD, *SCHEDULE, "--delta", "1e-5", "--ledger", "file"],
        ["epsilon", *ADD, "--steps", "1", "--delta", "1e-5", "--ledger", "file"],
        ["epsilon", *ADD, "--phase", "1,1,1", "--delta", "1e-5", "--ledger", "file"],
        ["delta", *ADD, "--events", "file", "--epsilon", "1", "--ledger", "file"],
        ["delta", *ADD, *SCHEDULE],
        ["delta", *ADD, "--epsilon", "1"],
        ["calibrate", *ADD, "--epsilon", "1", "--delta", "1e-5", "--steps", "1"],
        ["verify"],
        ["verify", "file", "--anchor", "7"],
        ["verify", "file", "--anchor", f"x:{'0' * 64}"],
        ["verify", "file", "--anchor", f"0:{'0' * 64}"],
        ["verify", "file", "--anchor", "7:0123"],
        ["export"],
    ],
    ids=" ".join,
)
def test_arguments_that_cannot_be_read_exit_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    assert err.startswith("usage: python -m accountants")


@pytest.mark.parametrize(
    "command", [[], ["epsilon"], ["delta"], ["calibrate"], ["verify"], ["export"], ["assign"]]
)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert "usage: python -m accountants" in capsys.readouterr().out


# What the text becomes.


def parsed(*arguments):
    return vars(parser().parse_args([str(each) for each in arguments]))


def test_a_schedule_may_come_in_several_pieces():
    found = parsed(
        *("epsilon", *ADD, *SCHEDULE, "--delta", "1e-5"),
        *("--phase", "1.1,0.02,30", "--phase", "3,1,4", "--events", "a.json", "--events", "b.json"),
        *("--noised-count", "0.5", "--noised-count", "0.25"),
    )
    assert found.pop("refuse")
    assert found == {
        "command": "epsilon",
        "noise_multiplier": 1.0,
        "sample_rate": 0.01,
        "steps": 1000,
        "phase": [(1.1, 0.02, 30), (3.0, 1.0, 4)],
        "events": [Path("a.json"), Path("b.json")],
        "noised_count": [0.5, 0.25],
        "ledger": None,
        "delta": 1e-5,
        "group_size": 1,
        "neighbouring": Neighbouring.ADD_REMOVE,
        "json": False,
    }


def test_what_is_left_out_is_empty_each_time():
    """A list that one call filled must not be there in the next."""
    wanted = parsed("delta", *ADD, "--epsilon", "2", "--ledger", "kept", "--group-size", "3")
    parsed("delta", *ADD, "--epsilon", "2", "--phase", "1,1,1", "--noised-count", "1")
    again = parsed("delta", *ADD, "--epsilon", "2", "--ledger", "kept", "--group-size", "3")
    for found in (wanted, again):
        assert (found["phase"], found["events"], found["noised_count"]) == ([], [], [])
        assert (found["noise_multiplier"], found["sample_rate"], found["steps"]) == (None,) * 3
        assert (found["epsilon"], found["ledger"], found["group_size"]) == (2.0, Path("kept"), 3)


def test_a_budget_is_read_as_numbers():
    found = parsed(
        *("calibrate", "--neighbouring", "zero_out", "--epsilon", "2", "--delta", "1e-6"),
        *("--sample-rate", "0.125", "--steps", "70", "--noised-count", "0.5", "--json"),
    )
    assert found == {
        "command": "calibrate",
        "epsilon": 2.0,
        "delta": 1e-6,
        "sample_rate": 0.125,
        "steps": 70,
        "noised_count": [0.5],
        "neighbouring": Neighbouring.ZERO_OUT,
        "json": True,
    }


def test_an_anchor_is_read_as_one():
    found = parsed("verify", "ward.ledger", "--anchor", f"7:{'ab' * 32}")
    assert found["path"] == Path("ward.ledger")
    assert found["anchor"] == Anchor(length=7, head="ab" * 32)
    assert parsed("verify", "ward.ledger")["anchor"] is None


def test_an_export_goes_to_standard_output_unless_a_file_is_named():
    assert parsed("export", "ward.ledger") == {
        "command": "export",
        "path": Path("ward.ledger"),
        "output": None,
    }
    assert parsed("export", "ward.ledger", "--output", "new.json")["output"] == Path("new.json")


def test_several_ledgers_are_assigned_at_once():
    words = ("--dataset", "notes-7", "--unit", "one note", "--neighbouring", "replace_one")
    found = parsed("assign", "first", "second", *words, "--client", "ward")
    assert found == {
        "command": "assign",
        "paths": [Path("first"), Path("second")],
        "client": "ward",
        "dataset": "notes-7",
        "unit": "one note",
        "neighbouring": Neighbouring.REPLACE_ONE,
    }
    assert parsed("assign", "first", *words)["client"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("epsilon", *ADD, "--delta", "1", "--phase", "1,0.5"), "SIGMA,Q,STEPS, such as .*'1,0.5'"),
        (("epsilon", "--delta", "1", "--neighbouring", "swap"), "one of add_remove, .*got 'swap'"),
        (("verify", "file", "--anchor", "7:01"), "anchor_head must be 64 .*got '01'"),
        (("assign", "file", "--dataset", "notes-7", *ADD), "required: --unit"),
        (("assign", "--dataset", "notes-7", "--unit", "one note", *ADD), "required: EARLIER"),
    ],
)
def test_what_cannot_be_read_is_said(capsys, arguments, reason):
    with pytest.raises(SystemExit):
        parser().parse_args(arguments)
    assert re.search(reason, capsys.readouterr().err)
