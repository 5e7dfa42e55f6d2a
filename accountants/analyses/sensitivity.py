"""How far one unit moves what an event releases, and which questions have no sound answer."""

from accountants import checks
from accountants.errors import UnsupportedAnalysisError
from accountants.events import (
    BandedMatrixFactorization,
    Event,
    FixedSizeGaussian,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    RandomAllocationGaussian,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.guarantees import Neighbouring

LARGEST_GROUP = 1000
"""Units of more records than this are refused."""


def shift(event: Event, neighbouring: Neighbouring, group_size: int = 1) -> float:
    """By how many contributions of norm C the results of neighbouring data sets are apart.

    Args:
        event: one release.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit (k), >= 1.

    Returns:
        k, or 2k where contributions are replaced. For `PureDP` and `ZeroConcentrated` the
        number of neighbouring steps of their own relation.

    Raises:
        UnsupportedAnalysisError: for a mix of event, relation and group without a sound analysis.
    """
    group_size = checks.count(group_size=group_size)
    if group_size > LARGEST_GROUP:
        raise UnsupportedAnalysisError(
            f"units may hold at most {LARGEST_GROUP} records, got {group_size}; nothing useful "
            "can be said about larger ones"
        )
    if isinstance(event, PureDP | ZeroConcentrated):
        return group_size * _hops(event, neighbouring)
    obstacle = _obstacle(event, neighbouring, group_size)
    if obstacle is not None:
        raise _unsupported(event, neighbouring, group_size, obstacle)
    return group_size * (2.0 if neighbouring is Neighbouring.REPLACE_ONE else 1.0)


def _obstacle(event: Event, neighbouring: Neighbouring, group_size: int) -> str | None:
    """Why a mix of event, relation and group has no sound analysis; None if it has one."""
    match event:
        case NoisedCount() if neighbouring is not Neighbouring.ADD_REMOVE:
            return "neighbours have the same number of records there, which is public; declare it"
        case FixedSizeGaussian() if neighbouring is not Neighbouring.REPLACE_ONE or group_size > 1:
            return "batches of fixed size are analysed under replace_one, for units of one record"
        case RandomAllocationGaussian() if event.batches > 1 and (
            neighbouring is Neighbouring.REPLACE_ONE or group_size > 1
        ):
            return (
                "the worst case is known for one record that is added or removed; use add_remove "
                "or zero_out, and units of one record"
            )
        case TreeAggregation() | BandedMatrixFactorization() if (
            neighbouring is Neighbouring.ADD_REMOVE
        ):
            return (
                "adding a record would move the places of all later ones; use zero_out or "
                "replace_one"
            )
        case PoissonGaussian() if (
            event.sample_rate < 1 and group_size > 1 and neighbouring is Neighbouring.REPLACE_ONE
        ):
            return (
                "no worst case is known for replacing several Poisson-sampled records; use "
                "add_remove"
            )
    return None


def _hops(event: PureDP | ZeroConcentrated, neighbouring: Neighbouring) -> float:
    if event.neighbouring is neighbouring:
        return 1.0
    if (event.neighbouring, neighbouring) != (Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE):
        why = f"its guarantee was proven for {event.neighbouring.value} only"
        raise _unsupported(event, neighbouring, 1, why)
    return 2.0


def _unsupported(
    event: Event, neighbouring: Neighbouring, group_size: int, why: str
) -> UnsupportedAnalysisError:
    unit = "" if group_size == 1 else f" for units of {group_size} records"
    return UnsupportedAnalysisError(
        f"{type(event).__name__} has no sound analysis under {neighbouring.value}{unit}: {why}"
    )
