"""What the aggregator reads: envelopes, updates of clients, and the key holder's replies."""

import hashlib
from typing import ClassVar

from privfed.errors import EncryptionError, MessageError
from privfed.parties.aggregator.openers import HolderOpens
from privfed.protocol.envelopes import Envelope, envelope_bytes
from privfed.protocol.signing import refusal
from tests.fuzz.envelopes import stated_kind, stated_sender, well_formed
from tests.fuzz.protocol_mutators import STATEMENT_STEPS, SUM_STEPS
from tests.fuzz.target import Target
from tests.fuzz.worlds import CLIENTS, HolderRound


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
            refused = refusal(world.identities["holder"], asked, "none of your business")
            self.messages["holder/refusal"] = refused

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
        """Answers to this very challenge, as clients sign them."""
        self.reply = self.own_round.messages["result"]
        statement = Envelope.from_bytes(challenge).statement
        stated = {"challenge": hashlib.sha256(statement.to_bytes()).hexdigest(), "values": []}
        return {
            name: envelope_bytes(
                self.world.identities[name].sign,
                self.own_round.terms,
                sender=name,
                kind="answer",
                manifest=stated,
            )
            for name in CLIENTS
        }

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
