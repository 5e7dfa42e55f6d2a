"""Bounds on epsilon and delta of many steps, against closed forms and sums over all outcomes."""

from accountants.analyses import composition
from accountants.analyses.lattices import Discretised, NormalStep
from accountants.analyses.pairs import MixturePair


class Turned(NormalStep):
    """A sampled step seen from the other side: here it is the backward direction that decides."""

    __slots__ = ()

    def discretise(self, fineness):
        found = super().discretise(fineness)
        return found and Discretised(found.backward, found.forward, found.below)


def test_the_direction_that_costs_more_decides():
    """Sampled one time in a hundred, forward costs several times what backward does."""
    pair = MixturePair((0.99, 0.01), 0.7)
    steps, counts = [Turned(pair)], [50]
    straight = composition.epsilon_bounds([NormalStep(pair)], counts, 1e-6, 1e-3)
    assert composition.epsilon_bounds(steps, counts, 1e-6, 1e-3)[1] >= straight[0]
    straight = composition.delta_bounds([NormalStep(pair)], counts, 1.0, 1e-3)
    assert composition.delta_bounds(steps, counts, 1.0, 1e-3)[1] >= straight[0]
