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
from privfed.protocol.envelopes import Envelope, envelope_bytes
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.fuzz.byte_mutators import BYTE_STEPS
from tests.fuzz.envelopes import Draft, canonical, well_formed
from tests.fuzz.mutators import inner_message
from tests.fuzz.protocol_mutators import STATEMENT_STEPS, SUM_STEPS, largest_parameters
from tests.fuzz.target import MOST_SECONDS, Target
from tests.fuzz.worlds import CLIENTS, LEDGER, HolderRound


class HolderTarget(Target):
    """The key holder in one of its states, asked directly or through its loop."""

    errors = (MessageError, EncryptionError)
    steps = (*STATEMENT_STEPS, *SUM_STEPS, inner_message)
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
