"""The honest side: every party, and every valid message of rounds under each custody.

Valid messages are what the hostile ones are made of. Keys and ciphertexts are new in each world;
the names and the order of its messages are not, so that one recipe fits every world.
"""

import io
import itertools
import struct
import tempfile
from pathlib import Path

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
from privfed.protocol.envelopes import envelope_bytes, write_envelope
from privfed.protocol.signing import refusal
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.fuzz.envelopes import Draft, canonical

CLIENTS = ("east", "north", "south", "west")
ABSENT = "zeta"
PARAMS, CKKS_PARAMS, BITS, MIN_CLIENTS = 24, 4100, 8, 3
LEDGER = {"length": 2, "head": "00" * 32}


class World:
    """All parties, and by name every valid message of rounds under each custody."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.authority = Identity.generate("board", Role.AUTHORITY)
        names = [*CLIENTS, ABSENT]
        parties = [Identity.generate(name, Role.CLIENT, new_transport_key()[1]) for name in names]
        parties.append(Identity.generate("server", Role.AGGREGATOR, new_transport_key()[1]))
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
        identity = self.identities[name]
        if kind == "holder":
            return RoundKeyCipher(self.parameters[kind], identity, self.roster, MIN_CLIENTS)
        cipher = CKKSCipher if kind == "ckks" else SharedKeyCipher
        parameters, secret = self.parameters[kind], self.secrets[kind]
        return cipher(parameters, secret, self.roster, MIN_CLIENTS, identity=identity)

    def aggregator(self, kind, terms):
        plain = kind == "plain"
        adder = PlainAdder(PARAMS, 127) if plain else CiphertextAdder(self.parameters[kind])
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
            made = self._round(kind, self.terms(kind, run, number))
            self.messages |= {f"{kind}{where}/{name}": raw for name, raw in made.items()}
        for where, (run, number) in rounds.items():
            made = HolderRound(self, run, number).played("finished")
            self.messages |= {f"holder{where}/{name}": raw for name, raw in made.messages.items()}

    def _round(self, kind, terms):
        """The messages of a round whose sum the clients open themselves."""
        sent, aggregator = {}, self.aggregator(kind, terms)
        ciphers = {name: self.cipher(kind, name) for name in CLIENTS}
        for name, cipher in ciphers.items():
            sent[f"update/{name}"] = self.update(kind, name, terms, cipher)
            aggregator.receive(sent[f"update/{name}"])
        sent["sum"] = aggregator.total()
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
        sent["refusal"] = refusal(identity, refused, "none of your business")

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
