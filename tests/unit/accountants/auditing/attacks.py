"""What audits are tried with: an attack, and values that no audit takes."""

import math

import numpy as np

NOT_COUNTS = [-1, 1.0, True, "3", None, math.nan]
NOT_PROBABILITIES = [0, 1, -0.1, 1.5, math.nan, math.inf, True, "0.05", None]


def guess_extremes(random, mu, canaries, each_side):
    """How many are right if the lowest scores are taken for "out" and the highest for "in"."""
    joined = random.integers(0, 2, canaries)
    order = np.argsort(random.standard_normal(canaries) + mu * joined)
    return int(each_side - joined[order[:each_side]].sum() + joined[order[-each_side:]].sum())
