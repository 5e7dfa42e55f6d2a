"""Rounds that clients open: what the aggregator reads from them, and they from it and a maker."""

import hashlib

import numpy as np

from privfed.custody import key_exchange
from privfed.errors import EncryptionError, MessageError
from tests.fuzz.envelopes import stated
from tests.fuzz.recipes import EVERYTHING
from tests.fuzz.target import Target
from tests.fuzz.worlds import CLIENTS, HolderRound


class AggregatorTarget(Target):
    """An aggregator that has north's update."""

    def __init__(self, world, kind):
        self.kind = kind
        self.terms = None if kind == "holder" else world.terms(kind)
        bases = [f"{kind}/update/{name}" for name in ("east", *CLIENTS, "east", "west", "east")]
        bases += [
            f"{kind}/{place}" for place in ("later/update/east", "elsewhere/update/east", "sum")
        ]
        super().__init__(world, bases, f"{kind}/update/east")

    def renew(self):
        if self.terms is None:
            made = HolderRound(self.world).played("committed")
            self.own_messages = made.named_messages()
            self.terms = made.terms
        self.aggregator, self.adder = self.world.aggregator(self.kind, self.terms)
        self.aggregator.receive(self.message(f"{self.kind}/update/north"))

    def feed(self, raw):
        return self.aggregator.receive(raw)

    def print(self):
        content = hashlib.sha256()
        for name, blob in sorted(self.adder.total().items()):
            content.update(name.encode() + blob)
        return content.digest(), self.aggregator.contributors, self.aggregator.bytes_up

    def judge(self, raw, _):
        if stated(raw, "sender") == "north":
            return "a second update of one client"
        return self.judge_of.update(self.kind, raw, self.terms)


class OpenTarget(Target):
    """A client that opens a sum: with the shared key, or without encryption."""

    steps = EVERYTHING

    def __init__(self, world, kind, later=False):
        self.kind, self.later = kind, later
        where = f"{kind}/later" if later else kind
        self.terms = world.terms(kind, number=2 if later else 1)
        bases = [f"{where}/sum"] * 4 + [f"{kind}/sum", f"{kind}/elsewhere/sum"]
        bases += [f"{where}/update/east", "holder/sum"]
        if kind != "plain":
            self.errors = (MessageError, EncryptionError)
        super().__init__(world, bases, f"{where}/sum")

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
        if isinstance(error, EncryptionError):
            names = self.judge_of.sum(self.kind, raw, self.terms)
            self.renew() if isinstance(names, list) else None


class KeyTarget(Target):
    """A client that receives the shared secret from east."""

    errors = (MessageError, EncryptionError)

    def __init__(self, world, kind):
        self.kind, self.terms = kind, world.terms(kind, number=0)
        bases = [name for name in world.messages if name.startswith(f"{kind}/key")]
        super().__init__(world, bases, f"{kind}/key")

    def feed(self, raw):
        context, shape = self.world.contexts[self.kind]
        north, roster = self.world.identities["north"], self.world.roster
        return key_exchange.receive_secret(
            raw, north, roster, self.terms, maker="east", context=context, shape=shape
        )

    def judge(self, raw, secret):
        parsed = self.judge_of.message(
            raw, senders=("east",), kind="shared-key", terms=self.terms, own={"key_id", "software"}
        )
        if isinstance(parsed, str):
            return parsed
        if secret.key_id != parsed.value["manifest"]["key_id"]:
            return "the key has another name"
        self._used(secret)
        return None if "north" in parsed.blobs else "nothing was wrapped to this client"

    def _used(self, secret):
        """SEAL must bear any key that was accepted."""
        terms = self.world.terms(self.kind)
        cipher = self.world.cipher(self.kind, "north", secret)
        try:
            cipher.open(terms, self.message(f"{self.kind}/sum"))
        except (MessageError, EncryptionError):
            return
        self.world.update(self.kind, "north", terms, cipher)
