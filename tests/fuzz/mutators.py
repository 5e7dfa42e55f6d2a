"""From a recipe's steps to bytes: change a valid message, sign it as somebody, change it once more.

Changes that need this themselves (a message inside a message, a signature) are here too.
"""

import faulthandler
import hashlib
import json
import random

from privfed.errors import EncryptionError, MessageError
from tests.fuzz import blob_mutators, byte_mutators, json_mutators, protocol_mutators
from tests.fuzz.blob_mutators import picked
from tests.fuzz.byte_mutators import flip
from tests.fuzz.envelopes import GROUP_ORDER, MAGIC, ROSTER_DOMAIN, Draft, canonical, signed, stated

NOTHING_LEFT = (
    EncryptionError, MessageError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    StopIteration, RecursionError, ArithmeticError,
)  # fmt: skip
"""What a step raises if an earlier one, or the form of the base, left nothing to work on."""


def inner_message(data, chance, world, steps, signer, blob=None):
    """A change of a message inside a message, such as an answer among answers."""
    draft = Draft.of(data)
    index, name, raw = picked(draft, chance, blob)
    draft.blobs[index] = (name, prepared(world, raw, steps, signer))
    return draft.to_bytes()


def signature(data, chance, world, how):
    """After all signing: the last 64 bytes."""
    body, old = data[:-64], data[-64:]
    if how == "remove":
        return body
    if how == "swap":
        return body + world.messages[chance.choice(sorted(world.messages))][-64:]
    if how == "malleate":
        scalar = int.from_bytes(old[32:], "little") + GROUP_ORDER
        return body + old[:32] + (scalar % (1 << 256)).to_bytes(32, "little")
    if how == "digest":  # the sender's signature over the same digest, without its label
        length = min(int.from_bytes(data[-68:-64], "little"), max(len(data) - 76, 0))
        text = data[len(data) - 68 - length : len(data) - 68]
        return body + signer_of(world, data, "sender")(hashlib.sha256(text).digest())
    if how == "identity":  # R the neutral point, S = 0: verifies under keys of small order
        return body + b"\x01" + bytes(63)
    return body + (bytes(64) if how == "zero" else chance.randbytes(64))


def crash(data, chance, world):
    """A native crash, to see that it is noticed."""
    faulthandler._sigsegv()


def prepared(world, base, steps, signer, after=()):
    """The bytes of a recipe: change a valid message, sign it as somebody, change it once more."""
    raw = _changed(world, base, steps)
    if signer != "kept" and base.startswith(MAGIC):
        sign = signer_of(world, base if signer == "sender" else raw, signer)
        raw = signed(raw, sign) if raw.startswith(MAGIC) else raw
    elif signer == "sender" and base.startswith(b"privfed-identity\n"):
        raw = raw[:-32] + hashlib.sha256(raw[:-32]).digest()
    elif signer == "sender" and base == world.messages["roster"]:
        raw = _roster_signed(world, raw)
    return _changed(world, raw, after)


def signer_of(world, raw, who):
    """A function that signs: as a name, as who the message names, or as nobody enrolled."""
    who = stated(raw, "sender") if who in ("sender", "stated") else who
    known = world.identities.get(who) if isinstance(who, str) else None
    return (known or world.outsider).sign


def mutator(name):
    here = {"inner_message": inner_message, "signature": signature, "crash": crash}
    modules = (byte_mutators, json_mutators, blob_mutators, protocol_mutators)
    return here.get(name) or next(vars(each)[name] for each in modules if name in vars(each))


def _changed(world, raw, steps):
    for step in steps:
        arguments = {key: value for key, value in step.items() if key not in ("do", "seed")}
        chance = random.Random(step.get("seed", 0))
        try:
            raw = mutator(step["do"])(raw, chance, world, **arguments)
        except NOTHING_LEFT:
            raw = flip(raw, chance, world)
    return raw


def _roster_signed(world, raw):
    try:
        value = json.loads(raw)
        content = canonical({key: new for key, new in value.items() if key != "signature"})
    except (ValueError, AttributeError, RecursionError):
        return raw
    old = value.get("signature")
    new = world.authority.sign(ROSTER_DOMAIN + content).hex()
    return raw.replace(old.encode(), new.encode()) if isinstance(old, str) and old else raw
