"""Events to try things with: one of each type with its written form, and drawn ones."""

from dataclasses import fields, replace

from hypothesis import settings
from hypothesis import strategies as st

from accountants import Neighbouring
from accountants.events import (
    KINDS,
    BandedMatrixFactorization,
    DiscreteGaussian,
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

WIRE = [
    (
        Gaussian(noise_multiplier=2.5, steps=3),
        {"type": "gaussian", "noise_multiplier": 2.5, "steps": 3},
    ),
    (
        PoissonGaussian(noise_multiplier=1.1, sample_rate=0.01, steps=1000),
        {"type": "poisson_gaussian", "noise_multiplier": 1.1, "sample_rate": 0.01, "steps": 1000},
    ),
    (
        FixedSizeGaussian(noise_multiplier=1.1, batch_size=20, dataset_size=400, steps=7),
        {
            "type": "fixed_size_gaussian",
            "noise_multiplier": 1.1,
            "batch_size": 20,
            "dataset_size": 400,
            "steps": 7,
        },
    ),
    (
        RandomAllocationGaussian(noise_multiplier=1.3, batches=5, steps=8),
        {
            "type": "random_allocation_gaussian",
            "noise_multiplier": 1.3,
            "batches": 5,
            "steps": 8,
        },
    ),
    (
        DiscreteGaussian(standard_deviation=40.0, sensitivity=10.0, steps=2),
        {
            "type": "discrete_gaussian",
            "standard_deviation": 40.0,
            "sensitivity": 10.0,
            "steps": 2,
        },
    ),
    (
        Skellam(variance=900.0, sensitivity=10.0, l1_sensitivity=30.0, steps=2),
        {
            "type": "skellam",
            "variance": 900.0,
            "sensitivity": 10.0,
            "l1_sensitivity": 30.0,
            "steps": 2,
        },
    ),
    (
        Laplace(noise_multiplier=3.0, steps=4),
        {"type": "laplace", "noise_multiplier": 3.0, "steps": 4},
    ),
    (
        PureDP(epsilon=0.5, neighbouring=Neighbouring.ADD_REMOVE, steps=5),
        {"type": "pure_dp", "epsilon": 0.5, "neighbouring": "add_remove", "steps": 5},
    ),
    (
        ZeroConcentrated(rho=0.01, neighbouring=Neighbouring.REPLACE_ONE, steps=6),
        {"type": "zero_concentrated", "rho": 0.01, "neighbouring": "replace_one", "steps": 6},
    ),
    (
        TreeAggregation(noise_multiplier=8.0, leaves=128, steps=2),
        {"type": "tree_aggregation", "noise_multiplier": 8.0, "leaves": 128, "steps": 2},
    ),
    (
        BandedMatrixFactorization(noise_multiplier=6.0, bands=16, participations=3, steps=1),
        {
            "type": "banded_matrix_factorization",
            "noise_multiplier": 6.0,
            "bands": 16,
            "participations": 3,
            "steps": 1,
        },
    ),
    (
        NoisedCount(epsilon=0.25, steps=2),
        {"type": "noised_count", "epsilon": 0.25, "steps": 2},
    ),
]
EXAMPLES = [event for event, _ in WIRE]
LARGE = {"dataset_size": st.integers(10**4, 10**9), "l1_sensitivity": st.floats(1e4, 1e9)}
RANGES = {
    "sample_rate": st.floats(0, 1, exclude_min=True),
    "epsilon": st.floats(0, exclude_min=True, allow_infinity=False),
    "sensitivity": st.floats(0, 1e4, exclude_min=True),
    **LARGE,
}
BY_TYPE = {
    float: st.floats(0, allow_infinity=False),
    int: st.integers(1, 10**4),
    Neighbouring: st.sampled_from(Neighbouring),
}


def values_of(kind):
    return {f.name: RANGES.get(f.name, BY_TYPE[f.type]) for f in fields(kind)}


any_event = st.one_of([st.builds(kind, **values_of(kind)) for kind in KINDS])
# Few distinct mechanisms, so that histories repeat them.
common_event = st.builds(
    lambda e, steps: replace(e, steps=steps), st.sampled_from(EXAMPLES), st.integers(1, 50)
)
histories = st.lists(st.one_of(common_event, any_event), max_size=8)
examples = settings(max_examples=150, deadline=None, derandomize=True)
