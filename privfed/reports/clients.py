"""What was guaranteed to the records of one client, or that it states nothing: rows of a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privfed.errors import ReportError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGuarantee:
    """What was guaranteed to the records of one client.

    Attributes:
        id: public name.
        dataset: public name of the data set that the budget belongs to.
        unit: what one record is, in the words of the ledger.
        neighbouring: relation of the ledger.
        public_size: declared, or released with noise that the ledger counts.
        epsilon_spent: upper bound over all releases on the data set, all runs and unresolved
            reservations included.
        epsilon_lower: no analysis of the same releases can go below this.
        epsilon_before: of `epsilon_spent`, before this run.
        epsilon_if_begun: the same bound with one more round of the run; what holds while it goes
            on. Equal to `epsilon_spent` once it has ended.
        epsilon_budget: this run releases nothing beyond it; another run on the same data, for which
            a larger one was agreed, may have.
        delta: of both.
        rounds: rounds of this run that were reserved or committed.
        steps: DP-SGD steps of this run that are counted.
        unresolved: rounds of this run that a crash lost, counted and not sent.
        noise_multiplier: sigma in this run.
        sample_rate: q in this run.
        planned: what one round of this run releases; its private steps come first.
        releases: everything in the ledger.
        attack: upper bounds from the certified trade-off of these releases: most true positives at
            a rate of false positives ("0.001", "0.01", "0.1"), and "advantage"; empty until the run
            has ended.
        ledger_id: of the ledger, random.
        ledger_length: entries in the ledger.
        ledger_head: digest (hex) of its last entry, which binds all before it.
        signed: whether the client stated these numbers and signed them; else they were read from
            its ledger by what wrote the report.
        recomputed: whether what wrote the report computed them from the client's ledger.
    """

    id: str
    dataset: str
    unit: str
    neighbouring: str
    public_size: int
    epsilon_spent: float
    epsilon_lower: float
    epsilon_before: float
    epsilon_if_begun: float
    epsilon_budget: float
    delta: float
    rounds: int
    steps: int
    unresolved: int
    noise_multiplier: float
    sample_rate: float
    planned: tuple[Mapping[str, Any], ...]
    releases: tuple[Mapping[str, Any], ...]
    attack: Mapping[str, float]
    ledger_id: str
    ledger_length: int
    ledger_head: str
    signed: bool
    recomputed: bool

    @property
    def anchor(self) -> str:
        """Length and head of the ledger, as `continues` takes it."""
        return f"{self.ledger_length}:{self.ledger_head}"

    def require_consistent(self) -> None:
        """Refuse numbers that contradict each other.

        Raises:
            ReportError: naming the client.
        """
        if not 0 <= self.epsilon_lower <= self.epsilon_spent:
            raise ReportError(
                f"client {self.id!r} must have 0 <= lower bound <= epsilon spent, got "
                f"{self.epsilon_lower!r}, {self.epsilon_spent!r}"
            )
        before, spent, begun = self.epsilon_before, self.epsilon_spent, self.epsilon_if_begun
        if not 0 <= before <= spent <= begun <= max(self.epsilon_budget, spent):
            raise ReportError(
                f"client {self.id!r} must have 0 <= before <= spent <= with one more round, and "
                f"one more only within the budget, got {before!r}, {spent!r}, {begun!r}, "
                f"{self.epsilon_budget!r}"
            )
        if self.steps > 0 and not self.releases:
            raise ReportError(f"client {self.id!r} took steps that are in no ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class LastStatement:
    """What a client signed last of a run that it did not close.

    Attributes:
        round: after which it was said.
        epsilon: upper bound on what its ledger counted then, at its delta; >= 0. What it counts now
            has a bound of at least that.
        ledger_length: entries in its ledger then.
        ledger_head: digest (hex) of the last of them.
    """

    round: int
    epsilon: float
    ledger_length: int
    ledger_head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotClosed:
    """A client of a run for which no bound is stated, since it did not close its part.

    Attributes:
        id: public name.
        last: what it signed last; None if nothing came of it.
    """

    id: str
    last: LastStatement | None
