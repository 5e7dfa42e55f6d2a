"""Pairs to try things with, and what is true of them by exact arithmetic."""

import mpmath as mp
import pytest

from accountants.analyses.pairs import MixturePair, ReplacedPair, group_weights

PAIRS = {
    "rare": MixturePair((0.999, 0.001), 0.7),
    "common": MixturePair((0.4, 0.6), 2.0),
    "little noise": MixturePair((0.9, 0.1), 0.2),
    "nearly all": MixturePair((2.0**-30, 1 - 2.0**-30), 1.0),
    "group": MixturePair(group_weights(0.05, 3), 1.5),
    "plain": MixturePair((0.0, 1.0), 1.3),
    "replaced": ReplacedPair(0.03, 0.8),
    "replaced often": ReplacedPair(0.8, 3.0),
}
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def parts(pair):
    """Exact weights and means of P and Q."""
    if isinstance(pair, ReplacedPair):
        q = mp.mpf(pair.sample_rate)
        return [(1 - q, 0), (q, 1)], [(1 - q, 0), (q, -1)]
    weights = [mp.mpf(weight) for weight in pair.weights]
    weights[0] = 1 - mp.fsum(weights[1:])
    return list(zip(weights, range(len(weights)), strict=True)), [(mp.mpf(1), 0)]


def exact_loss(pair, y):
    """The log of the ratio of the densities."""
    y, variance = mp.mpf(float(y)), mp.mpf(pair.sigma) ** 2
    p, q = (
        mp.fsum(w * mp.exp((2 * k * y - k * k) / (2 * variance)) for w, k in side)
        for side in parts(pair)
    )
    return mp.log(p / q)


def exact_mass(side, sigma, low, high):
    """Mass of a mixture between two outcomes, without cancellation."""
    sigma = mp.mpf(sigma)

    def between(mean):
        left, right = ((mp.mpf(float(y)) - mean) / (sigma * mp.sqrt(2)) for y in (low, high))
        if left > 0:
            return (mp.erfc(left) - mp.erfc(right)) / 2
        return (mp.erfc(-right) - mp.erfc(-left)) / 2

    return mp.fsum(w * between(mean) for w, mean in side)
