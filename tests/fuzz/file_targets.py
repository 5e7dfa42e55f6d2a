"""What anybody reads without a state: envelopes, rosters, identities, frames, wrapped keys."""

import hashlib
import json
import os
import struct
import unicodedata

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privfed.custody.wrapping import unwrap
from privfed.encryption.ckks import CKKSParameters
from privfed.encryption.parameters import BFVParameters
from privfed.errors import EncryptionError, IdentityError, MessageError
from privfed.identity.keys import Identity, Party
from privfed.identity.roster import Roster
from privfed.protocol import streams
from privfed.protocol.contributions import Contribution
from privfed.protocol.envelopes import Envelope
from tests.fuzz.envelopes import MAGIC, ROSTER_DOMAIN, canonical, no_repeats, signed_by, well_formed
from tests.fuzz.holder_targets import Trickle
from tests.fuzz.recipes import BYTES, DOCUMENT, EVERYTHING
from tests.fuzz.target import Target


class FileTarget(Target):
    """A function that reads bytes, and one that says what is wrong with what was read."""

    def __init__(self, world, valid, read, judge, steps=DOCUMENT, errors=(MessageError,)):
        self.feed, self.judge, self.steps, self.errors = read, judge, steps, errors
        super().__init__(world, [valid], valid)


def envelope_target(world):
    """Reads any envelope; signatures are not its business."""

    def judge(raw, envelope):
        parsed = well_formed(raw)
        if parsed is None:
            return "it is not well-formed"
        same = {name: bytes(blob) for name, blob in envelope.blobs.items()} == parsed.blobs
        return None if same and envelope.signature == raw[-64:] else "it was read as another"

    target = FileTarget(world, "shared/sum", Envelope.from_bytes, judge, EVERYTHING)
    target.bases = sorted(name for name, raw in world.messages.items() if raw.startswith(MAGIC))
    return target


def identity_target(world):
    path = world.folder / "mutated.identity"

    def load(raw):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
        return Identity.load(path)

    def judge(raw, _):
        body = raw[:-32]
        if hashlib.sha256(body).digest() != raw[-32:]:
            return "forged: its checksum is wrong"
        _, _, signing, wrapping, length = struct.unpack_from("<17sI32s32sI", body)
        party = json.loads(body[89:])
        pair = (
            Ed25519PrivateKey.from_private_bytes(signing).public_key().public_bytes_raw().hex(),
            X25519PrivateKey.from_private_bytes(wrapping).public_key().public_bytes_raw().hex(),
        )
        whole = length == len(body) - 89 and canonical(party) == body[89:]
        fits = pair == (party["signing_key"], party["wrapping_key"])
        return None if whole and fits else "its keys do not belong together"

    return FileTarget(world, "identity", load, judge, errors=(MessageError, IdentityError))


def roster_target(world):
    key = world.authority.party.signing_key

    def judge(raw, _):
        value = json.loads(raw, object_pairs_hook=no_repeats)
        content = {key: new for key, new in value.items() if key != "signature"}
        if canonical(value) + b"\n" != raw:
            return "it is not canonical"
        signature = bytes.fromhex(value["signature"])
        if not signed_by(key, ROSTER_DOMAIN + canonical(content), signature):
            return "forged: the authority did not sign it"
        if set(content) != {"schema", "federation", "parties", "authority"}:
            return "it has other fields"
        names = [unicodedata.normalize("NFKC", p["name"]).casefold() for p in value["parties"]]
        kinds = ("signing_key", "wrapping_key", "transport_key")
        keys = [p[k] for p in value["parties"] for k in kinds if p[k] or k != "transport_key"]
        distinct = len(set(names)) == len(names) and len(set(keys)) == len(keys)
        return None if names and distinct else "names or keys repeat"

    return FileTarget(world, "roster", lambda raw: Roster.from_bytes(raw, authority=key), judge)


def party_target(world):
    def judge(raw, party):
        return None if canonical(party.to_json()) + b"\n" == raw else "it was read as another"

    return FileTarget(world, "party", Party.from_bytes, judge)


def json_target(world, valid):
    """Parameters, or a contribution, which other messages contain."""
    kinds = {"parameters/ckks": CKKSParameters, "contribution": Contribution}

    def read(raw):
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise MessageError("no JSON") from error
        return kinds.get(valid, BFVParameters).from_json(value)

    def judge(raw, result):
        same = canonical(result.to_json()) == canonical(json.loads(raw))
        return None if same else "it was read as another"

    return FileTarget(world, valid, read, judge)


def frame_target(world):
    def read(raw):
        return streams.receive(Trickle(raw), most=1 << 20)

    def judge(raw, message):
        if message is None:
            return None if raw == b"" else "bytes were taken for the end"
        size = int.from_bytes(raw[:8], "little")
        fits = size <= 1 << 20 and message == raw[8 : 8 + size] and len(message) == size
        return None if len(raw) >= 8 and fits else "it was read as another"

    return FileTarget(world, "frame", read, judge, (BYTES,))


def wrapped_target(world):
    def read(raw):
        return unwrap(raw, world.identities["north"], world.wrapping_context)

    def judge(raw, secret):
        same = raw == world.messages["wrapped"] and secret == world.secret
        return None if same else "forged: others can wrap to this context unseen"

    return FileTarget(world, "wrapped", read, judge, (BYTES,), (EncryptionError,))
