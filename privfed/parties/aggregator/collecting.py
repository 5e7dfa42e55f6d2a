"""The aggregator of one round: parse strictly, check, add. It holds no key and decrypts nothing."""

from collections.abc import Mapping, Sequence

from accountants import Anchor, InvalidValueError, anchor_from_json
from privfed.errors import MessageError, TooFewClientsError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.ciphers import Adder
from privfed.protocol.contributions import Contribution, contributions_json
from privfed.protocol.envelopes import Blob, Statement
from privfed.protocol.kinds import CONTRIBUTIONS, LEDGER, SUM, UPDATE
from privfed.protocol.signing import own_values, signed_message, verified
from privfed.protocol.terms import Terms


class Aggregator:
    """Adds the encrypted updates of one round.

    Args:
        identity: of the aggregator; it signs what it sends.
        roster: who is enrolled, with which keys.
        terms: what every update of this round must state, to the letter, beside the anchor of its
            sender's ledger.
        cohort: clients that may contribute.
        anchors: the last anchor known of every client's ledger; an update whose ledger is not
            longer than that comes from a ledger that was rolled back.
        adder: sums blobs without a key.
        min_clients: fewest contributions that may be summed.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        roster: Roster,
        terms: Terms,
        cohort: Sequence[str],
        anchors: Mapping[str, Anchor],
        adder: Adder,
        min_clients: int,
    ) -> None:
        self._identity = identity
        self._roster = roster
        self._terms = terms
        self._cohort = frozenset(cohort)
        self._anchors = dict(anchors)
        self._adder = adder
        self._min_clients = min_clients
        self._contributions: dict[str, Contribution] = {}
        self._bytes: dict[str, int] = {}

    @property
    def contributors(self) -> list[str]:
        """Clients whose update is in the sum, in a fixed order."""
        return sorted(self._bytes)

    @property
    def bytes_up(self) -> int:
        """Bytes received in accepted messages, everything on the wire counted."""
        return sum(self._bytes.values())

    def receive(self, message: Blob) -> None:
        """Check one update and add it.

        Raises:
            MessageError: naming the client where it is known, and the reason.
        """
        envelope = verified(message, self._roster, role=Role.CLIENT, kind=UPDATE, terms=self._terms)
        sender = envelope.statement.sender
        self._check(envelope.statement)
        try:
            self._adder.add(sender, envelope.blobs)
        except MessageError as error:
            raise MessageError(f"{sender!r}: {error}") from error
        self._contributions[sender] = Contribution.of(envelope)
        self._bytes[sender] = len(message)

    def total(self) -> bytes:
        """The sum, with the proof of every contribution, as a message to the holders of the key.

        Raises:
            TooFewClientsError: with fewer than `min_clients` contributions.
        """
        if len(self._bytes) < self._min_clients:
            raise TooFewClientsError(
                f"round {self._terms.round} has {len(self._bytes)} contribution(s), at least "
                f"{self._min_clients} must be summed; nothing is decrypted",
                sorted(self._cohort.difference(self._bytes)),
            )
        return signed_message(
            self._identity,
            self._terms,
            SUM,
            manifest={CONTRIBUTIONS: contributions_json(self._contributions.values())},
            blobs=self._adder.total(),
        )

    def _check(self, statement: Statement) -> None:
        sender = statement.sender
        if sender not in self._cohort:
            raise MessageError(f"{sender!r} is not in the cohort of round {self._terms.round}")
        if sender in self._bytes:
            raise MessageError(f"{sender!r} sent a second update in round {self._terms.round}")
        stated = own_values(statement, self._terms)
        if set(stated) != {LEDGER}:
            raise MessageError(
                f"{sender!r} must state the anchor of its ledger and nothing else, got "
                f"{sorted(stated)!r:.200}"
            )
        self._check_ledger(sender, stated[LEDGER])

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
