"""What a run prints: a line for each round, who was missing, and how far it had come."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import pytest
from rich.console import Console

from privfed.cli.display import JsonLines, RoundTable
from privfed.reports.round_record import Abandoned, Reason, RoundRecord


class TestTheTable:
    """What a run prints, for names and numbers of any kind."""

    def record(self, **changes):
        values = {
            "round": 1,
            "clients": ("a", "b"),
            "absent": (),
            "metric": "accuracy",
            "value": 0.51234,
            "signal_to_noise": 1.0625,
            "figures": {},
            "bytes_up": 1234567,
            "bytes_down": 1000,
            "bytes_holder": 0,
            "seconds": 2.04,
            "seconds_aggregator": 0.25,
            "seconds_opening": 0.125,
            "epsilon": {"a": 0.50001, "b": 1.25, "c": 0.0},
        }
        return RoundRecord(**{**values, **changes})

    def printed(self, record, clients=("a", "b", "c"), past=(), logs=MappingProxyType({})):
        buffer = io.StringIO()
        console = Console(file=buffer, width=60, color_system=None)
        with RoundTable(console, "accuracy", logs) as table:
            table.on_start("00ff", 3, clients, 0.25, past)
            for client in clients:
                table.on_client(record.round, client)
            table.on_round(record)
        return [line for line in buffer.getvalue().splitlines() if line.strip()]

    def test_one_line_of_numbers_with_epsilon_rounded_up(self):
        lines = self.printed(self.record())
        assert lines[0] == "run 00ff: 3 clients, 3 rounds, held-out accuracy 0.25 before training"
        numbers = ["1", "2/3", "1.2500", "0.5123", "1.06", "1,234,567", "1,000", "2.0"]
        assert lines[2].split() == [*numbers, "0.51", "1.25", "0.00"]
        assert lines[1].split()[5:7] == ["signal/noise", "bytes"]

    def test_where_the_noise_is_not_known_there_is_no_ratio(self):
        lines = self.printed(self.record(signal_to_noise=None))
        assert lines[2].split()[3:6] == ["0.5123", "-", "1,234,567"]

    def test_figures_of_the_method_come_below(self):
        lines = self.printed(self.record(figures={"share of the step lost": 0.012345, "cut": 0.5}))
        assert [line.strip() for line in lines[3:]] == [
            "share of the step lost: 0.0123",
            "cut: 0.5",
        ]

    def test_the_rounds_before_a_resume_come_first(self):
        lines = self.printed(self.record(round=2), past=(self.record(absent=("c",)),))
        assert [line.split()[0] for line in lines[2:]] == ["1", "c", "2"]

    def test_who_did_not_take_part_is_named(self):
        lines = self.printed(self.record(absent=("c",)))
        assert lines[-1].strip() == "c did not take part"

    def test_where_it_runs_here_its_log_is_named(self):
        """The cause is in that file; its words are shown nowhere."""
        lines = self.printed(self.record(absent=("c",)), logs={"c": Path("/state/[c]/client.log")})
        assert lines[-1].strip() == "c did not take part: the cause is in /state/[c]/client.log"

    @pytest.mark.parametrize("name", ["ward [red]", "[bold]", "[/x]", "a[0]"])
    def test_a_name_in_brackets_is_shown_as_it_is(self, name):
        record = self.record(absent=(name,), epsilon={"a": 1.0, name: 0.5})
        lines = self.printed(record, clients=("a", name))
        assert lines[-1].strip() == f"{name} did not take part"


@pytest.fixture
def printed():
    return io.StringIO()


@pytest.fixture
def started(printed):
    """The table of a run of three rounds that has begun."""
    table = RoundTable(Console(file=printed, width=60, color_system=None), "perplexity", {})
    table.on_start("00ff", 3, ("a", "b"), 12.345678, ())
    return table


class TestHowFarItCame:
    def test_before_a_round_nothing_is_spent(self, printed):
        table = RoundTable(Console(file=printed), "accuracy", {})
        assert table.stopped().startswith("stopped before a round began; of the budgets this call")

    def test_within_a_round_its_number_is_named(self, started):
        assert started.stopped() == "stopped in round 1; what is spent stands in the ledgers"
        started.on_client(2, "a")
        assert started.stopped().startswith("stopped in round 2;")

    def test_after_a_round_it_is_the_next(self, started):
        started.on_round(TestTheTable().record(round=2))
        assert started.stopped().startswith("stopped in round 3;")


def test_the_head_tells_the_metric_before_training(started, printed):
    first = printed.getvalue().splitlines()[0]
    assert first == "run 00ff: 2 clients, 3 rounds, held-out perplexity 12.35 before training"


def test_a_round_that_was_given_up_is_one_line_however_long(started, printed):
    started.on_abandoned(Abandoned(round=2, reason=Reason.AWAY, missing=("[red]", "b")))
    last = printed.getvalue().splitlines()[-1]
    assert last.startswith("    2  Round 2 was abandoned: clients whose updates were to be summed")
    assert last.endswith("(missing: [red], b).")


class TestJsonLines:
    """For programs that follow a run: an object a line, and each at once."""

    def printed(self, play):
        out = Flushed()
        with JsonLines(out) as lines:
            play(lines)
        assert out.flushed == len(out.getvalue().splitlines())
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def test_the_run_and_the_rounds_before_a_resume(self):
        past = TestTheTable().record()
        found = self.printed(lambda to: to.on_start("00ff", 3, ("a", "b"), 0.25, (past,)))
        begun = {"event": "start", "run": "00ff", "rounds": 3, "clients": ["a", "b"]}
        assert found[0] == {**begun, "baseline": 0.25}
        assert found[1] == {"event": "round", **json.loads(json.dumps(asdict(past)))}
        assert found[1]["epsilon"] == {"a": 0.50001, "b": 1.25, "c": 0.0}
        assert found[1]["clients"] == ["a", "b"]
        assert len(found) == 2

    def test_a_round_that_was_given_up(self):
        abandoned = Abandoned(round=2, reason=Reason.AWAY, missing=("[red]", "b"))
        (found,) = self.printed(lambda to: to.on_abandoned(abandoned))
        assert found == {"event": "abandoned", **abandoned.to_json()}
        assert found["round"] == 2

    def test_what_happened_besides_stays_one_line(self):
        (found,) = self.printed(lambda to: to.note('two\nlines, and "quotes"'))
        assert found == {"event": "note", "text": 'two\nlines, and "quotes"'}

    def test_that_a_client_is_done_is_no_line(self):
        assert self.printed(lambda to: to.on_client(2, "a")) == []


class Flushed(io.StringIO):
    """Counts how often what was printed was handed over."""

    flushed = 0

    def flush(self):
        self.flushed += 1
