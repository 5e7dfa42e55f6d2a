"""The claim of a report in one sentence, for every way in which a run may end."""

import math

import pytest

from privfed.reports import headlines


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

    def test_seeded_coins_come_before_the_figures(self):
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
