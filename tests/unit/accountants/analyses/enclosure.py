"""Hockey-stick divergences at fifty digits, and whether lattices enclose them."""

import math

import mpmath as mp
import numpy as np

from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.lattices import Fineness, FixedSizeStep
from accountants.analyses.pairs import ReplacedPair

TINY = 1e-13
SMALLEST = 1e-300


FINENESS = {
    "coarse": Fineness(0.11, 3.0, 0.5, 1e-6),
    "fine": Fineness(0.004, 20.0, 0.1, 1e-12),
    "wide far out": Fineness(0.01, 3.0, 0.6, 1e-9),
}


EPSILONS = [-9.0, -3.0, -1.0, -0.31, -0.05, -0.0011, 0.0, 0.0007, 0.02, 0.1, 0.45, 1.0, 2.5, 6.0]


def above_normal(y):
    return mp.erfc(y / mp.sqrt(2)) / 2


def crossing(pair, epsilon):
    """The outcome with loss epsilon; None below the lowest loss."""
    variance, ratio = mp.mpf(pair.sigma) ** 2, mp.exp(epsilon)
    if isinstance(pair, ReplacedPair):
        q = mp.mpf(pair.sample_rate)
        a, half = q * mp.exp(-1 / (2 * variance)), (1 - q) * (1 - ratio) / 2
        return variance * mp.log((mp.sqrt(half**2 + a * a * ratio) - half) / a)
    weights = [mp.mpf(weight) for weight in pair.weights]
    weights[0] = 1 - mp.fsum(weights[1:])
    if ratio <= weights[0]:
        return None
    if len(weights) == 2:
        return variance * mp.log((ratio - weights[0]) / weights[1]) + mp.mpf(1) / 2

    def excess(y):
        exponents = [(2 * k * y - k * k) / (2 * variance) for k in range(len(weights))]
        return mp.fsum(w * mp.exp(x) for w, x in zip(weights, exponents, strict=True)) - ratio

    low, high = mp.mpf(-1), mp.mpf(1)
    while excess(low) > 0:
        low *= 2
    while excess(high) < 0:
        high *= 2
    for _ in range(110):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


def masses_above(pair, y):
    """Mass of P and Q above an outcome."""
    s = mp.mpf(pair.sigma)
    if isinstance(pair, ReplacedPair):
        q = mp.mpf(pair.sample_rate)
        middle = (1 - q) * above_normal(y / s)
        return tuple(middle + q * above_normal((y - mean) / s) for mean in (1, -1))
    weights = [mp.mpf(weight) for weight in pair.weights]
    weights[0] = 1 - mp.fsum(weights[1:])
    p = mp.fsum(w * above_normal((y - k) / s) for k, w in enumerate(weights))
    return p, above_normal(y / s)


def pair_delta(pair, epsilon, *, backward=False):
    """E_P[max(0, 1 - exp(epsilon - L))] of (P, Q), or of (Q, P)."""
    epsilon = mp.mpf(epsilon)
    y = crossing(pair, -epsilon if backward else epsilon)
    if y is None:
        return mp.mpf(0) if backward else 1 - mp.exp(epsilon)
    p, q = masses_above(pair, y)
    if not backward:
        return p - mp.exp(epsilon) * q
    return (1 - q) - mp.exp(epsilon) * (1 - p)


def exact_delta(step, epsilon, *, backward=False):
    """The hockey-stick divergence of one step at any real epsilon."""
    epsilon = mp.mpf(epsilon)
    if isinstance(step, RandomisedResponseStep):
        a = mp.mpf(step.largest_loss)
        points = ((a, 1 / (1 + mp.exp(-a))), (-a, 1 / (1 + mp.exp(a))))
        return mp.fsum(p * (1 - mp.exp(epsilon - x)) for x, p in points if x > epsilon)
    if isinstance(step, LaplaceStep):
        a = mp.mpf(step.largest_loss)
        if epsilon < -a:
            return 1 - mp.exp(epsilon)
        return max(mp.mpf(0), 1 - mp.exp((epsilon - a) / 2))
    if isinstance(step, FixedSizeStep):
        directions = (pair_delta(step.pair, epsilon, backward=side) for side in (False, True))
        return max(directions)
    return pair_delta(step.pair, epsilon, backward=backward)


def hockey_stick(lattice, epsilon, shift=0.0):
    losses = lattice.grid.losses + shift
    weights = -np.expm1(np.minimum(epsilon - losses, 0.0))
    return math.fsum(lattice.masses * weights) + lattice.infinity


def check_enclosed(step, fineness):
    found = step.discretise(fineness)
    with mp.workdps(50):
        for epsilon in EPSILONS:
            forward = exact_delta(step, epsilon)
            backward = exact_delta(step, epsilon, backward=True)
            below = hockey_stick(found.below, epsilon, -found.below.drift)
            assert below <= pair_or(step, epsilon, forward) * (1 + TINY)
            over = hockey_stick(found.forward, epsilon, found.forward.drift)
            assert over >= forward * (1 - TINY) - SMALLEST
            back = hockey_stick(found.backward, epsilon, found.backward.drift)
            assert back >= backward * (1 - TINY) - SMALLEST


def pair_or(step, epsilon, otherwise):
    """What the lattice below stands for: one pair of data sets."""
    return pair_delta(step.pair, epsilon) if isinstance(step, FixedSizeStep) else otherwise
