"""What clients state, each in its own name, and what most of them do."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from privfed.canonical import canonical_json
from privfed.errors import MessageError
from privfed.identity.keys import Role
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import Envelope
from privfed.protocol.signing import require_signature

Exchange = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]
"""Carries one message to each client, and the replies of those who answered."""

SHOWN: Final = 300
"""Characters of a reason that are shown; who sent it may have sent anything."""

_LARGEST: Final = sys.float_info.max


def signed_by(roster: Roster, name: str, reply: bytes) -> Envelope:
    """What a client says in its own name.

    Raises:
        MessageError: if it is no message that it signed.
    """
    envelope = Envelope.from_bytes(reply)
    statement = envelope.statement
    require_signature(statement, envelope.signature, roster, role=Role.CLIENT)
    if statement.sender != name:
        raise MessageError(f"what came for {name!r} was sent by another")
    return envelope


def most_alike(stated: Mapping[str, Mapping[str, object]], keys: Sequence[str]) -> list[str]:
    """Who states under these keys what most state, sorted."""
    alike: dict[bytes, list[str]] = {}
    for name in sorted(stated):
        common = canonical_json([stated[name][key] for key in keys])
        alike.setdefault(common, []).append(name)
    return max(alike.values(), key=len, default=[])


def is_number(value: object, above: float = -1e-300) -> bool:
    """A finite number that a float can hold, above a limit; by default, 0 or above."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _LARGEST and value > above
