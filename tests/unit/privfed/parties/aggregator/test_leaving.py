"""Who is left out of a run that goes on, and what of an open round that ends."""

from dataclasses import replace

import pytest

from privfed.errors import ConfigError
from privfed.parties.aggregator.leaving import ended_by_leaving, left_out_of
from privfed.reports.round_record import Abandoned, Reason
from tests.unit.privfed.parties.aggregator.speakers import BASE, Speakers, standing

NAMES = ("c1", "c2", "c3", "c4", "c5")
SUM = ("c1", "c2", "c3")


@pytest.fixture
def record():
    """Two rounds are over, and c5 left before the second."""
    return replace(Speakers().reached(2).record, left_out={"c5": 2})


class TestWhoIsLeftOut:
    def test_from_the_next_round_on_beside_those_before(self, record):
        assert left_out_of(record, ["c2"], NAMES, min_clients=3) == {"c5": 2, "c2": 3}
        assert record.left_out == {"c5": 2}

    def test_nobody_more(self, record):
        assert left_out_of(record, [], NAMES, min_clients=3) == {"c5": 2}

    def test_who_left_before_left_then(self, record):
        assert left_out_of(record, ["c5"], NAMES, min_clients=3) == {"c5": 2}

    def test_a_run_that_starts_leaves_nobody_out(self):
        assert left_out_of(None, [], NAMES, min_clients=3) == {}
        with pytest.raises(ConfigError, match=r"\(--without\) when a run is resumed; leave c2, c4"):
            left_out_of(None, ["c2", "c4"], NAMES, min_clients=3)

    def test_a_stranger_is_named(self, record):
        with pytest.raises(ConfigError, match=r"\['c7', 'c9'\] are not"):
            left_out_of(record, ["c9", "c2", "c7"], NAMES, min_clients=3)

    def test_too_few_would_stay(self, record):
        assert len(left_out_of(record, ["c2"], NAMES, min_clients=3)) == 2
        with pytest.raises(ConfigError, match=r"at least 4 .*\['c2', 'c5'\] there are 3 of 5"):
            left_out_of(record, ["c2"], NAMES, min_clients=4)


class TestTheRoundInWhichTheyLeave:
    def ended(self, number=3, **changes):
        stay = [name for name in NAMES if name not in ("c4", "c2")]
        standings = {n: standing(2, BASE, "", **changes.get(n, {})) for n in stay}
        return ended_by_leaving(standings, number, {"c4", "c2"})

    @pytest.mark.parametrize("status", [None, "reserved"])
    def test_it_goes_on_where_nothing_was_committed(self, status):
        assert self.ended(c3={"next_status": status}) is None

    def test_what_was_committed_has_the_weights_of_before(self):
        found = self.ended(c3={"next_status": "committed"})
        assert found == Abandoned(round=3, reason=Reason.LEFT, missing=("c2", "c4"))

    def test_a_sum_that_was_agreed_to_cannot_be_made_any_more(self):
        found = self.ended(c1={"agreed": SUM}, c3={"next_status": "committed"})
        assert found == Abandoned(round=3, reason=Reason.OTHERS, missing=("c2", "c4"))
        assert self.ended(c1={"agreed": SUM}) == found

    def test_it_is_the_round_that_was_asked_about(self):
        """One that opened it alone has come to its end, and says what it is of."""
        stay = {n: standing(2, BASE, "") for n in ("c1", "c3")}
        stay["c5"] = standing(3, "ee" * 32, "", before=BASE, agreed=SUM, next_status="committed")
        found = ended_by_leaving(stay, 3, {"c2", "c4"})
        assert found == Abandoned(round=3, reason=Reason.OTHERS, missing=("c2", "c4"))

    def test_nobody_is_in_the_run_yet(self):
        assert ended_by_leaving({}, 1, {"c2"}) is None
