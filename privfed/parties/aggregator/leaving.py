"""Clients that are left out when a run is resumed: it goes on under a new agreement, without them.

The settings stay those of the whole run. Who is left out takes no further part: the digest of the
settings that every message states covers who remains, weights are over those, the run's new key is
handed to those alone, and contributions of others are refused. What a left-out client spent stays
in its ledger and in the report.
"""

from collections.abc import Collection, Mapping, Sequence

from privfed.errors import ConfigError
from privfed.parties.aggregator.abandoning import sums_of
from privfed.protocol.ready import Standing
from privfed.reports.round_record import Abandoned, Reason
from privfed.reports.run_record import RunRecord


def left_out_of(
    record: RunRecord | None,
    without: Sequence[str],
    names: Sequence[str],
    *,
    min_clients: int,
) -> dict[str, int]:
    """Who is left out of a run that starts or goes on, and from which round on.

    Args:
        record: of the run that goes on; None for one that starts.
        without: clients to leave out from now on, beside those that were before.
        names: of all clients of the run.
        min_clients: that must stay.

    Raises:
        ConfigError: if there is no such client, too few would stay, or the run only starts.
    """
    if record is None:
        if without:
            raise ConfigError(
                "a client is left out (--without) when a run is resumed; leave "
                f"{', '.join(without)} out of the configuration of one that starts"
            )
        return {}
    if unknown := sorted(set(without).difference(names)):
        raise ConfigError(f"who is left out must be a client of the run, {unknown} are not")
    left_out = dict(record.left_out)
    for name in without:
        left_out.setdefault(name, record.over + 1)
    if len(names) - len(left_out) < min_clients:
        raise ConfigError(
            f"at least {min_clients} clients (min_clients) must stay, without {sorted(left_out)} "
            f"there are {len(names) - len(left_out)} of {len(names)}"
        )
    return left_out


def ended_by_leaving(
    standings: Mapping[str, Standing], round_number: int, leaving: Collection[str]
) -> Abandoned | None:
    """The round in which clients leave, if it had come so far that it cannot go on without them.

    A sum that was agreed to cannot be opened under the new agreement any more, and no other may
    be. What was committed has the weights of the old agreement, and is not trained again.

    Args:
        standings: of those who remain.
        round_number: the next round.
        leaving: the clients.
    """
    agreed = bool(sums_of(standings))
    if not agreed and all(one.next_status != "committed" for one in standings.values()):
        return None
    reason = Reason.OTHERS if agreed else Reason.LEFT
    return Abandoned(round=round_number, reason=reason, missing=tuple(sorted(leaving)))
