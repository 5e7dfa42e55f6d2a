"""What reports say of who summed a run, and which of it cannot be together."""

from dataclasses import replace

import pytest

from privfed.errors import ReportError
from tests.unit.privfed.reports.made_up import FACTS


def test_programs_of_their_own_have_keys_of_their_own():
    apart = replace(FACTS, simulated_keys=False, in_one_process=False)
    assert not apart.in_one_process
    with pytest.raises(ReportError, match=r"must have keys of their own, .* `privfed roster`"):
        replace(FACTS, simulated_keys=True, in_one_process=False)


@pytest.mark.parametrize("simulated_keys", [True, False])
def test_in_one_process_keys_may_be_made_or_read(simulated_keys):
    assert replace(FACTS, simulated_keys=simulated_keys, in_one_process=True).in_one_process
