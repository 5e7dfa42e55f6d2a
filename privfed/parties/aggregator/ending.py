"""The aggregator's half of the end of a run: every client says, signed, what it guarantees."""

import time
from collections.abc import Sequence
from dataclasses import replace

from privfed.errors import MessageError
from privfed.identity.roster import Roster
from privfed.parties.aggregator.presence import PAUSE_S, Presence
from privfed.parties.aggregator.stated import signed_by
from privfed.protocol.kinds import CLOSED, FINISH, GIVEN_UP, LEFT_OUT, ROUNDS
from privfed.protocol.ready import terms_before
from privfed.protocol.signing import signed_message
from privfed.reports.run_record import RunRecord


def closed_statements(
    presence: Presence, record: RunRecord, members: Sequence[str]
) -> dict[str, bytes]:
    """Ask every client what it guarantees, until all have said it or nobody waits any longer.

    Args:
        presence: who is here.
        record: how the rounds went, which the clients are told.
        members: who takes part.

    Returns:
        The signed messages of those who answered, by name; `reports.assembling` reads them.
    """
    beginning = presence.beginning
    before = terms_before(beginning.roster, beginning.proposal.digest(), record.run)
    told = {
        ROUNDS: [row.to_json() for row in record.rounds],
        GIVEN_UP: [row.to_json() for row in record.abandoned],
        LEFT_OUT: dict(record.left_out),
    }
    terms = replace(before, round=record.over)
    message = signed_message(beginning.identity, terms, FINISH, manifest=told)
    closed: dict[str, bytes] = {}
    deadline = time.monotonic() + presence.patience_s
    while True:
        asked = [name for name in members if name not in closed]
        for name, reply in presence.carry(dict.fromkeys(asked, message)).items():
            if _is_closed(beginning.roster, name, reply, record.run):
                closed[name] = reply
        if len(closed) == len(members) or time.monotonic() >= deadline:
            return closed
        time.sleep(PAUSE_S)


def _is_closed(roster: Roster, name: str, reply: bytes, run: str) -> bool:
    """Whether a client said it."""
    try:
        statement = signed_by(roster, name, reply).statement
    except MessageError:
        return False
    return (statement.kind, statement.run) == (CLOSED, run)
