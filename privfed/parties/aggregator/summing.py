"""The aggregator's side of the sum: parameters, adders and whoever opens, without a key."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from privfed.encryption.schemes import Scheme
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.parties.aggregator.openers import Opener
from privfed.protocol.terms import RoundPlan, RunTerms, Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Summing:
    """How the updates of one run are summed.

    Attributes:
        identity: of the aggregator.
        roster: who is enrolled.
        run_terms: what every message of the run states.
        scheme: how updates are summed.
        opener: of whoever holds the key.
        key: name and software of the run's key; empty if it has none.
        key_bytes: length of the message that handed out that key.
        min_clients: fewest contributions that are summed.
    """

    identity: Identity
    roster: Roster
    run_terms: RunTerms
    scheme: Scheme
    opener: Opener
    key: Mapping[str, Any]
    key_bytes: int
    min_clients: int

    def terms(self, plan: RoundPlan, public_range: float) -> Terms:
        """What every message of a round states, before it has a key of its own."""
        return self.run_terms.of_round(plan, public_range, self.key)

    def terms_of_run(self, number: int) -> Terms:
        """What messages about a round state that are no part of its sum."""
        return replace(self.run_terms.of_run(), round=number)
