"""What clients state in their own name, and what most of them do."""

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import MessageError
from privfed.identity.keys import Identity, Role
from privfed.parties.aggregator.stated import is_number, most_alike, signed_by
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import Terms
from tests.unit.privfed.small_federation import enrolled

TERMS = Terms(run="r", round=2, manifest={"more": 7})


class TestInItsOwnName:
    @pytest.fixture
    def parties(self):
        return enrolled(4)

    def test_what_it_signed(self, parties):
        message = signed_message(parties.clients["c2"], TERMS, "any", blobs={"b": b"x"})
        envelope = signed_by(parties.roster, "c2", message)
        assert (envelope.statement.sender, envelope.statement.round) == ("c2", 2)
        assert bytes(envelope.blobs["b"]) == b"x"

    def test_not_what_another_did(self, parties):
        message = signed_message(parties.clients["c3"], TERMS, "any")
        with pytest.raises(MessageError, match="'c2' was sent by another"):
            signed_by(parties.roster, "c2", message)

    def test_nor_a_stranger_of_its_name(self, parties):
        message = signed_message(Identity.generate("c2", Role.CLIENT), TERMS, "any")
        with pytest.raises(MessageError, match="c2"):
            signed_by(parties.roster, "c2", message)

    def test_nor_a_server(self, parties):
        message = signed_message(parties.aggregator, TERMS, "any")
        with pytest.raises(MessageError, match="aggregator"):
            signed_by(parties.roster, "aggregator", message)

    @pytest.mark.parametrize("change", [lambda m: b"", lambda m: m[:-1] + b"?", lambda m: m + b"."])
    def test_nor_damaged_bytes(self, parties, change):
        message = signed_message(parties.clients["c2"], TERMS, "any")
        with pytest.raises(MessageError):
            signed_by(parties.roster, "c2", change(message))


class TestMostAlike:
    def test_by_these_keys_and_no_other(self):
        stated = {
            "c3": {"base": "x", "range": 1.0, "metric_value": 3},
            "c1": {"base": "y", "range": 1.0, "metric_value": 1},
            "c2": {"base": "x", "range": 1.0, "metric_value": 2},
            "c4": {"base": "x", "range": 2.0, "metric_value": 2},
        }
        assert most_alike(stated, ["base", "range"]) == ["c2", "c3"]
        assert most_alike(stated, ["base"]) == ["c2", "c3", "c4"]
        assert most_alike(stated, ["metric_value"]) == ["c2", "c4"]
        assert most_alike({}, ["base"]) == []

    def test_a_number_is_no_text_and_true_is_no_one(self):
        stated = {"c1": {"x": 1}, "c2": {"x": "1"}, "c3": {"x": True}, "c4": {"x": "1"}}
        assert most_alike(stated, ["x"]) == ["c2", "c4"]

    @given(st.dictionaries(st.text(max_size=3), st.integers(0, 3), min_size=1))
    def test_no_value_has_more(self, values):
        alike = most_alike({name: {"x": value} for name, value in values.items()}, ["x"])
        assert alike == sorted(alike)
        assert len({values[name] for name in alike}) == 1
        counts = [list(values.values()).count(value) for value in values.values()]
        assert len(alike) == max(counts)


class TestNumbers:
    @pytest.mark.parametrize("value", [0, 0.0, 5, 1e-320, sys.float_info.max])
    def test_finite_and_not_below_zero(self, value):
        assert is_number(value)

    @pytest.mark.parametrize(
        "value",
        [-5, -1e-9, math.nan, math.inf, 10**400, True, False, None, "1", [1]],
        ids=lambda one: f"{one!r:.9}",
    )
    def test_and_nothing_else(self, value):
        assert not is_number(value)

    def test_above_a_limit(self):
        assert is_number(-3, above=-4)
        assert not is_number(-4, above=-4)
        assert not is_number(0, above=0)
        assert is_number(-1e300, above=-math.inf)
        assert not is_number(-(10**400), above=-math.inf)


PROBE = """
import importlib, pkgutil, sys
import privfed.parties.aggregator as package
names = [one.name for one in pkgutil.iter_modules(package.__path__)]
for name in names:
    importlib.import_module(f"{package.__name__}.{name}")
heavy = ("torch", "opacus", "tenseal", "transformers", "peft")
own = ("privfed.custody", "privfed.models", "privfed.private_step", "privfed.parties.client")
print(len(names), [n for n in sys.modules if n.split(".")[0] in heavy or n.startswith(own)])
"""


def test_the_aggregator_needs_no_model_and_no_key():
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    count, found = done.stdout.split(" ", 1)
    assert (int(count) > 10, found.strip()) == (True, "[]")
