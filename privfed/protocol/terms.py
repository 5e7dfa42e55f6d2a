"""What a round is about, and what every message of it states to the letter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privfed.protocol.kinds import (
    AGREEMENT,
    BASE,
    ENCRYPTION,
    EPOCH,
    LEFT_OUT,
    PUBLIC_RANGE,
    ROSTER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """Which round is to be trained; all of it is public.

    How it is trained each client takes from its own configuration: an aggregator that told it could
    quieten all clients but one.

    Attributes:
        run: identifier of the run.
        round: counted from 1.
        base_digest: SHA-256 (hex) of the global adapter that training starts from.
    """

    run: str
    round: int
    base_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every message of one round must state, to the letter.

    Attributes:
        run: identifier of the run.
        round: counted from 1; 0 for what concerns the whole run.
        manifest: public JSON values: base model and adapter, parameters, key, roster, software.
    """

    run: str
    round: int
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTerms:
    """What every message of a run states, to the letter.

    Attributes:
        run: identifier of the run.
        agreement: digest (hex) of what all parties agreed on.
        encryption: parameters of the sum, as JSON values.
        roster: digest (hex) of the roster.
        left_out: enrolled clients that take no part.
    """

    run: str
    agreement: str
    encryption: Mapping[str, Any]
    roster: str
    left_out: tuple[str, ...]

    def of_run(self) -> Terms:
        """Of messages that concern the whole run."""
        manifest = {
            AGREEMENT: self.agreement,
            ENCRYPTION: dict(self.encryption),
            ROSTER: self.roster,
            LEFT_OUT: list(self.left_out),
        }
        return Terms(run=self.run, round=0, manifest=manifest)

    def of_epoch(self, epoch: str) -> Terms:
        """Of the message that hands out an epoch's key; a key of an older one is none of this."""
        return Terms(run=self.run, round=0, manifest={**self.of_run().manifest, EPOCH: epoch})

    def of_round(self, plan: RoundPlan, public_range: float, key: Mapping[str, Any]) -> Terms:
        """Of messages of one round, before it has a key of its own.

        Args:
            plan: of the round.
            public_range: to which updates are clipped.
            key: name and software of the run's key; empty if it has none.
        """
        round_manifest = {**key, BASE: plan.base_digest, PUBLIC_RANGE: public_range}
        manifest = {**self.of_run().manifest, **round_manifest}
        return Terms(run=self.run, round=plan.round, manifest=manifest)
