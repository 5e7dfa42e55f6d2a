"""The honest side: every party, and every valid message of rounds under each custody.

Valid messages are what the hostile ones are made of. Keys and ciphertexts are new in each world;
the names and the order of its messages are not, so that one recipe fits every world.
"""

import itertools
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from accountants import Anchor
from privfed.custody import key_exchange
from privfed.custody.ckks import CKKSCipher, shared_ckks_context
from privfed.custody.keys import SharedSecret, shared_context
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.custody.wrapping import wrap
from privfed.encryption import frames
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.ckks import ckks_shape, derive_ckks
from privfed.encryption.parameters import derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.identity.transport import new_transport_key
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import ClientsAgree
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.protocol.envelopes import envelope_bytes
from privfed.protocol.signing import refusal
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.fuzz.envelopes import Draft, canonical

CLIENTS = ("east", "north", "south", "west")
ABSENT = "zeta"
PARAMS, CKKS_PARAMS, BITS, MIN_CLIENTS = 24, 4100, 8, 3
LEDGER = {"length": 2, "head": "00" * 32}
ROUNDS = {"": ("fuzzed", 1), "/later": ("fuzzed", 2), "/elsewhere": ("other run", 1)}


class World:
    """All parties, and by name every valid message of rounds under each custody."""

    def __init__(self, folder):
        self.folder = Path(folder)
        roles = dict.fromkeys([*CLIENTS, ABSENT], Role.CLIENT)
        roles |= {"server": Role.AGGREGATOR, "holder": Role.KEY_HOLDER}
        self.identities = {
            name: Identity.generate(name, role, new_transport_key()[1])
            for name, role in roles.items()
        }
        self.authority = Identity.generate("board", Role.AUTHORITY)
        self.outsider = Identity.generate("stranger", Role.CLIENT)
        parties = [each.party for each in self.identities.values()]
        self.keys = {party.name: party.signing_key for party in parties}
        self.roster = Roster.signed("fuzzed", parties, self.authority)
        generator = np.random.default_rng(7)
        largest = (1 << (BITS - 1)) - 1
        drawn = generator.integers(-largest, largest + 1, (len(CLIENTS), PARAMS)).astype("<i2")
        self.numbers = dict(zip(CLIENTS, drawn, strict=True))
        self.floats = {name: generator.uniform(-1, 1, CKKS_PARAMS) for name in CLIENTS}
        sizes = {"num_clients": len(CLIENTS), "bits": BITS, "num_params": PARAMS}
        self.parameters = {
            "shared": derive(custody=Custody.SHARED_KEY, **sizes),
            "holder": derive(custody=Custody.KEY_HOLDER, **sizes),
            "ckks": derive_ckks(num_clients=len(CLIENTS), num_params=CKKS_PARAMS),
        }
        shared, ckks = self.parameters["shared"], self.parameters["ckks"]
        self.contexts = {
            "shared": (shared_context(shared), frames.ciphertext_shape(shared)),
            "ckks": (shared_ckks_context(), ckks_shape(ckks)),
        }
        self.secrets = {kind: SharedSecret.generate(*made) for kind, made in self.contexts.items()}
        self.messages = {}
        for kind, where in itertools.product(("shared", "ckks", "plain"), ROUNDS):
            made = self._round(kind, self.terms(kind, *ROUNDS[where]))
            self.messages |= {f"{kind}{where}/{name}": raw for name, raw in made.items()}
        for where, (run, number) in ROUNDS.items():
            made = HolderRound(self, run, number).played("finished")
            self.messages |= {f"holder{where}/{name}": raw for name, raw in made.messages.items()}
        self._add_keys()
        self._add_files()

    def terms(self, kind, run="fuzzed", number=1):
        parameters = self.parameters.get(kind)
        manifest = {"base": "00" * 32, "roster": self.roster.digest().hex()}
        manifest["encryption"] = parameters.to_json() if parameters else {"scheme": "none"}
        if kind in self.secrets and number:
            manifest["key_id"] = self.secrets[kind].key_id
        return Terms(run=run, round=number, manifest=manifest)

    def cipher(self, kind, name="west", secret=None):
        if kind == "plain":
            return PlainCipher(PARAMS, len(CLIENTS), self.roster, MIN_CLIENTS)
        identity, parameters = self.identities[name], self.parameters[kind]
        if kind == "holder":
            return RoundKeyCipher(parameters, identity, self.roster, MIN_CLIENTS)
        cipher = CKKSCipher if kind == "ckks" else SharedKeyCipher
        secret = secret or self.secrets[kind]
        return cipher(parameters, secret, self.roster, MIN_CLIENTS, identity=identity)

    def aggregator(self, kind, terms):
        """An aggregator and its adder."""
        plain = kind == "plain"
        adder = PlainAdder(PARAMS, 127) if plain else CiphertextAdder(self.parameters[kind])
        aggregator = Aggregator(
            identity=self.identities["server"],
            roster=self.roster,
            terms=terms,
            cohort=CLIENTS,
            anchors=dict.fromkeys(CLIENTS, Anchor(length=1, head="00" * 32)),
            adder=adder,
            min_clients=MIN_CLIENTS,
        )
        return aggregator, adder

    def by(self, sender, kind, terms, **content):
        """A message that an enrolled party signs."""
        sign = self.identities[sender].sign
        return envelope_bytes(sign, terms, sender=sender, kind=kind, **content)

    def update(self, kind, name, terms, cipher):
        numbers = (self.floats if kind == "ckks" else self.numbers)[name]
        blobs = {blob: b"".join(pieces) for blob, pieces in cipher.encrypt(terms, numbers)}
        return self.by(name, "update", terms, manifest={"ledger": LEDGER}, blobs=blobs)

    def collected(self, kind, terms, ciphers):
        """The updates of all, and their sum."""
        aggregator, _ = self.aggregator(kind, terms)
        sent = {}
        for name, cipher in ciphers.items():
            sent[f"update/{name}"] = self.update(kind, name, terms, cipher)
            aggregator.receive(sent[f"update/{name}"])
        return {**sent, "sum": aggregator.total()}

    def exact(self, names):
        return sum(self.numbers[name].astype(np.int64) for name in names)

    def _round(self, kind, terms):
        """The messages of a round whose sum the clients open themselves."""
        ciphers = {name: self.cipher(kind, name) for name in CLIENTS}
        sent = self.collected(kind, terms, ciphers)
        if kind == "plain":
            return sent

        def ask(listing):
            sent["listing"] = listing
            for name, cipher in ciphers.items():
                sent[f"agreed/{name}"] = cipher.answer(terms, listing, sent[f"update/{name}"])
            return {name: sent[f"agreed/{name}"] for name in CLIENTS}

        sent["total"] = sent["sum"]
        closing = ClientsAgree(self.identities["server"], self.roster)
        sent["sum"] = closing.close(terms, sent["total"], ask)
        return sent

    def _add_keys(self):
        """The shared key as east sends it, and what a hostile maker wraps instead of a key."""
        for kind, secret in self.secrets.items():
            content = secret.to_bytes()
            head, body = content[:48], content[48:]
            wrapped = {
                "": content,
                "/zero": head + bytes(len(body)),
                "/maximal": head + b"\xff" * len(body),
                "/short": content[:-1],
                "/long": content + b"\0",
                "/head only": head,
                "/one byte": b"\0",
                "/not ternary": head + b"\x5a\xa5" * (len(body) // 2),
                "/other name": bytes(16) + content[16:],
            }
            for name, inside in wrapped.items():
                fake = SimpleNamespace(key_id=secret.key_id, to_bytes=lambda inside=inside: inside)
                self.messages[f"{kind}/key{name}"] = self._shared_by("east", fake, kind)
            other = SharedSecret.generate(*self.contexts[kind])
            self.messages[f"{kind}/key/other"] = self._shared_by("south", other, kind)

    def _shared_by(self, maker, secret, kind):
        terms, identity = self.terms(kind, number=0), self.identities[maker]
        return key_exchange.share_secret(secret, identity, self.roster, terms)

    def _add_files(self):
        north = self.identities["north"]
        path = self.folder / "original.identity"
        north.save(path)
        self.messages["identity"] = path.read_bytes()
        self.messages["roster"] = self.roster.to_bytes()
        self.messages["party"] = north.party.to_bytes()
        for kind, parameters in self.parameters.items():
            self.messages[f"parameters/{kind}"] = canonical(parameters.to_json()) + b"\n"
        listed = Draft.of(self.messages["shared/sum"]).value["manifest"]["contributions"]
        self.messages["contribution"] = canonical(listed[0]) + b"\n"
        self.secret, self.wrapping_context = b"a secret of thirty-two bytes ...", b"of the fuzzer"
        self.messages["wrapped"] = wrap(self.secret, north.party, self.wrapping_context)
        opening = self.messages["holder/open-round"]
        asked = [opening, self.messages["holder/result"], opening]
        self.messages["stream"] = b"".join(struct.pack("<Q", len(m)) + m for m in asked)
        self.messages["frame"] = struct.pack("<Q", 300) + bytes(range(150)) * 2


class HolderRound:
    """A key holder, brought to one of its states, and the messages that led there."""

    STATES = ("new", "opened", "committed", "finished")

    def __init__(self, world, run="fuzzed", number=1):
        self.world = world
        self.results = Path(tempfile.mkdtemp(dir=world.folder))
        identity = world.identities["holder"]
        self.holder = KeyHolder(identity, world.roster, self.results, MIN_CLIENTS)
        self.agreed = world.terms("holder", run, number)
        self.messages = {"open-round": world.by("server", "open-round", self.agreed)}

    def played(self, state):
        for step in (self.open, self.commit, self.finish)[: self.STATES.index(state)]:
            step()
        return self

    def named_messages(self):
        """Its messages under the names that the world gives them."""
        return {f"holder/{name}": raw for name, raw in self.messages.items()}

    def open(self):
        world, sent = self.world, self.messages
        sent["round-key"] = self.holder.receive(sent["open-round"])
        self.ciphers = {name: world.cipher("holder", name) for name in CLIENTS}
        for cipher in self.ciphers.values():
            self.terms = cipher.accept_key(self.agreed, sent["round-key"])
        sent |= world.collected("holder", self.terms, self.ciphers)
        sent["refusal"] = self.refusal_of("open-round")

    def refusal_of(self, name):
        holder = self.world.identities["holder"]
        return refusal(holder, self.messages[name], "none of your business")

    def commit(self):
        sent = self.messages
        sent["challenge"] = self.holder.receive(sent["sum"])
        answers = {
            name: cipher.answer(self.terms, sent["challenge"], sent[f"update/{name}"])
            for name, cipher in self.ciphers.items()
        }
        sent |= {f"answer/{name}": answer for name, answer in answers.items()}
        sent["answers"] = self.world.by("server", "answers", self.terms, blobs=answers)

    def finish(self):
        self.messages["result"] = self.holder.receive(self.messages["answers"])

    def remove(self):
        for path in self.results.iterdir():
            path.unlink()
        self.results.rmdir()
