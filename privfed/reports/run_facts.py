"""What a report says of a run beyond settings, record and ledgers: who and what summed it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privfed.agreement import Agreement
from privfed.encryption.schemes import Scheme
from privfed.errors import ReportError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """All of it is public, and every party of a run knows it.

    Attributes:
        agreement: what all parties hold the same.
        participants: clients that the run began with, in the order of its settings.
        base_model: SHA-256 (hex) of all frozen parameters at the first of them.
        scheme: how updates are summed.
        roster: SHA-256 (hex) of the signed list of parties.
        simulated_keys: whether one process made everybody's keys.
        key: name and software of the run's key, as messages state them; empty without one.
        key_bytes: of the message that hands out the run's key; 0 where there is none.
        in_one_process: whether all clients and the aggregator ran in one process; otherwise each
            party ran as a program of its own.

    Raises:
        ReportError: if programs of their own are said to have keys that one process made.
    """

    agreement: Agreement
    participants: tuple[str, ...]
    base_model: str
    scheme: Scheme
    roster: str
    simulated_keys: bool
    key: Mapping[str, Any]
    key_bytes: int
    in_one_process: bool

    def __post_init__(self) -> None:
        """Refuse facts that contradict each other."""
        if self.simulated_keys and not self.in_one_process:
            raise ReportError(
                "parties that run as programs of their own must have keys of their own, these were "
                "made by one process; enrol the parties with `privfed roster`"
            )
