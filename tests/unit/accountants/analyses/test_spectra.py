"""Transforms of many draws, with the errors they claim."""

import mpmath as mp
import pytest

from accountants.analyses.spectra import TiltedLattice, spectrum
from tests.unit.accountants.analyses.small_lattices import COIN, LONG, RARE, lattice

# Nearly all mass within twelve places of the heaviest one, on both sides of it, and some beyond.
NEARBY = lattice([1e-3, 0.0, 2e-4, 0.95, 0.01, 3e-4, *[1e-5] * 11, 2e-5, 1e-6], first=-3)


@pytest.mark.parametrize("count", [1, 1000, 10**9])
@pytest.mark.parametrize("each", [COIN, RARE, LONG, NEARBY], ids=["coin", "rare", "long", "nearby"])
def test_the_spectrum_is_within_its_error(each, count):
    """Powers of the transform at single frequencies, at fifty digits."""
    points = 96
    masses = each.masses / each.masses.sum()
    part = TiltedLattice.of(each, masses, count)
    found, errors = spectrum([part], points)
    with mp.workdps(50):
        weights = [mp.mpf(float(mass)) for mass in part.masses]
        total = mp.fsum(weights)
        for frequency in (0, 1, 2, 7, 24, 47, 48):
            turn = -2j * mp.pi * frequency / points
            exact = mp.fsum(
                w / total * mp.exp(turn * int(place))
                for w, place in zip(weights, part.places, strict=True)
            )
            slack = 4 * count * 2.0**-52 * float(abs(exact**count))
            assert abs(mp.mpc(found[frequency]) - exact**count) <= errors[frequency] + slack
