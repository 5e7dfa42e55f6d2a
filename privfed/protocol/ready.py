"""What clients state before a run begins or goes on, and what these statements begin together."""

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from accountants import Anchor, InvalidValueError, anchor_from_json
from privfed.canonical import canonical_json
from privfed.errors import MessageError
from privfed.identity.keys import Role
from privfed.identity.names import from_hex
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import Blob
from privfed.protocol.kinds import (
    EPSILON,
    FACTS,
    LEDGER,
    NONCE,
    PROPOSAL,
    READY,
    ROSTER,
    STANDING,
)
from privfed.protocol.signing import exact_values, verified
from privfed.protocol.terms import Terms

NONCE_BYTES: Final = 16
_MOST_PARAMS: Final = 1 << 40
_MOST_RECORDS: Final = 1 << 53
_COMMON: Final = ("layout", "num_params", "num_values", "start")
_OF_BASE: Final = ("base_weights", "base_model", "tokenizer")
_DIGESTS: Final = ("layout", "start", *_OF_BASE)
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a client brings to a run. All of it is public, and stays while the run lasts.

    Attributes:
        client: description of the client, with its public size as a number.
        base_weights: SHA-256 (hex) of the base model as its task builds it.
        base_model: SHA-256 (hex) of all frozen parameters.
        layout: SHA-256 (hex) of names and shapes of the trainable parameters.
        num_params: length of an adapter.
        num_values: of all that a client sends in a round.
        start: SHA-256 (hex) of the file with the initial adapter.
        tokenizer: SHA-256 (hex) of what the tokenizer makes of texts.
        noise_multiplier: calibrated by the client to its own budget.
        epsilon_before: upper bound on what its ledger counted before the run, at its delta.
    """

    client: Mapping[str, Any]
    base_weights: str
    base_model: str
    layout: str
    num_params: int
    num_values: int
    start: str
    tokenizer: str
    noise_multiplier: float
    epsilon_before: float

    @property
    def common(self) -> dict[str, Any]:
        """What clients of a run that declare one base model must have alike, by name."""
        return {**self.common_to_all, **self.base}

    @property
    def common_to_all(self) -> dict[str, Any]:
        """What all clients of a run must have alike, whatever base model they declare."""
        return {name: getattr(self, name) for name in _COMMON}

    @property
    def base(self) -> dict[str, str]:
        """The digests of the client's base model, by name."""
        return {name: getattr(self, name) for name in _OF_BASE}

    @property
    def declared_base(self) -> str | None:
        """Public name of the client's base model; None is that of the federation's model."""
        name: str | None = self.client.get("base")
        return name

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object) -> "Facts":
        """The inverse of `to_json`.

        Raises:
            MessageError: for anything else.
        """
        facts = cls(**_fields(cls, values))
        if not isinstance(facts.client, dict) or not isinstance(facts.client.get("id"), str):
            raise MessageError("facts must name the client")
        for name in _DIGESTS:  # they come to stand in reports, which take nothing else
            _require_digest(name, getattr(facts, name))
        if not isinstance(facts.declared_base, str | None):
            raise MessageError("the base model of a client must have a name, or none of its own")
        for length in (facts.num_params, facts.num_values):
            if type(length) is not int or not 0 < length < _MOST_PARAMS:
                raise MessageError("the length of an update must be a number above 0")
        size = facts.client.get("public_size")
        if type(size) is not int or not 1 <= size <= _MOST_RECORDS:
            raise MessageError("a client that is ready must state its public size as a number")
        _require_number("noise multiplier", facts.noise_multiplier, above=0)
        _require_number("epsilon before the run", facts.epsilon_before)
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a client has come in a run.

    The next round is the one after those that the `hello` says are over.

    Attributes:
        round: the last that is over for it.
        base: SHA-256 (hex) of its global adapter.
        before: of the one that it can go back to; None if there is none.
        epoch: whose key it has in memory; empty if it was restarted since.
        next_status: of the next round in its ledger: "reserved", "committed" or None.
        agreed: contributors of the next round's sum that it agreed to or opened; None if none.
        given_up: why the next round is closed here; None if it is not.
    """

    round: int
    base: str
    before: str | None
    epoch: str
    next_status: str | None
    agreed: tuple[str, ...] | None
    given_up: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        agreed = None if self.agreed is None else list(self.agreed)
        return {**asdict(self), "agreed": agreed}

    @classmethod
    def from_json(cls, values: object) -> "Standing":
        """The inverse of `to_json`.

        Raises:
            MessageError: for anything else.
        """
        given = _fields(cls, values)
        agreed = given["agreed"]
        if agreed is not None:
            if not isinstance(agreed, list) or not all(isinstance(one, str) for one in agreed):
                raise MessageError("whose sum was agreed to must be a list of names, or null")
            given["agreed"] = tuple(agreed)
        standing = cls(**given)
        if type(standing.round) is not int or standing.round < 0:
            raise MessageError("the last round must be a number, 0 or above")
        named = isinstance(standing.base, str) and isinstance(standing.before, str | None)
        if not named or not isinstance(standing.epoch, str):
            raise MessageError("the adapter and the epoch must be named as texts")
        if standing.next_status not in (None, "reserved", "committed"):
            raise MessageError("a round must be reserved, committed or neither")
        if not isinstance(standing.given_up, dict | None):
            raise MessageError("why a round is closed must be an object, or null")
        return standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One client's `ready`, whose signature was checked.

    Attributes:
        client: its name.
        nonce: fresh for every `ready`, hex.
        facts: see `Facts`.
        standing: see `Standing`; None where the client is in no run.
        anchor: of its ledger.
        epsilon: upper bound on what its ledger counts now, at its delta.
        digest: SHA-256 of the statement.
    """

    client: str
    nonce: str
    facts: Facts
    standing: Standing | None
    anchor: Anchor
    epsilon: float
    digest: str

    @classmethod
    def read(cls, message: Blob, roster: Roster, terms: Terms) -> "Ready":
        """Read the message of an enrolled client.

        Args:
            message: untrusted bytes.
            roster: who is enrolled.
            terms: see `terms_before`.

        Raises:
            MessageError: if it is anything else.
        """
        envelope = verified(message, roster, role=Role.CLIENT, kind=READY, terms=terms)
        statement = envelope.statement
        stated = exact_values(envelope, terms, states={NONCE, FACTS, STANDING, LEDGER, EPSILON})
        facts, standing = Facts.from_json(stated[FACTS]), stated[STANDING]
        if facts.client["id"] != statement.sender:
            raise MessageError(f"{statement.sender!r} states what another client brings")
        nonce = str(stated[NONCE])
        from_hex(nonce, NONCE_BYTES)
        _require_number("epsilon", stated[EPSILON])
        try:
            anchor = anchor_from_json(stated[LEDGER])
        except InvalidValueError as error:
            raise MessageError(f"{statement.sender!r} states no anchor: {error}") from error
        return cls(
            client=statement.sender,
            nonce=nonce,
            facts=facts,
            standing=None if standing is None else Standing.from_json(standing),
            anchor=anchor,
            epsilon=float(str(stated[EPSILON])),
            digest=hashlib.sha256(statement.to_bytes()).hexdigest(),
        )


def other_bases(facts: Mapping[str, Facts]) -> dict[str, dict[str, str]]:
    """The digests of the base model of each client that holds another than the first.

    Args:
        facts: by client, in the order of the proposal.
    """
    first = next(iter(facts.values()))
    return {name: one.base for name, one in facts.items() if one.base != first.base}


def base_weights(facts: Mapping[str, Facts]) -> tuple[str, dict[str, str]]:
    """SHA-256 (hex) of the weights of the base models of a run, as its record names them.

    Args:
        facts: of all clients that the run began with, in the order of the proposal.

    Returns:
        Of the first client's, and of each client that holds another.
    """
    first = next(iter(facts.values()))
    return first.base_weights, {
        name: one["base_weights"] for name, one in other_bases(facts).items()
    }


def terms_before(roster: Roster, proposal: str, run: str = "", over: int = 0) -> Terms:
    """What messages state outside of epochs.

    Args:
        roster: who is enrolled.
        proposal: digest (hex) of what all were given.
        run: that goes on; empty for a new one.
        over: rounds that are over.
    """
    manifest = {ROSTER: roster.digest().hex(), PROPOSAL: proposal}
    return Terms(run=run, round=over, manifest=manifest)


def epoch_of(ready: Iterable[Ready]) -> str:
    """Name (hex) of the epoch that these statements begin together; of a new run, its own too."""
    return hashlib.sha256(canonical_json(sorted(one.digest for one in ready))).hexdigest()


def _fields(cls: type, values: object) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    if not isinstance(values, dict) or set(values) != names:
        raise MessageError(f"a client that is ready must state {sorted(names)}")
    return dict(values)


def _require_digest(name: str, value: object) -> None:
    try:
        from_hex(value, _DIGEST_BYTES)
    except MessageError as error:
        raise MessageError(f"a client must state its {name} as a SHA-256: {error}") from error


def _require_number(name: str, value: object, above: float = -math.ulp(0.0)) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not above < value <= sys.float_info.max:  # type: ignore[operator]
        raise MessageError(f"a client that is ready must state its {name} as a number")
