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
    if isinstance(event, NoisedCount):
        _refuse_unless(
            neighbouring is Neighbouring.ADD_REMOVE,
            event,
            neighbouring,
            group_size,
            "neighbours have the same number of records there, which is public; declare it",
        )
    if isinstance(event, FixedSizeGaussian):
        _refuse_unless(
            neighbouring is Neighbouring.REPLACE_ONE and group_size == 1,
            event,
            neighbouring,
            group_size,
            "batches of fixed size are analysed under replace_one, for units of one record",
        )
    if isinstance(event, TreeAggregation | BandedMatrixFactorization):
        _refuse_unless(
            neighbouring is not Neighbouring.ADD_REMOVE,
            event,
            neighbouring,
            group_size,
            "adding a record would move the places of all later ones; use zero_out or replace_one",
        )
    if isinstance(event, PoissonGaussian) and event.sample_rate < 1:
        _refuse_unless(
            group_size == 1 or neighbouring is not Neighbouring.REPLACE_ONE,
            event,
            neighbouring,
            group_size,
            "no worst case is known for replacing several Poisson-sampled records; use add_remove",
        )
    return group_size * (2.0 if neighbouring is Neighbouring.REPLACE_ONE else 1.0)


def _hops(event: PureDP | ZeroConcentrated, neighbouring: Neighbouring) -> float:
    if event.neighbouring is neighbouring:
        return 1.0
    _refuse_unless(
        event.neighbouring is Neighbouring.ADD_REMOVE and neighbouring is Neighbouring.REPLACE_ONE,
        event,
        neighbouring,
        1,
        f"its guarantee was proven for {event.neighbouring.value} only",
    )
    return 2.0


def _refuse_unless(
    allowed: bool, event: Event, neighbouring: Neighbouring, group_size: int, why: str
) -> None:
    if not allowed:
        unit = "" if group_size == 1 else f" for units of {group_size} records"
        raise UnsupportedAnalysisError(
            f"{type(event).__name__} has no sound analysis under {neighbouring.value}{unit}: {why}"
        )
