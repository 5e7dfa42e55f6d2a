"""When a round is given up, why, and when the run must stop with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.parameters import MAX_CLIENTS
from privfed.errors import AwayError, SpoiledSumError, TooFewClientsError
from privfed.parties.aggregator.abandoning import (
    advice,
    because_of,
    given_up_before,
    lost_before,
    must_stop,
    stop,
    sums_of,
)
from privfed.reports.round_record import Abandoned, Reason
from tests.unit.privfed.parties.aggregator.speakers import BASE, standing

NAMES = ("c1", "c2", "c3", "c4", "c5")
OTHER_BASE = "ee" * 32
SUM, OTHER = ("c1", "c2", "c3"), ("c1", "c2", "c4")


def standings(**changes):
    """Of five clients before round 3; `changes` replace what one of them states."""
    return {name: standing(2, BASE, "", **changes.get(name, {})) for name in NAMES}


def abandoned(number, reason=Reason.AWAY, missing=("c2",)):
    return Abandoned(round=number, reason=reason, missing=missing)


@pytest.mark.parametrize(
    ("error", "reason", "missing"),
    [
        (SpoiledSumError("x"), Reason.SPOILED, ()),
        (AwayError("x", ["c2", "c4"]), Reason.AWAY, ("c2", "c4")),
        (TooFewClientsError("x", ["c2"]), Reason.TOO_FEW, ("c2",)),
    ],
)
def test_an_error_is_why(error, reason, missing):
    found = because_of(error, 3)
    assert found == Abandoned(round=3, reason=reason, missing=missing)
    assert type(stop(found, "why")) is type(error)
    assert str(stop(found, "why")) == "why"


def test_who_was_missing_stays_with_the_error():
    assert stop(abandoned(3, missing=("c2", "c4")), "why").missing == ("c2", "c4")


class TestSums:
    def test_those_that_were_agreed_to_in_this_round(self):
        found = standings(c1={"agreed": SUM}, c3={"agreed": SUM}, c4={"agreed": OTHER})
        assert sums_of(found) == {SUM, OTHER}

    def test_whatever_round_a_client_has_come_to(self):
        """What it agreed to is of the round that was asked about, which it may have opened."""
        found = standings()
        found["c4"] = standing(3, OTHER_BASE, "", before=BASE, agreed=SUM)
        assert sums_of(found) == {SUM}

    def test_none(self):
        assert sums_of(standings()) == sums_of({}) == set()


class TestGivenUpBefore:
    def test_nothing_is_known_against_it(self):
        assert given_up_before(standings(), 3, NAMES) is None
        assert given_up_before({}, 1, NAMES) is None

    def test_one_client_had_recorded_it(self):
        """The kill came between its record and the aggregator's."""
        why = {"reason": str(Reason.SPOILED), "missing": ["c5"]}
        found = given_up_before(standings(c4={"given_up": why}), 3, NAMES)
        assert found == Abandoned(round=3, reason=Reason.SPOILED, missing=("c5",))

    def test_one_that_had_gone_on_over_it(self):
        """Its adapter is still that of the run: rounds that are given up change nothing."""
        why = {"reason": str(Reason.SPOILED), "missing": []}
        found = {**standings(), "c4": standing(3, BASE, "", given_up=why)}
        assert given_up_before(found, 3, NAMES) == Abandoned(round=3, reason=Reason.SPOILED)

    def test_it_is_the_round_that_is_about_to_begin_whatever_a_client_says(self):
        why = {"reason": str(Reason.LEFT), "missing": ["c5", "c2", "c5"], "round": 7, "more": [7]}
        found = given_up_before(standings(c4={"given_up": why}), 3, NAMES)
        assert found == Abandoned(round=3, reason=Reason.LEFT, missing=("c2", "c5"))

    @pytest.mark.parametrize(
        "why",
        [
            {},
            {"reason": "because", "missing": []},
            {"reason": 7, "missing": []},
            {"reason": [str(Reason.AWAY)], "missing": []},
            {"reason": {}, "missing": []},
            {"reason": str(Reason.AWAY), "missing": 7},
            {"reason": str(Reason.AWAY), "missing": None},
            {"reason": str(Reason.AWAY), "missing": "c5"},
            {"reason": str(Reason.AWAY), "missing": {"c5": 1}},
            {"reason": str(Reason.AWAY), "missing": [{"name": "c5"}]},
            {"reason": str(Reason.AWAY), "missing": [["c5"]]},
            {"reason": str(Reason.AWAY), "missing": ["c5", 7]},
            {"reason": str(Reason.AWAY), "missing": ["c5\x1b[2J"]},
            {"reason": str(Reason.AWAY), "missing": [f"c{n}" for n in range(MAX_CLIENTS + 1)]},
            {"reason": str(Reason.AWAY)},
        ],
        ids=lambda one: f"{one!r:.60}",
    )
    def test_what_no_client_records_is_passed_over(self, why):
        honest = {"reason": str(Reason.LEFT), "missing": ["c5"]}
        assert given_up_before(standings(c1={"given_up": why}), 3, NAMES) is None
        both = standings(c1={"given_up": why}, c2={"given_up": honest})
        assert given_up_before(both, 3, NAMES).reason is Reason.LEFT

    def test_a_sum_that_can_still_be_made(self):
        assert given_up_before(standings(c1={"agreed": SUM}), 3, NAMES) is None

    def test_a_sum_with_one_that_left(self):
        found = given_up_before(standings(c1={"agreed": SUM}), 3, ("c1", "c3", "c4"))
        assert found == Abandoned(round=3, reason=Reason.OTHERS, missing=("c2",))

    def test_two_sums(self):
        """Nobody opens both, and none of them would be opened by all."""
        found = standings(c1={"agreed": SUM}, c4={"agreed": OTHER})
        assert given_up_before(found, 3, NAMES) == Abandoned(round=3, reason=Reason.OTHERS)


class TestLostBefore:
    @pytest.mark.parametrize(("here", "given_up"), [(5, False), (4, True)])
    def test_the_others_must_be_enough(self, here, given_up):
        found = standings(c4={"next_status": "reserved"}, c2={"next_status": "reserved"})
        train = ["c1", "c2", "c3", "c4", "c5"][-here:]
        why = lost_before(found, 3, here=train, min_clients=3)
        lost = Abandoned(round=3, reason=Reason.LOST, missing=("c2", "c4"))
        assert why == (lost if given_up else None)

    @pytest.mark.parametrize("status", [None, "committed"])
    def test_what_was_committed_is_sent_again(self, status):
        found = standings(c4={"next_status": status})
        assert lost_before(found, 3, here=["c1", "c3", "c4"], min_clients=3) is None

    def test_a_new_run_has_lost_nothing(self):
        assert lost_before({}, 1, here=["c1", "c2"], min_clients=3) is None

    def test_who_would_not_train_has_lost_nothing_that_counts(self):
        found = standings(c4={"next_status": "reserved"})
        assert lost_before(found, 3, here=["c1", "c2", "c3"], min_clients=3) is None


class TestMustStop:
    def test_a_first_one_does_not(self):
        assert not must_stop(abandoned(3), [], rounds=7)

    def test_too_few_updates_do_at_once(self):
        assert must_stop(abandoned(3, Reason.TOO_FEW), [], rounds=7)

    @pytest.mark.parametrize(("before", "stops"), [(2, True), (1, False)])
    @pytest.mark.parametrize("reason", [Reason.AWAY, Reason.SPOILED])
    def test_two_in_a_row_do_whatever_their_causes(self, reason, before, stops):
        earlier = [abandoned(before, Reason.LOST)]
        assert must_stop(abandoned(3, reason), earlier, rounds=7) is stops

    @pytest.mark.parametrize(("rounds", "stops"), [(3, True), (4, False)])
    def test_when_every_planned_round_is_lost(self, rounds, stops):
        earlier = [abandoned(1), abandoned(3)]
        assert must_stop(abandoned(5), earlier, rounds=rounds) is stops

    @given(st.sets(st.integers(1, 8)), st.integers(1, 8))
    def test_a_run_goes_on_only_while_no_two_are_neighbours(self, lost, number):
        earlier = [abandoned(one) for one in sorted(lost) if one < number]
        stops = must_stop(abandoned(number), earlier, rounds=99)
        assert stops == (number - 1 in lost)


class TestAdvice:
    def advice(self, one, earlier=(), *, clients=NAMES, min_clients=3, rounds=7):
        left = len(set(clients).difference(one.missing))
        return advice(one, earlier, left=left, min_clients=min_clients, rounds=rounds)

    def test_go_on_without(self):
        text = self.advice(abandoned(3, missing=("c2", "c4")))
        assert text.startswith("`--resume --without c2 --without c4` goes on without c2, c4;")

    def test_a_name_that_a_shell_would_split(self):
        assert "--without 'ward 7'" in self.advice(abandoned(3, missing=("ward 7",)))

    def test_not_where_too_few_would_stay(self):
        text = self.advice(abandoned(3, missing=("c2", "c4")), min_clients=4)
        assert text.startswith("Fewer than 4 clients are left without c2, c4: once they take part")
        assert "--without" not in text

    def test_nor_a_resume_that_did_not_help_before(self):
        text = self.advice(abandoned(3, missing=("c2", "c4")), [abandoned(2)], min_clients=4)
        assert "Resume only once it is certain" in text
        assert "did not help before" in text

    def test_a_spoiled_sum_names_nobody(self):
        text = self.advice(abandoned(3, Reason.SPOILED, ()), min_clients=4)
        assert text.startswith("Nobody can tell whose update is at fault.")
        assert "as long as 4 stay" in text

    def test_the_last_round(self):
        text = self.advice(abandoned(7), [abandoned(6)])
        assert text.startswith("No round is left: `--resume` ends the run")
        assert "--without" not in text

    def test_and_no_round_was_completed(self):
        text = self.advice(abandoned(2), [abandoned(1)], rounds=2)
        assert text == "No round was completed and none is left; a new run needs budget of its own"
