"""Numbers are put into a configuration, and nothing else of it changes."""

import tomllib

import pytest

from privfed import Plan
from privfed.errors import ConfigError
from privfed.planning.configuration import new_configuration, with_numbers, write_new

GIVEN = """# Four wards.
title = "wards" # in the report

[data]
dataset = "notes"
[data.partition] # natural
rule = "column"
column = "ward"

[privacy]
epsilon = 2.0 # of each
delta = 1e-4
# expected_batch_size is open
record = "one note"
[privacy.clients.west]
steps_per_round = 3

[federation]
rounds = 5 # many
"""


def answer(**changes):
    given = {
        "sizes": {"north": 400, "south": 380, "west": 350},
        "epsilon": 2.0,
        "delta": 1e-4,
        "expected_batch_size": 90,
        "rounds": 7,
        "record": "one note",
    }
    return Plan(**{**given, **changes}).answer()


def test_what_is_missing_is_added_and_what_differs_replaced():
    text = with_numbers(GIVEN, answer(), by_column=True)
    wanted = tomllib.loads(GIVEN)
    wanted["privacy"]["expected_batch_size"] = 90
    wanted["federation"]["rounds"] = 7
    assert tomllib.loads(text) == wanted
    kept = [line for line in GIVEN.splitlines() if not line.startswith("rounds")]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert "rounds = 7 # given to the plan" in text


def test_its_head_says_what_a_run_calibrates():
    found = answer()
    text = with_numbers(GIVEN, found, by_column=True)
    for name, noise in found.noise_multipliers.items():
        assert f'# A run calibrates noise multiplier {noise:g} for "{name}"' in text


def test_a_long_reason_stands_above_its_number():
    text = with_numbers(GIVEN, answer(expected_batch_size=None, rounds=None), by_column=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "# expected_batch_size: the smallest public size" in text


def test_who_is_too_small_is_left_out_by_the_rule_of_the_file():
    small = answer(sizes={"north": 400, "south": 380, "west": 350, "tiny": 89})
    assert tomllib.loads(with_numbers(GIVEN, small, by_column=True))["data"]["partition"] == {
        "rule": "column",
        "column": "ward",
        "minimum": 90,
    }
    with pytest.raises(ConfigError, match="cannot be left out of a pool that is dealt"):
        with_numbers(GIVEN, small, by_column=False)


@pytest.mark.parametrize(
    "text",
    [
        GIVEN.replace("[federation]\nrounds = 5 # many", "federation = { rounds = 5 }"),
        GIVEN.replace("[federation]\nrounds = 5 # many", "federation.rounds = 5"),
        GIVEN.replace('"one note"', '"""\none note\n[federation]\nrounds = 6\n"""'),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text):
    tomllib.loads(text)
    with pytest.raises(ConfigError, match=r"needs a table|cannot be changed safely"):
        with_numbers(text, answer(), by_column=True)


class TestNew:
    def test_it_holds_the_plan(self):
        found = answer(sizes={"north": 400, "south": 380, "west": 350, "ti ny": 89})
        values = tomllib.loads(new_configuration(found, "notes 2026"))
        assert values["privacy"] == {
            "epsilon": 2.0,
            "delta": 1e-4,
            "neighbouring": "add_remove",
            "record": "one note",
            "expected_batch_size": 90,
            "clipping_norm": 1.0,
            "steps_per_round": 1,
        }
        assert values["federation"] == {"rounds": 7}
        assert values["data"]["public_sizes"]["ti ny"] == 89
        assert values["data"]["partition"]["minimum"] == 90
        assert values["data"]["dataset"] == "notes 2026"

    def test_nobody_is_left_out_unasked(self):
        values = tomllib.loads(new_configuration(answer(), "notes"))
        assert "minimum" not in values["data"]["partition"]

    def test_what_one_record_is_has_no_default(self):
        with pytest.raises(ConfigError, match="must say what one record is, .*--record"):
            new_configuration(answer(record=None), "notes")


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "run.toml"
    write_new(path, "first")
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        write_new(path, "second")
    assert path.read_text() == "first"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_new(tmp_path / "nowhere" / "run.toml", "third")
