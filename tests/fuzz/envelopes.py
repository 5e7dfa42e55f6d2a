"""A reader and a writer of messages that share nothing with `privfed.protocol.envelopes`.

The code under test must not judge itself: what is well-formed and who signed it is decided here
from the documented format, with only the signature library in common. A `Draft` is a message taken
apart, which can be put together again whether or not it still makes sense.
"""

import hashlib
import json
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAGIC = b"PRIVFED\x05"
DOMAIN = b"privfed message 5\n"
ROSTER_DOMAIN = b"privfed roster 2\n"
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
STATEMENT = {"schema": int, "run": str, "round": int, "sender": str, "kind": str,
             "manifest": dict, "blobs": list}  # fmt: skip


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def no_repeats(pairs):
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


@dataclass
class Parsed:
    """A well-formed message: its statement, named blobs and signature."""

    value: dict
    blobs: dict
    signature: bytes
    text: bytes


def well_formed(raw):
    """The message if it is one to the letter, otherwise None."""
    if len(raw) < 76 or raw[:8] != MAGIC:
        return None
    length = int.from_bytes(raw[-68:-64], "little")
    start = len(raw) - 68 - length
    if start < 8 or length > 1 << 22:
        return None
    text = raw[start : start + length]
    try:
        value = json.loads(text, object_pairs_hook=no_repeats)
        exact = canonical(value) == text
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not exact or not isinstance(value, dict):
        return None
    if {key: type(inner) for key, inner in value.items()} != STATEMENT:
        return None
    if value["schema"] != 5 or value["round"] < 0:
        return None
    blobs, at = {}, 8
    for entry in value["blobs"]:
        if not isinstance(entry, list) or list(map(type, entry)) != [str, int, str]:
            return None
        name, size, digest = entry
        blobs[name] = raw[at : at + size]
        if size < 0 or hashlib.sha256(blobs[name]).hexdigest() != digest:
            return None
        at += size
    names = [entry[0] for entry in value["blobs"]]
    if at != start or names != sorted(set(names)):
        return None
    return Parsed(value, blobs, raw[-64:], text)


def signed_by(key, message, signature):
    if len(signature) != 64 or int.from_bytes(signature[32:], "little") >= GROUP_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass
class Draft:
    """A message taken apart, to be changed and put together again."""

    value: object
    blobs: list
    tail: bytes
    honest: bool = True

    @classmethod
    def of(cls, raw):
        length = int.from_bytes(raw[-68:-64], "little")
        start = len(raw) - 68 - length
        if len(raw) < 76 or start < 8:
            raise ValueError("no envelope left")
        value = json.loads(raw[start : start + length])
        blobs, at = [], 8
        for name, size, _ in value["blobs"]:
            blobs.append((name, raw[at : at + size]))
            at += size
        return cls(value, blobs, raw[-64:])

    def to_bytes(self, text=None):
        if self.honest:
            self.value["blobs"] = [
                [name, len(blob), hashlib.sha256(blob).hexdigest()] for name, blob in self.blobs
            ]
        text = dumped(self.value) if text is None else text
        body = b"".join(blob for _, blob in self.blobs)
        return MAGIC + body + text + struct.pack("<I", len(text)) + self.tail


def dumped(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def signed(raw, sign):
    """The same bytes with a signature over what stands where a statement must stand."""
    if len(raw) < 76:
        return raw
    length = min(int.from_bytes(raw[-68:-64], "little"), len(raw) - 76)
    text = raw[len(raw) - 68 - length : len(raw) - 68]
    return raw[:-64] + sign(DOMAIN + hashlib.sha256(text).digest())


def to_sign(terms, sender, kind, own, blobs):
    """What a sender signs of a message that states `own` beside the terms of its round."""
    statement = {
        "schema": 5, "run": terms.run, "round": terms.round, "sender": sender, "kind": kind,
        "manifest": {**terms.manifest, **own}, "blobs": blobs,
    }  # fmt: skip
    return DOMAIN + hashlib.sha256(canonical(statement)).digest()


def agreement_to(listed):
    """What an agreement states of the contributions that it is for."""
    return {"listing": hashlib.sha256(canonical(listed)).hexdigest()}


def stated(raw, key):
    """The sender or kind that a message names, if it can still be found."""
    try:
        return Draft.of(raw).value[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
