"""What anybody reads from a file or a pipe: rosters, identities, frames, wrapped keys."""

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
from tests.fuzz.byte_mutators import BYTE_STEPS
from tests.fuzz.envelopes import ROSTER_DOMAIN, canonical, no_repeats, signed_by
from tests.fuzz.holder_targets import Trickle
from tests.fuzz.protocol_mutators import JSON_STEPS
from tests.fuzz.target import Target


class FileTarget(Target):
    """Reads one JSON document or another whole file."""

    steps = JSON_STEPS

    def __init__(self, world, base, read, judge, errors=(MessageError,), steps=None):
        self.read, self.judge_bytes = read, judge
        self.errors, self.steps = errors, steps or self.steps
        super().__init__(world, base, [base], base)

    def feed(self, raw):
        return self.read(raw)

    def judge(self, raw, result):
        return self.judge_bytes(raw, result)


def file_targets(world):
    path = world.folder / "mutated.identity"

    def load(raw):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
        return Identity.load(path)

    def judge_identity(raw, _):
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

    def judge_roster(raw, _):
        value = json.loads(raw, object_pairs_hook=no_repeats)
        content = {key: new for key, new in value.items() if key != "signature"}
        if canonical(value) + b"\n" != raw:
            return "it is not canonical"
        signature = bytes.fromhex(value["signature"])
        message = ROSTER_DOMAIN + canonical(content)
        if not signed_by(world.authority.party.signing_key, message, signature):
            return "forged: the authority did not sign it"
        if set(content) != {"schema", "federation", "parties", "authority"}:
            return "it has other fields"
        names = [unicodedata.normalize("NFKC", p["name"]).casefold() for p in value["parties"]]
        kinds = ("signing_key", "wrapping_key", "transport_key")
        keys = [p[k] for p in value["parties"] for k in kinds if p[k] or k != "transport_key"]
        distinct = len(set(names)) == len(names) and len(set(keys)) == len(keys)
        return None if names and distinct else "names or keys repeat"

    def same_json(raw, result):
        again = canonical(result.to_json())
        return None if again == canonical(json.loads(raw)) else "it was read as another"

    def same_party(raw, party):
        return None if canonical(party.to_json()) + b"\n" == raw else "it was read as another"

    def judge_framed(raw, message):
        if message is None:
            return None if raw == b"" else "bytes were taken for the end"
        size = int.from_bytes(raw[:8], "little")
        fits = size <= 1 << 20 and message == raw[8 : 8 + size] and len(message) == size
        return None if len(raw) >= 8 and fits else "it was read as another"

    def value_of(raw):
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise MessageError("no JSON") from error

    key = world.authority.party.signing_key
    kinds = {"shared": BFVParameters, "holder": BFVParameters, "ckks": CKKSParameters}
    north = world.identities["north"]
    both = (MessageError, IdentityError)
    yield FileTarget(
        world, "roster", lambda raw: Roster.from_bytes(raw, authority=key), judge_roster
    )
    yield FileTarget(world, "identity", load, judge_identity, both)
    yield FileTarget(world, "party", Party.from_bytes, same_party)
    for kind, parameters in kinds.items():
        yield FileTarget(
            world,
            f"parameters/{kind}",
            lambda raw, read=parameters.from_json: read(value_of(raw)),
            same_json,
        )
    yield FileTarget(
        world, "contribution", lambda raw: Contribution.from_json(value_of(raw)), same_json
    )
    yield FileTarget(
        world,
        "frame",
        lambda raw: streams.receive(Trickle(raw), most=1 << 20),
        judge_framed,
        steps=BYTE_STEPS,
    )
    yield FileTarget(
        world,
        "wrapped",
        lambda raw: unwrap(raw, north, world.wrapping_context),
        lambda raw, secret: None if raw == world.messages["wrapped"] and secret == world.secret
        else "forged: others can wrap to this context unseen",
        (EncryptionError,),
        BYTE_STEPS,
    )  # fmt: skip
