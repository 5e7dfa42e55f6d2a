"""The aggregator's half of what comes before the rounds: who is here, and do all hold the same.

It asks every client (`hello`), has one of them make a key where the clients hold it, and hands all
`ready` to all (`start`). What each of them works out from that must be the same. After a client was
lost or restarted the same happens again: a new epoch, with a new key.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from privfed.agreement import Proposal
from privfed.encryption.schemes import Scheme
from privfed.errors import (
    AwayError,
    ConfigError,
    EncryptionError,
    IdentityError,
    MessageError,
    PrivfedError,
)
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.stated import (
    SHOWN,
    Exchange,
    is_number,
    most_alike,
    signed_by,
)
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    AGREEMENT,
    EPOCH,
    HELLO,
    KEY_ID,
    LEFT_OUT,
    MAKE_KEY,
    METRIC_VALUE,
    NEXT_BASE,
    NEXT_RANGE,
    NO_RUN,
    RELEASED,
    SHARED_KEY,
    SOFTWARE,
    START,
    STARTED,
    ready_of,
)
from privfed.protocol.ready import Ready, epoch_of, terms_before
from privfed.protocol.signing import (
    exact_values,
    refused,
    require_terms,
    signed_message,
)
from privfed.protocol.terms import RunTerms, Terms
from privfed.settings.encryption import Custody, Summation

NO_ANSWER: Final = "no answer came"
_COMMON: Final = (AGREEMENT, NEXT_BASE, RELEASED, NEXT_RANGE)
_KINDS: Final = {
    kind.__name__: kind for kind in (ConfigError, EncryptionError, IdentityError, MessageError)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came back for a `hello`.

    Attributes:
        ready: statements whose signature was checked, by client.
        messages: as they came.
        reasons: of those who are not ready.
    """

    ready: Mapping[str, Ready]
    messages: Mapping[str, bytes]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What a `start` began.

    Attributes:
        name: SHA-256 (hex) of all `ready` in it.
        run: identifier of the run.
        ready: of the clients that are in it.
        terms: what every message of the run states.
        scheme: how updates are summed.
        key: name and software of its key; empty if it has none.
        key_bytes: length of the message that handed out that key.
        base: SHA-256 (hex) of the adapter that they hold.
        released: of the adapter that the run leaves if it ends here.
        public_range: of the next round.
        metric: of the initial adapter on held-out text; None where the run goes on.
    """

    name: str
    run: str
    ready: Mapping[str, Ready]
    terms: RunTerms
    scheme: Scheme
    key: Mapping[str, Any]
    key_bytes: int
    base: str
    released: str
    public_range: float
    metric_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How the aggregator begins an epoch.

    Attributes:
        identity: of the aggregator.
        roster: who is enrolled.
        proposal: what all were given.
        summation: how updates are summed.
        exchange: reaches the clients.
    """

    identity: Identity
    roster: Roster
    proposal: Proposal
    summation: Summation
    exchange: Exchange

    def hello(self, clients: Collection[str], run: str, over: int = 0) -> Asked:
        """Ask who is here.

        Args:
            clients: to ask.
            run: that goes on; empty for a new one.
            over: rounds of it that are over.
        """
        terms = terms_before(self.roster, self.proposal.digest(), run, over)
        message = signed_message(self.identity, terms, HELLO)
        replies = self.exchange(dict.fromkeys(clients, message))
        return self.heard(replies, message, clients, terms)

    def heard(
        self, replies: Mapping[str, bytes], message: bytes, clients: Collection[str], terms: Terms
    ) -> Asked:
        """Who of the clients is ready, by what came back for a message."""
        ready, reasons = {}, {}
        for name in clients:
            try:
                reason = self._reason(name, replies, message)
                if reason is not None:
                    reasons[name] = reason
                    continue
                one = Ready.read(replies[name], self.roster, terms)
                if one.client != name:
                    raise MessageError(f"what came for {name!r} was sent by another")
                ready[name] = one
            except MessageError as error:
                reasons[name] = f"MessageError: {error}"
        return Asked(ready=ready, messages=replies, reasons=reasons)

    def start(
        self, asked: Asked, left_out: Sequence[str], *, run: str, over: int, base: str
    ) -> Epoch:
        """Begin an epoch with those who are ready.

        In a run that goes on, one that refuses to make the key is not in it; the next is asked.

        Args:
            asked: who they are; all of the run when it is new.
            left_out: clients of the proposal that take no part, or no further part.
            run: that goes on; empty for a new one.
            over: rounds that are over.
            base: SHA-256 (hex) of the adapter that they must hold; "" in a new run.

        Raises:
            ConfigError: if clients hold different things, or no parameters fit.
            AwayError: if one is lost without whom it cannot begin.
            EncryptionError, MessageError: what they refuse it for.
        """
        num_values = _require_alike(asked.ready)
        members = [name for name in self.proposal.names if name not in left_out]
        scheme = Scheme(summation=self.summation, num_clients=len(members), num_params=num_values)
        ready, shared = asked.ready, b""
        key: Mapping[str, Any] = {}
        if scheme.custody == Custody.SHARED_KEY:
            shared, key, ready = self._key(asked, left_out, run, over, new=not base)
        name, terms = epoch_of(ready.values()), self._terms_of(ready, run, over)
        blobs = {ready_of(client): asked.messages[client] for client in ready}
        message = signed_message(
            self.identity,
            terms,
            START,
            manifest={LEFT_OUT: list(left_out), NEXT_BASE: base},
            blobs={**blobs, SHARED_KEY: shared} if shared else blobs,
        )
        replies = self.exchange(dict.fromkeys(ready, message))
        began = self._began(message, replies, ready, terms, scheme, members, name, new=not base)
        first = next(iter(began.values()))
        if base and first[NEXT_BASE] != base:
            raise MessageError("clients must go on with the adapter that the run has come to")
        return Epoch(
            name=name,
            run=terms.run,
            ready={client: one for client, one in ready.items() if client in began},
            terms=self._run_terms(terms.run, scheme, members, str(first[AGREEMENT])),
            scheme=scheme,
            key=key,
            key_bytes=len(shared),
            base=str(first[NEXT_BASE]),
            released=str(first[RELEASED]),
            public_range=float(str(first[NEXT_RANGE])),
            metric_value=None if base else _metric_value(began.values()),
        )

    def _terms_of(self, ready: Mapping[str, Ready], run: str, over: int) -> Terms:
        """Of the messages that begin an epoch; the first epoch of a run gives it its name."""
        run = run or epoch_of(ready.values())[:32]
        return replace(terms_before(self.roster, self.proposal.digest(), run), round=over)

    def _key(
        self, asked: Asked, left_out: Sequence[str], run: str, over: int, *, new: bool
    ) -> tuple[bytes, Mapping[str, Any], Mapping[str, Ready]]:
        """The message with the key that one client makes for all, what it says of it, and for whom.

        A new run begins with all who are ready. Later, who refuses to make the key is left aside.
        """
        ready = dict(asked.ready)
        while True:
            maker, terms = min(ready), self._terms_of(ready, run, over)
            try:
                return *self._key_by(maker, asked, ready, terms, left_out), ready
            except (ConfigError, EncryptionError, IdentityError, MessageError):
                del ready[maker]
                if new or len(ready) < self.proposal.min_clients:
                    raise

    def _key_by(
        self,
        maker: str,
        asked: Asked,
        ready: Collection[str],
        terms: Terms,
        left_out: Sequence[str],
    ) -> tuple[bytes, Mapping[str, Any]]:
        blobs = {ready_of(client): asked.messages[client] for client in ready}
        message = signed_message(
            self.identity, terms, MAKE_KEY, manifest={LEFT_OUT: list(left_out)}, blobs=blobs
        )
        replies = self.exchange({maker: message})
        reason = self._reason(maker, replies, message)
        if reason is not None:
            raise _error(maker, reason)
        envelope = self._signed_by(maker, replies[maker])
        if envelope.statement.kind != SHARED_KEY:
            raise MessageError(f"{maker!r} must make a key, and sent something else")
        manifest = envelope.statement.manifest
        return replies[maker], {key: manifest[key] for key in (KEY_ID, SOFTWARE) if key in manifest}

    def _began(
        self,
        message: bytes,
        replies: Mapping[str, bytes],
        ready: Mapping[str, Ready],
        terms: Terms,
        scheme: Scheme,
        members: Sequence[str],
        epoch: str,
        *,
        new: bool,
    ) -> dict[str, Mapping[str, object]]:
        """What each client states that began, which must be what most state."""
        stated: dict[str, Mapping[str, object]] = {}
        reasons: dict[str, str] = {}
        for name in ready:
            try:
                reason = self._reason(name, replies, message)
                if reason is not None:
                    reasons[name] = reason
                    continue
                envelope = self._signed_by(name, replies[name])
                agreement = str(envelope.statement.manifest.get(AGREEMENT))
                expected = self._run_terms(terms.run, scheme, members, agreement).of_run()
                expected = replace(expected, round=terms.round)
                require_terms(envelope.statement, kind=STARTED, terms=expected)
                states = {EPOCH, NEXT_BASE, RELEASED, NEXT_RANGE, METRIC_VALUE}
                found = exact_values(envelope, expected, states=states)
                if found[EPOCH] != epoch or not is_number(found[NEXT_RANGE], above=0):
                    raise MessageError(f"{name!r} began something else")
                stated[name] = {**found, AGREEMENT: agreement}
            except MessageError as error:
                reasons[name] = f"MessageError: {error}"
        began = most_alike(stated, _COMMON)
        least = len(ready) if new else self.proposal.min_clients
        if len(began) < least or 2 * len(began) <= len(stated):
            for name, reason in reasons.items():
                raise _error(name, reason)
            raise EncryptionError(
                f"{least} clients must begin with the same agreement and adapter, {began} did"
            )
        return {name: stated[name] for name in began}

    def _run_terms(
        self, run: str, scheme: Scheme, members: Sequence[str], agreement: str
    ) -> RunTerms:
        enrolled = [party.name for party in self.roster.of_role(Role.CLIENT)]
        return RunTerms(
            run=run,
            agreement=agreement,
            encryption=scheme.to_json(),
            roster=self.roster.digest().hex(),
            left_out=tuple(name for name in enrolled if name not in members),
        )

    def _reason(self, name: str, replies: Mapping[str, bytes], message: bytes) -> str | None:
        """Why a client does not do what it was asked; None if it says something else than that."""
        if name not in replies:
            return f"MessageError: {NO_ANSWER}"
        return refused(self._signed_by(name, replies[name]), message)

    def _signed_by(self, name: str, reply: bytes) -> Envelope:
        return signed_by(self.roster, name, reply)


def reason_in(reasons: Mapping[str, str]) -> str:
    """Why clients are not ready, for whoever reads it."""
    return "; ".join(f"{name}: {ascii(why[:SHOWN])[1:-1]}" for name, why in sorted(reasons.items()))


def _error(name: str, reason: str) -> PrivfedError:
    kind, _, text = reason.partition(": ")
    if text in (NO_ANSWER, NO_RUN):
        return AwayError(f"{name}: {text}", [name])
    return _KINDS.get(kind, EncryptionError)(f"{name}: {ascii(text[:SHOWN])[1:-1]}")


def _require_alike(ready: Mapping[str, Ready]) -> int:
    """Refuse clients that hold different things, naming who; returns how much each sends.

    What belongs to the base model must be the same at all that declare the same one.
    """
    of_all = {name: one.facts.common_to_all for name, one in ready.items()}
    of_base: dict[str | None, dict[str, dict[str, Any]]] = {}
    for name, one in ready.items():
        of_base.setdefault(one.facts.declared_base, {})[name] = one.facts.common
    for stated in (*of_base.values(), of_all):
        alike = most_alike(stated, sorted(next(iter(stated.values()))))
        expected = stated[alike[0]]
        for name, values in stated.items():
            differs = [key for key, value in expected.items() if values[key] != value]
            if differs:
                raise ConfigError(
                    f"all clients must hold the same base model, initial adapter and tokenizer, or "
                    f"say that their base model is another; {name!r} has another "
                    f"{', '.join(differs)} than {alike[0]!r}"
                )
    return next(iter(ready.values())).facts.num_values


def _metric_value(began: Collection[Mapping[str, object]]) -> float:
    """The middle one of what clients state; another precision gives another metric."""
    stated = [one[METRIC_VALUE] for one in began]
    if not all(is_number(metric_value, above=-math.inf) for metric_value in stated):
        raise MessageError("clients must state the metric of the initial adapter")
    return statistics.median_low(float(str(metric_value)) for metric_value in stated)
