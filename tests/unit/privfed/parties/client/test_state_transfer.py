"""An adapter goes from client to client, unreadable on its way, if enough clients stated it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.models.vector import vector_digest
from privfed.parties.client.round import Progress
from privfed.parties.client.state_transfer import state_for, state_from
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    ADAPTER,
    AVERAGED,
    NEXT_BASE,
    NEXT_RANGE,
    OPENED,
    RELEASED,
    STATE,
    opened_by,
)
from privfed.protocol.ready import terms_before
from privfed.protocol.signing import signed_message

STATE_OF_A = np.array([0.5, -1.25, 3.0, 0.0625, -7.5], dtype=np.float32)
AVERAGE = np.array([0.25, 1.5, -2.0, 9.0, 6.5], dtype=np.float32)
MEMBERS = {"a", "b", "d"}


def progress(**changes):
    values = {
        "round": 4,
        "state": STATE_OF_A,
        "base": vector_digest(STATE_OF_A),
        "average": None,
        "averaged": 0,
        "public_range": 0.375,
    }
    return Progress(**{**values, **changes})


@pytest.fixture
def terms(company):
    return replace(terms_before(company.roster, "a9" * 32, "0a1b"), round=4)


@pytest.fixture
def opened(company, terms):
    """A function that makes what a client states after a round."""

    def make(client, *, of=None, kind=OPENED, key=None, **changes):
        of = of or progress()
        manifest = {
            NEXT_BASE: of.base,
            RELEASED: vector_digest(of.released),
            AVERAGED: of.averaged,
            NEXT_RANGE: of.public_range,
            "figure": 0.5,
        }
        about = replace(terms, round=changes.pop("round", 4), run=changes.pop("run", "0a1b"))
        return company.message(client, kind, about, manifest={**manifest, **changes}, key=key)

    return make


@pytest.fixture
def relayed(company, terms, opened):
    """A function that makes what the aggregator relays: from `a`, to `d`, after round 4."""

    def make(sent=None, *, of=None, sender="a", to="d", statements=None, about=terms):
        of = of or progress()
        if sent is None:
            late = company.identities[to].party
            sent = state_for(company.identities[sender], late, about, of)
        if statements is None:
            statements = [opened(client, of=of) for client in ("a", "b", "d")]
        blobs = {opened_by(str(n)): one for n, one in enumerate(statements)}
        return company.message("aggregator", STATE, about, blobs={**blobs, STATE: sent})

    return make


@pytest.fixture
def taken(company):
    """A function that takes what was relayed, as client `d`."""

    def take(message, *, late="d", members=MEMBERS, least=3, num_params=5):
        return state_from(
            Envelope.from_bytes(message),
            company.identities[late],
            company.roster,
            members=members,
            least=least,
            num_params=num_params,
        )

    return take


class TestAnHonestTransfer:
    def test_what_was_sent_arrives(self, relayed, taken):
        found = taken(relayed())
        assert np.array_equal(found.state, STATE_OF_A)
        assert found.state.dtype == np.float32
        assert (found.round, found.base) == (4, vector_digest(STATE_OF_A))
        assert (found.average, found.averaged, found.public_range) == (None, 0, 0.375)

    def test_so_does_the_average(self, relayed, taken):
        found = taken(relayed(of=progress(average=AVERAGE, averaged=2)))
        assert np.array_equal(found.state, STATE_OF_A)
        assert np.array_equal(found.average, AVERAGE)
        assert found.averaged == 2
        assert found.released is found.average

    @given(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
        st.booleans(),
    )
    def test_any_adapter_arrives_bit_by_bit(self, company, values, averaged):
        state = np.array(values, dtype=np.float32)
        terms = replace(terms_before(company.roster, "a9" * 32, "0a1b"), round=4)
        of = progress(
            state=state, base=vector_digest(state), average=-state if averaged else None, averaged=3
        )
        late = company.identities["d"]
        sent = state_for(company.identities["a"], late.party, terms, of)
        stated = {
            NEXT_BASE: of.base,
            RELEASED: vector_digest(of.released),
            AVERAGED: of.averaged,
            NEXT_RANGE: of.public_range,
        }
        said = company.message("b", OPENED, terms, manifest=stated)
        message = company.message(
            "aggregator", STATE, terms, blobs={STATE: sent, opened_by("b"): said}
        )
        found = state_from(
            Envelope.from_bytes(message),
            late,
            company.roster,
            members=MEMBERS,
            least=1,
            num_params=len(values),
        )
        assert found.state.tobytes() == state.tobytes()
        assert (found.average is not None) == averaged
        assert not averaged or found.average.tobytes() == (-state).tobytes()

    def test_rounds_that_were_given_up_since_changed_nothing(self, relayed, taken, opened):
        earlier = [opened("a", round=2), opened("b", round=2), opened("d", round=3)]
        assert taken(relayed(statements=earlier)).round == 4


class TestWhoReadsIt:
    def test_it_is_never_sent_in_clear(self, relayed):
        message = relayed(of=progress(average=AVERAGE, averaged=2))
        for secret in (STATE_OF_A, AVERAGE):
            for at in range(len(secret) - 1):
                for order in ("<f4", ">f4", "<f8"):
                    assert secret[at : at + 2].astype(order).tobytes() not in message

    @pytest.mark.parametrize("other", ["a", "b", "aggregator", "key_holder"])
    def test_only_to_whom_it_was_wrapped(self, relayed, taken, other):
        with pytest.raises(EncryptionError, match=f"must open with the key of '{other}'"):
            taken(relayed(), late=other)

    @pytest.mark.parametrize("change", [{"run": "2c3d"}, {"round": 3}])
    def test_it_is_bound_to_its_run_and_round(self, company, terms, taken, opened, change):
        """A client that signs another's ciphertext anew, for elsewhere, has nothing opened."""
        late = company.identities["d"].party
        sent = Envelope.from_bytes(state_for(company.identities["a"], late, terms, progress()))
        about = replace(terms, **change)
        again = company.message(
            "a", STATE, about, manifest=sent.statement.manifest, blobs=dict(sent.blobs)
        )
        said = [opened(client, run=about.run, round=about.round) for client in "abd"]
        blobs = {opened_by(str(n)): one for n, one in enumerate(said)}
        message = company.message("aggregator", STATE, about, blobs={**blobs, STATE: again})
        with pytest.raises(EncryptionError, match="belongs to another context"):
            taken(message)

    def test_and_to_its_sender(self, company, terms, relayed, taken):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(state_for(company.identities["a"], late, terms, progress()))
        again = company.message(
            "b", STATE, terms, manifest=sent.statement.manifest, blobs=dict(sent.blobs)
        )
        with pytest.raises(EncryptionError, match="belongs to another context"):
            taken(relayed(again))


class TestHowManyStatedIt:
    def test_too_few_are_refused(self, relayed, taken, opened):
        few = [opened("a"), opened("b")]
        with pytest.raises(MessageError, match=r"at least 3 clients .* round 4 .*\['a', 'b'\] did"):
            taken(relayed(statements=few))
        assert taken(relayed(statements=few), least=2).round == 4

    def test_nobody_counts_twice(self, relayed, taken, opened):
        twice = [opened("a"), opened("b"), opened("b", figure=0.25)]
        with pytest.raises(MessageError, match=r"\['a', 'b'\] did"):
            taken(relayed(statements=twice))

    def test_nor_does_who_is_no_client_of_the_run(self, relayed, taken, opened):
        with pytest.raises(MessageError, match=r"\['a', 'b'\] did"):
            taken(relayed(statements=[opened("a"), opened("b"), opened("c")]))

    @pytest.mark.parametrize(
        ("key", "value"),
        [(NEXT_BASE, "00" * 32), (RELEASED, "00" * 32), (AVERAGED, 1), (NEXT_RANGE, 0.25)],
    )
    def test_nor_who_stated_something_else(self, relayed, taken, opened, key, value):
        other = opened("d", **{key: value})
        with pytest.raises(MessageError, match=r"\['a', 'b'\] did"):
            taken(relayed(statements=[opened("a"), opened("b"), other]))

    @pytest.mark.parametrize("change", [{"run": "2c3d"}, {"round": 5}, {"kind": "update"}], ids=str)
    def test_what_was_stated_elsewhere_is_refused(self, relayed, taken, opened, change):
        statements = [*(opened(client) for client in "abd"), opened("b", **change)]
        with pytest.raises(MessageError, match="must be of the adapter that is sent"):
            taken(relayed(statements=statements))

    def test_so_is_what_a_stranger_or_an_aggregator_states(self, relayed, taken, opened):
        forged = opened("b", key="c")
        with pytest.raises(MessageError, match="'b' must carry its signature"):
            taken(relayed(statements=[opened("a"), forged, opened("d")]))
        with pytest.raises(MessageError, match="has the role"):
            taken(relayed(statements=[opened("a"), opened("aggregator"), opened("d")]))

    def test_the_sender_must_be_of_the_run(self, relayed, taken):
        with pytest.raises(MessageError, match="at least 3 clients must have stated"):
            taken(relayed(sender="c"))


class TestWhatIsSent:
    def test_another_adapter_than_was_stated_is_refused(self, relayed, taken, company, terms):
        late = company.identities["d"].party
        other = progress(state=STATE_OF_A + 1)
        sent = state_for(company.identities["a"], late, terms, other)
        stated = Envelope.from_bytes(sent).statement.manifest
        assert stated[NEXT_BASE] == progress().base, "it lies"
        with pytest.raises(MessageError, match="least 3 clients must have stated"):
            taken(relayed(sent))

    @pytest.mark.parametrize(
        "of",
        [
            progress(state=STATE_OF_A + 1, average=AVERAGE, averaged=2),
            progress(average=AVERAGE + 1, averaged=2),
            progress(state=AVERAGE, average=STATE_OF_A, averaged=2),
        ],
        ids=["another state", "another average", "exchanged"],
    )
    def test_so_is_one_part_of_it(self, relayed, taken, company, terms, of):
        """The sender states what all do, and wraps something else."""
        honest = progress(average=AVERAGE, averaged=2)
        late = company.identities["d"].party
        wrapped = Envelope.from_bytes(state_for(company.identities["a"], late, terms, of))
        said = Envelope.from_bytes(state_for(company.identities["a"], late, terms, honest))
        sent = company.message(
            "a", STATE, terms, manifest=said.statement.manifest, blobs=dict(wrapped.blobs)
        )
        with pytest.raises(MessageError, match="must be the one whose digest was stated"):
            taken(relayed(sent, of=honest))

    @pytest.mark.parametrize("num_params", [4, 6, 10])
    def test_so_is_one_of_another_length(self, relayed, taken, num_params):
        with pytest.raises(MessageError, match="must have the length of this run's"):
            taken(relayed(), num_params=num_params)

    @pytest.mark.parametrize(
        ("name", "value"), [(AVERAGED, -1), (AVERAGED, 2.0), (AVERAGED, True), (AVERAGED, None)]
    )
    def test_so_is_an_average_of_no_number_of_rounds(
        self, relayed, taken, company, terms, opened, name, value
    ):
        """Though all state it alike."""
        late = company.identities["d"].party
        sent = Envelope.from_bytes(state_for(company.identities["a"], late, terms, progress()))
        stated = {**sent.statement.manifest, name: value}
        again = company.message("a", STATE, terms, manifest=stated, blobs=dict(sent.blobs))
        said = [opened(client, **{name: value}) for client in "abd"]
        with pytest.raises(MessageError, match="how many rounds are in its average"):
            taken(relayed(again, statements=said))

    def test_so_is_another_number_of_rounds_than_all_stated(self, relayed, taken, company, terms):
        """By it an average of two rounds would count for a thousand in the next."""
        of = progress(average=AVERAGE, averaged=2)
        late = company.identities["d"].party
        sent = state_for(company.identities["a"], late, terms, replace(of, averaged=1000))
        with pytest.raises(MessageError, match=r"at least 3 clients must have stated .*\[\] did"):
            taken(relayed(sent, of=of))

    def test_so_is_a_range_that_is_no_number(self, relayed, taken, company, terms, opened):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(state_for(company.identities["a"], late, terms, progress()))
        stated = {**sent.statement.manifest, NEXT_RANGE: "wide"}
        again = company.message("a", STATE, terms, manifest=stated, blobs=dict(sent.blobs))
        said = [opened(client, **{NEXT_RANGE: "wide"}) for client in "abd"]
        with pytest.raises(MessageError, match="how many rounds are in its average"):
            taken(relayed(again, statements=said))

    @pytest.mark.parametrize(
        "change",
        [{"kind": "update"}, {"manifest": {"more": 1}}, {"blobs": {}}, {"about": {"round": 3}}],
        ids=str,
    )
    def test_so_is_another_message(self, relayed, taken, company, terms, change):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(state_for(company.identities["a"], late, terms, progress()))
        again = company.message(
            "a",
            change.get("kind", STATE),
            replace(terms, **change.get("about", {})),
            manifest={**sent.statement.manifest, **change.get("manifest", {})},
            blobs=change.get("blobs", dict(sent.blobs)),
        )
        with pytest.raises(MessageError, match="'a'"):
            taken(relayed(again))

    def test_so_is_one_that_a_stranger_signed(self, relayed, taken, company, terms):
        stranger = Identity.generate("a", Role.CLIENT)
        sent = state_for(stranger, company.identities["d"].party, terms, progress())
        with pytest.raises(MessageError, match="'a' must carry its signature"):
            taken(relayed(sent))
        with pytest.raises(MessageError):
            taken(signed_message(company.identities["aggregator"], terms, STATE))

    def test_what_is_no_adapter_at_all_is_refused(self, relayed, taken, company, terms):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(state_for(company.identities["a"], late, terms, progress()))
        for content in (b"", bytes(80)):
            again = company.message(
                "a", STATE, terms, manifest=sent.statement.manifest, blobs={ADAPTER: content}
            )
            with pytest.raises(EncryptionError, match="wrapped secret"):
                taken(relayed(again))
