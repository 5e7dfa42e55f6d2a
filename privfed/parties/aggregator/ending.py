"""The aggregator's half of the end of a run: every client says, signed, what it guarantees."""

import time
from collections.abc import Sequence

from privfed.errors import MessageError
from privfed.identity.roster import Roster
from privfed.parties.aggregator.epoch import NO_ANSWER
from privfed.parties.aggregator.presence import PAUSE_S, Presence
from privfed.parties.aggregator.reached import Reached
from privfed.parties.aggregator.stated import signed_by
from privfed.protocol.kinds import CLOSED, FINISH, GIVEN_UP, LEFT_OUT, NEXT_BASE, RELEASED, ROUNDS
from privfed.protocol.ready import terms_before
from privfed.protocol.signing import signed_message


def closed_statements(
    presence: Presence, reached: Reached, members: Sequence[str]
) -> dict[str, bytes]:
    """Ask every client what it guarantees, until all have said it or nobody waits any longer.

    Who missed the last round is first given the adapter by another.

    Args:
        presence: who is here.
        reached: how the rounds went, which the clients are told.
        members: who takes part.

    Returns:
        The signed messages of those who answered, by name; `reports.assembling` reads them.
    """
    beginning, record = presence.beginning, reached.record
    told = {
        NEXT_BASE: reached.base,
        RELEASED: reached.released,
        ROUNDS: [row.to_json() for row in record.rounds],
        GIVEN_UP: [row.to_json() for row in record.abandoned],
        LEFT_OUT: dict(record.left_out),
    }
    proposal = beginning.proposal.digest()
    terms = terms_before(beginning.roster, proposal, record.run, record.over)
    message = signed_message(beginning.identity, terms, FINISH, manifest=told)
    closed: dict[str, bytes] = {}
    deadline = time.monotonic() + presence.patience_s
    while not _all_there(presence, reached, members) and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    deadline = time.monotonic() + presence.patience_s
    while True:
        asked = [name for name in members if name not in closed]
        for name, reply in presence.carry(dict.fromkeys(asked, message)).items():
            if _is_closed(beginning.roster, name, reply, record.run):
                closed[name] = reply
        if len(closed) == len(members) or time.monotonic() >= deadline:
            return closed
        time.sleep(PAUSE_S)


def _all_there(presence: Presence, reached: Reached, members: Sequence[str]) -> bool:
    """Whether all clients that are ready hold the adapter, and none is silent.

    No epoch begins any more in which one that opened the last round alone could go back.
    Who closed its part before a crash of the aggregator says that it is not ready any more.
    """
    asked = presence.caught_up(reached, members, reached.is_held_by)
    late = [one for one in asked.ready.values() if not reached.is_held_by(one.standing)]
    return not late and not any(reason.endswith(NO_ANSWER) for reason in asked.reasons.values())


def _is_closed(roster: Roster, name: str, reply: bytes, run: str) -> bool:
    """Whether a client said it."""
    try:
        statement = signed_by(roster, name, reply).statement
    except MessageError:
        return False
    return (statement.kind, statement.run) == (CLOSED, run)
