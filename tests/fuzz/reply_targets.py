"""Rounds with a key holder: what clients, and the aggregator for them, read of its replies."""

import hashlib
from typing import ClassVar

from privfed.errors import EncryptionError, MessageError
from privfed.parties.aggregator.openers import HolderOpens
from privfed.protocol.envelopes import Envelope
from tests.fuzz.envelopes import stated
from tests.fuzz.target import Target
from tests.fuzz.worlds import CLIENTS, HolderRound


class ReplyTarget(Target):
    """A client under custody `key_holder`: takes a key, answers a challenge, or opens a result."""

    errors = (MessageError, EncryptionError)
    KINDS: ClassVar = {"accept_key": "round-key", "answer": "challenge", "open": "result"}

    def __init__(self, world, step):
        self.step, self.kind = step, self.KINDS[step]
        self.made = HolderRound(world).played("finished")
        self.terms = self.made.agreed if self.kind == "round-key" else self.made.terms
        bases = [f"holder/{self.kind}"] * 6 + ["holder/round-key", "holder/challenge"]
        bases += ["holder/result", "holder/refusal"]
        bases += [f"holder/later/{self.kind}", f"holder/elsewhere/{self.kind}"]
        super().__init__(world, bases, f"holder/{self.kind}")
        self.own_messages = self.made.named_messages()
        if step == "open":
            self.errors = (MessageError,)

    def renew(self):
        self.cipher = self.world.cipher("holder")
        self.cipher.accept_key(self.made.agreed, self.made.messages["round-key"])

    def feed(self, raw):
        if self.step == "answer":
            return self.cipher.answer(self.terms, raw, self.made.messages["update/west"])
        return getattr(self.cipher, self.step)(self.terms, raw)

    def judge(self, raw, result):
        parsed = self.judge_of.reply(raw, self.kind, self.terms)
        if isinstance(parsed, str):
            return parsed
        if self.step == "accept_key":
            self.world.update("holder", "west", result, self.cipher)  # SEAL must bear any key
            return None
        for_us = self.step != "answer" or "west" in parsed.value["manifest"]["contributors"]
        reason = self.judge_of.contributors(parsed)
        return reason or (None if for_us else "the challenge is not for this client")


class UpdateAnswerTarget(ReplyTarget):
    """`RoundKeyCipher.answer` with a changed update of its own, as read back from a disk."""

    def __init__(self, world):
        super().__init__(world, "answer")
        self.bases = ["holder/update/west"] * 4 + ["holder/update/east", "holder/later/update/west"]
        self.valid = "holder/update/west"

    def feed(self, raw):
        return self.cipher.answer(self.terms, self.made.messages["challenge"], raw)

    def judge(self, raw, _):
        reason = self.judge_of.update("holder", raw, self.terms)
        if reason and "its ledger" in reason:
            reason = None  # which is for the aggregator to check
        return reason or (None if stated(raw, "sender") == "west" else "another client's update")


class LinkTarget(ReplyTarget):
    """`HolderOpens`, whose link to the key holder lies at one step."""

    KINDS: ClassVar = {"begin": "round-key", "challenge": "challenge", "result": "result"}

    def __init__(self, world, step):
        super().__init__(world, step)
        if step != "begin":
            refused = self.made.refusal_of("sum" if step == "challenge" else "answers")
            self.own_messages["holder/refusal"] = refused

    def renew(self):
        """It keeps nothing from one message to the next."""

    def ask(self, message):
        if message[-68:] == self.made.messages["sum"][-68:] and self.step == "result":
            return self.made.messages["challenge"]
        return self.reply

    def feed(self, raw):
        self.reply, sent = raw, self.made.messages
        opens = HolderOpens(self, self.world.identities["server"], self.world.roster)
        if self.step == "begin":
            return opens.begin(self.terms)
        answers = {name: sent[f"answer/{name}"] for name in CLIENTS}
        relayed = self._relayed if self.step == "challenge" else lambda challenge: answers
        return opens.close(self.terms, sent["sum"], relayed)

    def _relayed(self, challenge):
        """Answers to this very challenge, as clients sign them."""
        self.reply = self.made.messages["result"]
        statement = Envelope.from_bytes(challenge).statement
        own = {"challenge": hashlib.sha256(statement.to_bytes()).hexdigest(), "values": []}
        return {name: self.world.by(name, "answer", self.terms, manifest=own) for name in CLIENTS}

    def judge(self, raw, _):
        if self.step == "begin" and stated(raw, "kind") == "result":
            parsed = self.judge_of.reply(raw, "result", self.terms, {"key_id", "software"})
        else:
            parsed = self.judge_of.reply(raw, self.kind, self.terms)
        return parsed if isinstance(parsed, str) else None

    def judge_refusal(self, raw, error):
        if not str(error).startswith("the key holder refuses:"):
            return None
        parsed = self.judge_of.genuine(raw, ("holder",))
        return f"a refusal was believed: {parsed}" if isinstance(parsed, str) else None
