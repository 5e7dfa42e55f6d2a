"""Rounds that are given up: why, how every client is done with them, and when a run must stop.

Whether somebody opened a round's sum cannot be known once a client stays away or a message is lost.
So a round is abandoned only when every remaining client has recorded, durably, that it never again
encrypts, agrees or opens in it; what a client had agreed to stays recorded beside that. The round
is counted in every ledger that reserved it, changed nothing, and the run goes on with the next.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from privfed.encryption.parameters import MAX_CLIENTS
from privfed.errors import AwayError, IdentityError, SpoiledSumError, TooFewClientsError
from privfed.identity.names import check_name
from privfed.protocol.ready import Standing
from privfed.reports.round_record import Abandoned, Reason


def because_of(error: TooFewClientsError | SpoiledSumError, round_number: int) -> Abandoned:
    """The round that ended with this error."""
    if isinstance(error, SpoiledSumError):
        return Abandoned(round=round_number, reason=Reason.SPOILED)
    reason = Reason.AWAY if isinstance(error, AwayError) else Reason.TOO_FEW
    return Abandoned(round=round_number, reason=reason, missing=error.missing)


def given_up_before(
    standings: Mapping[str, Standing], round_number: int, clients: Collection[str]
) -> Abandoned | None:
    """Why a round that is about to begin cannot be played any more; None if it can.

    A kill may have come between the clients' records and the checkpoint; or the clients agreed to a
    sum that those who now take part cannot make.

    Args:
        standings: of all who are in the epoch.
        round_number: of the round.
        clients: who takes part in the run.
    """
    for standing in standings.values():
        if standing.given_up is not None:
            with suppress(
                KeyError, TypeError, ValueError, IdentityError
            ):  # as no client recorded it
                return _given_up(standing.given_up, round_number)
    sums = sums_of(standings)
    missing = {name for names in sums for name in names}.difference(clients)
    if missing or len(sums) > 1:
        return Abandoned(round=round_number, reason=Reason.OTHERS, missing=tuple(sorted(missing)))
    return None


def _given_up(stated: Mapping[str, Any], round_number: int) -> Abandoned:
    """What a client says that it recorded: a known sentence, and names."""
    reason, missing = Reason(stated["reason"]), stated["missing"]
    if not isinstance(missing, list) or len(missing) > MAX_CLIENTS:
        raise ValueError("who was missing must be a list of clients")
    for name in missing:
        check_name(name, "a client that is missing")
    return Abandoned(round=round_number, reason=reason, missing=tuple(sorted(set(missing))))


def sums_of(standings: Mapping[str, Standing]) -> set[tuple[str, ...]]:
    """Contributors of the sums that clients agreed to or opened before in the round asked about."""
    known = (one.agreed for one in standings.values())
    return {contributors for contributors in known if contributors is not None}


def lost_before(
    standings: Mapping[str, Standing],
    round_number: int,
    *,
    here: Collection[str],
    min_clients: int,
) -> Abandoned | None:
    """Why a round that is about to begin would cost budget for nothing; None if it would not.

    A client that reserved a round and did not commit it lost it in a crash: it is counted, and not
    trained again. Where too few others are left, they must not train for a sum that cannot be.

    Args:
        standings: of all who are in the epoch; empty in that of a new run.
        round_number: of the round.
        here: clients that would train.
        min_clients: fewest contributors of a sum.
    """
    reserved = (client for client, one in standings.items() if one.next_status == "reserved")
    lost = sorted(set(reserved).intersection(here))
    if not lost or len(here) - len(lost) >= min_clients:
        return None
    return Abandoned(round=round_number, reason=Reason.LOST, missing=tuple(lost))


def must_stop(abandoned: Abandoned, earlier: Sequence[Abandoned], *, rounds: int) -> bool:
    """Whether the run stops after this round instead of going on with the next.

    It stops at once if too few clients sent anything, since another such round would cost those who
    did; after two rounds in a row, whatever their causes; and if all planned rounds are lost.

    Args:
        abandoned: the round.
        earlier: rounds abandoned before it.
        rounds: planned.
    """
    lost = {one.round for one in earlier}
    return (
        abandoned.reason is Reason.TOO_FEW or abandoned.round - 1 in lost or len(lost) + 1 == rounds
    )


def stop(abandoned: Abandoned, message: str) -> TooFewClientsError | SpoiledSumError:
    """The error with which a run stops after this round."""
    if abandoned.reason is Reason.SPOILED:
        return SpoiledSumError(message)
    kind = AwayError if abandoned.reason is Reason.AWAY else TooFewClientsError
    return kind(message, abandoned.missing)


def advice(
    abandoned: Abandoned,
    earlier: Sequence[Abandoned],
    *,
    left: int,
    min_clients: int,
    rounds: int,
) -> str:
    """What can be done after a run that stopped; a resume only where it can help.

    Args:
        abandoned: the round after which it stopped.
        earlier: rounds abandoned before it.
        left: how many would train without those who are missing, in the round with the fewest.
        min_clients: fewest contributors of a sum.
        rounds: planned.
    """
    if abandoned.round >= rounds:
        if len(earlier) + 1 < rounds:
            return "No round is left: `--resume` ends the run with what its complete rounds left"
        return "No round was completed and none is left; a new run needs budget of its own"
    if abandoned.reason is Reason.SPOILED:
        return (
            "Nobody can tell whose update is at fault. `--resume --without NAME` goes on without a "
            "client that may be, as long as "
            f"{min_clients} stay; `--resume` alone only once the fault is found, since every round "
            "costs each client its share of the budget"
        )
    names = ", ".join(abandoned.missing)
    if left >= min_clients:
        options = " ".join(f"--without {shlex.quote(name)}" for name in abandoned.missing)
        return (
            f"`--resume {options}` goes on without {names}; `--resume` alone once they are back, "
            "since every round costs each client its share of the budget"
        )
    if abandoned.round - 1 in {one.round for one in earlier}:
        return (
            f"Without {names}, fewer than {min_clients} clients are left, and resuming did not "
            "help before: every try costs those who train another round's budget. Resume only "
            "once it is certain that they take part again"
        )
    return (
        f"Fewer than {min_clients} clients are left without {names}: once they take part again, "
        "`--resume` goes on with the next round"
    )
