"""The global state, from one client to another that missed a round; who relays it reads nothing.

It is public to the clients and to nobody else: the aggregator keeps no adapter. What is taken is
what at least `min_clients` clients stated, with their signatures, that a round came to.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from privfed.canonical import canonical_json
from privfed.checks import is_number
from privfed.custody.wrapping import unwrap, wrap
from privfed.errors import MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster
from privfed.methods.method import GlobalState, Method, released_digest
from privfed.parties.client.round import Progress
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    ADAPTER,
    NEXT_BASE,
    NEXT_RANGE,
    OPENED,
    RELEASED,
    STATE,
    opened_by,
)
from privfed.protocol.signing import exact_values, require_signature, signed_message, verified
from privfed.protocol.terms import Terms

_STATES: Final = (NEXT_BASE, RELEASED, NEXT_RANGE)


def state_for(
    sender: Identity, late: Party, terms: Terms, progress: Progress, method: Method
) -> bytes:
    """The message with the global state of a client, wrapped to another.

    Args:
        sender: of the adapter.
        late: who missed a round.
        terms: of the message.
        progress: of the sender.
        method: of the run.
    """
    content = save(progress.state.tensors())
    context = _context(terms.run, terms.round, sender.party, late)
    return signed_message(
        sender,
        terms,
        STATE,
        manifest={
            NEXT_BASE: progress.base,
            RELEASED: released_digest(method, progress.state),
            NEXT_RANGE: progress.public_range,
        },
        blobs={ADAPTER: wrap(content, late, context)},
    )


def state_from(
    relayed: Envelope,
    late: Identity,
    roster: Roster,
    *,
    members: Collection[str],
    least: int,
    method: Method,
    num_params: int,
) -> Progress:
    """The progress of another client, from what the aggregator relays.

    Args:
        relayed: its message, with the other client's, and what clients stated after that round.
        late: who missed a round.
        roster: who is enrolled.
        members: clients of the run.
        least: how many must have stated alike.
        method: of the run.
        num_params: length of an adapter.

    Raises:
        MessageError: if too few stated it, or it is not what they stated.
        EncryptionError: if it was wrapped to somebody else.
    """
    run, number = relayed.statement.run, relayed.statement.round
    terms = Terms(run=run, round=number, manifest=relayed.statement.manifest)
    blob = relayed.blobs.get(STATE, memoryview(b""))
    sent = verified(blob, roster, role=Role.CLIENT, kind=STATE, terms=terms)
    stated = exact_values(sent, terms, states=_STATES, blobs={ADAPTER})
    agree = _who_state(relayed, roster, {key: stated[key] for key in _STATES}) & set(members)
    if len(agree) < least or sent.statement.sender not in members:
        raise MessageError(
            f"at least {least} clients must have stated what round {number} came to, "
            f"{sorted(agree)!r:.200} did"
        )
    context = _context(run, number, roster.party(sent.statement.sender), late.party)
    content = unwrap(bytes(sent.blobs[ADAPTER]), late, context)
    try:
        state = GlobalState.of_tensors(load(content))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MessageError("an adapter must be as privfed wrote it") from error
    if state.adapter.shape != (num_params,) or state.adapter.dtype != np.float32:
        raise MessageError("an adapter must have the length of this run's")
    public_range = stated[NEXT_RANGE]
    if not is_number(public_range):
        raise MessageError("an adapter must come with the public range of the next round")
    progress = Progress(
        round=number, state=state, base=state.digest(), public_range=float(str(public_range))
    )
    if progress.base != stated[NEXT_BASE]:
        raise MessageError("an adapter must be the one whose digest was stated")
    if released_digest(method, state) != stated[RELEASED]:
        raise MessageError("an adapter must come with what the run leaves")
    return progress


def _who_state(relayed: Envelope, roster: Roster, wanted: dict[str, object]) -> set[str]:
    """Clients whose signed statement after the round says this."""
    found = set()
    for name, blob in relayed.blobs.items():
        if not name.startswith(opened_by("")):
            continue
        envelope = Envelope.from_bytes(blob)
        statement = envelope.statement
        require_signature(statement, envelope.signature, roster, role=Role.CLIENT)
        of_run = (statement.run, statement.kind) == (relayed.statement.run, OPENED)
        if not of_run or statement.round > relayed.statement.round:  # later ones were given up
            raise MessageError("what clients stated must be of the adapter that is sent")
        if all(statement.manifest.get(key) == value for key, value in wanted.items()):
            found.add(statement.sender)
    return found


def _context(run: str, number: int, sender: Party, late: Party) -> bytes:
    parts = [run, number, sender.to_json(), late.to_json()]
    return b"privfed adapter 1\n" + canonical_json(parts)
