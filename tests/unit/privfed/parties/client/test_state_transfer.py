"""An adapter goes from client to client, unreadable on its way, if enough clients stated it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from privfed import FedAvg, TailAveraging
from privfed.custody.wrapping import wrap
from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.methods.method import GlobalState, released_digest, vector_digest
from privfed.parties.client.round import Progress
from privfed.parties.client.state_transfer import _context, state_for, state_from
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    ADAPTER,
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
METHOD = TailAveraging(of=FedAvg())


def state_of(adapter=STATE_OF_A, *, average=None, counted=2):
    """The global state, with an average where there is one."""
    if average is None:
        return GlobalState(adapter=adapter)
    memory = {"tail.average": average, "tail.counted": np.array([counted], dtype=np.int32)}
    return GlobalState(adapter=adapter, memory=memory)


def progress(state=None, **changes):
    state = state or state_of()
    values = {"round": 4, "state": state, "base": state.digest(), "public_range": 0.375}
    return Progress(**{**values, **changes})


AVERAGED = progress(state_of(average=AVERAGE))


def with_memory(**changes):
    """That state, with other arrays beside the adapter."""
    return replace(AVERAGED.state, memory={**AVERAGED.state.memory, **changes})


def said_of(of):
    """What a client states of its progress after a round."""
    return {
        NEXT_BASE: of.base,
        RELEASED: released_digest(METHOD, of.state),
        NEXT_RANGE: of.public_range,
    }


def file_of(dtype, shape, size):
    """A safetensors file whose adapter is of any type and shape."""
    header = json.dumps({"adapter": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(size)


def arrays(state):
    """All of a state, bit by bit."""
    found = state.tensors()
    return {name: (one.dtype, one.shape, one.tobytes()) for name, one in found.items()}


@pytest.fixture
def terms(company):
    return replace(terms_before(company.roster, "a9" * 32, "0a1b"), round=4)


@pytest.fixture
def opened(company, terms):
    """A function that makes what a client states after a round."""

    def make(client, *, of=None, kind=OPENED, key=None, **changes):
        of = of or progress()
        manifest = {**said_of(of), "metric_value": 0.5}
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
            sent = state_for(company.identities[sender], late, about, of, METHOD)
        if statements is None:
            statements = [opened(client, of=of) for client in ("a", "b", "d")]
        blobs = {opened_by(str(n)): one for n, one in enumerate(statements)}
        return company.message("aggregator", STATE, about, blobs={**blobs, STATE: sent})

    return make


@pytest.fixture
def wrapping(company, terms, opened, relayed):
    """A function that makes what is relayed when `a` wraps any bytes, and all state the same."""

    def make(content, *, of=None, **changes):
        of = of or progress()
        sender, late = company.identities["a"].party, company.identities["d"].party
        blob = wrap(content, late, _context(terms.run, terms.round, sender, late))
        manifest = {**said_of(of), **changes}
        sent = company.message("a", STATE, terms, manifest=manifest, blobs={ADAPTER: blob})
        return relayed(sent, statements=[opened(client, of=of, **changes) for client in "abd"])

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
            method=METHOD,
            num_params=num_params,
        )

    return take


class TestAnHonestTransfer:
    def test_what_was_sent_arrives(self, relayed, taken):
        found = taken(relayed())
        assert np.array_equal(found.state.adapter, STATE_OF_A)
        assert found.state.adapter.dtype == np.float32
        assert (found.round, found.base) == (4, vector_digest(STATE_OF_A))
        assert (dict(found.state.memory), found.public_range) == ({}, 0.375)

    def test_so_does_what_the_method_carries(self, relayed, taken):
        found = taken(relayed(of=AVERAGED))
        assert arrays(found.state) == arrays(AVERAGED.state)
        assert found.base == AVERAGED.base != vector_digest(STATE_OF_A)
        assert np.array_equal(METHOD.left(found.state), AVERAGE)
        assert int(found.state.memory["tail.counted"][0]) == 2

    @given(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
        st.booleans(),
    )
    def test_any_adapter_arrives_bit_by_bit(self, company, values, averaged):
        adapter = np.array(values, dtype=np.float32)
        terms = replace(terms_before(company.roster, "a9" * 32, "0a1b"), round=4)
        of = progress(state_of(adapter, average=-adapter if averaged else None, counted=3))
        late = company.identities["d"]
        sent = state_for(company.identities["a"], late.party, terms, of, METHOD)
        said = company.message("b", OPENED, terms, manifest=said_of(of))
        message = company.message(
            "aggregator", STATE, terms, blobs={STATE: sent, opened_by("b"): said}
        )
        found = state_from(
            Envelope.from_bytes(message),
            late,
            company.roster,
            members=MEMBERS,
            least=1,
            method=METHOD,
            num_params=len(values),
        )
        assert found.state.adapter.tobytes() == adapter.tobytes()
        assert arrays(found.state) == arrays(of.state)
        assert len(found.state.memory) == (2 if averaged else 0)

    def test_rounds_that_were_given_up_since_changed_nothing(self, relayed, taken, opened):
        earlier = [opened("a", round=2), opened("b", round=2), opened("d", round=3)]
        assert taken(relayed(statements=earlier)).round == 4


class TestWhoReadsIt:
    def test_it_is_never_sent_in_clear(self, relayed):
        message = relayed(of=AVERAGED)
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
        sent = Envelope.from_bytes(
            state_for(company.identities["a"], late, terms, progress(), METHOD)
        )
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
        sent = Envelope.from_bytes(
            state_for(company.identities["a"], late, terms, progress(), METHOD)
        )
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
        twice = [opened("a"), opened("b"), opened("b", metric_value=0.25)]
        with pytest.raises(MessageError, match=r"\['a', 'b'\] did"):
            taken(relayed(statements=twice))

    def test_nor_does_who_is_no_client_of_the_run(self, relayed, taken, opened):
        with pytest.raises(MessageError, match=r"\['a', 'b'\] did"):
            taken(relayed(statements=[opened("a"), opened("b"), opened("c")]))

    @pytest.mark.parametrize(
        ("key", "value"),
        [(NEXT_BASE, "00" * 32), (RELEASED, "00" * 32), (NEXT_RANGE, 0.25)],
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
        other = progress(state_of(STATE_OF_A + 1), base=progress().base)
        sent = state_for(company.identities["a"], late, terms, other, METHOD)
        stated = Envelope.from_bytes(sent).statement.manifest
        assert stated[NEXT_BASE] == progress().base, "it lies"
        with pytest.raises(MessageError, match="least 3 clients must have stated"):
            taken(relayed(sent))

    @pytest.mark.parametrize(
        "state",
        [
            state_of(STATE_OF_A + 1, average=AVERAGE),
            state_of(average=AVERAGE + 1),
            state_of(AVERAGE, average=STATE_OF_A),
            state_of(average=AVERAGE, counted=1000),
            GlobalState(adapter=STATE_OF_A, memory={"tail.average": AVERAGE}),
            state_of(),
            with_memory(**{"tail.counted": np.array([2], dtype=np.int64)}),
            with_memory(**{"tail.counted": np.array([[2]], dtype=np.int32)}),
            with_memory(**{"tail.average": AVERAGE.reshape(1, 5)}),
            with_memory(more=np.zeros(1)),
        ],
        ids=[
            "another adapter",
            "another average",
            "exchanged",
            "an average of another number of rounds",
            "of no number of rounds",
            "no average",
            "another type",
            "another shape",
            "another shape of the average",
            "one more",
        ],
    )
    def test_so_is_one_part_of_it(self, taken, wrapping, state):
        """The sender states what all do, and wraps something else."""
        assert progress(state).base != AVERAGED.base
        with pytest.raises(MessageError, match="must be the one whose digest was stated"):
            taken(wrapping(save(state.tensors()), of=AVERAGED))

    def test_what_is_wrapped_is_a_file_of_all_arrays(self, taken, wrapping):
        found = taken(wrapping(save(AVERAGED.state.tensors()), of=AVERAGED))
        assert arrays(found.state) == arrays(AVERAGED.state)

    def test_so_is_what_the_run_does_not_leave(self, taken, wrapping):
        """Though all state it alike."""
        content = save(AVERAGED.state.tensors())
        with pytest.raises(MessageError, match="must come with what the run leaves"):
            taken(wrapping(content, of=AVERAGED, **{RELEASED: vector_digest(STATE_OF_A)}))

    @pytest.mark.parametrize("num_params", [4, 6, 10])
    def test_so_is_one_of_another_length(self, relayed, taken, num_params):
        with pytest.raises(MessageError, match="must have the length of this run's"):
            taken(relayed(), num_params=num_params)

    @pytest.mark.parametrize(
        "adapter",
        [
            STATE_OF_A.astype(np.float64),
            STATE_OF_A.astype(np.int32),
            STATE_OF_A.reshape(1, 5),
            STATE_OF_A.reshape(5, 1),
            STATE_OF_A[:4],
            np.float32(7),
        ],
        ids=["float64", "int32", "a row", "a column", "too short", "a number"],
    )
    def test_so_is_one_of_another_type_or_shape(self, taken, wrapping, adapter):
        """Though all state it alike."""
        of = progress(GlobalState(adapter=np.asarray(adapter)))
        with pytest.raises(MessageError, match="must have the length of this run's"):
            taken(wrapping(save(of.state.tensors()), of=of))

    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            STATE_OF_A.tobytes(),
            bytes(80),
            b"\xff" * 80,
            save({"adapter": STATE_OF_A})[:-1],
            save({"adapter": STATE_OF_A}) + b"\x00",
            save({"state": STATE_OF_A}),
            save({}),
            file_of("F32", [1] * 65, 4),
            file_of("F32", [0, 1 << 62], 0),
            file_of("BF16", [5], 10),
        ],
        ids=[
            "one byte",
            "bare",
            "zeros",
            "ones",
            "cut",
            "longer",
            "another name",
            "no array",
            "more dimensions than numpy has",
            "more bytes than numpy has",
            "a type that numpy has not",
        ],
    )
    def test_so_is_no_file_with_an_adapter(self, taken, wrapping, content):
        with pytest.raises(MessageError, match="must be as privfed wrote it"):
            taken(wrapping(content))

    def test_so_is_a_range_that_is_no_number(self, relayed, taken, company, terms, opened):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(
            state_for(company.identities["a"], late, terms, progress(), METHOD)
        )
        stated = {**sent.statement.manifest, NEXT_RANGE: "wide"}
        again = company.message("a", STATE, terms, manifest=stated, blobs=dict(sent.blobs))
        said = [opened(client, **{NEXT_RANGE: "wide"}) for client in "abd"]
        with pytest.raises(MessageError, match="must come with the public range"):
            taken(relayed(again, statements=said))

    @pytest.mark.parametrize(
        "change",
        [{"kind": "update"}, {"manifest": {"more": 1}}, {"blobs": {}}, {"about": {"round": 3}}],
        ids=str,
    )
    def test_so_is_another_message(self, relayed, taken, company, terms, change):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(
            state_for(company.identities["a"], late, terms, progress(), METHOD)
        )
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
        sent = state_for(stranger, company.identities["d"].party, terms, progress(), METHOD)
        with pytest.raises(MessageError, match="'a' must carry its signature"):
            taken(relayed(sent))
        with pytest.raises(MessageError):
            taken(signed_message(company.identities["aggregator"], terms, STATE))

    def test_what_is_no_adapter_at_all_is_refused(self, relayed, taken, company, terms):
        late = company.identities["d"].party
        sent = Envelope.from_bytes(
            state_for(company.identities["a"], late, terms, progress(), METHOD)
        )
        for content in (b"", bytes(80)):
            again = company.message(
                "a", STATE, terms, manifest=sent.statement.manifest, blobs={ADAPTER: content}
            )
            with pytest.raises(EncryptionError, match="wrapped secret"):
                taken(relayed(again))
