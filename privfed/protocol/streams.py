"""Messages over a byte stream, such as a pipe or a socket: eight bytes of length, then the message.

Every message is signed, so a stream needs no integrity of its own. It gives no confidentiality
either: results of rounds pass it in clear, as all of the protocol's results do.
"""

import io
import struct
from typing import Final, Protocol

from privfed.errors import MessageError

MOST_BYTES: Final = 1 << 30
_LENGTH: Final = struct.Struct("<Q")
_PIECE: Final = 1 << 20


class Stream(Protocol):
    """A blocking binary stream."""

    def read(self, size: int, /) -> bytes | None:
        """Up to `size` bytes; none only at the end."""
        ...

    def write(self, data: bytes, /) -> object:
        """Append bytes."""
        ...

    def flush(self) -> None:
        """Hand over what was written."""
        ...


def send(stream: Stream, message: bytes) -> None:
    """Write one message.

    Raises:
        MessageError: if it is longer than any receiver accepts.
    """
    if len(message) > MOST_BYTES:
        raise MessageError(f"a message must have at most {MOST_BYTES} bytes, got {len(message)}")
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def receive(stream: Stream, most: int = MOST_BYTES) -> bytes | None:
    """Read one message, or None at the end of the stream.

    Raises:
        MessageError: if it is longer than `most`, or the stream ends in its middle.
    """
    head = _read(stream, _LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(_whole(head, _LENGTH.size))
    if length > most:
        raise MessageError(f"a message must have at most {most} bytes, {length} are announced")
    return _whole(_read(stream, length), length)


def _read(stream: Stream, size: int) -> bytes:
    """So many bytes, or all up to the end; memory grows with what comes, not what is announced."""
    content = io.BytesIO()
    while content.tell() < size and (piece := stream.read(min(_PIECE, size - content.tell()))):
        content.write(piece)
    return content.getvalue()


def _whole(content: bytes, size: int) -> bytes:
    if len(content) < size:
        raise MessageError("the other side stopped in the middle of a message")
    return content
