"""The aggregator of one round: parse strictly, check, add. It holds no key and decrypts nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from accountants import Anchor, InvalidValueError, anchor_from_json
from privfed.errors import MessageError, TooFewClientsError
from privfed.interfaces import Adder
from privfed.messages import LEDGER, Envelope, RoundPlan, canonical_json


class Aggregator:
    """Adds the encrypted updates of one round.

    Args:
        plan: of the round.
        cohort: clients that may contribute.
        manifest: what every update of this round must state, to the letter, beside the anchor of
            its sender's ledger.
        anchors: the last anchor known of every client's ledger; an update whose ledger is not
            longer than that comes from a ledger that was rolled back.
        adder: sums blobs without a key.
        min_clients: fewest contributions that may be summed.
    """

    def __init__(
        self,
        plan: RoundPlan,
        cohort: Sequence[str],
        manifest: Mapping[str, Any],
        anchors: Mapping[str, Anchor],
        adder: Adder,
        min_clients: int,
    ) -> None:
        self._plan = plan
        self._cohort = frozenset(cohort)
        self._manifest = dict(manifest)
        self._anchors = dict(anchors)
        self._adder = adder
        self._min_clients = min_clients
        self._bytes: dict[str, int] = {}

    @property
    def contributors(self) -> list[str]:
        """Clients whose update is in the sum, in a fixed order."""
        return sorted(self._bytes)

    @property
    def bytes_up(self) -> int:
        """Bytes received in accepted messages, everything on the wire counted."""
        return sum(self._bytes.values())

    def receive(self, message: bytes) -> None:
        """Check one update and add it.

        Raises:
            MessageError: naming the client where it is known, and the reason.
        """
        envelope = Envelope.from_bytes(message)
        self._check(envelope)
        try:
            self._adder.add(envelope.sender, envelope.blobs)
        except MessageError as error:
            raise MessageError(f"{envelope.sender!r}: {error}") from error
        self._bytes[envelope.sender] = len(message)

    def total(self) -> bytes:
        """The sum as a message to the holders of the key.

        Raises:
            TooFewClientsError: with fewer than `min_clients` contributions.
        """
        if len(self._bytes) < self._min_clients:
            raise TooFewClientsError(
                f"round {self._plan.round} has {len(self._bytes)} contribution(s), at least "
                f"{self._min_clients} must be summed; nothing is decrypted"
            )
        return Envelope(
            run=self._plan.run,
            round=self._plan.round,
            sender="aggregator",
            kind="sum",
            manifest={**self._manifest, "contributors": self.contributors},
            blobs=self._adder.total(),
        ).to_bytes()

    def _check(self, envelope: Envelope) -> None:
        sender = envelope.sender
        if sender not in self._cohort:
            raise MessageError(f"{sender!r} is not in the cohort of round {self._plan.round}")
        if sender in self._bytes:
            raise MessageError(f"{sender!r} sent a second update in round {self._plan.round}")
        if (envelope.run, envelope.round, envelope.kind) != (
            self._plan.run,
            self._plan.round,
            "update",
        ):
            raise MessageError(
                f"{sender!r} sent a {envelope.kind!r} of run {envelope.run!r}, round "
                f"{envelope.round}; expected an 'update' of run {self._plan.run!r}, round "
                f"{self._plan.round}"
            )
        for key, expected in self._manifest.items():
            if canonical_json(envelope.manifest.get(key)) != canonical_json(expected):
                raise MessageError(
                    f"{sender!r} states {key} = {envelope.manifest.get(key)!r}, expected "
                    f"{expected!r}"
                )
        if set(envelope.manifest) - {LEDGER} != set(self._manifest):
            raise MessageError(f"{sender!r} states more than an update may state")
        self._check_ledger(sender, envelope.manifest.get(LEDGER))

    def _check_ledger(self, sender: str, stated: object) -> None:
        try:
            anchor = anchor_from_json(stated)
        except InvalidValueError as error:
            raise MessageError(f"{sender!r} states no anchor of its ledger: {error}") from error
        known = self._anchors[sender]
        if anchor.length <= known.length:
            raise MessageError(
                f"the ledger of {sender!r} had {known.length} entries before this round and has "
                f"{anchor.length} now: an older copy was put back, and its count is too low"
            )
