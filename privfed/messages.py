"""What crosses a boundary: one strict, self-describing wire record.

An `Envelope` is magic, header length, header (canonical JSON), blobs, SHA-256 of all that came
before. The header binds run, round, sender and kind, and names every blob with its length, so a
message can be neither cut, nor extended, nor used in another round without being noticed. The
digest finds accidents; it is no signature and stops nobody who rewrites a whole message.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from privfed.errors import MessageError

SCHEMA: Final = 1

LEDGER: Final = "ledger"
"""Entry of an update's manifest: length and head digest of its sender's ledger."""

_MAGIC: Final = b"PRIVFED\x01"
_LENGTH: Final = struct.Struct("<I")
_DIGEST_BYTES: Final = 32
_MAX_HEADER_BYTES: Final = 1 << 20
_HEADER_KEYS: Final = {"schema", "run", "round", "sender", "kind", "manifest", "blobs"}


def canonical_json(value: object) -> bytes:
    """One byte string for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What every client is told before it trains a round; all of it is public.

    Attributes:
        run: identifier of the run.
        round: counted from 1.
        base_digest: SHA-256 (hex) of the global adapter that training starts from.
        learning_rate: step size of the local optimiser in this round.
    """

    run: str
    round: int
    base_digest: str
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One message.

    Attributes:
        run: identifier of the run.
        round: the round it belongs to, counted from 1.
        sender: identifier of the client, or "aggregator".
        kind: what it is: "update" or "sum".
        manifest: small public JSON values that explain the blobs; an update also carries the
            anchor of its sender's ledger under `LEDGER`, so that others hold proof of its length.
        blobs: named byte strings.
    """

    run: str
    round: int
    sender: str
    kind: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The wire form; equal envelopes give equal bytes."""
        names = sorted(self.blobs)
        header = canonical_json(
            {
                "schema": SCHEMA,
                "run": self.run,
                "round": self.round,
                "sender": self.sender,
                "kind": self.kind,
                "manifest": dict(self.manifest),
                "blobs": [[name, len(self.blobs[name])] for name in names],
            }
        )
        body = b"".join(
            [_MAGIC, _LENGTH.pack(len(header)), header, *(self.blobs[name] for name in names)]
        )
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, message: bytes) -> "Envelope":
        """Read a message strictly.

        Raises:
            MessageError: if anything but one whole, undamaged envelope of this schema came.
        """
        header, offset = _read_header(message)
        blobs: dict[str, bytes] = {}
        for name, length in header["blobs"]:
            blobs[name] = message[offset : offset + length]
            offset += length
        return cls(
            run=header["run"],
            round=header["round"],
            sender=header["sender"],
            kind=header["kind"],
            manifest=header["manifest"],
            blobs=blobs,
        )


def _read_header(message: bytes) -> tuple[dict[str, Any], int]:
    start = len(_MAGIC) + _LENGTH.size
    if len(message) < start + _DIGEST_BYTES or not message.startswith(_MAGIC):
        raise MessageError(f"a message must be a privfed envelope, got {len(message)} other bytes")
    (length,) = _LENGTH.unpack_from(message, len(_MAGIC))
    if length > _MAX_HEADER_BYTES or start + length + _DIGEST_BYTES > len(message):
        raise MessageError(f"envelope header of {length} bytes does not fit the message")
    if hashlib.sha256(message[:-_DIGEST_BYTES]).digest() != message[-_DIGEST_BYTES:]:
        raise MessageError("envelope digest does not match its content: the message was damaged")
    header = _checked_header(message[start : start + length])
    end = start + length + sum(size for _, size in header["blobs"]) + _DIGEST_BYTES
    if end != len(message):
        raise MessageError(f"envelope announces {end} bytes, {len(message)} came")
    return header, start + length


def _checked_header(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"envelope header is not JSON: {error}") from error
    if not isinstance(header, dict) or set(header) != _HEADER_KEYS:
        raise MessageError(f"envelope header must have the keys {sorted(_HEADER_KEYS)}")
    if header["schema"] != SCHEMA:
        raise MessageError(f"envelope schema must be {SCHEMA}, got {header['schema']!r}")
    texts = all(isinstance(header[key], str) for key in ("run", "sender", "kind"))
    counted = type(header["round"]) is int and header["round"] >= 0
    if not texts or not counted or not isinstance(header["manifest"], dict):
        raise MessageError("envelope header has a field of the wrong type")
    if not _are_blob_entries(header["blobs"]):
        raise MessageError("envelope blobs must be sorted, distinct [name, length] pairs")
    return header


def _are_blob_entries(entries: object) -> bool:
    if not isinstance(entries, list):
        return False
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2:
            return False
        if not isinstance(entry[0], str) or type(entry[1]) is not int or entry[1] < 0:
            return False
    names = [entry[0] for entry in entries]
    return names == sorted(set(names))
