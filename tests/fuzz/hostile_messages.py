"""Hostile messages against everything in the encrypted aggregation that reads bytes from outside.

A *recipe* says which entry point gets which valid message, changed how, and signed by whom. It
names positions relative to lengths and carries seeds, so it fits messages under fresh keys: keys
and ciphertexts are new in every run, recipes repeat. What an entry point accepts is judged here,
by a reader of its own that shares nothing with the code under test but the signature library: a
message that its claimed sender did not sign, or that differs from the round's terms or from the
documented structure, must be refused, with a documented error, in time, without a word on standard
output, and without harm to the state.

Run as a script, it plays recipes in a process of its own, so that a native crash is a finding too:

    python tests/fuzz/hostile_messages.py --messages 20000 --seed 0

prints a JSON summary. `--defects FILE` writes what was found as recipes for `corpus.json`.
"""

import argparse
import base64
import contextlib
import faulthandler
import hashlib
import io
import itertools
import json
import logging
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from accountants import Anchor
from privfed import framing
from privfed.config import Custody
from privfed.custody import key_exchange, serving
from privfed.custody.ckks import CKKSCipher, shared_ckks_context
from privfed.custody.key_holder import KeyHolder
from privfed.custody.keys import SharedSecret, shared_context
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.custody.wrapping import unwrap, wrap
from privfed.encryption import frames, residues
from privfed.encryption.adding import BFVAdder
from privfed.encryption.ckks import CKKSParameters, ckks_shape, derive_ckks
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import BFVParameters, derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.errors import ConfigError, EncryptionError, IdentityError, MessageError
from privfed.identity.contributions import Contribution
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster
from privfed.messages import Envelope, Terms, envelope_bytes, write_envelope
from privfed.server.aggregate import Aggregator
from privfed.server.closing import HolderOpens

CORPUS = Path(__file__).with_name("corpus.json")
MOST_SECONDS = 2.0
REAL_PER_CPU = 10
MOST_GROWTH = 200 << 20
CHECK_EVERY = 40

CLIENTS = ("east", "north", "south", "west")
ABSENT = "zeta"
PARAMS, CKKS_PARAMS, BITS, MIN_CLIENTS = 24, 4100, 8, 3
MAGIC = b"PRIVFED\x02"
DOMAIN = b"privfed message 2\n"
ROSTER_DOMAIN = b"privfed roster 1\n"
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
STATEMENT_KEYS = {"schema", "run", "round", "sender", "kind", "manifest", "blobs"}
LEDGER = {"length": 2, "head": "00" * 32}


# A reader and a writer of messages, independent of the code under test.


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _no_repeats(pairs):
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
        value = json.loads(text, object_pairs_hook=_no_repeats)
        exact = canonical(value) == text
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not exact or not isinstance(value, dict) or set(value) != STATEMENT_KEYS:
        return None
    if type(value["schema"]) is not int or value["schema"] != 2:
        return None
    if type(value["round"]) is not int or value["round"] < 0:
        return None
    if not all(isinstance(value[key], str) for key in ("run", "sender", "kind")):
        return None
    if not isinstance(value["manifest"], dict) or not isinstance(value["blobs"], list):
        return None
    blobs, at, names = {}, 8, []
    for entry in value["blobs"]:
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], str):
            return None
        name, size, digest = entry
        if type(size) is not int or not 0 <= size <= start - at:
            return None
        blobs[name] = raw[at : at + size]
        if hashlib.sha256(blobs[name]).hexdigest() != digest:
            return None
        at += size
        names.append(name)
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


# The parties and their valid messages.


class World:
    """All parties, and by name every valid message of rounds under each custody."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.authority = Identity.generate("board", Role.AUTHORITY)
        names = [*CLIENTS, ABSENT]
        parties = [Identity.generate(name, Role.CLIENT) for name in names]
        parties.append(Identity.generate("server", Role.AGGREGATOR))
        parties.append(Identity.generate("holder", Role.KEY_HOLDER))
        self.identities = {each.party.name: each for each in parties}
        self.keys = {name: each.party.signing_key for name, each in self.identities.items()}
        self.roster = Roster.signed("fuzzed", [each.party for each in parties], self.authority)
        self.outsider = Identity.generate("stranger", Role.CLIENT)
        generator = np.random.default_rng(7)
        largest = (1 << (BITS - 1)) - 1
        self.numbers = {
            name: generator.integers(-largest, largest + 1, PARAMS).astype("<i2")
            for name in CLIENTS
        }
        self.floats = {name: generator.uniform(-1, 1, CKKS_PARAMS) for name in CLIENTS}
        sizes = {"num_clients": len(CLIENTS), "bits": BITS, "num_params": PARAMS}
        self.parameters = {
            "shared": derive(custody=Custody.SHARED_KEY, **sizes),
            "holder": derive(custody=Custody.KEY_HOLDER, **sizes),
            "ckks": derive_ckks(num_clients=len(CLIENTS), num_params=CKKS_PARAMS),
        }
        self.contexts = {
            "shared": (
                shared_context(self.parameters["shared"]),
                frames.ciphertext_shape(self.parameters["shared"]),
            ),
            "ckks": (shared_ckks_context(), ckks_shape(self.parameters["ckks"])),
        }
        self.secrets = {kind: SharedSecret.generate(*made) for kind, made in self.contexts.items()}
        self.messages = {}
        self._add_rounds()
        self._add_keys()
        self._add_files()

    def terms(self, kind, run="fuzzed", number=1):
        parameters = self.parameters.get(kind)
        manifest = {"base": "00" * 32, "roster": self.roster.digest().hex()}
        manifest["encryption"] = parameters.to_json() if parameters else {"scheme": "none"}
        if kind in self.secrets and number:
            manifest["key_id"] = self.secrets[kind].key_id
        return Terms(run=run, round=number, manifest=manifest)

    def cipher(self, kind, name="west"):
        if kind == "plain":
            return PlainCipher(PARAMS, len(CLIENTS), self.roster, MIN_CLIENTS)
        if kind == "holder":
            identity = self.identities[name]
            return RoundKeyCipher(self.parameters[kind], identity, self.roster, MIN_CLIENTS)
        cipher = CKKSCipher if kind == "ckks" else SharedKeyCipher
        return cipher(self.parameters[kind], self.secrets[kind], self.roster, MIN_CLIENTS)

    def aggregator(self, kind, terms):
        plain = kind == "plain"
        adder = PlainAdder(PARAMS, 127) if plain else BFVAdder(self.parameters[kind])
        self.adder = adder
        return Aggregator(
            identity=self.identities["server"],
            roster=self.roster,
            terms=terms,
            cohort=CLIENTS,
            anchors=dict.fromkeys(CLIENTS, Anchor(length=1, head="00" * 32)),
            adder=adder,
            min_clients=MIN_CLIENTS,
        )

    def update(self, kind, name, terms, cipher):
        sink = io.BytesIO()
        numbers = self.floats if kind == "ckks" else self.numbers
        write_envelope(
            sink,
            self.identities[name].sign,
            run=terms.run,
            round=terms.round,
            sender=name,
            kind="update",
            manifest={**terms.manifest, "ledger": LEDGER},
            blobs=cipher.encrypt(terms, numbers[name]),
        )
        return sink.getvalue()

    def exact(self, names):
        return sum(self.numbers[name].astype(np.int64) for name in names)

    def _add_rounds(self):
        rounds = {"": ("fuzzed", 1), "/later": ("fuzzed", 2), "/elsewhere": ("other run", 1)}
        for kind, (where, (run, number)) in itertools.product(
            ("shared", "ckks", "plain"), rounds.items()
        ):
            terms, cipher = self.terms(kind, run, number), self.cipher(kind)
            aggregator = self.aggregator(kind, terms)
            for name in CLIENTS:
                message = self.update(kind, name, terms, cipher)
                aggregator.receive(message)
                self.messages[f"{kind}{where}/update/{name}"] = message
            self.messages[f"{kind}{where}/sum"] = aggregator.total()
        for where, (run, number) in rounds.items():
            made = HolderRound(self, run, number).played("finished")
            self.messages |= {f"holder{where}/{name}": raw for name, raw in made.messages.items()}

    def _add_keys(self):
        maker = self.identities["east"]
        for kind, (context, shape) in self.contexts.items():
            terms = self.terms(kind, number=0)
            secret = self.secrets[kind]
            self.messages[f"{kind}/key"] = key_exchange.share_secret(
                secret, maker, self.roster, terms
            )
            content = secret.to_bytes()
            head, body = content[:48], content[48:]
            hostile = {
                "zero": head + bytes(len(body)),
                "maximal": head + b"\xff" * len(body),
                "short": content[:-1],
                "long": content + b"\0",
                "head only": head,
                "one byte": b"\0",
                "not ternary": head + b"\x5a\xa5" * (len(body) // 2),
                "other name": bytes(16) + content[16:],
            }
            for name, wrapped in hostile.items():
                fake = _FakeSecret(secret.key_id, wrapped)
                self.messages[f"{kind}/key/{name}"] = key_exchange.share_secret(
                    fake, maker, self.roster, terms
                )
            other = SharedSecret.generate(context, shape)
            self.messages[f"{kind}/key/other"] = key_exchange.share_secret(
                other, self.identities["south"], self.roster, terms
            )

    def _add_files(self):
        path = self.folder / "original.identity"
        self.identities["north"].save(path)
        self.messages["identity"] = path.read_bytes()
        self.messages["roster"] = self.roster.to_bytes()
        self.messages["party"] = self.identities["north"].party.to_bytes()
        for kind, parameters in self.parameters.items():
            self.messages[f"parameters/{kind}"] = canonical(parameters.to_json()) + b"\n"
        listed = Draft.of(self.messages["shared/sum"]).value["manifest"]["contributions"]
        self.messages["contribution"] = canonical(listed[0]) + b"\n"
        self.secret = b"a secret of thirty-two bytes ..."
        self.wrapping_context = b"of the fuzzer"
        self.messages["wrapped"] = wrap(
            self.secret, self.identities["north"].party, self.wrapping_context
        )
        opening = self.messages["holder/open-round"]
        asked = [opening, self.messages["holder/result"], opening]
        self.messages["stream"] = b"".join(struct.pack("<Q", len(m)) + m for m in asked)
        self.messages["frame"] = struct.pack("<Q", 300) + bytes(range(150)) * 2


class _FakeSecret:
    """What a hostile maker wraps instead of a key."""

    def __init__(self, key_id, content):
        self.key_id, self.content = key_id, content

    def to_bytes(self):
        return self.content


class HolderRound:
    """A key holder, brought to one of its states, and the messages that led there."""

    STATES = ("new", "opened", "committed", "finished")

    def __init__(self, world, run="fuzzed", number=1):
        self.world = world
        folder = tempfile.mkdtemp(dir=world.folder)
        identity = world.identities["holder"]
        self.results = Path(folder)
        self.holder = KeyHolder(identity, world.roster, self.results, MIN_CLIENTS)
        self.agreed = world.terms("holder", run, number)
        self.messages = {"open-round": self.by_server(self.agreed, "open-round")}

    def by_server(self, terms, kind, blobs=None):
        sign = self.world.identities["server"].sign
        return envelope_bytes(sign, terms, sender="server", kind=kind, blobs=blobs)

    def played(self, state):
        until = self.STATES.index(state)
        for step in (self.open, self.commit, self.finish)[:until]:
            step()
        return self

    def open(self):
        world, sent = self.world, self.messages
        sent["round-key"] = self.holder.receive(sent["open-round"])
        self.ciphers = {name: world.cipher("holder", name) for name in CLIENTS}
        for cipher in self.ciphers.values():
            self.terms = cipher.accept_key(self.agreed, sent["round-key"])
        aggregator = world.aggregator("holder", self.terms)
        for name, cipher in self.ciphers.items():
            sent[f"update/{name}"] = world.update("holder", name, self.terms, cipher)
            aggregator.receive(sent[f"update/{name}"])
        sent["sum"] = aggregator.total()
        identity, refused = world.identities["holder"], sent["open-round"]
        sent["refusal"] = serving._refusal(identity, refused, "none of your business")

    def commit(self):
        sent = self.messages
        sent["challenge"] = self.holder.receive(sent["sum"])
        answers = {
            name: cipher.answer(self.terms, sent["challenge"], sent[f"update/{name}"])
            for name, cipher in self.ciphers.items()
        }
        sent |= {f"answer/{name}": answer for name, answer in answers.items()}
        sent["answers"] = self.by_server(self.terms, "answers", answers)

    def finish(self):
        self.messages["result"] = self.holder.receive(self.messages["answers"])

    def remove(self):
        for path in self.results.iterdir():
            path.unlink()
        self.results.rmdir()


# Mutators. Each takes bytes, a source of chances and its own arguments, and returns bytes.


def at(data, where):
    return min(int(where * len(data)), max(len(data) - 1, 0))


def flip(data, chance, world, where=None, count=1):
    changed = bytearray(data)
    for _ in range(count if changed else 0):
        place = at(data, chance.random() if where is None else where)
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flips(data, chance, world):
    return flip(data, chance, world, count=chance.randint(2, 64))


def flip_tail(data, chance, world):
    """Where statement, length and signature are."""
    back = min(len(data), chance.choice([64, 68, 72, 400, 2000]))
    where = (len(data) - 1 - chance.randrange(back)) / len(data) if data else 0
    return flip(data, chance, world, where=where)


def cut_end(data, chance, world, keep=None):
    keep = keep if keep is not None else chance.choice([chance.random(), 0.999, 0.001])
    return data[: at(data, keep)]


def cut_start(data, chance, world):
    return data[at(data, chance.choice([chance.random(), 0.001])) :]


def cut_middle(data, chance, world):
    first, last = sorted((at(data, chance.random()), at(data, chance.random())))
    return data[:first] + data[last:]


def extend(data, chance, world, where=None, content=None):
    content = chance.randbytes(chance.choice([1, 8, 64, 5000])) if content is None else content
    content = content.encode() if isinstance(content, str) else content
    place = chance.choice([0, len(data), at(data, chance.random())])
    place = place if where is None else int(where * len(data))
    return data[:place] + content + data[place:]


def other_message(chance, world, other):
    return world.messages[other or chance.choice(sorted(world.messages))]


def splice(data, chance, world, other=None):
    tail = other_message(chance, world, other)
    return data[: at(data, chance.random())] + tail[at(tail, chance.random()) :]


def append_message(data, chance, world, other=None):
    return data + other_message(chance, world, other)


def repeat_slice(data, chance, world):
    first, last = sorted((at(data, chance.random()), at(data, chance.random())))
    return data[:last] + data[first:last] + data[last:]


def swap_halves(data, chance, world):
    return data[len(data) // 2 :] + data[: len(data) // 2]


def noise(data, chance, world):
    return chance.randbytes(chance.choice([1, 7, 8, 75, 76, 77, 300, len(data)]))


def headed_noise(data, chance, world):
    return MAGIC + chance.randbytes(chance.choice([0, 67, 68, 69, 500]))


def empty(data, chance, world):
    return b""


def oversized(data, chance, world, mebibytes=None):
    mebibytes = mebibytes or chance.choice([1, 2, 4])
    place = chance.choice([8, len(data), max(len(data) - 68, 0)])
    # Zeros in a stream are so many empty messages, each of which gets its answer: too slow here.
    filling = b"\0" if data.startswith(MAGIC) else b"\xff"
    return data[:place] + filling * (mebibytes << 20) + data[place:]


def length_lie(data, chance, world, value=None):
    """Another length of the statement, or of the frame."""
    if value is None:
        value = chance.choice([0, 1, 2**22, 2**22 + 1, 2**31, 2**32 - 1, chance.randrange(2000)])
    if not data.startswith(MAGIC):
        return struct.pack("<Q", value * chance.choice([1, 2**31])) + data[8:]
    return data[:-68] + struct.pack("<I", value) + data[-64:]


def document(data):
    """The JSON value in a message or file, and how to write it back."""
    if data.startswith(MAGIC):
        draft = Draft.of(data)
        draft.honest = False

        def write(value, text=None):
            draft.value = value
            return draft.to_bytes(text)

        return draft.value, write
    if data.startswith(b"privfed-identity\n"):
        value = json.loads(data[89:-32])

        def write(value, text=None):
            text = dumped(value) if text is None else text
            return data[:85] + struct.pack("<I", len(text)) + text + data[-32:]

        return value, write
    return json.loads(data), lambda value, text=None: (text or dumped(value)) + b"\n"


def paths_of(value, prefix=()):
    yield prefix
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from paths_of(inner, (*prefix, key))


def within(value, path):
    for key in path:
        value = value[key]
    return value


def replaced(value, path, new):
    if not path:
        return new
    within(value, path[:-1])[path[-1]] = new
    return value


def nested(depth, inner=0):
    for _ in range(depth):
        inner = [inner]
    return inner


HOSTILE_VALUES = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 10**4299, 10**5000,
    -(10**4000), 0.0, -0.0, 1.0, 1.5, 1e308, "", " ", "0", "1", "\0", "\ud800", "e\u0301", "\u0663",
    "\uff10", "x" * 5000, "../east", "/", "east", "holder", "server", "00" * 32, [], {}, [[]],
    [None], ["east", "east"], [1, 2, 3], {"": {}}, {"length": 1, "head": "00" * 32},
)  # fmt: skip


def json_node(data, chance, world, where=None):
    value, write = document(data)
    paths = list(paths_of(value))
    path = tuple(where) if where is not None else chance.choice(paths)
    return value, write, path


def json_delete(data, chance, world, where=None):
    value, write, path = json_node(data, chance, world, where)
    if path:
        del within(value, path[:-1])[path[-1]]
    return write(value)


def json_set(data, chance, world, where=None, **given):
    value, write, path = json_node(data, chance, world, where)
    new = given["value"] if "value" in given else chance.choice(HOSTILE_VALUES)
    return (
        write(replaced(value, path, new)) if _writable(new) else _written(value, path, new, write)
    )


def _writable(new):
    return not (isinstance(new, int) and abs(new) >= 10**4300)


def _written(value, path, new, write):
    """Numbers that Python itself does not write out."""
    text = dumped(replaced(value, path, "@@")).replace(b'"@@"', b"1" + b"0" * 5000)
    return write(value, text)


def json_text(data, chance, world, where=None, text=None):
    """A value that only text can hold: NaN, infinity, deep nesting, many digits."""
    value, write, path = json_node(data, chance, world, where)
    deep = chance.choice([31, 33, 900, 20000, 200000])
    choices = ["NaN", "-Infinity", "1e999", "1" * 4301, "-0", "1.0", "1e0", "[" * deep + "]" * deep]
    choices += ['{"a":' * deep + "1" + "}" * deep, '"\\ud800"', '"\\u0065\\u0061st"', "01", "+1"]
    text = chance.choice(choices) if text is None else text
    old = dumped(replaced(value, path, "@@"))
    return write(value, old.replace(b'"@@"', text.encode(), 1))


def json_add(data, chance, world, where=None, key=None, **given):
    value, write, path = json_node(data, chance, world, where)
    node = within(value, path)
    new = given["value"] if "value" in given else chance.choice([0, None, "x", {}, "00" * 32])
    if isinstance(node, dict):
        node[chance.choice(["x", "", "key_id", "values"]) if key is None else key] = new
    elif isinstance(node, list):
        node.insert(chance.randint(0, len(node)), new)
    return write(value)


def json_double(data, chance, world, where=None):
    """A list's entry twice; or an object's key twice, in the text."""
    value, write, path = json_node(data, chance, world, where)
    if not path:
        return write(value)
    node = within(value, path[:-1])
    if isinstance(node, list):
        node.insert(path[-1], node[path[-1]])
        return write(value)
    text, key = dumped(value), dumped(path[-1]) + b":"
    return write(value, text.replace(key, key + b"0," + key, 1))


def json_retype(data, chance, world, where=None):
    value, write, path = json_node(data, chance, world, where)
    old = within(value, path)
    forms = [str(old), [old], {"value": old}, bool(old)]
    if isinstance(old, int | float):
        forms += [float(old) if abs(old) < 1e300 else 0.0, -old, str(old) + " "]
    if isinstance(old, str):
        forms += [old.upper(), old + "\0", unicodedata.normalize("NFD", old), list(old)]
        forms += [old.translate({i: i + 0xFEE0 for i in range(33, 127)})]
        forms += [int(old)] if old.isdecimal() and len(old) < 4300 else []
    return write(replaced(value, path, chance.choice(forms)))


def json_swap(data, chance, world):
    value, write = document(data)
    paths = [path for path in paths_of(value) if path]
    if len(paths) < 2:
        return write(value)
    first, second = chance.sample(paths, 2)
    one, two = within(value, first), within(value, second)
    if first[: len(second)] == second or second[: len(first)] == first:
        return write(replaced(value, first, None))
    return write(replaced(replaced(value, first, two), second, one))


def json_foreign(data, chance, world, other=None, where=None):
    """A field of another message of the same form."""
    value, write = document(data)
    foreign, _ = document(other_message(chance, world, other))
    common = [p for p in paths_of(value) if p and p in set(paths_of(foreign))]
    if not common:
        return write(value)
    path = tuple(where) if where is not None else chance.choice(common)
    return write(replaced(value, path, within(foreign, path)))


def json_form(data, chance, world, form=None):
    """The same meaning in another form."""
    value, write = document(data)
    form = form or chance.choice(["indent", "spaces", "reverse", "raw", "bom", "newline", "utf16"])
    if form == "indent":
        text = json.dumps(value, sort_keys=True, indent=1).encode()
    elif form == "spaces":
        text = json.dumps(value, sort_keys=True).encode()
    elif form == "reverse":
        ordered = dict(sorted(value.items(), reverse=True)) if isinstance(value, dict) else value
        text = json.dumps(ordered, separators=(",", ":")).encode()
    elif form == "raw":
        text = dumped(value).replace(b"s", b"\\u0073", 1)
    elif form == "bom":
        text = b"\xef\xbb\xbf" + dumped(value)
    elif form == "newline":
        text = dumped(value) + b"\n"
    else:
        text = dumped(value).decode().encode("utf-16")
    return write(value, text)


FIELDS = {
    ("round",): (0, 2, 3, 10**30), ("run",): ("other run", "", "FUZZED"),
    ("kind",): ("update", "sum", "answers", "open-round", "result", "challenge", "round-key",
                "answer", "shared-key", "refusal", "nothing"),
    ("sender",): (*CLIENTS, ABSENT, "server", "holder", "stranger", "East", "e\u0430st"),
    ("schema",): (1, 3, 2.0, "2", True),
    ("manifest", "base"): ("11" * 32, "00" * 31, None), ("manifest", "roster"): ("11" * 32,),
    ("manifest", "key_id"): ("00" * 16, ""), ("manifest", "encryption", "num_clients"): (1000, 5),
    ("manifest", "encryption", "num_params"): (1, 10**30, 10**4299, 10**4300 - 1),
    ("manifest", "encryption", "bits"): (16, 10**6, -1),
    ("manifest", "encryption", "custody"): ("shared_key", "key_holder", "nobody"),
    ("manifest", "encryption", "plain_modulus"): (65537,),
    ("manifest", "encryption", "scheme"): ("CKKS", "none"),
    ("manifest", "software"): ({"tenseal": "0.3.16", "seal": "4.1"}, {}, None),
    ("manifest", "ledger", "length"): (0, 1, -1, 3, 10**300, True, 2.0),
    ("manifest", "contributors"): ([], ["east"], ["east"] * 4, ["zeta", *CLIENTS], [{}, {}, {}]),
    ("manifest", "seed"): ("", "00" * 31, "00" * 33, "zz" * 32, 5, "\u0660" * 64),
    ("manifest", "values"): ([], ["1"], ["-1", "1"], [1, 2], ["9" * 5000, "1"], ["\u0661", "2"]),
    ("manifest", "challenge"): ("00" * 32, None), ("manifest", "of"): ("00" * 32,),
}  # fmt: skip


def field_lie(data, chance, world):
    """A field of the protocol with a value that belongs elsewhere."""
    value, write = document(data)
    known = [path for path in FIELDS if _has(value, path)]
    path = chance.choice(known) if known else ()
    return write(replaced(value, path, chance.choice(FIELDS[path]))) if path else data


def crash(data, chance, world):
    """A native crash, to see that the runner notices."""
    faulthandler._sigsegv()


def _has(value, path):
    try:
        within(value, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def claim(data, chance, world, sender=None):
    """Another sender's name; who signs is said elsewhere."""
    value, write = document(data)
    value["sender"] = sender or chance.choice([*CLIENTS, ABSENT, "server", "holder", "stranger"])
    return write(value)


def picked(draft, chance, blob):
    if blob is not None:
        return next(i for i, (name, _) in enumerate(draft.blobs) if name == blob)
    return chance.randrange(len(draft.blobs))


def blob_content(data, chance, world, blob=None, how=None):
    """Another content, honestly announced."""
    draft = Draft.of(data)
    if not draft.blobs:
        return data
    index = picked(draft, chance, blob)
    name, old = draft.blobs[index]
    new = {
        "zero": lambda: bytes(len(old)),
        "maximal": lambda: b"\xff" * len(old),
        "zero part": lambda: bytes(len(old) // 2) + old[len(old) // 2 :],
        "maximal end": lambda: old[:-64] + b"\xff" * len(old[-64:]),
        "empty": lambda: b"",
        "flip": lambda: flips(old, chance, world),
        "flip one": lambda: flip(old, chance, world),
        "short": lambda: old[:-1],
        "long": lambda: old + b"\0",
        "twice": lambda: old + old,
        "noise": lambda: chance.randbytes(len(old)),
        "halves": lambda: swap_halves(old, chance, world),
        "repeat": lambda: old[: len(old) // 2] * 2 + old[len(old) // 2 * 2 :],
    }
    draft.blobs[index] = (name, new[how or chance.choice(sorted(new))]())
    return draft.to_bytes()


def blob_names(data, chance, world, how=None, blob=None):
    draft = Draft.of(data)
    how = how or chance.choice(["rename", "swap", "double", "drop", "add", "many", "unsorted"])
    if how == "add":
        draft.blobs.append((chance.choice(["", "seeds/zeta", "zz"]), b"more"))
    elif how == "many":
        draft.blobs += [(f"zz{index}", b"") for index in range(3000)]
    elif how == "unsorted":
        draft.blobs.reverse()
        return draft.to_bytes()
    elif draft.blobs:
        index = picked(draft, chance, blob)
        name, content = draft.blobs[index]
        if how == "rename":
            new = chance.choice(["", "x", name.upper(), name + "\0", "seeds/" + name, *CLIENTS])
            draft.blobs[index] = (new, content)
        elif how == "double":
            draft.blobs.insert(index, (name, content))
            return draft.to_bytes()
        elif how == "drop":
            del draft.blobs[index]
        else:
            other = chance.randrange(len(draft.blobs))
            theirs, foreign = draft.blobs[other]
            draft.blobs[index], draft.blobs[other] = (name, foreign), (theirs, content)
    draft.blobs.sort()
    return draft.to_bytes()


def blob_lie(data, chance, world, how=None):
    """Lengths and digests that are not those of the blobs."""
    draft = Draft.of(data)
    if not draft.blobs:
        return data
    draft.honest = False
    entry = chance.choice(draft.value["blobs"])
    how = how or chance.choice(["length", "negative", "huge", "shift", "digest", "upper", "float"])
    if how == "shift" and len(draft.value["blobs"]) > 1:
        draft.value["blobs"][0][1] += 8
        draft.value["blobs"][1][1] -= 8
    elif how in ("digest", "upper"):
        entry[2] = entry[2].upper() if how == "upper" else "00" * 32
    else:
        lies = {"negative": -entry[1], "huge": 2**63, "float": float(entry[1])}
        entry[1] = lies.get(how, entry[1] + chance.choice([-1, 1, 64]))
    return draft.to_bytes()


def blob_foreign(data, chance, world, other=None, blob=None):
    """A blob of the same name from another message."""
    draft, foreign = Draft.of(data), Draft.of(other_message(chance, world, other))
    theirs = dict(foreign.blobs)
    if not draft.blobs or not theirs:
        return data
    index = picked(draft, chance, blob)
    name = draft.blobs[index][0]
    draft.blobs[index] = (name, theirs.get(name, theirs[sorted(theirs)[0]]))
    return draft.to_bytes()


def derived(data, chance, world, num_clients=None, num_params=None):
    """Other parameters, which are those that `derive` gives, where it gives any."""
    value, write = document(data)
    stated = value["manifest"]["encryption"] if "manifest" in value else value
    clients = num_clients or chance.choice([1, 3, 4, 1000])
    params = num_params or chance.choice([1, 24, 10**6, *HUGE])
    stated |= {"num_clients": clients, "num_params": params}
    with contextlib.suppress(ConfigError):
        stated |= parameters_with(params, Custody(stated["custody"]), clients).to_json()
    return write(value)


def parameters_with(num_params, custody, num_clients):
    return derive(num_clients=num_clients, bits=BITS, num_params=num_params, custody=custody)


HUGE = (10**4300 - 1, 10**4299, 10**30, 1 << 36, 10**9)


def largest_parameters():
    """With as many parameters as `derive` allows, once as many as JSON can write."""
    for num_params in HUGE:
        with contextlib.suppress(ConfigError):
            return parameters_with(num_params, Custody.KEY_HOLDER, len(CLIENTS))
    raise AssertionError("not even a billion parameters are allowed")


def extraction(data, chance, world, c1_over_t=True):
    """(0, floor(q/t)): the decryption of it is the secret key."""
    draft = Draft.of(data)
    stated = draft.value["manifest"]["encryption"]
    if stated.get("scheme") != "BFV" or not draft.blobs:
        return data
    parameters = world.parameters["holder" if stated["custody"] == "key_holder" else "shared"]
    index = next((i for i, (name, _) in enumerate(draft.blobs) if name == "ciphertexts"), 0)
    bits = parameters.sum_bits if draft.value["kind"] == "sum" else parameters.upload_bits
    polynomials = [np.zeros((1, 4096), dtype=np.uint64) for _ in bits]
    polynomials[-1][0, 0] = COEFF_MODULUS // parameters.plain_modulus if c1_over_t else 1
    draft.blobs[index] = (draft.blobs[index][0], residues.to_rows(polynomials, bits).tobytes())
    return draft.to_bytes()


def add_constant(data, chance, world, steps=1):
    """A known shift of a sum: one step of the slots' scale in the first coefficient."""
    draft = Draft.of(data)
    index = picked(draft, chance, "ciphertexts")
    stated = draft.value["manifest"]["encryption"]
    kind = {"key_holder": "holder", "shared_key": "shared"}.get(stated.get("custody"), "ckks")
    parameters = world.parameters[kind]
    bits = parameters.sum_bits
    rows = residues.rows_of(draft.blobs[index][1], parameters.num_ciphertexts, bits)
    polynomials = residues.from_rows(rows, bits)
    shift = steps * (COEFF_MODULUS // getattr(parameters, "plain_modulus", 4))
    polynomials[0][0, 0] = (int(polynomials[0][0, 0]) + shift) % COEFF_MODULUS
    content = residues.to_rows(polynomials, bits).tobytes()
    draft.blobs[index] = ("ciphertexts", content)
    return draft.to_bytes()


def seeds_repeat(data, chance, world):
    """One seed in place of others, within a contribution or across two."""
    draft = Draft.of(data)
    blocks = [i for i, (name, _) in enumerate(draft.blobs) if name.startswith("seeds")]
    if not blocks:
        return data
    index, source = chance.choice(blocks), chance.choice(blocks)
    name, block = draft.blobs[index]
    draft.blobs[index] = (
        name,
        (draft.blobs[source][1][:64] * (len(block) // 64 + 1))[: len(block)],
    )
    return draft.to_bytes()


def contributions(data, chance, world, how=None, client=None, other=None):
    """What a hostile aggregator, or an aggregator with a hostile client, would list."""
    draft = Draft.of(data)
    listed = draft.value["manifest"].get("contributions")
    if not isinstance(listed, list) or not listed:
        return data
    ways = ["drop", "double", "reorder", "foreign", "signature", "rename", "resign", "none", "zeta"]
    how = how or chance.choice(ways)
    index = chance.randrange(len(listed))
    if client is not None:
        index = next(i for i, entry in enumerate(listed) if entry["client"] == client)
    entry = listed[index]
    if how == "drop":
        del listed[index]
        draft.blobs = [b for b in draft.blobs if b[0] != f"seeds/{entry['client']}"]
    elif how == "double":
        listed.insert(index, entry)
    elif how == "reorder":
        listed.reverse()
    elif how == "foreign":
        sums = sorted(name for name in world.messages if name.endswith("/sum"))
        foreign = Draft.of(world.messages[other or chance.choice(sums)])
        theirs = foreign.value["manifest"]["contributions"]
        listed[index] = theirs[index % len(theirs)]
        seeds = dict(foreign.blobs)
        draft.blobs = [
            (name, seeds.get(name, blob) if name == f"seeds/{entry['client']}" else blob)
            for name, blob in draft.blobs
        ]
    elif how == "signature":
        signatures = [e["signature"] for e in listed] + ["00" * 64, "ff" * 64, malleated(entry)]
        entry["signature"] = chance.choice(signatures)
    elif how == "rename":
        entry["client"] = chance.choice([*CLIENTS, ABSENT, "server", "holder", "stranger"])
    elif how == "none":
        listed.clear()
    else:
        _resigned(draft, entry, chance, world, ABSENT if how == "zeta" else entry["client"])
    listed.sort(key=lambda e: str(e["client"])) if how == "zeta" else None
    return draft.to_bytes()


def malleated(entry):
    signature = bytes.fromhex(entry["signature"])
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return (signature[:32] + scalar.to_bytes(32, "little")).hex()


def _resigned(draft, entry, chance, world, name):
    """A contribution that its client signed anew, with seeds of its choice."""
    old = f"seeds/{entry['client']}"
    block = dict(draft.blobs).get(old)
    manifest = {k: v for k, v in draft.value["manifest"].items() if k != "contributions"}
    entry["client"] = name
    if block is not None:
        block = chance.choice([block, chance.randbytes(len(block)), b"", bytes(len(block))])
        draft.blobs = sorted([b for b in draft.blobs if b[0] != old] + [(f"seeds/{name}", block)])
        entry["blobs"][-1] = ["seeds", len(block), hashlib.sha256(block).hexdigest()]
    entry["ledger"] = chance.choice([entry["ledger"], None, nested(20), {"length": 9}])
    statement = {
        "schema": 2, "run": draft.value["run"], "round": draft.value["round"], "sender": name,
        "kind": "update", "manifest": {**manifest, "ledger": entry["ledger"]},
        "blobs": entry["blobs"],
    }  # fmt: skip
    digest = hashlib.sha256(canonical(statement)).digest()
    entry["signature"] = world.identities[name].sign(DOMAIN + digest).hex()


def inner_message(data, chance, world, steps=None, signer=None, blob=None):
    """A change of a message inside a message, such as an answer among answers."""
    draft = Draft.of(data)
    if not draft.blobs:
        return data
    index = picked(draft, chance, blob)
    name, raw = draft.blobs[index]
    if steps is None:
        steps = [{"do": chance.choice(STATEMENT_STEPS), "seed": chance.randrange(1 << 30)}]
        signer = chance.choice(["kept", "sender", "sender", "server", "stated"])
    draft.blobs[index] = (name, prepared(world, raw, steps, signer))
    return draft.to_bytes()


def signature(data, chance, world, how=None):
    """After all signing: the last 64 bytes."""
    if len(data) < 64:
        return data
    body, old = data[:-64], data[-64:]
    how = how or chance.choice(
        ["remove", "zero", "swap", "malleate", "noise", "digest", "identity"]
    )
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


BYTE_STEPS = (
    "flip", "flips", "flip_tail", "cut_end", "cut_start", "cut_middle", "extend", "splice",
    "append_message", "repeat_slice", "swap_halves", "noise", "headed_noise", "empty", "length_lie",
)  # fmt: skip
JSON_STEPS = (
    "json_delete", "json_set", "json_set", "json_text", "json_add", "json_double", "json_retype",
    "json_retype", "json_swap", "json_foreign", "json_form", "field_lie", "derived",
)  # fmt: skip
STATEMENT_STEPS = (
    *JSON_STEPS, "field_lie", "field_lie", "claim", "blob_content", "blob_content", "blob_content",
    "blob_names", "blob_lie", "blob_foreign", "seeds_repeat",
)  # fmt: skip
SUM_STEPS = ("derived", "contributions", "contributions", "extraction", "add_constant")
OTHER_STEPS = ("inner_message", "oversized", "signature", "crash")
MUTATORS = {
    name: globals()[name] for name in {*BYTE_STEPS, *STATEMENT_STEPS, *SUM_STEPS, *OTHER_STEPS}
}


def stated_sender(raw):
    """The sender that a message names, if it can still be found."""
    try:
        return Draft.of(raw).value["sender"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def signer_of(world, raw, who):
    """A function that signs: as a name, as who the message names, or as nobody enrolled."""
    if who == "stranger":
        return world.outsider.sign
    if who in ("sender", "stated"):
        who = stated_sender(raw)
    known = world.identities.get(who) if isinstance(who, str) else None
    return (known or world.outsider).sign


def prepared(world, base, steps, signer, after=()):
    """The bytes of a recipe."""
    raw = _changed(world, base, steps)
    if signer != "kept" and base.startswith(MAGIC):
        sign = signer_of(world, base if signer == "sender" else raw, signer)
        raw = signed(raw, sign) if raw.startswith(MAGIC) else raw
    elif signer == "sender" and base.startswith(b"privfed-identity\n"):
        raw = raw[:-32] + hashlib.sha256(raw[:-32]).digest()
    elif signer == "sender" and base == world.messages["roster"]:
        raw = _roster_signed(world, raw)
    return _changed(world, raw, after)


def _changed(world, raw, steps):
    for step in steps:
        arguments = {key: value for key, value in step.items() if key not in ("do", "seed")}
        chance = random.Random(step.get("seed", 0))
        try:
            raw = MUTATORS[step["do"]](raw, chance, world, **arguments)
        except (
            EncryptionError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            StopIteration,
            RecursionError,
            ArithmeticError,
            MessageError,
        ):
            # An earlier step left nothing that this one could work on.
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


# What may be accepted.


class Judge:
    """Says why a message must be refused, or None if it may be accepted."""

    def __init__(self, world):
        self.world = world

    def genuine(self, raw, senders):
        """The message if one of `senders` signed exactly this, otherwise the reason."""
        parsed = well_formed(raw)
        if parsed is None:
            return "it is not well-formed"
        sender = parsed.value["sender"]
        if sender not in self.world.keys:
            return "its sender is not enrolled"
        digest = DOMAIN + hashlib.sha256(parsed.text).digest()
        if not signed_by(self.world.keys[sender], digest, parsed.signature):
            return "forged: its sender did not sign it"
        return parsed if sender in senders else f"{sender!r} must not send this"

    def message(self, raw, *, senders, kind, terms, own, blobs=None):
        """The message if it also states the terms and `own` values; otherwise the reason."""
        parsed = self.genuine(raw, senders)
        if isinstance(parsed, str):
            return parsed
        value = parsed.value
        if (value["run"], value["round"], value["kind"]) != (terms.run, terms.round, kind):
            return "it is of another run, round or kind"
        stated = {key: new for key, new in value["manifest"].items() if key not in own}
        if canonical(stated) != canonical(dict(terms.manifest)):
            return "its terms are others, or it states more than is documented"
        if missing := set(own) - set(value["manifest"]):
            return f"it does not state {sorted(missing)}"
        if blobs is not None and set(parsed.blobs) != set(blobs):
            return f"it has other blobs than {sorted(blobs)}"
        return parsed

    def update(self, kind, raw, terms):
        names = {"shared": {"ciphertexts", "seeds"}, "ckks": {"ciphertexts", "seeds"},
                 "holder": {"ciphertexts"}, "plain": {"values"}}[kind]  # fmt: skip
        parsed = self.message(
            raw, senders=CLIENTS, kind="update", terms=terms, own={"ledger"}, blobs=names
        )
        if isinstance(parsed, str):
            return parsed
        ledger = parsed.value["manifest"]["ledger"]
        if not isinstance(ledger, dict) or set(ledger) != {"length", "head"}:
            return "its ledger is no anchor"
        if type(ledger["length"]) is not int or ledger["length"] < 2:
            return "its ledger is too short"
        if not re.fullmatch("[0-9a-f]{64}", str(ledger["head"])):
            return "the head of its ledger is no digest"
        return None if self._sizes(kind, parsed.blobs, "upload") else "a blob has another length"

    def _sizes(self, kind, blobs, direction):
        if kind == "plain":
            return len(blobs["values"]) == 4 * PARAMS
        parameters = self.world.parameters[kind]
        bits = parameters.upload_bits if direction == "upload" else parameters.sum_bits
        count = parameters.num_ciphertexts
        sizes = {name: 64 * count for name in blobs if name.startswith("seeds")}
        sizes["ciphertexts"] = count * sum(4096 * each // 8 for each in bits)
        return all(len(blob) == sizes[name] for name, blob in blobs.items())

    def sum(self, kind, raw, terms):
        """The names of the contributors if it may be accepted, otherwise the reason."""
        own = {"contributions"}
        parsed = self.message(raw, senders=("server",), kind="sum", terms=terms, own=own)
        if isinstance(parsed, str):
            return parsed
        listed = parsed.value["manifest"]["contributions"]
        if not isinstance(listed, list) or not MIN_CLIENTS <= len(listed) <= len(CLIENTS):
            return "it has too few or too many contributions"
        for entry in listed:
            if not isinstance(entry, dict) or set(entry) != {
                "client", "ledger", "blobs", "signature"
            }:  # fmt: skip
                return "a contribution has other fields"
            if reason := self._contribution(entry, terms):
                return reason
        names = [entry["client"] for entry in listed]
        if names != sorted(set(names)):
            return "contributors repeat or are not sorted"
        return self._sum_blobs(kind, parsed, listed, names)

    def _sum_blobs(self, kind, parsed, listed, names):
        seeded = kind in ("shared", "ckks")
        blobs = {"values"} if kind == "plain" else {"ciphertexts"}
        blobs |= {f"seeds/{name}" for name in names} if seeded else set()
        if set(parsed.blobs) != blobs:
            return "it has other blobs than its contributors' seeds"
        for entry in listed if seeded else ():
            block = parsed.blobs[f"seeds/{entry['client']}"]
            if ["seeds", len(block), hashlib.sha256(block).hexdigest()] not in entry["blobs"]:
                return "forged: seeds that their client did not sign"
        return names if self._sizes(kind, parsed.blobs, "sum") else "a blob has another length"

    def _contribution(self, entry, terms):
        name = entry["client"]
        if name not in (*CLIENTS, ABSENT):
            return "a contributor is no enrolled client"
        statement = {
            "schema": 2, "run": terms.run, "round": terms.round, "sender": name, "kind": "update",
            "manifest": {**terms.manifest, "ledger": entry["ledger"]}, "blobs": entry["blobs"],
        }  # fmt: skip
        digest = DOMAIN + hashlib.sha256(canonical(statement)).digest()
        if not isinstance(entry["signature"], str) or len(entry["signature"]) != 128:
            return "forged: a contribution without a signature"
        if not signed_by(self.world.keys[name], digest, bytes.fromhex(entry["signature"])):
            return "forged: its client did not sign a contribution"
        return None

    def genuine_contributions(self, raw, original):
        """Whether all contributions of a sum are the round's own, so that its value is known."""
        ours = Draft.of(original).value["manifest"]["contributions"]
        return all(e in ours for e in Draft.of(raw).value["manifest"]["contributions"])


# Entry points. `feed` gives bytes to one; `judge` says why what it accepted should not have been.


class Target:
    """One entry point with its state.

    Attributes:
        name: in recipes and counts.
        bases: names of the messages that it is meant for.
        valid: the one that it must accept at any time.
        errors: those it is documented to raise.
        steps: mutators that fit its bytes.
    """

    errors = (MessageError,)
    steps = STATEMENT_STEPS

    def __init__(self, world, name, bases, valid):
        self.world, self.judge_of = world, Judge(world)
        self.name, self.bases, self.valid = name, bases, valid
        self.messages = {}
        self.renew()

    def renew(self):
        """A fresh state, after something was accepted."""

    def message(self, name):
        """The base of that name; a target may have its own of a fresh key."""
        return self.messages.get(name, self.world.messages.get(name))

    def print(self):
        """What a refused message must leave as it was."""
        return None

    def recovered(self, raw, error):
        """Bring back a state that a refusal is documented to end."""

    def judge_refusal(self, raw, error):
        """A reason why even a refusal was wrong."""
        return None

    def seconds(self, raw):
        """How long it may take."""
        return MOST_SECONDS


class EnvelopeTarget(Target):
    """Reads any envelope; signatures are not its business."""

    steps = (*STATEMENT_STEPS, *SUM_STEPS)

    def feed(self, raw):
        return Envelope.from_bytes(raw)

    def judge(self, raw, envelope):
        parsed = well_formed(raw)
        if parsed is None:
            return "it is not well-formed"
        same = {name: bytes(blob) for name, blob in envelope.blobs.items()} == parsed.blobs
        return None if same and envelope.signature == raw[-64:] else "it was read as another"


class AggregatorTarget(Target):
    """An aggregator that has north's update."""

    def __init__(self, world, kind):
        self.kind = kind
        self.terms = world.terms(kind)
        bases = [f"{kind}/update/{name}" for name in CLIENTS] + [f"{kind}/later/update/east"]
        bases += [f"{kind}/elsewhere/update/east", f"{kind}/sum"]
        if kind == "holder":
            self.terms = None
        super().__init__(world, f"aggregator/{kind}", bases, f"{kind}/update/east")

    def renew(self):
        if self.terms is None:
            made = HolderRound(self.world).played("committed")
            self.messages = {f"holder/{name}": raw for name, raw in made.messages.items()}
            self.terms = made.terms
        self.aggregator = self.world.aggregator(self.kind, self.terms)
        self.adder = self.world.adder
        self.aggregator.receive(self.message(f"{self.kind}/update/north"))

    def feed(self, raw):
        return self.aggregator.receive(raw)

    def print(self):
        content = hashlib.sha256()
        for name, blob in sorted(self.adder.total().items()):
            content.update(name.encode() + blob)
        return content.digest(), self.aggregator.contributors, self.aggregator.bytes_up

    def judge(self, raw, _):
        if stated_sender(raw) == "north":
            return "a second update of one client"
        return self.judge_of.update(self.kind, raw, self.terms)


class OpenTarget(Target):
    """A client that opens a sum: with the shared key, or without encryption."""

    steps = (*STATEMENT_STEPS, *SUM_STEPS)

    def __init__(self, world, kind, later=False):
        self.kind, self.later = kind, later
        where = f"{kind}/later" if later else kind
        self.terms = world.terms(kind, number=2 if later else 1)
        bases = [f"{where}/sum"] * 4 + [f"{kind}/sum", f"{kind}/elsewhere/sum"]
        bases += [f"{where}/update/east", "holder/sum"]
        if kind != "plain":
            self.errors = (MessageError, EncryptionError)
        name = f"open/{kind}" + ("/later" if later else "")
        super().__init__(world, name, bases, f"{where}/sum")

    def renew(self):
        self.cipher = self.world.cipher(self.kind)
        if self.later:
            self.cipher.open(self.world.terms(self.kind), self.message(f"{self.kind}/sum"))

    def feed(self, raw):
        return self.cipher.open(self.terms, raw)

    def judge(self, raw, opened):
        names = self.judge_of.sum(self.kind, raw, self.terms)
        if isinstance(names, str):
            return names
        if list(opened.contributors) != names:
            return "it names other contributors"
        ours = self.judge_of.genuine_contributions(raw, self.message(self.valid))
        exact = self.kind == "shared" and ours
        if exact and not np.array_equal(opened.values, self.world.exact(names)):
            return "it opened to a wrong sum"
        return None

    def recovered(self, raw, error):
        # A sum that passed all signatures ends the round, whatever it decrypts to.
        if isinstance(error, EncryptionError) and not isinstance(
            self.judge_of.sum(self.kind, raw, self.terms), str
        ):
            self.renew()


class KeyTarget(Target):
    """A client that receives the shared secret from east."""

    errors = (MessageError, EncryptionError)

    def __init__(self, world, kind):
        self.kind = kind
        bases = [name for name in world.messages if name.startswith(f"{kind}/key")]
        super().__init__(world, f"receive_secret/{kind}", bases, f"{kind}/key")
        self.terms = world.terms(kind, number=0)

    def feed(self, raw):
        context, shape = self.world.contexts[self.kind]
        identity = self.world.identities["north"]
        return key_exchange.receive_secret(
            raw, identity, self.world.roster, self.terms, maker="east", context=context, shape=shape
        )

    def judge(self, raw, secret):
        parsed = self.judge_of.message(
            raw, senders=("east",), kind="shared-key", terms=self.terms, own={"key_id", "software"}
        )
        if isinstance(parsed, str):
            return parsed
        if secret.key_id != parsed.value["manifest"]["key_id"]:
            return "the key has another name"
        if "north" not in parsed.blobs:
            return "nothing was wrapped to this client"
        self._used(secret)
        return None

    def _used(self, secret):
        """SEAL must bear any key that was accepted."""
        world, terms = self.world, self.world.terms(self.kind)
        kinds = {"shared": SharedKeyCipher, "ckks": CKKSCipher}
        cipher = kinds[self.kind](world.parameters[self.kind], secret, world.roster, MIN_CLIENTS)
        try:
            cipher.open(terms, self.message(f"{self.kind}/sum"))
        except (MessageError, EncryptionError):
            return
        world.update(self.kind, "north", terms, cipher)


class RoundKeyTarget(Target):
    """A client under custody `key_holder`: takes a key, answers a challenge, or opens a result."""

    errors = (MessageError, EncryptionError)
    BASES: ClassVar = {"accept_key": "round-key", "answer": "challenge", "open": "result"}
    OWN: ClassVar = {
        "accept_key": {"key_id", "software"},
        "answer": {"seed", "sum", "contributors"},
        "open": {"contributors"},
    }
    BLOBS: ClassVar = {"accept_key": {"public_key"}, "answer": (), "open": {"sums"}}

    def __init__(self, world, method):
        self.method = method
        self.own_round = HolderRound(world).played("finished")
        base = self.BASES[method]
        bases = [f"holder/{base}"] * 4 + [f"holder/later/{base}", f"holder/elsewhere/{base}"]
        bases += ["holder/round-key", "holder/challenge", "holder/result", "holder/refusal"]
        super().__init__(world, f"client/{method}", bases, f"holder/{base}")
        self.messages = {f"holder/{n}": raw for n, raw in self.own_round.messages.items()}
        if method == "open":
            self.errors = (MessageError,)

    def renew(self):
        made = self.own_round
        self.cipher = self.world.cipher("holder")
        self.terms = self.cipher.accept_key(made.agreed, made.messages["round-key"])

    def feed(self, raw):
        if self.method == "accept_key":
            return self.cipher.accept_key(self.own_round.agreed, raw)
        if self.method == "answer":
            return self.cipher.answer(self.terms, raw, self.own_round.messages["update/west"])
        return self.cipher.open(self.terms, raw)

    def judge(self, raw, result):
        agreed = self.own_round.agreed
        parsed = self.judge_of.message(
            raw,
            senders=("holder",),
            kind=self.BASES[self.method],
            terms=agreed if self.method == "accept_key" else self.terms,
            own=self.OWN[self.method],
            blobs=self.BLOBS[self.method],
        )
        if isinstance(parsed, str):
            return parsed
        stated = parsed.value["manifest"]
        if self.method == "accept_key":
            self.world.update("holder", "west", result, self.cipher)  # SEAL must bear any key
            return None
        names = stated["contributors"]
        if not isinstance(names, list) or len(names) < MIN_CLIENTS:
            return "it has too few contributors"
        if any(name not in (*CLIENTS, ABSENT) for name in names) or names != sorted(set(names)):
            return "its contributors are not different enrolled clients"
        if self.method == "answer":
            return None if "west" in names else "the challenge is not for this client"
        return None


class UpdateAnswerTarget(Target):
    """`RoundKeyCipher.answer` with a changed update of its own, as read back from a disk."""

    errors = (MessageError, EncryptionError)

    def __init__(self, world):
        self.own_round = HolderRound(world).played("committed")
        bases = ["holder/update/west"] * 4 + ["holder/update/east", "holder/later/update/west"]
        super().__init__(world, "client/answer/own update", bases, "holder/update/west")
        self.messages = {f"holder/{n}": raw for n, raw in self.own_round.messages.items()}

    def renew(self):
        made = self.own_round
        self.cipher = self.world.cipher("holder")
        self.terms = self.cipher.accept_key(made.agreed, made.messages["round-key"])

    def feed(self, raw):
        return self.cipher.answer(self.terms, self.own_round.messages["challenge"], raw)

    def judge(self, raw, _):
        reason = self.judge_of.update("holder", raw, self.terms)
        if reason and "its ledger" in reason:
            reason = None  # which is for the aggregator to check
        return reason or (None if stated_sender(raw) == "west" else "another client's update")


class HolderTarget(Target):
    """The key holder in one of its states, asked directly or through its loop."""

    errors = (MessageError, EncryptionError)
    steps = (*STATEMENT_STEPS, *SUM_STEPS, "inner_message")
    VALID: ClassVar = {
        "new": "open-round",
        "opened": "sum",
        "committed": "answers",
        "finished": "open-round",
    }

    def __init__(self, world, state, served=False):
        self.state, self.served = state, served
        main = self.VALID[state]
        bases = [f"holder/{main}"] * 4 + ["holder/open-round", "holder/sum", "holder/answers"]
        bases += ["holder/later/open-round", "holder/later/sum", "holder/update/east"]
        name = f"{'serving.answer' if served else 'key_holder'}/{state}"
        self.made = None
        super().__init__(world, name, bases, f"holder/{main}")

    def renew(self):
        if self.made is not None:
            self.made.remove()
        self.made = HolderRound(self.world).played(self.state)
        own = {f"holder/{name}": raw for name, raw in self.made.messages.items()}
        # Messages that this state has not seen yet come from the world: another key's.
        self.messages = own

    def feed(self, raw):
        if not self.served:
            return self.made.holder.receive(raw)
        reply = serving.answer(self.made.holder, self.world.identities["holder"], raw)
        parsed = self.judge_of.genuine(reply, ("holder",))
        if isinstance(parsed, str):
            raise AssertionError(f"its reply is wrong: {parsed}")
        if parsed.value["kind"] == "refusal":
            stated = parsed.value["manifest"]
            if stated["of"] != hashlib.sha256(raw).hexdigest():
                raise AssertionError("it refuses another message")
            if re.match("(MessageError|EncryptionError): ", stated["reason"]):
                raise MessageError(stated["reason"])
            raise AssertionError(f"not a documented reason: {stated['reason'][:200]}")
        return reply

    def judge(self, raw, reply):
        parsed = self.judge_of.genuine(raw, ("server",))
        if isinstance(parsed, str):
            return parsed
        answered = self.judge_of.genuine(reply, ("holder",))
        if isinstance(answered, str):
            return f"its reply is wrong: {answered}"
        kinds = {"open-round": {"round-key", "result"}, "sum": {"challenge"}, "answers": {"result"}}
        if answered.value["kind"] not in kinds.get(parsed.value["kind"], ()):
            return "a message of another kind was answered"
        if parsed.value["kind"] == "open-round":
            return self._judge_opening(parsed, answered)
        if parsed.value["kind"] == "sum":
            names = self.judge_of.sum("holder", raw, self.made.terms)
            return names if isinstance(names, str) else None
        return self._judge_answers(parsed, reply)

    def _judge_opening(self, parsed, answered):
        manifest = parsed.value["manifest"]
        if manifest.get("roster") != self.world.roster.digest().hex():
            return "another roster"
        if parsed.blobs:
            return "its structure: a request to open a round has no blobs"
        if parsed.value["round"] < 1:
            return "rounds are counted from 1"
        theirs = manifest.get("encryption")
        sizes = {k: theirs[k] for k in ("num_clients", "bits", "num_params")}
        expected = derive(custody=Custody.KEY_HOLDER, **sizes).to_json()
        if canonical(theirs) != canonical(expected):
            return "its parameters are not derived"
        if self.state == "finished" and parsed.value["run"] == "fuzzed":
            same = canonical(manifest) == canonical(dict(self.made.agreed.manifest))
            if parsed.value["round"] < 1 or (parsed.value["round"] == 1 and not same):
                return "the finished round was opened again"
        own = {} if answered.value["kind"] == "result" else {"key_id", "software"}
        stated = {k: v for k, v in answered.value["manifest"].items() if k not in own}
        if own and canonical(stated) != canonical(
            {k: v for k, v in manifest.items() if k not in own}
        ):
            return "the round key states other terms"
        return None

    def _judge_answers(self, parsed, reply):
        value, terms = parsed.value, self.made.terms
        if (value["run"], value["round"]) != (terms.run, terms.round):
            return "it is of another run or round"
        if canonical(value["manifest"]) != canonical(dict(terms.manifest)):
            return "its terms are others, or it states more than is documented"
        if self.state != "committed" or sorted(parsed.blobs) != list(CLIENTS):
            return "nothing was committed, or others answered"
        challenge = well_formed(self.made.messages["challenge"])
        for name, raw in parsed.blobs.items():
            own = {"challenge", "values"}
            answer = self.judge_of.message(
                raw, senders=(name,), kind="answer", terms=terms, own=own, blobs=()
            )
            if isinstance(answer, str):
                return f"an answer: {answer}"
            stated = answer.value["manifest"]
            if stated["challenge"] != hashlib.sha256(challenge.text).hexdigest():
                return "an answer to another challenge"
        cipher = self.world.cipher("holder")
        opened = cipher.open(terms, reply)
        exact = np.array_equal(opened.values, self.world.exact(opened.contributors))
        return None if exact else "it decrypted to a wrong sum"

    def recovered(self, raw, error):
        if self.state == "committed" and "it is not decrypted" in str(error):
            self.made.commit()  # one guess per challenge: the sum must be committed again
            self.messages |= {f"holder/{n}": each for n, each in self.made.messages.items()}


class HugeTarget(HolderTarget):
    """A key holder that opened a round with as many parameters as it takes."""

    def __init__(self, world):
        super().__init__(world, "new")
        self.name, self.valid = "key_holder/huge", "holder/open-round"
        self.bases = ["holder/sum"] * 3 + ["holder/answers", "holder/open-round"]

    def renew(self):
        super().renew()
        made, world = self.made, self.world
        huge = largest_parameters()
        manifest = {**made.agreed.manifest, "encryption": huge.to_json()}
        agreed = Terms(run="fuzzed", round=1, manifest=manifest)
        key = made.holder.receive(made.by_server(agreed, "open-round"))
        made.terms = Terms(run="fuzzed", round=1, manifest=Draft.of(key).value["manifest"])
        listed = []
        for name in CLIENTS:
            update = envelope_bytes(
                world.identities[name].sign,
                made.terms,
                sender=name,
                kind="update",
                manifest={"ledger": LEDGER},
                blobs={"ciphertexts": b"few"},
            )
            listed.append(Contribution.of(Envelope.from_bytes(update)).to_json())
        self.messages = {
            "holder/open-round": made.by_server(world.terms("holder", number=2), "open-round"),
            "holder/sum": envelope_bytes(
                world.identities["server"].sign,
                made.terms,
                sender="server",
                kind="sum",
                manifest={"contributions": listed},
                blobs={"ciphertexts": b"few"},
            ),
        }


class LinkTarget(Target):
    """`HolderOpens`, whose link to the key holder lies at one step."""

    errors = (MessageError, EncryptionError)
    BASES: ClassVar = {"begin": "round-key", "challenge": "challenge", "result": "result"}

    def __init__(self, world, step):
        self.step = step
        self.own_round = HolderRound(world).played("finished")
        base = self.BASES[step]
        bases = [f"holder/{base}"] * 4 + [f"holder/later/{base}", "holder/refusal"]
        bases += ["holder/round-key", "holder/challenge", "holder/result"]
        super().__init__(world, f"link/{step}", bases, f"holder/{base}")
        self.messages = {f"holder/{n}": raw for n, raw in self.own_round.messages.items()}
        if step != "begin":
            asked = self.own_round.messages["sum" if step == "challenge" else "answers"]
            refusal = serving._refusal(world.identities["holder"], asked, "none of your business")
            self.messages["holder/refusal"] = refusal

    def ask(self, message):
        if message[-68:] == self.own_round.messages["sum"][-68:] and self.step == "result":
            return self.own_round.messages["challenge"]
        return self.reply

    def feed(self, raw):
        self.reply, sent = raw, self.own_round.messages
        opens = HolderOpens(self, self.world.identities["server"], self.world.roster)
        if self.step == "begin":
            return opens.begin(self.own_round.agreed)
        answers = {name: sent[f"answer/{name}"] for name in CLIENTS}
        if self.step == "challenge":
            return opens.close(self.own_round.terms, sent["sum"], self._relayed)
        return opens.close(self.own_round.terms, sent["sum"], lambda challenge: answers)

    def _relayed(self, challenge):
        self.reply = self.own_round.messages["result"]
        return {name: self.own_round.messages[f"answer/{name}"] for name in CLIENTS}

    def judge(self, raw, _):
        made = self.own_round
        kind = self.BASES[self.step]
        if self.step == "begin" and stated_kind(raw) == "result":
            kind = "result"
        own = {"round-key": {"key_id", "software"}, "challenge": {"seed", "sum", "contributors"},
               "result": {"contributors"}}[kind]  # fmt: skip
        terms = made.terms
        if kind == "round-key":
            terms = made.agreed
        elif self.step == "begin":
            own = own | {"key_id", "software"}
            terms = made.agreed
        parsed = self.judge_of.message(raw, senders=("holder",), kind=kind, terms=terms, own=own)
        return parsed if isinstance(parsed, str) else None

    def judge_refusal(self, raw, error):
        if not str(error).startswith("the key holder refuses:"):
            return None
        parsed = self.judge_of.genuine(raw, ("holder",))
        return f"a refusal was believed: {parsed}" if isinstance(parsed, str) else None


def stated_kind(raw):
    try:
        return Draft.of(raw).value["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


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
        value = json.loads(raw, object_pairs_hook=_no_repeats)
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
        keys = [p[k] for p in value["parties"] for k in ("signing_key", "wrapping_key")]
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
        lambda raw: framing.receive(Trickle(raw), most=1 << 20),
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


class Trickle(io.BytesIO):
    """A stream that gives fewer bytes than are asked for."""

    def read(self, size=-1):
        return super().read(min(size, 7) if 0 < size < 512 else size)


class StreamTarget(Target):
    """`serving.serve`: a stream of messages; every whole one gets one signed answer."""

    steps = BYTE_STEPS

    def __init__(self, world):
        super().__init__(world, "serving.serve", ["stream"], "stream")

    def renew(self):
        self.made = HolderRound(self.world)

    def feed(self, raw):
        sink = io.BytesIO()
        self.sink = sink
        serving.serve(self.made.holder, self.world.identities["holder"], Trickle(raw), sink)
        return sink

    def seconds(self, raw):
        return MOST_SECONDS * (1 + len(unframed(raw)[0]) // 1000)

    def judge(self, raw, sink):
        asked, rest = unframed(raw)
        return "a cut stream ended without a word" if rest else self._replies(asked, sink)

    def judge_refusal(self, raw, error):
        return self._replies(unframed(raw)[0], self.sink)

    def _replies(self, asked, sink):
        replies, rest = unframed(sink.getvalue())
        if rest or len(replies) != len(asked):
            return f"{len(asked)} messages got {len(replies)} answers"
        wrong = [r for r in replies if isinstance(self.judge_of.genuine(r, ("holder",)), str)]
        return "an answer is not the key holder's" if wrong else None


def unframed(raw):
    """Whole messages of a stream, and whether something is left."""
    messages, place = [], 0
    while len(raw) - place >= 8:
        size = int.from_bytes(raw[place : place + 8], "little")
        if size > len(raw) - place - 8:
            return messages, True
        messages.append(raw[place + 8 : place + 8 + size])
        place += 8 + size
    return messages, place < len(raw)


def targets_of(world):
    every = sorted(name for name, raw in world.messages.items() if raw.startswith(MAGIC))
    made = [EnvelopeTarget(world, "envelope", every, "shared/sum")]
    made += [AggregatorTarget(world, kind) for kind in ("shared", "holder", "ckks", "plain")]
    made += [OpenTarget(world, kind) for kind in ("shared", "ckks", "plain")]
    made += [OpenTarget(world, "shared", later=True)]
    made += [KeyTarget(world, kind) for kind in ("shared", "ckks")]
    made += [RoundKeyTarget(world, method) for method in ("accept_key", "answer", "open")]
    made += [UpdateAnswerTarget(world)]
    made += [HolderTarget(world, state) for state in HolderRound.STATES]
    made += [HolderTarget(world, state, served=True) for state in ("new", "committed")]
    made += [HugeTarget(world)]
    made += [LinkTarget(world, step) for step in ("begin", "challenge", "result")]
    made += [StreamTarget(world), *file_targets(world)]
    return {target.name: target for target in made}


# Recipes.


COSTLY = {f"key_holder/{state}" for state in ("opened", "committed", "finished")}
COSTLY |= {"serving.answer/committed"}
"""Targets whose state takes a whole round to make anew; they get half as many messages."""


def recipes(count, seed, targets, world):
    """So many recipes, the same for every world."""
    chance = random.Random(seed)
    names, everything = sorted(targets), sorted(world.messages)
    names += [name for name in names if name not in COSTLY]
    for _ in range(count):
        target = targets[chance.choice(names)]
        foreign = chance.random() < 0.08
        base = chance.choice(everything if foreign else target.bases)
        plain = chance.random()
        pool = BYTE_STEPS if plain < 0.25 else target.steps
        steps = [_step(chance, pool) for _ in range(chance.choice([0, 1, 1, 1, 1, 1, 2, 2, 3]))]
        if chance.random() < 0.002:
            steps.append(_step(chance, ["oversized"]))
        signers = ["kept", "sender", "sender", "sender", "stated", "east", "server", "holder"]
        recipe = {"target": target.name, "base": base, "steps": steps,
                  "signer": chance.choice([*signers, "sender", "stranger"])}  # fmt: skip
        if chance.random() < 0.08:
            recipe["after"] = [_step(chance, ["signature"])]
        yield recipe


def _step(chance, pool):
    return {"do": chance.choice(pool), "seed": chance.randrange(1 << 32)}


def built(recipe, target, world):
    if "raw" in recipe:
        return base64.b64decode(recipe["raw"])
    base = target.message(recipe["base"])
    base = world.messages[recipe["base"]] if base is None else base
    return prepared(world, base, recipe["steps"], recipe["signer"], recipe.get("after", ()))


# The player: feeds recipes to the targets, in this process.


class TooSlowError(BaseException):
    """One message took more than its time; not an Exception, so that nothing swallows it."""


@dataclass
class Tally:
    """What happened, by target."""

    messages: int = 0
    refused: Counter = field(default_factory=Counter)
    accepted: Counter = field(default_factory=Counter)
    resigned_accepted: Counter = field(default_factory=Counter)
    unchanged: Counter = field(default_factory=Counter)
    checked: Counter = field(default_factory=Counter)
    forgeries: int = 0
    slowest: float = 0.0
    growth: int = 0
    defects: list = field(default_factory=list)
    outcomes: list = field(default_factory=list)

    def to_json(self):
        names = sorted({*self.refused, *self.accepted})
        counts = {
            name: {
                "refused": self.refused[name],
                "accepted": self.accepted[name],
                "accepted changed": self.resigned_accepted[name],
                "state checked": self.checked[name],
            }
            for name in names
        }
        return {
            "messages": self.messages,
            "targets": counts,
            "forgeries accepted": self.forgeries,
            "slowest_s": round(self.slowest, 3),
            "memory growth": self.growth,
            "defects": self.defects,
            "outcomes of the given": self.outcomes,
        }


class _Logged(logging.Handler):
    """The key holder's log: a traceback in it is a failure that its loop swallowed."""

    def __init__(self):
        super().__init__()
        self.failure = None

    def emit(self, record):
        record.getMessage()
        if record.exc_info:
            self.failure = record.exc_info[1]


class Player:
    """Plays recipes against all targets of one world."""

    def __init__(self, folder, note=lambda recipe: None, printed=lambda: 0):
        self.world = World(folder)
        self.targets = targets_of(self.world)
        self.tally = Tally()
        self.note, self.printed = note, printed
        self.log = _Logged()
        logger = logging.getLogger("privfed.key_holder")
        logger.addHandler(self.log)
        logger.propagate = False
        self.start_memory = None

    def play(self, recipe, check=False):
        """One recipe; returns "refused", "accepted", or the reason why it is a defect."""
        target = self.targets[recipe["target"]]
        self.note(recipe)
        self.log.failure = None
        raw = built(recipe, target, self.world)
        self.tally.messages += 1
        before, talk = target.print(), self.printed()
        outcome, reason = self._fed(target, recipe, raw)
        if self.log.failure is not None:
            reason = reason or f"swallowed in the loop: {self.log.failure!r}"
        if self.printed() != talk:
            reason = reason or "something was printed"
        if outcome == "refused" and target.print() != before:
            reason = reason or "a refused message changed the state"
        check = check or self.tally.refused[target.name] % CHECK_EVERY == 1
        if outcome == "refused" and check and reason is None:
            reason = self._still_works(target)
        if outcome != "refused" or reason:
            target.renew()
        if self.tally.messages % 500 == 0:
            self._weigh()
        if reason is not None:
            self._defect(recipe, reason)
            return reason
        return outcome

    def _fed(self, target, recipe, raw):
        began = time.process_time()
        try:
            result = _timed(target.feed, raw, target.seconds(raw))
            outcome = "accepted"
        except target.errors as error:
            result, outcome = error, "refused"
        except TooSlowError:
            return "slow", "it took too long"
        except RecursionError as error:
            return "failed", f"untyped: {error!r}"
        except Exception as error:  # noqa: BLE001 any other is what the fuzzer looks for
            return "failed", f"untyped: {error!r:.300}"
        spent = time.process_time() - began
        self.tally.slowest = max(self.tally.slowest, spent * MOST_SECONDS / target.seconds(raw))
        if spent > target.seconds(raw):
            return "slow", f"it took {spent:.1f} s"
        return outcome, self._judged(target, recipe, raw, outcome, result)

    def _judged(self, target, recipe, raw, outcome, result):
        name = target.name
        if outcome == "refused":
            self.tally.refused[name] += 1
            reason = target.judge_refusal(raw, result)
            target.recovered(raw, result)
            return reason
        self.tally.accepted[name] += 1
        changed = raw != target.message(recipe["base"]) if "base" in recipe else True
        self.tally.resigned_accepted[name] += changed
        reason = target.judge(raw, result)
        self.tally.forgeries += isinstance(reason, str) and "forged" in reason
        return f"accepted, though {reason}" if reason else None

    def _still_works(self, target):
        self.tally.checked[target.name] += 1
        try:
            result = target.feed(target.message(target.valid))
        except Exception as error:  # noqa: BLE001 whatever it is, the state is damaged
            return f"afterwards the valid message is refused: {error!r:.300}"
        reason = target.judge(target.message(target.valid), result)
        target.renew()
        return f"afterwards the valid message is misread: {reason}" if reason else None

    def _weigh(self):
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if self.start_memory is None:
            self.start_memory = memory
        self.tally.growth = max(self.tally.growth, memory - self.start_memory)

    def _defect(self, recipe, reason):
        self.tally.defects.append({**recipe, "why": reason})


def _timed(feed, raw, seconds):
    def stop(number, frame):
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * REAL_PER_CPU)
    try:
        return feed(raw)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


# The runner: the player in a process of its own.


def run(*, messages=0, seed=0, given=(), unverified=False, timeout_s=900):
    """Play recipes in a new process: those given, then `messages` random ones of a seed.

    Returns:
        The summary; under "crash" the last recipe and the traceback if the process died.
    """
    with tempfile.TemporaryDirectory(prefix="privfed-fuzz-") as folder:
        order = {"messages": messages, "seed": seed, "given": list(given), "unverified": unverified}
        Path(folder, "order.json").write_text(json.dumps(order))
        command = [sys.executable, "-W", "error", __file__, "--child", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, check=False, env=environment
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = "timeout"
        summary_at = Path(folder, "summary.json")
        if status == 0 and summary_at.exists():
            return json.loads(summary_at.read_text())
        last = Path(folder, "recipe")
        traces = [p.read_text(errors="replace") for p in Path(folder).glob("*.txt")]
        if status != "timeout":
            traces.append(done.stderr.decode(errors="replace"))
        recipe = last.read_bytes().rstrip(b"\0").decode() if last.exists() else ""
        return {"crash": {"status": status, "recipe": recipe, "trace": "\n".join(traces)[-6000:]}}


def child(folder):
    """In the new process: nothing may reach standard output or error once recipes are played."""
    order = json.loads(Path(folder, "order.json").read_text())
    with open(Path(folder, "crash.txt"), "w") as crash:
        faulthandler.enable(crash)
        notes = os.open(Path(folder, "recipe"), os.O_RDWR | os.O_CREAT)
        talk = os.open(Path(folder, "printed.txt"), os.O_RDWR | os.O_CREAT | os.O_APPEND)

        def note(recipe):
            text = json.dumps(recipe).encode()
            os.pwrite(notes, text.ljust(8192, b"\0"), 0)

        player = Player(folder, note, printed=lambda: os.fstat(talk).st_size)
        if order["unverified"]:
            _verify_nothing()
        kept = os.dup(2)
        os.dup2(talk, 1)
        os.dup2(talk, 2)
        _played(player, order)
        os.dup2(kept, 2)
        Path(folder, "summary.json").write_text(json.dumps(player.tally.to_json()))


def _played(player, order):
    for name, target in player.targets.items():
        result = target.feed(target.message(target.valid))
        if reason := target.judge(target.message(target.valid), result):
            raise AssertionError(f"the valid message of {name} is judged: {reason}")
        target.renew()
    outcomes = [player.play(recipe, check=True) for recipe in order["given"]]
    player.tally.outcomes = outcomes
    for recipe in recipes(order["messages"], order["seed"], player.targets, player.world):
        player.play(recipe)


def _verify_nothing():
    """The self-test: an aggregation that believes every signature."""
    from privfed.identity import roster

    roster._verifies = lambda key, message, signature: True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", action="store_true", help="play the corpus first")
    parser.add_argument("--defects", type=Path, help="where to write recipes of defects")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    given = json.loads(CORPUS.read_text()) if arguments.corpus else ()
    summary = run(messages=arguments.messages, seed=arguments.seed, given=given, timeout_s=7200)
    if arguments.defects:
        arguments.defects.write_text(json.dumps(summary.get("defects", []), indent=1))
    print(json.dumps(summary, indent=1))
    return 1 if "crash" in summary or summary["defects"] or summary["forgeries accepted"] else 0


if __name__ == "__main__":
    sys.exit(main())
