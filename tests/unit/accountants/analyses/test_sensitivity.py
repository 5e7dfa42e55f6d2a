"""How far one unit moves a release, for every event, relation and size of unit; or a refusal."""

import math
from typing import get_args

import pytest

from accountants.analyses.sensitivity import LARGEST_GROUP, shift
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    Event,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    RandomAllocationGaussian,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.guarantees import Neighbouring

ADD, REPLACE, ZERO = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE, Neighbouring.ZERO_OUT
NOT_KNOWN = None

# What an event gives under add_remove, replace_one and zero_out, for units of 1 and of 3 records.
TABLE = {
    "gaussian": (Gaussian(noise_multiplier=4.0), (1, 2, 1), (3, 6, 3)),
    "laplace": (Laplace(noise_multiplier=4.0), (1, 2, 1), (3, 6, 3)),
    "discrete": (DiscreteGaussian(standard_deviation=9.0, sensitivity=5.0), (1, 2, 1), (3, 6, 3)),
    "skellam": (
        Skellam(variance=80.0, sensitivity=5.0, l1_sensitivity=7.0),
        (1, 2, 1),
        (3, 6, 3),
    ),
    "sampled": (
        PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=1),
        (1, 2, 1),
        (3, NOT_KNOWN, 3),
    ),
    "never left out": (
        PoissonGaussian(noise_multiplier=4.0, sample_rate=1.0, steps=1),
        (1, 2, 1),
        (3, 6, 3),
    ),
    "fixed size": (
        FixedSizeGaussian(noise_multiplier=4.0, batch_size=5, dataset_size=9, steps=1),
        (NOT_KNOWN, 2, NOT_KNOWN),
        (NOT_KNOWN, NOT_KNOWN, NOT_KNOWN),
    ),
    "allocated": (
        RandomAllocationGaussian(noise_multiplier=4.0, batches=5, steps=7),
        (1, NOT_KNOWN, 1),
        (NOT_KNOWN, NOT_KNOWN, NOT_KNOWN),
    ),
    "tree": (
        TreeAggregation(noise_multiplier=4.0, leaves=8),
        (NOT_KNOWN, 2, 1),
        (NOT_KNOWN, 6, 3),
    ),
    "banded": (
        BandedMatrixFactorization(noise_multiplier=4.0, bands=5, participations=7),
        (NOT_KNOWN, 2, 1),
        (NOT_KNOWN, 6, 3),
    ),
    "count": (NoisedCount(epsilon=0.5), (1, NOT_KNOWN, NOT_KNOWN), (3, NOT_KNOWN, NOT_KNOWN)),
    **{
        f"{name} by {relation.value}": (build(relation), *expected)
        for name, build in {
            "pure": lambda relation: PureDP(epsilon=0.5, neighbouring=relation),
            "zcdp": lambda relation: ZeroConcentrated(rho=0.5, neighbouring=relation),
        }.items()
        for relation, expected in {
            ADD: ((1, 2, NOT_KNOWN), (3, 6, NOT_KNOWN)),
            REPLACE: ((NOT_KNOWN, 1, NOT_KNOWN), (NOT_KNOWN, 3, NOT_KNOWN)),
            ZERO: ((NOT_KNOWN, NOT_KNOWN, 1), (NOT_KNOWN, NOT_KNOWN, 3)),
        }.items()
    },
}


@pytest.mark.parametrize("relation", [ADD, REPLACE, ZERO])
@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("name", TABLE)
def test_every_mix_has_its_shift_or_is_refused_by_name(name, group_size, relation):
    event, *expected = TABLE[name]
    wanted = expected[group_size > 1][(ADD, REPLACE, ZERO).index(relation)]
    if wanted is not NOT_KNOWN:
        assert shift(event, relation, group_size) == wanted
        return
    with pytest.raises(
        UnsupportedAnalysisError,
        match=f"^{type(event).__name__} has no sound analysis under {relation.value}",
    ):
        shift(event, relation, group_size)


def test_every_type_of_event_is_in_the_table():
    assert {type(event) for event, *_ in TABLE.values()} == set(get_args(Event))


def test_a_unit_is_one_record_unless_its_size_is_given():
    assert shift(Gaussian(noise_multiplier=4.0), REPLACE) == 2


@pytest.mark.parametrize(
    ("name", "relation", "group_size", "why"),
    [
        ("fixed size", REPLACE, 3, "under replace_one for units of 3 records: batches of fixed"),
        ("fixed size", ADD, 1, "under add_remove: batches of fixed size are analysed under repl"),
        ("tree", ADD, 3, "add_remove for units of 3 records: .* use zero_out or replace_one$"),
        ("sampled", REPLACE, 3, "replace_one for units of 3 records: .* use add_remove$"),
        ("count", ZERO, 1, "under zero_out: neighbours have the same number .* declare it$"),
        ("pure by zero_out", REPLACE, 3, "its guarantee was proven for zero_out only$"),
    ],
)
def test_a_refusal_says_why_and_what_to_use(name, relation, group_size, why):
    with pytest.raises(UnsupportedAnalysisError, match=why):
        shift(TABLE[name][0], relation, group_size)


def test_units_of_many_records_are_refused():
    event = Gaussian(noise_multiplier=4.0)
    assert shift(event, ADD, LARGEST_GROUP) == LARGEST_GROUP
    with pytest.raises(UnsupportedAnalysisError, match="at most 1000 records, got 1001"):
        shift(event, ADD, LARGEST_GROUP + 1)


@pytest.mark.parametrize("group_size", [0, -1, 1.5, math.nan, True, None])
def test_a_group_size_is_a_count(group_size):
    with pytest.raises(InvalidValueError, match="^group_size must be a whole number from 1"):
        shift(Gaussian(noise_multiplier=4.0), ADD, group_size)
