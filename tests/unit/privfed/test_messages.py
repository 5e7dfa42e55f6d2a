import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import MessageError
from privfed.messages import Envelope, canonical_json

EXAMPLE = Envelope(
    run="r1",
    round=3,
    sender="a",
    kind="update",
    manifest={"base": "00"},
    blobs={"c0": b"\x01\x02", "seeds": b""},
)


def test_an_envelope_survives_the_wire():
    assert Envelope.from_bytes(EXAMPLE.to_bytes()) == EXAMPLE


def test_equal_envelopes_have_equal_bytes():
    swapped = Envelope(
        run="r1",
        round=3,
        sender="a",
        kind="update",
        manifest={"base": "00"},
        blobs={"seeds": b"", "c0": b"\x01\x02"},
    )
    assert swapped.to_bytes() == EXAMPLE.to_bytes()


@given(position=st.integers(0, len(EXAMPLE.to_bytes()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(position, bit):
    message = bytearray(EXAMPLE.to_bytes())
    message[position] ^= 1 << bit
    with pytest.raises(MessageError):
        Envelope.from_bytes(bytes(message))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(MessageError):
        Envelope.from_bytes(data)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_cut_or_extended_message_is_refused(cut):
    message = EXAMPLE.to_bytes()
    for damaged in (message[:-cut], message + bytes(cut)):
        with pytest.raises(MessageError):
            Envelope.from_bytes(damaged)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"round": -1},
        {"round": True},
        {"run": 7},
        {"manifest": []},
        {"blobs": [["c0", 2], ["c0", 0]]},
        {"blobs": [["c0", -1]]},
        {"blobs": {"c0": 2}},
        {"extra": 1},
    ],
)
def test_a_header_of_another_form_is_refused(change):
    import hashlib
    import json
    import struct

    message = EXAMPLE.to_bytes()
    (length,) = struct.unpack_from("<I", message, 8)
    header = json.loads(message[12 : 12 + length]) | change
    raw = canonical_json(header)
    body = message[:8] + struct.pack("<I", len(raw)) + raw + message[12 + length : -32]
    with pytest.raises(MessageError):
        Envelope.from_bytes(body + hashlib.sha256(body).digest())


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})
