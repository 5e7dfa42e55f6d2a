"""The claim of a report in one sentence, for every way in which a run may end."""

import math

import pytest

from privfed.reports import headlines
from privfed.reports.budget import Scope
from privfed.reports.clients import NotClosed
from tests.unit.privfed.reports.made_up import claiming, guarantee, report


class TestHeadline:
    def line(self, **changes):
        values = {
            "epsilon": 1.23401,
            "delta": 2e-5,
            "private": True,
            "status": "complete",
            "over": 3,
            "planned": 7,
        }
        return headlines.headline(**{**values, **changes})

    def test_epsilon_is_rounded_up_and_delta_stands_beside_it(self):
        assert "epsilon is at most 1.235 at delta 2e-05, for every client" in self.line()
        assert not self.line().startswith("NOT")

    def test_seeded_randomness_come_before_the_numbers(self):
        line = self.line(private=False)
        assert line.startswith("NOT PRIVATE: the random numbers of this run were seeded")
        assert "epsilon is at most" not in line

    def test_between_two_rounds_the_next_is_counted(self):
        line = self.line(status="running")
        assert line.startswith("NOT FINISHED: 3 of 7 rounds were over when this was written")
        assert "round 4 is counted as begun" in line
        assert "at most 1.235" in line

    def test_a_run_that_stopped_says_how(self):
        line = self.line(status="stopped in round 4", private=False)
        assert line.startswith("NOT FINISHED: 3 of 7 rounds are over, the run stopped in round 4.")
        assert "NOT PRIVATE" in line


class TestHowToRead:
    def test_by_hand(self):
        """exp(0.5) 0.01 + 0.001 = 0.017487, rounded up to tenths of a percent."""
        assert "With a = 1 %: at most 1.8 %." in headlines.how_to_read(epsilon=0.5, delta=1e-3)

    def test_delta_counts_too(self):
        assert "at most 2.7 %." in headlines.how_to_read(epsilon=0.5, delta=1e-2)

    @pytest.mark.parametrize("epsilon", [math.log(100), 5.0, 700.0, 1e4])
    def test_nobody_is_right_about_more_than_all(self, epsilon):
        assert "at most 100 %." in headlines.how_to_read(epsilon=epsilon, delta=1e-3)

    def test_just_below_all(self):
        assert "at most 99.5 %." in headlines.how_to_read(epsilon=4.6, delta=1e-5)


class TestOneClient:
    def line(self, client=None, **changes):
        row = client or guarantee(2, epsilon_spent=1.23401, epsilon_if_begun=1.5, delta=2e-5)
        values = {"private": True, "status": "complete", "over": 3, "planned": 7}
        return headlines.client_headline(row, **{**values, **changes})

    def test_it_is_about_its_records(self):
        said = "epsilon is at most 1.235 at delta 2e-05, for every record of client-2."
        assert said in self.line()
        assert "every client" not in self.line()

    def test_while_it_goes_on_the_next_round_counts(self):
        line = self.line(status="running")
        assert line.startswith("NOT FINISHED: 3 of 7")
        assert "epsilon is at most 1.500 at" in line

    def test_repeatable_coins_come_before_the_numbers(self):
        line = self.line(private=False)
        assert line.startswith("NOT PRIVATE: the random numbers of client-2 in this run were")
        assert "epsilon is at most" not in line


class TestAFederationOfStatements:
    ROWS = (
        guarantee(1, delta=3e-5, signed=True),
        guarantee(3, delta=2e-5, signed=True, recomputed=False),
    )
    AWAY = (NotClosed(id="south", last=None), NotClosed(id="west", last=None))

    def line(self, **changes):
        values = {
            "clients": self.ROWS,
            "not_closed": (),
            "repeatable": (),
            "status": "complete",
            "over": 3,
            "planned": 3,
        }
        given = {**values, **changes}
        return headlines.federation_headline(given.pop("clients"), given.pop("not_closed"), **given)

    def test_the_largest_epsilon_and_delta_hold_for_every_client(self):
        line = self.line()
        assert "epsilon is at most 1.500 at delta 3e-05, for every client." in line
        assert line.endswith("1 of 2 were recomputed from the client's ledger.")
        assert not line.startswith("NO")

    def test_who_did_not_close_comes_first(self):
        line = self.line(not_closed=self.AWAY)
        assert line.startswith(
            "NO BOUND FOR EVERY CLIENT: none is stated for south, west, whose part"
        )
        assert "whose part of the run was not closed." in line
        assert "1.500 at delta 3e-05, for every client that closed its part." in line

    def test_who_used_repeatable_coins_is_named_and_nothing_is_claimed(self):
        line = self.line(repeatable=["client-3"])
        assert line.startswith("NOT PRIVATE: the random numbers of client-3 were seeded")
        assert "epsilon is at most" not in line

    def test_all_that_makes_the_claim_smaller_is_said(self):
        line = self.line(not_closed=self.AWAY, repeatable=["client-1"], status="stopped in round 3")
        order = [line.index(word) for word in ("NOT FINISHED", "NO BOUND", "NOT PRIVATE")]
        assert order == sorted(order)

    def test_while_it_goes_on_the_next_round_counts(self):
        assert "epsilon is at most 1.800 at" in self.line(status="running", over=2)


class TestWhatAReportMustSay:
    def test_of_a_simulation(self):
        said = headlines.headline_of(report(), private=True)
        assert "epsilon is at most 1.500 at delta 1e-05, for every client." in said
        assert headlines.headline_of(report(), private=False).startswith("NOT FINISHED") is False
        assert headlines.headline_of(report(), private=False).startswith("NOT PRIVATE")

    def test_of_a_client(self):
        own = claiming(0.5, scope=Scope.CLIENT, clients=(guarantee(1),))
        said = headlines.headline_of(own, private=True)
        assert "epsilon is at most 0.500 at delta 1e-05, for every record of client-1." in said


def test_how_one_client_reads():
    """exp(0.5) 0.01 + 0.001 = 0.017487, rounded up to tenths of a percent."""
    said = headlines.how_a_client_reads(epsilon=0.5, delta=1e-3, client="north")
    assert "With a = 1 %: at most 1.8 %." in said
    assert "the records of north;" in said
    assert "federation" not in said


def test_without_a_bound_there_is_nothing_to_read():
    said = headlines.how_no_bound_reads((NotClosed(id="south", last=None),))
    assert "None is stated for south, so there is none" in said
    assert "%" not in said
