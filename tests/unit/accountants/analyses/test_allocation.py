"""Random allocation against quadrature, simulation, and what is known of other samplers."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import ndtr

from accountants import (
    Gaussian,
    Neighbouring,
    PoissonGaussian,
    RandomAllocationGaussian,
    UnsupportedAnalysisError,
    delta,
    epsilon,
)
from accountants.analyses import allocation, renyi
from accountants.analyses.allocation import AllocationStep
from accountants.analyses.lattices import Fineness
from accountants.analyses.sums import law_of_sum

ADD, ZERO, REPLACE = Neighbouring.ADD_REMOVE, Neighbouring.ZERO_OUT, Neighbouring.REPLACE_ONE


def epochs(noise_multiplier, batches, steps=1):
    return RandomAllocationGaussian(noise_multiplier=noise_multiplier, batches=batches, steps=steps)


def two_batches(sigma, eps):
    """Delta of one epoch of two batches: larger direction; one noise by quadrature, one in closed
    form."""
    s = 1 / sigma
    u, step = np.linspace(-12, 12 + s, 40_001, retstep=True)
    weights = np.exp(-u * u / 2) / math.sqrt(2 * math.pi) * step
    first = np.exp(s * u - s * s / 2)

    def call(strike):
        left = strike - first
        d = -np.log(np.maximum(left, 1e-300)) / s + s / 2
        paid = np.where(left > 0, ndtr(d) - np.maximum(left, 0) * ndtr(d - s), 1 - left)
        return float(weights @ paid)

    forward = call(2 * math.exp(eps)) / 2
    backward = math.exp(eps) / 2 * (call(2 * math.exp(-eps)) - 2 + 2 * math.exp(-eps))
    return max(forward, backward)


def simulated(sigma, batches, eps, backward):
    """Delta of one epoch by 160,000 draws, with its standard error."""
    generator = np.random.default_rng(11)
    total, square, draws, parts = 0.0, 0.0, 20_000, 8
    for _ in range(parts):
        x = generator.normal(scale=sigma, size=(draws, batches))
        if not backward:
            x[:, 0] += 1
        ratio = np.exp((x - 0.5) / sigma**2).mean(axis=1)
        ratio = ratio if backward else 1 / ratio
        paid = np.maximum(1 - math.exp(eps) * ratio, 0)
        total, square = total + paid.sum(), square + (paid**2).sum()
    mean = total / (draws * parts)
    return mean, math.sqrt((square / (draws * parts) - mean**2) / (draws * parts))


def test_one_batch_is_the_gaussian_mechanism():
    for relation in (ADD, REPLACE, ZERO):
        ours = epsilon([epochs(1.7, 1, 3)], 1e-5, relation)
        assert ours == epsilon([Gaussian(noise_multiplier=1.7, steps=3)], 1e-5, relation)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("eps", [0.02, 0.4, 1.5])
def test_two_batches_against_quadrature(sigma, eps):
    exact = two_batches(sigma, eps)
    bounds = delta([epochs(sigma, 2)], eps, ADD)
    assert bounds.lower <= exact * (1 + 1e-9) + 1e-15
    assert bounds.upper >= exact * (1 - 1e-9) - 1e-15
    assert bounds.upper <= exact * 1.02 + 1e-14
    assert bounds.lower >= exact * 0.98 - 1e-14


@pytest.mark.parametrize(
    ("sigma", "batches", "eps"), [(1.0, 32, 0.3), (2.0, 10, 0.2), (0.7, 5, 1.0), (0.5, 100, 0.5)]
)
def test_many_batches_against_simulation(sigma, batches, eps):
    """The bounds hold the larger direction, within five standard errors; seeded."""
    found = [simulated(sigma, batches, eps, backward) for backward in (False, True)]
    mean, deviation = max(found)
    bounds = delta([epochs(sigma, batches)], eps, ADD)
    assert bounds.lower <= mean + 5 * deviation
    assert bounds.upper >= mean - 5 * deviation
    assert bounds.upper <= bounds.lower * 1.01


@pytest.mark.parametrize(("sigma", "batches", "eps"), [(1.0, 32, 0.3), (0.7, 5, 1.0)])
@pytest.mark.parametrize("backward", [False, True])
def test_each_direction_is_bounded(sigma, batches, eps, backward):
    """Also the smaller one, which no bound on epsilon shows."""
    found = AllocationStep(batches, sigma).discretise(Fineness(1e-3, 10.0, 0.3, 1e-15))
    lattice = found.backward if backward else found.forward
    losses = lattice.grid.losses + lattice.drift
    bound = float(lattice.masses @ np.maximum(-np.expm1(eps - losses), 0)) + lattice.infinity
    mean, deviation = simulated(sigma, batches, eps, backward)
    assert mean - 5 * deviation <= bound <= (mean + 5 * deviation) * 1.01


def test_no_mass_is_lost_above_and_none_won_below():
    """Values of 0, which only the law above has, are infinite losses of the backward direction."""
    found = AllocationStep(2, 0.5).discretise(Fineness(1e-2, 10.0, 0.3, 1e-15))
    law = law_of_sum(2, 2.0, 1e-20, above=True)
    assert law.values[0] == 0
    assert found.backward.infinity >= law.masses[0] > 0
    assert found.forward.infinity >= law.infinity > 0
    for above in (found.forward, found.backward):
        assert above.masses.sum() + above.infinity >= 1
    assert found.below.masses.sum() + found.below.infinity <= 1


def test_the_value_of_other_accountants():
    """Golden: opake-accounting 0.16.1 gives 1.640 (an upper bound), and Poisson sampling 1.912."""
    bounds = epsilon([epochs(1.0, 32)], 1e-6, ADD)
    assert bounds.lower <= 1.6395 <= bounds.upper <= 1.6405
    assert bounds.upper - bounds.lower <= 1e-3 * bounds.upper
    poisson = PoissonGaussian(noise_multiplier=1.0, sample_rate=1 / 32, steps=32)
    assert epsilon([poisson], 1e-6, ADD).lower > 1.91


@pytest.mark.parametrize(
    ("sigma", "batches", "delta_", "low", "high"),
    [
        (1.0, 32, 1e-6, 1.63114, 2.11666),
        (1.0, 1000, 1e-6, 0.12355, 0.29084),
        (0.5, 100, 1e-6, 6.39429, 7.25109),
        (2.0, 10, 1e-5, 0.49186, 0.72390),
    ],
)
def test_between_the_bounds_of_its_authors(sigma, batches, delta_, low, high):
    """Golden: random-allocation 1.0.5, lower bound (to 1e-3, its tolerance) and combined bound."""
    bounds = epsilon([epochs(sigma, batches)], delta_, ADD)
    assert low - 1e-3 <= bounds.upper <= high
    assert bounds.upper - bounds.lower <= 2.5e-3 * bounds.upper


@pytest.mark.parametrize("batches", [2, 9, 40])
def test_an_epoch_costs_no_more_than_one_known_step(batches):
    for sigma in (0.5, 1.5):
        known = epsilon([Gaussian(noise_multiplier=sigma, steps=4)], 1e-5, ADD).upper
        assert 0 < epsilon([epochs(sigma, batches, 4)], 1e-5, ADD).upper < known


def test_epsilon_falls_with_noise_and_batches_and_grows_with_epochs():
    cases = [epochs(0.9, 6, 5), epochs(1.0, 6, 5), epochs(1.0, 8, 5), epochs(1.0, 8, 4)]
    found = [epsilon([event], 1e-6, ADD) for event in cases]
    for more, less in pairwise(found):
        assert less.upper < more.lower


def test_epochs_and_other_events_compose():
    poisson = PoissonGaussian(noise_multiplier=1.4, sample_rate=0.05, steps=60)
    alone = epsilon([epochs(1.2, 7, 3)], 1e-6, ADD)
    both = epsilon([epochs(1.2, 7, 3), poisson], 1e-6, ADD)
    apart = epsilon([poisson], 5e-7, ADD).upper + epsilon([epochs(1.2, 7, 3)], 5e-7, ADD).upper
    assert alone.upper < both.lower <= both.upper < apart
    split = epsilon([epochs(1.2, 7, 1), poisson, epochs(1.2, 7, 2)], 1e-6, ADD)
    assert split == both


def test_a_small_delta_and_a_large_one():
    event = epochs(1.0, 12)
    small, large = (epsilon([event], value, ADD) for value in (1e-30, 1e-2))
    assert 4 < small.lower <= small.upper <= small.lower * 1.02
    assert small.upper < epsilon([Gaussian(noise_multiplier=1.0)], 1e-30, ADD).upper
    assert 0 < large.lower <= large.upper < 1
    assert epsilon([event], 0.5, ADD).upper == 0


def test_zero_out_is_as_add_remove():
    assert epsilon([epochs(1.1, 4, 2)], 1e-5, ZERO) == epsilon([epochs(1.1, 4, 2)], 1e-5, ADD)


@pytest.mark.parametrize(("relation", "group"), [(REPLACE, 1), (ADD, 2), (ZERO, 3)])
def test_what_has_no_worst_case_is_refused(relation, group):
    with pytest.raises(UnsupportedAnalysisError, match="RandomAllocationGaussian has no sound"):
        epsilon([epochs(1.1, 4)], 1e-5, relation, group_size=group)


def test_renyi_divergences_are_refused_by_name():
    with pytest.raises(UnsupportedAnalysisError, match="RandomAllocationGaussian.*ScheduleFilter"):
        renyi.epsilon([epochs(1.1, 4)], 1e-5, ADD)


def test_beyond_the_grid_a_known_step_bounds_it():
    """Too little noise, or too many batches: sampling is left out of account."""
    for event in (epochs(0.02, 4), epochs(1.0, allocation.MOST_BATCHES + 1)):
        bounds = epsilon([event], 1e-5, ADD)
        noise = Gaussian(noise_multiplier=event.noise_multiplier)
        assert bounds.upper == pytest.approx(epsilon([noise], 1e-5, ADD).upper, rel=1e-9)
        assert "sampling left out" in bounds.method
    assert epsilon([epochs(0.0, 4)], 1e-5, ADD).upper == math.inf


def test_lattices_hold_the_same_step_at_every_fineness():
    """Coarser grids lie further apart, around the finer ones."""
    step = AllocationStep(6, 1.0)
    found = [step.discretise(Fineness(size, 10.0, 0.3, 1e-15)) for size in (0.05, 0.005)]

    def hockey(lattice, sign):
        losses = lattice.grid.losses + sign * lattice.drift
        return float(lattice.masses @ np.maximum(-np.expm1(0.4 - losses), 0)) + lattice.infinity

    coarse, fine = ((hockey(each.below, -1), hockey(each.forward, 1)) for each in found)
    assert coarse[0] <= fine[0] <= fine[1] <= coarse[1]
    assert coarse[1] - coarse[0] <= 0.01 * fine[1]
    assert step.discretise(Fineness(1e-7, 10.0, 0.3, 1e-15)) is None
