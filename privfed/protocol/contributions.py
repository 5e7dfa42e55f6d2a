"""What proves that a client contributed to a sum: its signature, without the ciphertext it covers.

An update's statement names its blobs by digest, and all of it but the digests and the anchor of the
client's ledger is common to the round. So a receiver who knows the round's terms can rebuild the
statement from this short record and check the signature, and then any blob it holds.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from privfed.canonical import canonical_json, require_plain_json
from privfed.errors import MessageError
from privfed.identity.keys import Party, Role
from privfed.identity.names import from_hex
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import SIGNATURE_BYTES, Envelope, Statement, blob_entries
from privfed.protocol.kinds import AGREED, LEDGER, LEFT_OUT, LISTING, UPDATE
from privfed.protocol.signing import require_signature
from privfed.protocol.terms import Terms

_KEYS: Final = {"client", LEDGER, "blobs", "signature"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One client's part in a sum.

    Attributes:
        client: its name.
        ledger: the anchor of its ledger, as it stated it.
        blobs: (name, length, SHA-256 in hex) of what it sent.
        signature: over its update's statement.
    """

    client: str
    ledger: Any
    blobs: tuple[tuple[str, int, str], ...]
    signature: bytes

    @classmethod
    def of(cls, envelope: Envelope) -> "Contribution":
        """The record of a received update."""
        statement = envelope.statement
        return cls(
            client=statement.sender,
            ledger=statement.manifest.get(LEDGER),
            blobs=statement.blobs,
            signature=envelope.signature,
        )

    def statement(self, terms: Terms) -> Statement:
        """The statement that the client must have signed."""
        return Statement(
            run=terms.run,
            round=terms.round,
            sender=self.client,
            kind=UPDATE,
            manifest={**terms.manifest, LEDGER: self.ledger},
            blobs=self.blobs,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "client": self.client,
            LEDGER: self.ledger,
            "blobs": [list(entry) for entry in self.blobs],
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_json(cls, values: object) -> "Contribution":
        """Read what `to_json` wrote.

        Raises:
            MessageError: if a field is missing, unknown or of another type.
        """
        if not isinstance(values, dict) or set(values) != _KEYS:
            raise MessageError(f"a contribution must have the fields {sorted(_KEYS)}")
        require_plain_json(values)
        if not isinstance(values["client"], str):
            raise MessageError("a contribution must name its client")
        return cls(
            client=values["client"],
            ledger=values[LEDGER],
            blobs=blob_entries(values["blobs"]),
            signature=from_hex(values["signature"], SIGNATURE_BYTES),
        )


def taking_part(roster: Roster, terms: Terms) -> list[Party]:
    """The enrolled clients that the terms do not leave out, sorted by name.

    Raises:
        MessageError: if the terms state no list of names.
    """
    left_out = _left_out(terms)
    return [party for party in roster.of_role(Role.CLIENT) if party.name not in left_out]


def require_contributions(
    listed: object, roster: Roster, terms: Terms, *, min_clients: int, max_clients: int
) -> list[Contribution]:
    """The contributions of a sum, each signed for these terms by another client that takes part.

    Args:
        listed: what the sum states.
        roster: who is enrolled.
        terms: of the round.
        min_clients: fewest contributors of a sum that may be opened.
        max_clients: most that the parameters allow.

    Raises:
        MessageError: if the list is malformed, too short, too long, or names somebody twice;
            or with the client whose signature is missing or wrong.
    """
    if not isinstance(listed, list):
        raise MessageError("a sum must list its contributions")
    if not min_clients <= len(listed) <= max_clients:
        raise MessageError(
            f"a sum must have {min_clients} to {max_clients} contributors, got {len(listed)}; it "
            "is not opened"
        )
    contributions = [Contribution.from_json(entry) for entry in listed]
    names = [contribution.client for contribution in contributions]
    if names != sorted(set(names)):
        raise MessageError(f"contributors must be different and sorted, got {names!r:.200}")
    left_out = _left_out(terms)
    if strangers := [name for name in names if name in left_out]:
        raise MessageError(
            f"contributors must take part in the run, {strangers!r:.200} were left out of it"
        )
    for contribution in contributions:
        require_signature(
            contribution.statement(terms), contribution.signature, roster, role=Role.CLIENT
        )
    return contributions


def _left_out(terms: Terms) -> list[str]:
    names = terms.manifest.get(LEFT_OUT, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MessageError("terms must state the clients that are left out as a list of names")
    return names


def contributions_json(contributions: Iterable[Contribution]) -> list[Mapping[str, Any]]:
    """Contributions as a sum lists them: sorted by client."""
    ordered = sorted(contributions, key=lambda contribution: contribution.client)
    return [contribution.to_json() for contribution in ordered]


def agreement(client: str, terms: Terms, listed: object) -> Statement:
    """What a contributor signs once in a round: that these are the contributions of its sum.

    Clients that open a sum for themselves open only one that all its contributors agreed to.
    Otherwise an aggregator could send different sums of a round to different clients, and learn
    from two results what one contributor sent.

    Args:
        client: who signs.
        terms: of the round.
        listed: the contributions as a sum lists them.
    """
    return Statement(
        run=terms.run,
        round=terms.round,
        sender=client,
        kind=AGREED,
        manifest={**terms.manifest, LISTING: listing_digest(listed)},
    )


def listing_digest(listed: object) -> str:
    """SHA-256 (hex) of a list of contributions, by which agreements refer to it."""
    return hashlib.sha256(canonical_json(listed)).hexdigest()


def require_agreement(
    contributions: Iterable[Contribution], signatures: object, roster: Roster, terms: Terms
) -> None:
    """Refuse a sum that not all its contributors agreed to.

    Args:
        contributions: of the sum, already checked.
        signatures: hex by contributor, as the sum states them.
        roster: who is enrolled.
        terms: of the round.

    Raises:
        MessageError: with the contributor whose agreement is missing or wrong.
    """
    contributors = list(contributions)
    names = [contribution.client for contribution in contributors]
    if not isinstance(signatures, dict) or sorted(signatures) != names:
        raise MessageError("a sum must carry the agreement of each of its contributors, no other's")
    listed = contributions_json(contributors)
    for name in names:
        signature = from_hex(signatures[name], 64)
        require_signature(agreement(name, terms, listed), signature, roster, role=Role.CLIENT)
