"""What crosses a boundary: one strict, self-describing, signed wire record.

An envelope is magic, blobs, statement (canonical JSON), its length, and an Ed25519 signature over
the SHA-256 digest of the statement. The statement binds schema, run, round, sender and kind, public
terms such as base model, parameters and key, and names every blob with its length and SHA-256. So a
message can be neither cut, nor extended, nor used in another round or under another key; and who
has only a part of the blobs can still check that part against the signature.

The statement stands behind the blobs, so that a message is written while it is computed: nothing
needs to hold all of it. Who may sign what is decided in `identity`.
"""

import hashlib
import io
import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from privfed.canonical import canonical_json, require_plain_json
from privfed.errors import MessageError
from privfed.protocol.terms import Terms

SCHEMA: Final = 5
SIGNATURE_BYTES: Final = 64


Blob = bytes | bytearray | memoryview
Blobs = Mapping[str, Blob]

_MAGIC: Final = b"PRIVFED\x05"
_LENGTH: Final = struct.Struct("<I")
_DOMAIN: Final = b"privfed message 5\n"
_MAX_STATEMENT_BYTES: Final = 1 << 22
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KEYS: Final = {"schema", "run", "round", "sender", "kind", "manifest", "blobs"}


class Sink(Protocol):
    """Where a message is written, such as a file."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a signature covers.

    Attributes:
        run: identifier of the run.
        round: the round it belongs to, counted from 1; 0 for the run as a whole.
        sender: name of the party that signs.
        kind: what the message is, e.g. "update" or "sum".
        manifest: small public JSON values that explain the blobs; an update also carries the
            anchor of its sender's ledger under `LEDGER`, so that others hold proof of its length.
        blobs: (name, length, SHA-256 in hex) of every blob, sorted by name.
    """

    run: str
    round: int
    sender: str
    kind: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[tuple[str, int, str], ...] = ()

    def to_bytes(self) -> bytes:
        """Canonical JSON; equal statements give equal bytes."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "run": self.run,
                "round": self.round,
                "sender": self.sender,
                "kind": self.kind,
                "manifest": dict(self.manifest),
                "blobs": [list(entry) for entry in self.blobs],
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Statement":
        """Read strictly what `to_bytes` wrote.

        Raises:
            MessageError: if it is not the canonical form of a statement of this schema.
        """
        values = _checked(raw)
        statement = cls(
            run=values["run"],
            round=values["round"],
            sender=values["sender"],
            kind=values["kind"],
            manifest=values["manifest"],
            blobs=blob_entries(values["blobs"]),
        )
        if statement.to_bytes() != raw:
            raise MessageError("a statement must be in canonical form")
        return statement

    def signed_bytes(self) -> bytes:
        """What is signed: the SHA-256 digest of the statement, under a label of its own."""
        return _DOMAIN + hashlib.sha256(self.to_bytes()).digest()

    def binds(self, name: str, blob: Blob) -> bool:
        """Whether this blob, under this name, is the one that was signed."""
        digest = hashlib.sha256(blob).hexdigest()
        return (name, memoryview(blob).nbytes, digest) in self.blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One received message, whole and undamaged; its signature is checked in `identity`.

    Attributes:
        statement: what the sender signed.
        blobs: named byte strings, views into the message.
        signature: 64 bytes.
    """

    statement: Statement
    blobs: Mapping[str, memoryview]
    signature: bytes

    @classmethod
    def from_bytes(cls, message: Blob) -> "Envelope":
        """Read a message strictly.

        Raises:
            MessageError: if anything but one whole, undamaged envelope of this schema came.
        """
        view = memoryview(message).cast("B")
        statement, end = _read_statement(view)
        offset = len(_MAGIC)
        announced = sum(length for _, length, _ in statement.blobs)
        if announced != end - offset:
            raise MessageError(
                f"the blobs of an envelope must fill it, it has {end - offset} bytes for them and "
                "announces others"
            )
        blobs: dict[str, memoryview] = {}
        # Not with `binds`, which looks through all entries: a stranger may announce many blobs.
        for name, length, digest in statement.blobs:
            blob = view[offset : offset + length]
            if hashlib.sha256(blob).hexdigest() != digest:
                raise MessageError(
                    f"blob {name!r:.200} is not the one that was signed: it was damaged"
                )
            blobs[name] = blob
            offset += length
        return cls(statement=statement, blobs=blobs, signature=bytes(view[-SIGNATURE_BYTES:]))


def statement_of(message: Blob) -> Statement:
    """What a message states, before its signature and blobs are checked.

    Raises:
        MessageError: if it is no envelope of this schema.
    """
    return _read_statement(memoryview(message).cast("B"))[0]


def write_envelope(
    sink: Sink,
    sign: Callable[[bytes], bytes],
    *,
    run: str,
    round: int,
    sender: str,
    kind: str,
    manifest: Mapping[str, Any],
    blobs: Iterable[tuple[str, Iterable[Blob]]] = (),
) -> Statement:
    """Write and sign a message piece by piece.

    Args:
        sink: receives the bytes.
        sign: from bytes to the sender's Ed25519 signature over them.
        run: see `Statement`, as all that follow.
        round: of the run.
        sender: name of the party that signs.
        kind: of message.
        manifest: public values.
        blobs: names in sorted order, each with its pieces; computed as they are written.

    Raises:
        MessageError: if the names are not sorted and distinct, or the statement is too long.
    """
    sink.write(_MAGIC)
    entries: list[tuple[str, int, str]] = []
    for name, pieces in blobs:
        if entries and name <= entries[-1][0]:
            raise MessageError(f"blobs must come sorted by name, {name!r} after {entries[-1][0]!r}")
        digest, length = hashlib.sha256(), 0
        for piece in map(bytes, pieces):
            digest.update(piece)
            length += len(piece)
            sink.write(piece)
        entries.append((name, length, digest.hexdigest()))
    statement = Statement(
        run=run, round=round, sender=sender, kind=kind, manifest=manifest, blobs=tuple(entries)
    )
    raw = statement.to_bytes()
    if len(raw) > _MAX_STATEMENT_BYTES:
        raise MessageError(
            f"a statement must have at most {_MAX_STATEMENT_BYTES} bytes, got {len(raw)}; state "
            "less, or shorter names"
        )
    sink.write(raw + _LENGTH.pack(len(raw)) + sign(statement.signed_bytes()))
    return statement


def envelope_bytes(
    sign: Callable[[bytes], bytes],
    terms: Terms,
    *,
    sender: str,
    kind: str,
    manifest: Mapping[str, Any] | None = None,
    blobs: Blobs | None = None,
) -> bytes:
    """A whole message of a round; `manifest` is added to that of the terms."""
    sink = io.BytesIO()
    write_envelope(
        sink,
        sign,
        run=terms.run,
        round=terms.round,
        sender=sender,
        kind=kind,
        manifest={**terms.manifest, **(manifest or {})},
        blobs=[(name, [blob]) for name, blob in sorted((blobs or {}).items())],
    )
    return sink.getvalue()


def _read_statement(view: memoryview) -> tuple[Statement, int]:
    """The statement, and where the blobs end."""
    tail = _LENGTH.size + SIGNATURE_BYTES
    if len(view) < len(_MAGIC) + tail or bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise MessageError(f"a message must be a privfed envelope, got {len(view)} other bytes")
    end = len(view) - tail
    (length,) = _LENGTH.unpack_from(view, end)
    start = end - length
    if length > _MAX_STATEMENT_BYTES or start < len(_MAGIC):
        raise MessageError(f"a statement of {length} bytes does not fit the message")
    return Statement.from_bytes(bytes(view[start:end])), start


def blob_entries(values: object) -> tuple[tuple[str, int, str], ...]:
    """The (name, length, SHA-256) of blobs, from JSON values.

    Raises:
        MessageError: if they are anything but sorted, distinct entries.
    """
    if not isinstance(values, list) or not all(map(_is_blob_entry, values)):
        raise MessageError("blobs must be a list of [name, length, SHA-256 in hex]")
    names = [name for name, _, _ in values]
    if names != sorted(set(names)):
        raise MessageError("blobs must be sorted by name, and no name may come twice")
    return tuple((name, length, digest) for name, length, digest in values)


def _is_blob_entry(entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) != 3:
        return False
    name, length, digest = entry
    counted = type(length) is int and length >= 0
    digested = isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None
    return isinstance(name, str) and counted and digested


def _checked(raw: bytes) -> dict[str, Any]:
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"a statement must be JSON: {type(error).__name__}") from error
    require_plain_json(values)
    if not isinstance(values, dict) or set(values) != _KEYS:
        raise MessageError(f"a statement must have the keys {sorted(_KEYS)}")
    if values["schema"] != SCHEMA:
        raise MessageError(
            f"the message schema must be {SCHEMA}, got {values['schema']!r:.200}; all parties must "
            "run the same version"
        )
    texts = all(isinstance(values[key], str) for key in ("run", "sender", "kind"))
    counted = type(values["round"]) is int and values["round"] >= 0
    if not texts or not counted or not isinstance(values["manifest"], dict):
        raise MessageError("a statement has a field of the wrong type")
    return values
