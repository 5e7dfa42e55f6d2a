"""Composition by a tilted FFT, against convolution at fifty digits."""

import math
from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.analyses import tilted
from accountants.analyses.tilted import Window, compose
from tests.unit.accountants.analyses.small_lattices import COIN, LONG, RARE, STEP, lattice

some = settings(max_examples=60, deadline=None, derandomize=True)


def composed_exactly(lattices, steps):
    """Losses and masses of the sum, by repeated convolution."""
    found = {mp.mpf(0): mp.mpf(1)}
    for each, count in zip(lattices, steps, strict=True):
        points = [
            (mp.mpf(each.grid.origin) + mp.mpf(STEP) * int(place), mp.mpf(float(mass)))
            for place, mass in zip(each.grid.places, each.masses, strict=True)
            if mass > 0
        ]
        for _ in range(count):
            following = {}
            for loss, mass in found.items():
                for other, weight in points:
                    following[loss + other] = following.get(loss + other, 0) + mass * weight
            found = following
    return found


def exact_delta(found, epsilon):
    epsilon = mp.mpf(epsilon)
    return mp.fsum(m * (1 - mp.exp(epsilon - x)) for x, m in found.items() if x > epsilon)


def wide_window(lattices, steps, tilt):
    ends = [each.grid.losses[[0, -1]] for each in lattices]
    low = sum(n * end[0] for end, n in zip(ends, steps, strict=True))
    high = sum(n * end[1] for end, n in zip(ends, steps, strict=True))
    return Window(tilt, low - 2, high + 2, tilt - 40, tilt + 40)


def check(lattices, steps, window, epsilons, *, closeness=None):
    with mp.workdps(50):
        found = composed_exactly(lattices, steps)
        result = compose(lattices, steps, window)
        for epsilon in epsilons:
            exact = exact_delta(found, epsilon)
            below, above = result.delta_below(epsilon), result.delta_above(epsilon)
            assert below <= exact <= above
            if closeness is not None and exact > 0:
                assert above - below <= closeness * exact


def test_two_coins_by_hand():
    """Losses -0.25, 0, 0.25 with masses 0.09, 0.42, 0.49."""
    result = compose([COIN], [2], Window(1.0, -1.0, 1.0, -30.0, 30.0))
    delta = 0.49 * (1 - math.exp(0.1 - 0.25))
    assert result.delta_below(0.1) <= delta <= result.delta_above(0.1)
    assert result.delta_above(0.1) - result.delta_below(0.1) < 1e-8
    moment = 2 * math.log(0.3 * math.exp(-0.125) + 0.7 * math.exp(0.125))
    assert tilted.log_moment([COIN], [2], 1.0) == pytest.approx(moment, rel=1e-14)
    assert result.log_scale == pytest.approx(moment, rel=1e-14)


@pytest.mark.parametrize("tilt", [0.1, 1.0, 8.0])
@pytest.mark.parametrize(
    ("lattices", "steps"),
    [
        ([COIN], [1]),
        ([COIN], [40]),
        ([RARE], [1]),
        ([RARE], [25]),
        ([COIN, RARE], [5, 6]),
        ([COIN, RARE, LONG], [3, 2, 2]),
    ],
    ids=["coin", "coins", "rare", "rares", "both", "all"],
)
def test_a_good_window_encloses_the_convolution_tightly(lattices, steps, tilt):
    window = wide_window(lattices, steps, tilt)
    span = window.high - 2
    check(lattices, steps, window, [0.0, 0.03, 0.3 * span, 0.9 * span])
    middle = planned(lattices, steps, tilt)
    if middle > 0:
        check(lattices, steps, window, [middle], closeness=1e-6)


def planned(lattices, steps, tilt):
    """The mean of the composed loss under the tilt."""
    slope = 1e-5
    up, down = (tilted.log_moment(lattices, steps, tilt + side) for side in (slope, -slope))
    return (up - down) / (2 * slope)


@pytest.mark.parametrize("epsilon_share", [0.5, 0.9, 0.99])
def test_tiny_deltas_keep_their_digits(epsilon_share):
    """Sixty coins: delta falls to 1e-10 without the noise of a plain FFT showing."""
    top = 60 * STEP
    epsilon = epsilon_share * top
    coin = lattice([0.9, 0.0, 0.1])
    tilts = np.linspace(0.1, 60, 300)
    tilt = float(tilts[np.argmin([abs(planned([coin], [60], t) - epsilon) for t in tilts])])
    check([coin], [60], wide_window([coin], [60], tilt), [epsilon], closeness=1e-5)


masses = st.lists(st.floats(1e-6, 1), min_size=1, max_size=5)


@some
@given(
    first=masses,
    second=masses,
    counts=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    tilt=st.floats(0.01, 20),
    low=st.floats(-3, 3),
    width=st.floats(0.1, 4),
    sides=st.tuples(st.floats(0.1, 20), st.floats(0.1, 20)),
    epsilon=st.floats(0, 3),
)
def test_any_window_gives_valid_bounds(first, second, counts, tilt, low, width, sides, epsilon):
    """A window that is too narrow, too high or too low widens the interval, no more."""
    pair = [lattice(np.array(each) / sum(each), first=-1) for each in (first, second)]
    window = Window(tilt, low, low + width, tilt - sides[0], tilt + sides[1])
    check(pair, counts, window, [epsilon, 0.0])


@pytest.mark.parametrize("points", [70, 150])
def test_mass_that_wraps_around_is_counted(points):
    """The sums of 400 coins spread over more places than the window has, at both ends."""
    for low in (-20.0, 0.0, 10.0, 18.0, 22.0, 40.0):
        window = Window(0.5, low, low + points * STEP, 0.2, 0.8)
        check([COIN], [100], window, [0.0, 2.0, 5.0, 8.0, 12.0])


def test_a_window_above_all_mass_does_not_hide_it():
    window = Window(1.0, 50.0, 55.0, 0.5, 1.5)
    check([COIN], [10], window, [0.0, 0.1, 0.5, 1.0])


def test_a_window_below_all_mass_does_not_hide_it():
    window = Window(1.0, -55.0, -50.0, 0.5, 1.5)
    check([COIN], [10], window, [0.0, 0.1, 0.5, 1.0])


def test_infinity_is_added_above():
    lost = replace(COIN, infinity=1e-4)
    window = wide_window([COIN], [10], 1.0)
    plain, more = (compose([each], [10], window) for each in (COIN, lost))
    for epsilon in (0.0, 0.5, 2.0):
        assert more.delta_above(epsilon) >= plain.delta_above(epsilon) + 0.999e-3


def test_drift_moves_each_bound_outwards():
    moved = replace(COIN, drift=0.01)
    window = wide_window([COIN], [10], 1.0)
    plain, more = (compose([each], [10], window) for each in (COIN, moved))
    for epsilon in (0.2, 0.5):
        assert more.delta_above(epsilon) >= plain.delta_below(epsilon - 0.1)
        assert more.delta_below(epsilon) <= plain.delta_above(epsilon + 0.1)
        assert more.delta_above(epsilon) > plain.delta_above(epsilon)
    assert more.drift >= plain.drift + 0.1 * (1 - 1e-12)


def test_many_rare_steps_keep_their_digits():
    """1e9 steps that almost always do nothing: a Poisson number of jumps."""
    rare = lattice([1 - 3e-9, 3e-9], first=0)
    result = compose([rare], [10**9], Window(1.0, -1.0, 8.0, -20.0, 20.0))
    with mp.workdps(30):
        rate, q = mp.mpf(10) ** 9, mp.mpf(3e-9)
        probabilities = [
            mp.binomial(rate, k) * q**k * mp.mpf(1 - 3e-9) ** (rate - k) for k in range(60)
        ]
        for epsilon in (0.0, 0.3, 1.0):
            exact = mp.fsum(
                p * (1 - mp.exp(mp.mpf(epsilon) - k * mp.mpf(STEP)))
                for k, p in enumerate(probabilities)
                if k * STEP > epsilon
            )
            assert result.delta_below(epsilon) <= exact <= result.delta_above(epsilon)
            assert result.delta_above(epsilon) - result.delta_below(epsilon) < 1e-3 * exact


def test_a_transform_that_vanishes_warns_of_nothing():
    """Two equal tilted masses cancel at the highest frequency."""
    even = lattice([0.5, 0.5], first=0)
    nearly = lattice([0.5, 0.5, 1e-17], first=0)
    for each in (even, nearly, lattice([0.25, 0.5, 0.25], first=-1)):
        check([each], [1], Window(1e-9, -1.0, 1.0, -30.0, 30.0), [0.0, 0.1])


def test_a_window_beyond_memory_gives_none():
    assert compose([COIN], [1], Window(1.0, 0.0, STEP * 2.0**24, 0.5, 1.5)) is None


def test_every_error_is_on_the_safe_side_of_a_sum_by_hand():
    """Losses 0, 1, 2 at tilt 1 weigh w(1) = e^-1 (1 - e^-1) and w(2) = e^-2 (1 - e^-2)."""
    plain = tilted.Composed(
        tilt=1.0,
        start=0.0,
        step=1.0,
        masses=np.array([0.5, 0.3, 0.2]),
        log_scale=0.0,
        mass_error=0.0,
        outside=0.0,
        beyond=0.0,
        relative=0.0,
        drift=0.0,
    )
    weights = [math.exp(-x) * -math.expm1(-x) for x in (1, 2)]
    delta = 0.3 * weights[0] + 0.2 * weights[1]
    assert plain.delta_below(0.0) == pytest.approx(delta, rel=1e-12)
    assert delta <= plain.delta_above(0.0) <= delta * (1 + 1e-9)
    noisy = replace(plain, mass_error=0.01)
    assert noisy.delta_above(0.0) >= (delta + 0.01 * sum(weights)) * (1 - 1e-12)
    assert noisy.delta_below(0.0) <= (delta - 0.01 * sum(weights)) * (1 + 1e-12)
    lost = replace(plain, outside=0.05, beyond=0.07)
    assert lost.delta_above(0.0) >= delta + 0.07
    assert lost.delta_below(0.0) <= delta - 0.05 + 1e-12
    rough = replace(plain, relative=0.1)
    assert rough.delta_above(0.0) >= 1.1 * delta * (1 - 1e-12)
    assert rough.delta_below(0.0) <= 0.9 * delta * (1 + 1e-12)
    scaled = replace(plain, log_scale=math.log(2))
    assert scaled.delta_below(0.0) == pytest.approx(2 * delta, rel=1e-12)


def test_mass_below_the_window_is_not_forgotten():
    """At an epsilon below the first loss of the window, what lies between may count."""
    result = compose([COIN], [10], Window(1.0, 0.4, 5.0, 0.5, 1.5))
    with mp.workdps(40):
        found = composed_exactly([COIN], [10])
        for epsilon in (0.0, 0.2, 0.3):
            assert exact_delta(found, epsilon) <= result.delta_above(epsilon)
