"""What a round is about, and what every message of it states to the letter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
