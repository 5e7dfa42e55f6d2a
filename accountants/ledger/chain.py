"""A hash chain: entries that cannot be edited, removed or reordered without it showing.

Each digest covers the number, kind and body of its entry and the digest of the entry before (Haber
& Stornetta 1991). Someone who rewrites every digest, or puts an older copy back, is found only by
an `Anchor` kept elsewhere. What the entries mean is in `book.py`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accountants import checks
from accountants.errors import InvalidValueError, LedgerCorruptError

WHAT_TO_DO = (
    "stop using it, keep it, and restore a copy at least as new as the last release; without one, "
    "count the whole budget of this data as spent"
)
"""Closing words of messages about a ledger that cannot be trusted."""

_FIRST_PREVIOUS = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One link of the chain, as it is stored; not yet checked.

    Attributes:
        seq: its number, from 0.
        kind: "open", "reserve", "commit" or "inherit".
        body: canonical JSON text of an object.
        previous: digest of the entry before; 64 zeros for entry 0.
        digest: SHA-256 over the canonical JSON of [seq, kind, body, previous], hexadecimal.
    """

    seq: int
    kind: str
    body: str
    previous: str
    digest: str

    def to_json(self) -> dict[str, object]:
        """The entry as a JSON object, its body as an object in it."""
        return {
            "seq": self.seq,
            "kind": self.kind,
            "body": json.loads(self.body),
            "previous": self.previous,
            "digest": self.digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Proof, kept outside the ledger, that it once held `length` entries ending in `head`.

    Nothing else shows that a chain was cut at its end, replaced by an older copy, or written anew.
    As text it is LENGTH:HEAD, which `parse` reads.

    >>> str(Anchor(length=3, head="ab" * 32)).startswith("3:abab")
    True

    Attributes:
        length: number of entries, >= 1.
        head: digest of the last of them, 64 hexadecimal digits.

    Raises:
        InvalidValueError: for anything else.
    """

    length: int
    head: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", checks.count(anchor_length=self.length))
        if not is_digest(self.head):
            raise InvalidValueError(
                "anchor_head must be 64 lower-case hexadecimal digits, got "
                f"{checks.shown(self.head)}"
            )

    @classmethod
    def parse(cls, text: str) -> "Anchor":
        """Read LENGTH:HEAD, as `str` writes it and reports print it.

        Raises:
            InvalidValueError: for anything else.
        """
        length, colon, head = text.partition(":") if isinstance(text, str) else ("", "", "")
        # Only plain digits: `int` reads signs, underscores and the digits of other scripts too.
        if not (colon and length.isascii() and length.isdecimal() and len(length) < 17):
            raise InvalidValueError(
                "an anchor must be LENGTH:HEAD, the number of entries and 64 hexadecimal digits, "
                f"got {checks.shown(text)}"
            )
        return cls(length=int(length), head=head)

    def __str__(self) -> str:
        return f"{self.length}:{self.head}"

    def to_json(self) -> dict[str, object]:
        """The anchor as a JSON object."""
        return {"length": self.length, "head": self.head}


def checked_anchor(value: object) -> Anchor:
    """The value, if it is an anchor; raises InvalidValueError for anything else."""
    if not isinstance(value, Anchor):
        raise InvalidValueError(
            f"anchor must be an Anchor, got {checks.shown(value)}; read a stored one with "
            "anchor_from_json"
        )
    return value


def anchor_from_json(value: object) -> Anchor:
    """Read what `Anchor.to_json` wrote; raises InvalidValueError for anything else.

    >>> anchor_from_json({"length": 3, "head": "ab" * 32}).length
    3
    """
    if not isinstance(value, Mapping) or set(value) != {"length", "head"}:
        raise InvalidValueError(
            f"an anchor must have 'length' and 'head' only, got {checks.shown(value)}"
        )
    return Anchor(length=value["length"], head=value["head"])


def is_digest(value: object) -> bool:
    """Whether a value is a SHA-256 digest in lower-case hexadecimal."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def canonical_json(value: object) -> str:
    """One text per value: sorted keys, no spaces, ASCII; floats as their shortest exact form.

    >>> canonical_json({"steps": 8, "sample_rate": 0.1})
    '{"sample_rate":0.1,"steps":8}'

    Raises:
        InvalidValueError: for what JSON cannot hold, NaN and infinity included.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(f"a value must be one that JSON can hold: {error}") from error


def require_fields(body: Mapping[str, Any], names: set[str]) -> None:
    """Refuse an object that lacks a field, or has another one.

    Raises:
        InvalidValueError: naming both.
    """
    if set(body) != names:
        raise InvalidValueError(f"a body must have the fields {sorted(names)}, got {sorted(body)}")


def linked(kind: str, body: dict[str, Any], after: Anchor | None) -> Entry:
    """The entry that follows `after`; the first of a chain if that is None."""
    seq = 0 if after is None else after.length
    previous = _FIRST_PREVIOUS if after is None else after.head
    digest = _digest(seq, kind, body, previous)
    return Entry(seq=seq, kind=kind, body=canonical_json(body), previous=previous, digest=digest)


def checked_bodies(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The parsed bodies of a whole chain.

    Raises:
        LedgerCorruptError: for a missing, reordered or changed entry, or none at all.
    """
    if not entries:
        raise damaged("it has no entries")
    previous = _FIRST_PREVIOUS
    bodies = []
    for seq, entry in enumerate(entries):
        bodies.append(_checked_body(seq, entry, previous))
        previous = entry.digest
    return bodies


def damaged(reason: str) -> LedgerCorruptError:
    """The error for a ledger that cannot be trusted."""
    return LedgerCorruptError(f"the ledger must be whole and unchanged: {reason}; {WHAT_TO_DO}")


def _checked_body(seq: int, entry: Entry, previous: str) -> dict[str, Any]:
    if type(entry.seq) is not int or entry.seq != seq:
        raise damaged(f"entry {seq} is missing or out of order; found number {entry.seq!r}")
    if not isinstance(entry.kind, str) or not isinstance(entry.body, str):
        raise damaged(f"entry {seq} was changed: kind and body must be text")
    if entry.previous != previous:
        raise damaged(f"entry {seq} does not link to the entry before it")
    try:
        body = json.loads(entry.body)
        intact = isinstance(body, dict) and canonical_json(body) == entry.body
    except (ValueError, RecursionError) as error:
        raise damaged(f"the body of entry {seq} is not JSON") from error
    if not intact or entry.digest != _digest(seq, entry.kind, body, previous):
        raise damaged(f"entry {seq} was changed: its digest does not fit")
    return dict(body)


def _digest(seq: int, kind: str, body: object, previous: str) -> str:
    return hashlib.sha256(canonical_json([seq, kind, body, previous]).encode()).hexdigest()
