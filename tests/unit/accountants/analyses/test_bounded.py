"""Steps whose largest loss is bounded: their lattices end where the losses do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.analyses.bounded import LaplaceStep, RandomisedResponseStep
from accountants.analyses.lattices import Fineness
from tests.unit.accountants.analyses.enclosure import FINENESS, check_enclosed

few = settings(max_examples=20, deadline=None, derandomize=True)


@few
@given(
    loss=st.floats(-2, 1).map(lambda power: 10.0**power),
    kind=st.sampled_from([LaplaceStep, RandomisedResponseStep]),
    fineness=st.sampled_from(list(FINENESS.values())),
)
def test_lattices_enclose_the_truth_of_any_bounded_step(loss, kind, fineness):
    check_enclosed(kind(loss), fineness)


def test_two_points_of_a_response_lie_on_the_ends():
    """e^1 / (1 + e^1) = 0.731059 at loss 1 and the rest at -1."""
    found = RandomisedResponseStep(1.0).discretise(Fineness(0.5, 3.0, 0.5, 1e-9))
    assert found.forward.grid.losses == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert found.forward.masses[[0, -1]] == pytest.approx([0.2689414213699951, 0.7310585786300049])
    between = RandomisedResponseStep(0.9).discretise(Fineness(0.5, 3.0, 0.5, 1e-9))
    assert between.forward.grid.losses[-1] == pytest.approx(1.0)
    assert between.below.grid.losses[-1] == pytest.approx(0.75)
