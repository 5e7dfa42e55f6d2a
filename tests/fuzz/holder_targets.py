"""What the key holder reads: requests in each of its states, directly or through its loop."""

import hashlib
import io
import re
from typing import ClassVar

import numpy as np

from privfed.encryption.parameters import derive
from privfed.errors import EncryptionError, MessageError
from privfed.parties.key_holder import serving
from privfed.protocol.contributions import Contribution
from privfed.protocol.envelopes import Envelope
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.fuzz.envelopes import Draft, canonical, well_formed
from tests.fuzz.protocol_mutators import largest_parameters
from tests.fuzz.recipes import BYTES, EVERYTHING
from tests.fuzz.target import MOST_SECONDS, Target
from tests.fuzz.worlds import CLIENTS, LEDGER, HolderRound

ANSWERED = {"open-round": ("round-key", "result"), "sum": ("challenge",), "answers": ("result",)}
"""The kinds of reply to each kind of request."""


class HolderTarget(Target):
    """The key holder in one of its states, asked directly or through its loop."""

    errors = (MessageError, EncryptionError)
    steps = EVERYTHING
    VALID: ClassVar = {"opened": "sum", "committed": "answers"}

    def __init__(self, world, state, served=False):
        self.state, self.served, self.made = state, served, None
        main = f"holder/{self.VALID.get(state, 'open-round')}"
        bases = [main] * 4 + ["holder/open-round"] * 3 + ["holder/sum", "holder/answers"]
        bases += ["holder/later/open-round", "holder/later/sum", "holder/update/east"]
        super().__init__(world, bases, main)

    def renew(self):
        if self.made is not None:
            self.made.remove()
        self.made = HolderRound(self.world).played(self.state)
        # Messages that this state has not seen yet come from the world: another key's.
        self.own_messages = self.made.named_messages()

    def feed(self, raw):
        if not self.served:
            return self.made.holder.receive(raw)
        reply = serving.answer(self.made.holder, self.world.identities["holder"], raw)
        parsed = self.judge_of.genuine(reply, ("holder",))
        if isinstance(parsed, str):
            raise AssertionError(f"its reply is wrong: {parsed}")
        if parsed.value["kind"] != "refusal":
            return reply
        stated = parsed.value["manifest"]
        if stated["of"] != hashlib.sha256(raw).hexdigest():
            raise AssertionError("it refuses another message")
        if re.match("(MessageError|EncryptionError): ", stated["reason"]):
            raise MessageError(stated["reason"])
        raise AssertionError(f"not a documented reason: {stated['reason'][:200]}")

    def judge(self, raw, reply):
        parsed = self.judge_of.genuine(raw, ("server",))
        if isinstance(parsed, str):
            return parsed
        answered = self.judge_of.genuine(reply, ("holder",))
        if isinstance(answered, str):
            return f"its reply is wrong: {answered}"
        kind = parsed.value["kind"]
        if answered.value["kind"] not in ANSWERED.get(kind, ()):
            return "a message of another kind was answered"
        if kind == "open-round":
            return self._judge_opening(parsed, answered)
        if kind == "answers":
            return self._judge_answers(parsed, reply)
        names = self.judge_of.sum("holder", raw, self.made.terms)
        return names if isinstance(names, str) else None

    def _judge_opening(self, parsed, answered):
        value, manifest = parsed.value, parsed.value["manifest"]
        if manifest.get("roster") != self.world.roster.digest().hex():
            return "another roster"
        if parsed.blobs:
            return "its structure: a request to open a round has no blobs"
        if value["round"] < 1:
            return "rounds are counted from 1"
        theirs = manifest.get("encryption")
        sizes = {key: theirs[key] for key in ("num_clients", "bits", "num_params")}
        if canonical(theirs) != canonical(derive(custody=Custody.KEY_HOLDER, **sizes).to_json()):
            return "its parameters are not derived"
        again = self.state == "finished" and (value["run"], value["round"]) == ("fuzzed", 1)
        if again and canonical(manifest) != canonical(dict(self.made.agreed.manifest)):
            return "the finished round was opened again"
        own = {"key_id", "software"}
        states = [
            canonical({key: new for key, new in each.items() if key not in own})
            for each in (manifest, answered.value["manifest"])
        ]
        if answered.value["kind"] == "round-key" and states[0] != states[1]:
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
        challenge = well_formed(self.made.messages["challenge"]).text
        own = {"challenge", "values"}
        for name, raw in parsed.blobs.items():
            answer = self.judge_of.message(
                raw, senders=(name,), kind="answer", terms=terms, own=own, blobs=()
            )
            if isinstance(answer, str):
                return f"an answer: {answer}"
            if answer.value["manifest"]["challenge"] != hashlib.sha256(challenge).hexdigest():
                return "an answer to another challenge"
        opened = self.world.cipher("holder").open(terms, reply)
        exact = np.array_equal(opened.values, self.world.exact(opened.contributors))
        return None if exact else "it decrypted to a wrong sum"

    def recovered(self, raw, error):
        if self.state == "committed" and "it is not decrypted" in str(error):
            self.made.commit()  # one guess per challenge: the sum must be committed again
            self.own_messages = self.made.named_messages()


class HugeTarget(HolderTarget):
    """A key holder that opened a round with as many parameters as it takes."""

    def __init__(self, world):
        super().__init__(world, "new")
        self.bases = ["holder/sum"] * 3 + ["holder/answers", "holder/open-round"]

    def renew(self):
        super().renew()
        made, world = self.made, self.world
        manifest = {**made.agreed.manifest, "encryption": largest_parameters().to_json()}
        agreed = Terms(run="fuzzed", round=1, manifest=manifest)
        key = made.holder.receive(world.by("server", "open-round", agreed))
        made.terms = Terms(run="fuzzed", round=1, manifest=Draft.of(key).value["manifest"])
        few, listed = {"ciphertexts": b"few"}, []
        for name in CLIENTS:
            own = {"ledger": LEDGER}
            update = world.by(name, "update", made.terms, manifest=own, blobs=few)
            listed.append(Contribution.of(Envelope.from_bytes(update)).to_json())
        own, later = {"contributions": listed}, world.terms("holder", number=2)
        self.own_messages = {
            "holder/open-round": world.by("server", "open-round", later),
            "holder/sum": world.by("server", "sum", made.terms, manifest=own, blobs=few),
        }


class StreamTarget(Target):
    """`serving.serve`: a stream of messages; every whole one gets one signed answer."""

    steps = (BYTES,)

    def __init__(self, world):
        super().__init__(world, ["stream"], "stream")

    def renew(self):
        self.made = HolderRound(self.world)

    def feed(self, raw):
        self.sink = io.BytesIO()
        holder, identity = self.made.holder, self.world.identities["holder"]
        serving.serve(holder, identity, Trickle(raw), self.sink)

    def seconds(self, raw):
        return MOST_SECONDS * (1 + len(unframed(raw)[0]) // 1000)

    def judge(self, raw, _):
        asked, rest = unframed(raw)
        return "a cut stream ended without a word" if rest else self._judge_replies(asked)

    def judge_refusal(self, raw, error):
        return self._judge_replies(unframed(raw)[0])

    def _judge_replies(self, asked):
        replies, rest = unframed(self.sink.getvalue())
        if rest or len(replies) != len(asked):
            return f"{len(asked)} messages got {len(replies)} answers"
        wrong = [r for r in replies if isinstance(self.judge_of.genuine(r, ("holder",)), str)]
        return "an answer is not the key holder's" if wrong else None


class Trickle(io.BytesIO):
    """A stream that gives fewer bytes than are asked for."""

    def read(self, size=-1):
        return super().read(min(size, 7) if 0 < size < 512 else size)


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
