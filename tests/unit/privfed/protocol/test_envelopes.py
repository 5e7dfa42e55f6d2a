"""Envelopes: one meaning has one form, and whatever is not that form is refused before it is read.

Numbers on the wire here are written out by hand, so that reader and writer cannot err together.
"""

import dataclasses
import hashlib
import io
import json
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.canonical import canonical_json
from privfed.errors import MessageError
from privfed.identity.keys import Identity, Role
from privfed.protocol.envelopes import (
    Envelope,
    Statement,
    blob_entries,
    envelope_bytes,
    write_envelope,
)
from privfed.protocol.terms import RoundPlan, Terms

TERMS = Terms(run="r1", round=3, manifest={"base": "00"})
BLOBS = {"c0": b"\x01\x02", "seeds": b""}
ALICE = Identity.generate("alice", Role.CLIENT)
EMPTY = hashlib.sha256(b"").hexdigest()
PLAIN = {
    "schema": 5,
    "run": "r1",
    "round": 3,
    "sender": "alice",
    "kind": "update",
    "manifest": {"base": "00"},
    "blobs": [["c0", 2, hashlib.sha256(b"\x01\x02").hexdigest()], ["seeds", 0, EMPTY]],
}
RAW = canonical_json(PLAIN)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
# Text as others may send it: any code points, but no halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def framed(raw, body=b"\x01\x02", signature=bytes(64)):
    """An envelope around any statement."""
    return b"PRIVFED\x05" + body + raw + struct.pack("<I", len(raw)) + signature


def message(blobs=BLOBS, **changes):
    settings = {"sender": "alice", "kind": "update", "blobs": blobs} | changes
    return envelope_bytes(ALICE.sign, TERMS, **settings)


MESSAGE = message()


def test_by_hand():
    """Magic, blobs in order of their names, statement, its length, the signature."""
    statement = (
        b'{"blobs":[["c0",2,"a12871fee210fb8619291eaea194581cbd2531e4b23759d225f6806923f63222"],'
        b'["seeds",0,"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]],'
        b'"kind":"update","manifest":{"base":"00"},"round":3,"run":"r1","schema":5,'
        b'"sender":"alice"}'
    )
    signature = ALICE.sign(b"privfed message 5\n" + hashlib.sha256(statement).digest())
    length = len(statement).to_bytes(4, "little")
    assert b"PRIVFED\x05\x01\x02" + statement + length + signature == MESSAGE


def test_an_envelope_survives_the_wire():
    envelope = Envelope.from_bytes(MESSAGE)
    assert envelope.statement == Statement(
        run="r1",
        round=3,
        sender="alice",
        kind="update",
        manifest={"base": "00"},
        blobs=tuple((name, length, digest) for name, length, digest in PLAIN["blobs"]),
    )
    assert {name: bytes(blob) for name, blob in envelope.blobs.items()} == BLOBS
    assert envelope.signature == MESSAGE[-64:]


@given(
    run=texts,
    round=st.integers(0, 2**70),
    manifest=st.dictionaries(texts, texts | st.floats(allow_nan=False, allow_infinity=False)),
    blobs=st.dictionaries(texts, st.binary(max_size=40), max_size=5),
)
def test_whatever_is_written_is_read_again(run, round, manifest, blobs):
    terms = Terms(run=run, round=round, manifest=manifest)
    raw = envelope_bytes(ALICE.sign, terms, sender="Zoë", kind="k", blobs=blobs)
    envelope = Envelope.from_bytes(raw)
    statement = envelope.statement
    assert (statement.run, statement.round, statement.manifest) == (run, round, manifest)
    assert {name: bytes(blob) for name, blob in envelope.blobs.items()} == blobs
    assert all(statement.binds(name, blob) for name, blob in blobs.items())
    assert statement.to_bytes() == Statement.from_bytes(statement.to_bytes()).to_bytes()


@pytest.mark.parametrize("wrapped", [bytes, bytearray, memoryview])
def test_any_buffer_may_be_read(wrapped):
    assert Envelope.from_bytes(wrapped(MESSAGE)) == Envelope.from_bytes(MESSAGE)


def test_a_view_of_wider_items_is_read_as_bytes():
    """Its length in items must not pass for its length in bytes, neither written nor read."""
    wide = memoryview(bytes(range(8))).cast("I")
    spare = -len(message({"c0": wide, "pad": b""})) % 4
    raw = message({"c0": wide, "pad": bytes(spare)})
    envelope = Envelope.from_bytes(memoryview(raw).cast("I"))
    assert envelope == Envelope.from_bytes(raw)
    assert bytes(envelope.blobs["c0"]) == bytes(range(8))
    assert envelope.statement.binds("c0", wide)


def test_the_order_of_blobs_makes_no_difference():
    assert message(dict(reversed(BLOBS.items()))) == MESSAGE


@given(position=st.integers(0, len(MESSAGE) - 65), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(position, bit):
    """In front of the signature; a flipped bit of the signature itself is for `verified`."""
    damaged = bytearray(MESSAGE)
    damaged[position] ^= 1 << bit
    try:
        envelope = Envelope.from_bytes(damaged)
    except MessageError:
        return
    # The statement still is one: then the signature covers another.
    signed = Envelope.from_bytes(MESSAGE).statement.signed_bytes()
    assert envelope.statement.signed_bytes() != signed
    assert envelope.signature == MESSAGE[-64:]


@pytest.mark.parametrize("position", [8, 9])
def test_a_flipped_bit_of_a_blob_is_named(position):
    damaged = bytearray(MESSAGE)
    damaged[position] ^= 1
    with pytest.raises(MessageError, match="blob 'c0' is not the one that was signed"):
        Envelope.from_bytes(damaged)


@given(st.data())
def test_a_cut_or_extended_message_is_refused(data):
    start = data.draw(st.integers(0, len(MESSAGE)))
    end = data.draw(st.integers(start, len(MESSAGE)))
    inserted = data.draw(st.binary(max_size=9))
    damaged = MESSAGE[:start] + inserted + MESSAGE[end:]
    if len(damaged) != len(MESSAGE):
        with pytest.raises(MessageError):
            Envelope.from_bytes(damaged)


@pytest.mark.parametrize("magic", [b"PRIVFED\x01", b"PRIVFED\x04", b"PRIVFED\x06", b"privfed\x05"])
def test_another_magic_is_refused(magic):
    with pytest.raises(MessageError, match="must be a privfed envelope"):
        Envelope.from_bytes(magic + MESSAGE[8:])


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    for raw in (data, b"PRIVFED\x05" + data, framed(data)):
        with pytest.raises(MessageError):
            Envelope.from_bytes(raw)


@pytest.mark.parametrize("length", [len(RAW) + 1, len(RAW) + 11, 2**32 - 1, 1 << 23])
def test_a_statement_longer_than_its_message_is_refused(length):
    raw = b"PRIVFED\x05\x01\x02" + RAW + struct.pack("<I", length) + bytes(64)
    with pytest.raises(MessageError):
        Envelope.from_bytes(raw)


def test_a_statement_that_is_too_long_is_refused_before_it_is_read():
    raw = canonical_json({**PLAIN, "manifest": {"long": "x" * (1 << 22)}})
    with pytest.raises(MessageError, match="does not fit"):
        Envelope.from_bytes(framed(raw))


@pytest.mark.parametrize("schema", [1, 4, 6])
def test_another_schema_is_named(schema):
    with pytest.raises(MessageError, match=f"must be 5, got {schema}; all parties must run the"):
        Statement.from_bytes(canonical_json({**PLAIN, "schema": schema}))


@pytest.mark.parametrize(("blobs", "body"), [([], b"\x01"), (PLAIN["blobs"], b"\x01\x02\x03")])
def test_bytes_that_no_blob_claims_are_refused(blobs, body):
    raw = canonical_json({**PLAIN, "blobs": blobs})
    with pytest.raises(MessageError, match="must fill it"):
        Envelope.from_bytes(framed(raw, body))


@pytest.mark.parametrize(
    "text",
    [
        RAW.replace(b":", b": "),
        RAW.replace(b"{", b" {"),
        RAW + b"\n",
        b"\xef\xbb\xbf" + RAW,
        RAW.decode().encode("utf-16"),
        RAW.decode().encode("utf-32-le"),
        RAW.replace(b'"r1"', b'"\\u0072\\u0031"'),
        RAW.replace(b'"r1"', b'"\xc3\xa9"'),
        RAW.replace(b'"r1"', b'"\\u00E9"'),
        RAW.replace(b'"round":3', b'"round":3.0'),
        RAW.replace(b'"round":3', b'"round":3e0'),
        RAW.replace(b'"round":3', b'"round":-0'),
        RAW.replace(b'"schema":5', b'"schema":5.0'),
        RAW.replace(b'"00"', b"0.10"),
        RAW.replace(b'"00"', b"1E5"),
        RAW.replace(b'"schema"', b'"run":"r1","schema"'),
        RAW.replace(b'"round":3', b'"round":7,"round":3'),
        RAW.replace(b'"base":"00"', b'"base":"11","base":"00"'),
        json.dumps(PLAIN, separators=(",", ":")).encode(),
    ],
)
def test_only_the_canonical_form_is_read(text):
    """The same meaning in other words would be another statement with the same signature."""
    assert Statement.from_bytes(RAW)
    with pytest.raises(MessageError):
        Statement.from_bytes(text)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"schema": 4},
        {"schema": 6},
        {"schema": True},
        {"schema": "5"},
        {"round": -1},
        {"round": True},
        {"round": 3.0},
        {"round": "3"},
        {"round": None},
        {"run": 7},
        {"run": None},
        {"sender": ["a"]},
        {"kind": {}},
        {"manifest": []},
        {"manifest": None},
        {"extra": 1},
        {"blobs": {"c0": 2}},
        {"blobs": ["c0"]},
        {"blobs": [["c0", 0]]},
        {"blobs": [["c0", 0, EMPTY, 1]]},
        {"blobs": [[1, 0, EMPTY]]},
        {"blobs": [["c0", -1, EMPTY]]},
        {"blobs": [["c0", True, EMPTY]]},
        {"blobs": [["c0", 0.0, EMPTY]]},
        {"blobs": [["c0", "0", EMPTY]]},
        {"blobs": [["c0", 0, EMPTY.upper()]]},
        {"blobs": [["c0", 0, EMPTY[:-1]]]},
        {"blobs": [["c0", 0, EMPTY + "\n"]]},
        {"blobs": [["c0", 0, None]]},
        {"blobs": [["c0", 0, EMPTY], ["c0", 0, EMPTY]]},
        {"blobs": [["d", 0, EMPTY], ["c", 0, EMPTY]]},
    ],
    ids=str,
)
def test_a_statement_of_another_form_is_refused(change):
    with pytest.raises(MessageError):
        Statement.from_bytes(canonical_json({**PLAIN, **change}))


@pytest.mark.parametrize("key", sorted(PLAIN))
def test_a_missing_field_is_refused(key):
    shorter = {name: value for name, value in PLAIN.items() if name != key}
    with pytest.raises(MessageError, match="must have the keys"):
        Statement.from_bytes(canonical_json(shorter))


@given(json_values)
def test_random_json_is_refused_and_nothing_else_is_raised(value):
    for raw in (
        json.dumps(value).encode(),
        json.dumps({**PLAIN, "blobs": value}, sort_keys=True, separators=(",", ":")).encode(),
    ):
        try:
            statement = Statement.from_bytes(raw)
        except MessageError:
            continue
        assert statement.to_bytes() == raw


HOSTILE = {
    "NaN": b"NaN",
    "infinite": b"-Infinity",
    "a number beyond floats": b"1e999",
    "more digits than python reads": b"1" * 5000,
    "half a surrogate pair": b'"\\ud800"',
    "a key that is half a pair": b'{"\\udfff":1}',
    "33 lists": b"[" * 33 + b"]" * 33,
    "500 lists": b"[" * 500 + b"]" * 500,
    "500 objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "100000 lists": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_json_that_could_break_a_later_step_is_refused(value):
    raw = RAW.replace(b'{"base":"00"}', b'{"base":' + value + b"}")
    with pytest.raises(MessageError):
        Statement.from_bytes(raw)


def test_lengths_with_thousands_of_digits_are_refused():
    """Their sum has more digits than python is willing to print."""
    entries = [[name, 10**4299 * 9, EMPTY] for name in "abcdefghijklmnopqrst"]
    with pytest.raises(MessageError, match="must fill it"):
        Envelope.from_bytes(framed(canonical_json({**PLAIN, "blobs": entries})))


def test_errors_show_little_of_what_a_stranger_sent():
    long = "x" * 100_000
    for change in ({"schema": long}, {"blobs": [[long, 2, EMPTY]]}):
        with pytest.raises(MessageError) as caught:
            Envelope.from_bytes(framed(canonical_json({**PLAIN, **change})))
        assert len(str(caught.value)) < 500


def test_a_stranger_cannot_make_the_reader_work_for_long():
    """As many empty blobs as fit in a statement; quadratic work took ten seconds and more."""
    entries = [[f"{index:06}", 0, EMPTY] for index in range(45_000)]
    raw = framed(canonical_json({**PLAIN, "blobs": entries}), b"")
    begun = time.process_time()
    assert len(Envelope.from_bytes(raw).blobs) == 45_000
    assert time.process_time() - begun < 5


def test_a_statement_that_nobody_would_read_is_not_written():
    with pytest.raises(MessageError, match="at most 4194304 bytes"):
        message(manifest={"long": "x" * (1 << 22)})
    assert Envelope.from_bytes(message(manifest={"long": "x" * (1 << 21)}))


@given(st.dictionaries(texts, st.lists(st.binary(max_size=9), max_size=4), max_size=4))
def test_written_in_pieces_or_at_once_is_the_same(pieces):
    sink, read = io.BytesIO(), []

    def lazily():
        for name in sorted(pieces):
            yield name, (read.append(name) or piece for piece in pieces[name])

    statement = write_envelope(
        sink,
        ALICE.sign,
        run=TERMS.run,
        round=TERMS.round,
        sender="alice",
        kind="update",
        manifest=TERMS.manifest,
        blobs=lazily(),
    )
    assert sink.getvalue() == message({name: b"".join(parts) for name, parts in pieces.items()})
    assert Envelope.from_bytes(sink.getvalue()).statement == statement
    assert len(read) == sum(map(len, pieces.values()))


def test_pieces_are_written_before_the_next_is_computed():
    sink = io.BytesIO()

    def pieces():
        for index in range(3):
            assert sink.getvalue() == b"PRIVFED\x05" + bytes(range(index))
            yield bytes([index])

    write_envelope(
        sink,
        ALICE.sign,
        run="r",
        round=0,
        sender="alice",
        kind="k",
        manifest={},
        blobs=[("c", pieces())],
    )
    assert Envelope.from_bytes(sink.getvalue()).blobs["c"] == b"\x00\x01\x02"


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("a", "B")])
def test_blobs_must_be_written_in_order(names):
    with pytest.raises(MessageError, match="sorted by name"):
        write_envelope(
            io.BytesIO(),
            ALICE.sign,
            run="r",
            round=0,
            sender="alice",
            kind="k",
            manifest={},
            blobs=[(name, [b""]) for name in names],
        )


def test_the_manifest_of_a_message_is_added_to_the_terms():
    assert Envelope.from_bytes(message(manifest={"more": 1})).statement.manifest == {
        "base": "00",
        "more": 1,
    }
    assert TERMS.manifest == {"base": "00"}


def test_a_statement_binds_name_length_and_content():
    statement = Envelope.from_bytes(MESSAGE).statement
    assert statement.binds("c0", b"\x01\x02")
    assert statement.binds("c0", memoryview(b"\x01\x02"))
    assert statement.binds("seeds", bytearray())
    assert not statement.binds("c1", b"\x01\x02")
    assert not statement.binds("seeds", b"\x01\x02")
    assert not statement.binds("c0", b"\x01\x03")
    assert not statement.binds("c0", b"\x01\x02\x00")
    assert not statement.binds("c0", b"")


def test_what_is_signed_has_a_label_of_its_own():
    """A roster's or any other signature cannot pass for that of a message."""
    signed = Statement.from_bytes(RAW).signed_bytes()
    assert signed == b"privfed message 5\n" + hashlib.sha256(RAW).digest()


def test_blob_entries_come_back_as_tuples():
    assert blob_entries([["a", 0, EMPTY], ["b", 1, EMPTY]]) == (("a", 0, EMPTY), ("b", 1, EMPTY))
    assert blob_entries([]) == ()


def test_a_plan_tells_nobody_how_to_train():
    """A learning rate of its own for each client would let an aggregator silence all but one."""
    assert [field.name for field in dataclasses.fields(RoundPlan)] == [
        "run",
        "round",
        "base_digest",
    ]
