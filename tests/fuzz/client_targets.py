"""What a client reads: sums, the shared key, and the key holder's keys, challenges and results."""

from typing import ClassVar

import numpy as np

from privfed.custody import key_exchange
from privfed.custody.ckks import CKKSCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.errors import EncryptionError, MessageError
from tests.fuzz.envelopes import stated_sender
from tests.fuzz.protocol_mutators import STATEMENT_STEPS, SUM_STEPS
from tests.fuzz.target import Target
from tests.fuzz.worlds import ABSENT, CLIENTS, MIN_CLIENTS, HolderRound


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
        north, parameters = world.identities["north"], world.parameters[self.kind]
        cipher = kinds[self.kind](parameters, secret, world.roster, MIN_CLIENTS, identity=north)
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
