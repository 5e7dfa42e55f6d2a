"""Clients that say what they are told to: real keys and real messages, and nothing is trained."""

import hashlib
from dataclasses import replace

from privfed.agreement import Proposal
from privfed.encryption.schemes import Scheme
from privfed.parties.aggregator.epoch import Beginning
from privfed.parties.aggregator.presence import Presence
from privfed.parties.aggregator.reached import Reached
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    ABANDON,
    ABANDONED,
    CLOSED,
    EPOCH,
    EPSILON,
    FACTS,
    FETCH_STATE,
    FINISH,
    HELLO,
    KEY_ID,
    LEDGER,
    LEFT_OUT,
    MAKE_KEY,
    METRIC_VALUE,
    MISSING,
    NEXT_BASE,
    NEXT_RANGE,
    NONCE,
    READY,
    REASON,
    RELEASED,
    SHARED_KEY,
    SOFTWARE,
    STANDING,
    START,
    STARTED,
    STATE,
    ready_of,
)
from privfed.protocol.ready import Facts, Ready, Standing, epoch_of, terms_before
from privfed.protocol.signing import refusal, signed_message
from privfed.protocol.terms import RunTerms
from privfed.reports.round_record import Abandoned, Reason
from privfed.reports.run_record import RunRecord
from privfed.settings.encryption import BFV, summation_to_json
from tests.unit.privfed.small_federation import anchor, enrolled

RUN = "0a1b2c3d" * 4
AGREED = "a6" * 32
INITIAL, INITIAL_RELEASED, INITIAL_RANGE = "51" * 32, "52" * 32, 0.375
BASE, RELEASED_NOW, RANGE_NOW = "b1" * 32, "b2" * 32, 0.1875
KEY = {KEY_ID: "c7" * 32, SOFTWARE: {"tenseal": "0.3"}}
ROUNDS = 7


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now, self.slept, self.later = 1000.0, [], {}

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    @property
    def passed(self):
        """Seconds, since nobody had slept yet."""
        return round(self.now - 1000.0, 6)

    def sleep(self, seconds):
        self.now = round(self.now + seconds, 6)
        self.slept.append(seconds)
        for due in [due for due in self.later if due <= self.now]:
            self.later.pop(due)()

    def after(self, seconds, happens):
        """Let something happen so many seconds from now."""
        self.later[self.now + seconds] = happens


class Speakers:
    """Honest clients of one run, unless a test says what one of them says instead.

    `gone` do not answer. `instead[kind, name]` turns a message and the honest reply to it into what
    is said; None says nothing. `asked` lists the kinds of messages with whom they went to.
    """

    def __init__(self, num_clients=5, *, summation=None, min_clients=3):
        self.parties = enrolled(num_clients)
        self.names, self.roster = sorted(self.parties.clients), self.parties.roster
        self.summation = summation or BFV(bits=8)
        self.proposal = Proposal(
            settings={
                "rounds": ROUNDS,
                "clients_per_round": None,
                "min_clients": min_clients,
                "metric": "accuracy",
                "encryption": summation_to_json(self.summation),
            },
            clients=tuple({"id": name, "public_size": 20 + int(name[1:])} for name in self.names),
        )
        self.facts = {name: facts_of(name) for name in self.names}
        self.lengths = {name: 10 * int(name[1:]) for name in self.names}
        self.standings = {}
        self.asked, self.messages, self.instead, self.gone = [], [], {}, set()
        self._count = 0
        self.beginning = Beginning(
            identity=self.parties.aggregator,
            roster=self.roster,
            proposal=self.proposal,
            summation=self.summation,
            exchange=self.exchange,
        )

    @property
    def kinds(self):
        """Of the messages that were sent so far."""
        return [kind for kind, _ in self.asked]

    def presence(self, patience_s=0.0):
        return Presence(beginning=self.beginning, patience_s=patience_s)

    def go_on(self, number=2, epoch="", base=BASE):
        """All of them have come to the end of a round; without an epoch they were restarted."""
        for name in self.names:
            self.standings[name] = standing(number, base, epoch)

    def reached(self, number=2):
        """What the aggregator knows of that."""
        known = {name: anchor(self.lengths[name]) for name in self.names}
        return Reached(
            base=BASE,
            released=RELEASED_NOW,
            record=record_of(self.names, known, over=number),
            opened={"c1": b"what c1 opened", "c4": b"what c4 opened"},
            facts={name: facts_of(name) for name in self.names},
        )

    def exchange(self, messages):
        kinds = {statement_of(message).kind for message in messages.values()}
        assert len(kinds) <= 1, "all get one kind of message"
        for kind in kinds:
            self.asked.append((kind, sorted(messages)))
        self.messages.append(dict(messages))
        replies = {}
        for name, message in messages.items():
            if name in self.gone:
                continue
            kind = statement_of(message).kind
            reply = self.answer(name, message)
            change = self.instead.get((kind, name))
            reply = reply if change is None else change(message, reply)
            if reply is not None:
                replies[name] = reply
        return replies

    def answer(self, name, message):
        """The honest reply."""
        statement = statement_of(message)
        if statement.kind == HELLO:
            return self.ready(name, statement.run, statement.round)
        if statement.kind == MAKE_KEY:
            return self.says(name, self.before(statement), SHARED_KEY, manifest=KEY)
        if statement.kind == START:
            return self.started(name, message)
        if statement.kind == FETCH_STATE:
            return self.says(name, self.before(statement), STATE)
        if statement.kind == STATE:
            self.standings[name] = standing(statement.round, BASE, "")
            return self.ready(name, statement.run, statement.round)
        if statement.kind == ABANDON:
            mine = {k: v for k, v in statement.manifest.items() if k not in (REASON, MISSING)}
            return self.says(name, replace(self.before(statement), manifest=mine), ABANDONED)
        if statement.kind == FINISH:
            return self.says(name, self.before(statement), CLOSED)
        raise AssertionError(f"nobody asks these clients for {statement.kind}")

    def ready(self, name, run="", over=0, *, signer=None, **changes):
        """What a client says that is ready; `changes` replace what it states."""
        self._count += 1
        stated = self.standings.get(name) if run else None
        manifest = {
            NONCE: hashlib.sha256(f"{name} {self._count}".encode()).hexdigest()[:32],
            FACTS: self.facts[name].to_json(),
            STANDING: None if stated is None else stated.to_json(),
            LEDGER: anchor(self.lengths[name]).to_json(),
            EPSILON: 0.5 + int(name[1:]) / 16,
        }
        terms = terms_before(self.roster, self.proposal.digest(), run, over)
        return self.says(signer or name, terms, READY, manifest={**manifest, **changes})

    def started(self, name, message, agreement=AGREED, **changes):
        """What a client says that began an epoch; `changes` replace what it states."""
        envelope = Envelope.from_bytes(message)
        statement = envelope.statement
        goes_on = bool(statement.manifest[NEXT_BASE])
        ready = self.ready_in(message)
        epoch = epoch_of(ready.values())
        terms = replace(
            self.run_terms(statement.run, statement.manifest[LEFT_OUT], agreement).of_run(),
            round=statement.round,
        )
        before = self.standings.get(name) or standing(0, "", "")
        base = statement.manifest[NEXT_BASE] or INITIAL
        self.standings[name] = replace(
            before,
            round=statement.round,
            base=base,
            before=before.before if base == before.base else None,
            epoch=epoch,
        )
        manifest = {
            EPOCH: epoch,
            NEXT_BASE: base,
            RELEASED: RELEASED_NOW if goes_on else INITIAL_RELEASED,
            NEXT_RANGE: RANGE_NOW if goes_on else INITIAL_RANGE,
            METRIC_VALUE: None if goes_on else 0.25 + int(name[1:]) / 32,
        }
        return self.says(name, terms, STARTED, manifest={**manifest, **changes})

    def ready_in(self, message):
        """Whose `ready` a message carries."""
        blobs = Envelope.from_bytes(message).blobs
        stated = {name: blobs[ready_of(name)] for name in self.names if ready_of(name) in blobs}
        return {
            name: Ready.read(blob, self.roster, self.before(statement_of(blob)))
            for name, blob in stated.items()
        }

    def run_terms(self, run, left_out, agreement=AGREED):
        members = [name for name in self.names if name not in left_out]
        return RunTerms(
            run=run,
            agreement=agreement,
            encryption=self.scheme(len(members)).to_json(),
            roster=self.roster.digest().hex(),
            left_out=tuple(name for name in self.names if name in left_out),
        )

    def scheme(self, num_clients):
        return Scheme(summation=self.summation, num_clients=num_clients, num_params=11)

    def before(self, statement):
        """Terms of messages that belong to no epoch."""
        return terms_before(self.roster, self.proposal.digest(), statement.run, statement.round)

    def says(self, name, terms, kind, **more):
        return signed_message(self.parties.clients[name], terms, kind, **more)

    def refuses(self, name, reason):
        """A change of what a client says: it refuses for that reason."""
        return lambda message, _: refusal(self.parties.clients[name], message, reason)


def facts_of(name):
    """What a client brings, of which nothing is another's but what all must have alike."""
    index = int(name[1:])
    return Facts(
        client={"id": name, "public_size": 20 + index},
        base_weights="d1" * 32,
        base_model="d2" * 32,
        layout="d3" * 32,
        num_params=9,
        num_values=11,
        start="d4" * 32,
        tokenizer="d5" * 32,
        noise_multiplier=1.5 + index / 8,
        epsilon_before=index / 64,
    )


def standing(number, base, epoch, *, before=None, next_status=None, agreed=None, given_up=None):
    return Standing(
        round=number,
        base=base,
        before=before,
        epoch=epoch,
        next_status=next_status,
        agreed=agreed,
        given_up=given_up,
    )


def record_of(names, anchors, *, over):
    """Of a run whose rounds were all given up so far, which needs no numbers."""
    return RunRecord(
        run=RUN,
        settings={"rounds": ROUNDS},
        base_sha256="d1" * 32,
        start_sha256="d4" * 32,
        notes=("the weights are not even",),
        noise_multipliers={name: facts_of(name).noise_multiplier for name in names},
        first_range=INITIAL_RANGE,
        public_range=RANGE_NOW,
        anchors=anchors,
        baseline=0.28125,
        rounds=(),
        abandoned=tuple(Abandoned(round=n, reason=Reason.LOST) for n in range(1, over + 1)),
        left_out={},
    )
