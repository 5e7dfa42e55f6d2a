"""Messages on a stream: as sent or refused, however the bytes arrive."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import MessageError
from privfed.protocol.streams import MOST_BYTES, receive, send


class Trickle:
    """A stream that gives few bytes at a time, as a slow peer does."""

    def __init__(self, content, sizes):
        self.content = io.BytesIO(content)
        self.sizes = sizes
        self.asked = []

    def read(self, size):
        self.asked.append(size)
        at_most = self.sizes[(len(self.asked) - 1) % len(self.sizes)]
        return self.content.read(min(size, at_most))


def sent(*messages):
    stream = io.BytesIO()
    for message in messages:
        send(stream, message)
    return stream.getvalue()


def test_by_hand():
    assert sent(b"abc") == b"\x03\x00\x00\x00\x00\x00\x00\x00abc"
    assert receive(io.BytesIO(b"\x02\x00\x00\x00\x00\x00\x00\x00xyz")) == b"xy"


@given(
    st.lists(st.binary(max_size=40), max_size=5),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_messages_arrive_whole_however_slowly(messages, sizes):
    stream = Trickle(sent(*messages), sizes)
    assert [receive(stream) for _ in messages] == messages
    assert receive(stream) is None


def test_a_message_of_several_megabytes_arrives():
    message = bytes(range(256)) * 10_000
    assert receive(io.BytesIO(sent(message))) == message


@given(st.binary(max_size=20), st.data())
def test_a_stream_that_stops_in_a_message_is_refused(message, data):
    whole = sent(message)
    cut = data.draw(st.integers(1, len(whole) - 1)) if len(whole) > 1 else 1
    with pytest.raises(MessageError, match="in the middle of a message"):
        receive(io.BytesIO(whole[:cut]))


@pytest.mark.parametrize("length", [6, 2**32, 2**63, 2**64 - 1])
def test_a_message_that_announces_too_much_is_refused_before_it_is_read(length):
    stream = Trickle(struct.pack("<Q", length) + bytes(100), [8])
    with pytest.raises(MessageError, match=f"at most 5 bytes, {length} are announced"):
        receive(stream, most=5)
    assert stream.content.tell() == 8


def test_the_longest_allowed_is_allowed():
    assert receive(io.BytesIO(sent(b"12345")), most=5) == b"12345"


def test_what_is_announced_is_not_reserved():
    """A gigabyte is announced and ten bytes come: reads ask for a megabyte at most."""
    stream = Trickle(struct.pack("<Q", MOST_BYTES) + bytes(10), [1 << 30])
    with pytest.raises(MessageError, match="in the middle"):
        receive(stream)
    assert max(stream.asked) == 1 << 20


def test_a_message_that_nobody_accepts_is_not_sent(monkeypatch):
    monkeypatch.setattr("privfed.protocol.streams.MOST_BYTES", 4)
    stream = io.BytesIO()
    with pytest.raises(MessageError, match="at most 4 bytes, got 5"):
        send(stream, b"12345")
    assert stream.getvalue() == b""
    send(stream, b"1234")
    assert stream.getvalue() == sent(b"1234")


def test_a_sent_message_is_handed_over_at_once():
    raw = io.BytesIO()
    buffered = io.BufferedWriter(raw)
    send(buffered, b"abc")
    assert raw.getvalue().endswith(b"abc")
