"""Lattices of a few points to compose."""

import numpy as np

from accountants.analyses.cells import Grid
from accountants.analyses.lattices import Lattice

STEP = 0.125


def lattice(masses, first=-1, infinity=0.0, drift=0.0, origin=0.0, places=None):
    places = np.arange(first, first + len(masses)) if places is None else np.array(places)
    return Lattice(Grid(origin, STEP, places), np.array(masses), infinity, drift)


COIN = lattice([0.3, 0.0, 0.7])
RARE = lattice([0.02, 0.975, 0.003, 0.0, 0.002], first=-2, origin=0.01)
LONG = lattice([0.1, 0.2, 0.3, 0.4], places=[-40, -3, 5, 60])
