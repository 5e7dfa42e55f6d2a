"""What a client states before a run is read to the letter, and names the epoch that it begins."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import MessageError
from privfed.identity.keys import Identity, Role
from privfed.protocol.kinds import EPSILON, FACTS, LEDGER, NONCE, READY, STANDING
from privfed.protocol.ready import Facts, Ready, Standing, epoch_of, other_bases, terms_before

FACTS_OF_A = {
    "client": {"id": "a", "public_size": 41, "dataset": "wards"},
    "base_weights": "ba" * 32,
    "base_model": "bf" * 32,
    "layout": "1a" * 32,
    "num_params": 640,
    "num_values": 1280,
    "start": "57" * 32,
    "tokenizer": "70" * 32,
    "noise_multiplier": 2.5,
    "epsilon_before": 0.75,
}
STANDING_OF_A = {
    "round": 2,
    "base": "b2" * 32,
    "before": "b1" * 32,
    "epoch": "e1" * 32,
    "next_status": "committed",
    "agreed": ["a", "c", "d"],
    "given_up": {"reason": "too few", "missing": ["b"]},
}
ANCHOR = {"length": 7, "head": "1e" * 32}


@pytest.fixture
def terms(company):
    return terms_before(company.roster, "a9" * 32, "0a1b")


@pytest.fixture
def stated(company, terms):
    """A function that makes the `ready` of a client, some of it changed."""

    def make(sender="a", *, kind=READY, key=None, of=terms, **changes):
        manifest = {
            NONCE: "01" * 16,
            FACTS: FACTS_OF_A,
            STANDING: STANDING_OF_A,
            LEDGER: ANCHOR,
            EPSILON: 1.25,
            **changes,
        }
        return company.message(sender, kind, of, manifest=manifest, key=key)

    return make


def read(company, terms, message):
    return Ready.read(message, company.roster, terms)


class TestReady:
    def test_what_is_stated_is_read(self, company, terms, stated):
        found = read(company, terms, stated())
        assert (found.client, found.nonce, found.epsilon) == ("a", "01" * 16, 1.25)
        assert found.facts.to_json() == FACTS_OF_A
        assert found.standing.to_json() == STANDING_OF_A
        assert found.standing.agreed == ("a", "c", "d")
        assert found.anchor.to_json() == ANCHOR

    def test_who_is_in_no_run_stands_nowhere(self, company, terms, stated):
        assert read(company, terms, stated(standing=None)).standing is None

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"sender": "b"}, "'b' states what another client brings"),
            ({"key": "b"}, "'a' must carry its signature"),
            ({"sender": "aggregator"}, "has the role"),
            ({"kind": "hello"}, "expected a 'ready'"),
            ({"more": 1}, "must state"),
            ({NONCE: "01" * 15}, "16 bytes"),
            ({NONCE: "0g" * 16}, "16 bytes"),
            ({NONCE: 7}, "16 bytes"),
            ({LEDGER: {"length": 7}}, "'a' states no anchor"),
            ({LEDGER: None}, "'a' states no anchor"),
            ({EPSILON: -0.5}, "its epsilon as a number"),
            ({EPSILON: "1.25"}, "its epsilon as a number"),
            ({EPSILON: True}, "its epsilon as a number"),
            ({FACTS: None}, "must state"),
            ({STANDING: {}}, "must state"),
        ],
        ids=str,
    )
    def test_anything_else_is_refused(self, company, terms, stated, changes, named):
        with pytest.raises(MessageError, match=named):
            read(company, terms, stated(**changes))

    def test_that_of_another_proposal_run_or_stranger_is_refused(self, company, terms, stated):
        for other in (
            terms_before(company.roster, "a8" * 32, "0a1b"),
            terms_before(company.roster, "a9" * 32, "0a1c"),
            terms_before(company.roster, "a9" * 32, "0a1b", 1),
        ):
            with pytest.raises(MessageError, match="'a'"):
                read(company, terms, stated(of=other))
        stranger = Identity.generate("eve", Role.CLIENT)
        company = replace(company, identities={**company.identities, "eve": stranger})
        with pytest.raises(MessageError, match="'a' must carry its signature"):
            read(company, terms, company.message("a", READY, terms, key="eve"))

    def test_of_a_run_that_goes_on_it_is_read_at_the_round_that_is_over(self, company, stated):
        over = terms_before(company.roster, "a9" * 32, "0a1b", 2)
        assert over.round == 2
        assert read(company, over, stated(of=over)).standing.round == 2


class TestFacts:
    def test_there_and_back(self):
        assert Facts.from_json(FACTS_OF_A).to_json() == FACTS_OF_A

    @pytest.mark.parametrize("name", ["base_weights", "base_model", "layout", "start", "tokenizer"])
    @pytest.mark.parametrize(
        "value", [None, 7, [], "", "north's model", "1a" * 31, "1a" * 33, "1A" * 32, "1g" * 32]
    )
    def test_a_digest_is_one_and_nothing_else(self, name, value):
        """What one client states of its base stands in every report, and none takes a gap."""
        with pytest.raises(MessageError, match=f"its {name} as a SHA-256: 32 bytes must come as"):
            Facts.from_json({**FACTS_OF_A, name: value})

    def test_what_all_must_have_alike_is_all_but_its_own(self):
        common = Facts.from_json(FACTS_OF_A).common
        own = {"client", "noise_multiplier", "epsilon_before"}
        assert common == {key: one for key, one in FACTS_OF_A.items() if key not in own}

    def test_of_clients_on_two_bases_all_but_what_is_of_the_base(self):
        facts = Facts.from_json(FACTS_OF_A)
        assert facts.common == {**facts.common_to_all, **facts.base}
        assert set(facts.base) == {"base_weights", "base_model", "tokenizer"}
        assert not set(facts.base) & set(facts.common_to_all)

    def test_who_holds_another_base_than_the_first(self):
        first = Facts.from_json(FACTS_OF_A)
        other = replace(first, tokenizer="ee" * 32)
        found = other_bases({"a": first, "b": other, "c": first})
        assert found == {"b": {**first.base, "tokenizer": "ee" * 32}}

    @pytest.mark.parametrize("name", [7, ["small"], {}])
    def test_the_name_of_a_base_is_a_name(self, name):
        client = {**FACTS_OF_A["client"], "base": name}
        with pytest.raises(MessageError, match="must have a name, or none of its own"):
            Facts.from_json({**FACTS_OF_A, "client": client})

    @given(
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        st.floats(min_value=0, allow_infinity=False),
        st.integers(1, 1 << 53),
    )
    def test_any_number_that_is_one_comes_back(self, sigma, before, size):
        values = {
            **FACTS_OF_A,
            "client": {"id": "a", "public_size": size},
            "noise_multiplier": sigma,
            "epsilon_before": before,
        }
        assert Facts.from_json(json.loads(json.dumps(values))).to_json() == values

    @pytest.mark.parametrize(
        ("name", "value", "named"),
        [
            ("client", None, "must name the client"),
            ("client", {"public_size": 41}, "must name the client"),
            ("client", {"id": 7, "public_size": 41}, "must name the client"),
            ("client", {"id": "a"}, "public size as a number"),
            ("client", {"id": "a", "public_size": 0}, "public size as a number"),
            ("client", {"id": "a", "public_size": (1 << 53) + 1}, "public size as a number"),
            ("client", {"id": "a", "public_size": 10**400}, "public size as a number"),
            ("client", {"id": "a", "public_size": True}, "public size as a number"),
            ("client", {"id": "a", "public_size": {"noise_epsilon": 0.5}}, "public size"),
            ("num_params", 0, "above 0"),
            ("num_params", 640.0, "above 0"),
            ("num_params", 1 << 40, "above 0"),
            ("num_values", 0, "above 0"),
            ("num_values", 1280.0, "above 0"),
            ("num_values", 1 << 40, "above 0"),
            ("num_values", True, "above 0"),
            ("noise_multiplier", 0, "noise multiplier"),
            ("noise_multiplier", -2.5, "noise multiplier"),
            ("noise_multiplier", float("nan"), "noise multiplier"),
            ("noise_multiplier", float("inf"), "noise multiplier"),
            ("noise_multiplier", 10**400, "noise multiplier"),
            ("noise_multiplier", "2.5", "noise multiplier"),
            ("noise_multiplier", True, "noise multiplier"),
            ("epsilon_before", -0.75, "epsilon before"),
            ("epsilon_before", float("nan"), "epsilon before"),
            ("epsilon_before", None, "epsilon before"),
        ],
    )
    def test_a_wrong_value_is_refused(self, name, value, named):
        with pytest.raises(MessageError, match=named):
            Facts.from_json({**FACTS_OF_A, name: value})

    @pytest.mark.parametrize("name", sorted(FACTS_OF_A))
    def test_so_is_one_that_is_missing(self, name):
        values = {key: one for key, one in FACTS_OF_A.items() if key != name}
        with pytest.raises(MessageError, match=name):
            Facts.from_json(values)


class TestStanding:
    def test_there_and_back(self):
        assert Standing.from_json(STANDING_OF_A).to_json() == STANDING_OF_A
        empty = ("before", "next_status", "agreed", "given_up")
        nothing = {**STANDING_OF_A, **dict.fromkeys(empty)}
        assert Standing.from_json(nothing).to_json() == nothing

    @pytest.mark.parametrize(
        ("name", "value", "named"),
        [
            ("round", -1, "0 or above"),
            ("round", True, "0 or above"),
            ("round", "2", "0 or above"),
            ("base", None, "as texts"),
            ("before", 7, "as texts"),
            ("before", ["b1"], "as texts"),
            ("epoch", None, "as texts"),
            ("next_status", "trained", "reserved, committed or neither"),
            ("next_status", False, "reserved, committed or neither"),
            ("agreed", "acd", "list of names"),
            ("agreed", ["a", 7], "list of names"),
            ("given_up", [], "an object, or null"),
            ("given_up", "too few", "an object, or null"),
        ],
    )
    def test_a_wrong_value_is_refused(self, name, value, named):
        with pytest.raises(MessageError, match=named):
            Standing.from_json({**STANDING_OF_A, name: value})

    @pytest.mark.parametrize("values", [None, [], {**STANDING_OF_A, "more": 1}])
    def test_so_is_another_object(self, values):
        with pytest.raises(MessageError, match="must state"):
            Standing.from_json(values)


class TestTheNameOfAnEpoch:
    def test_it_is_a_digest_of_digests(self, company, terms, stated):
        """By hand: SHA-256 of the statements' SHA-256, in their order, as JSON."""
        ready = [read(company, terms, stated(nonce=one * 16)) for one in ("02", "01")]
        listed = json.dumps(sorted(one.digest for one in ready), separators=(",", ":"))
        assert epoch_of(ready) == hashlib.sha256(listed.encode()).hexdigest()
        assert epoch_of(reversed(ready)) == epoch_of(ready)

    def test_a_fresh_number_makes_another(self, company, terms, stated):
        names = {
            epoch_of([read(company, terms, stated(**changes))])
            for changes in ({}, {NONCE: "02" * 16}, {EPSILON: 1.5}, {STANDING: None})
        }
        assert len(names) == 4
