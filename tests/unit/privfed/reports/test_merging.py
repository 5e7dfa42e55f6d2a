"""What clients may state differently never looks better together than one of them says."""

from dataclasses import replace

import pytest

from privfed.reports import merging
from privfed.reports.closed import Closed
from privfed.reports.sections import Published
from tests.unit.privfed.reports.made_up import (
    ENCRYPTION,
    MEASURED,
    MECHANISM,
    RANDOMNESS,
    ROUND_RECORD,
    TRAINING,
    guarantee,
    report,
)


def part(client, **changes):
    return Closed(client=client, agreement="ag" * 32, report=report(**changes), export=None)


class TestFlat:
    def test_values_stand_under_their_dotted_names(self):
        section = {"model": {"base": "bert", "labels": ["a"]}, "rounds": 4}
        assert merging.flat(section) == {
            "model.base": "bert",
            "model.labels": ["a"],
            "rounds": 4,
        }
        assert merging.flat(section, "training")["training.model.base"] == "bert"


class TestStatus:
    def of(self, *statuses):
        parts = []
        for number, status in enumerate(statuses):
            # A claim of its own: while a run goes on, the next round is in it.
            begun = 0.6 * 3 if status == "running" else 1.5
            claim = replace(report().guarantee, epsilon=begun)
            parts.append(part(f"c{number}", status=status, guarantee=claim))
        return merging.status_of(parts)

    def test_complete_only_if_all_are(self):
        assert self.of("complete", "complete") == "complete"
        assert self.of("stopped in round 2", "stopped in round 2") == "stopped in round 2"

    def test_one_that_goes_on_goes_before_all_else(self):
        assert self.of("complete", "running", "stopped in round 2") == "running"

    def test_others_are_told_with_their_names(self):
        found = self.of("complete", "stopped in round 2", "complete")
        assert found == (
            "ended differently for its clients (c1: 'stopped in round 2'; c0, c2: 'complete')"
        )

    def test_long_words_of_one_client_are_cut(self):
        """They stand in the headline."""
        assert len(self.of("complete", "stopped " + "so sorry " * 999)) < 300


class TestNamed:
    def test_what_only_some_say_comes_first_with_their_names(self):
        parts = [
            part("north", not_covered=("tuning", "finite precision")),
            part("south", not_covered=("earlier runs", "tuning", "finite precision")),
            part("west", not_covered=("earlier runs", "tuning", "time")),
        ]
        found = merging.named(parts, lambda each: each.not_covered)
        assert found == (
            "north, south: finite precision",
            "south, west: earlier runs",
            "west: time",
            "tuning",
        )

    def test_what_all_say_is_said_once(self):
        parts = [part("north", warnings=("heavy",)), part("south", warnings=("heavy",))]
        assert merging.named(parts, lambda each: each.warnings) == ("heavy",)

    def test_what_is_published_too(self):
        names, sizes = (Published(what=what, source="declared") for what in ("names", "sizes"))
        parts = [part("north", published=(names, sizes)), part("south", published=(names,))]
        assert merging.published(parts) == (names, replace(sizes, what="north: sizes"))


class TestFigures:
    def test_the_most_that_anybody_measured(self):
        first = replace(MEASURED, upload_bytes=2.5, download_bytes=3.0, key_holder_bytes=10.0)
        second = replace(MEASURED, aggregator_seconds=0.5, opening_seconds=0.03, key_bytes=None)
        parts = [
            part("north", encryption=replace(ENCRYPTION, measured=first)),
            part("south", encryption=replace(ENCRYPTION, measured=second)),
            part("west", encryption=replace(ENCRYPTION, measured=None)),
        ]
        assert merging.measured(parts) == replace(
            MEASURED,
            upload_bytes=2.5,
            download_bytes=3.5,
            aggregator_seconds=0.5,
            opening_seconds=0.0625,
            key_holder_bytes=10.0,
            key_bytes=72_000,
        )
        assert merging.measured(parts[2:]) is None

    @pytest.mark.parametrize(
        ("metric", "after", "before"), [("accuracy", 0.25, 0.375), ("perplexity", 0.75, 0.125)]
    )
    def test_the_least_favourable_metric(self, metric, after, before):
        """Perplexity is the better, the smaller it is; a baseline is the contrary of a metric."""
        parts = [
            part(
                name,
                rounds=(replace(ROUND_RECORD, metric=metric, value=value),),
                baseline={metric: base},
            )
            for name, value, base in (("client-1", 0.75, 0.375), ("client-2", 0.25, 0.125))
        ]
        assert merging.rounds(parts)[0].value == after
        assert merging.baseline(parts) == {metric: before}

    @pytest.mark.parametrize(
        ("stated", "shown"), [((1.5, 1.25), 1.25), ((1.5, None), None), ((None, None), None)]
    )
    def test_signal_to_noise_is_the_least_that_all_state(self, stated, shown):
        parts = [
            part(f"client-{number}", rounds=(replace(ROUND_RECORD, signal_to_noise=one),))
            for number, one in enumerate(stated, start=1)
        ]
        assert merging.rounds(parts)[0].signal_to_noise == shown

    def test_figures_of_the_method_are_the_largest_of_those_that_all_state(self):
        stated = [{"lost": 0.5, "cut": 0.25}, {"lost": 0.75}]
        parts = [
            part(f"client-{number}", rounds=(replace(ROUND_RECORD, figures=one),))
            for number, one in enumerate(stated, start=1)
        ]
        assert merging.rounds(parts)[0].figures == {"lost": 0.75}

    def test_what_each_spent_is_its_own_and_costs_are_the_largest(self):
        rows = (
            replace(ROUND_RECORD, seconds=2.5, bytes_up=11, seconds_opening=0.01),
            replace(ROUND_RECORD, bytes_down=23, bytes_holder=4, seconds_aggregator=0.25),
        )
        parts = [
            part(f"client-{number}", clients=(guarantee(number),), rounds=(row,), **claim(number))
            for number, row in zip((1, 3), rows, strict=True)
        ]
        (found,) = merging.rounds(parts)
        assert found.epsilon == {"client-1": 0.5, "client-3": 1.5}
        assert (found.bytes_up, found.bytes_down, found.bytes_holder) == (11, 23, 4)
        assert (found.seconds, found.seconds_aggregator, found.seconds_opening) == (
            2.5,
            0.25,
            0.0625,
        )


def claim(number):
    return {"guarantee": replace(report().guarantee, epsilon=0.5 * number)}


class TestDifferences:
    def of(self, *changes):
        parts = [part(name, **each) for name, each in zip("abc", changes, strict=False)]
        return {(row.field, row.value): row.clients for row in merging.differences(parts)}

    def test_where_all_state_the_same_there_are_none(self):
        assert self.of({}, {}, {}) == {}

    def test_what_is_each_clients_own_is_listed_with_names(self):
        moved = replace(TRAINING, model={**TRAINING.model, "base": "/elsewhere"})
        sizes = replace(MECHANISM, public_sizes="declared yesterday")
        found = self.of({}, {"training": moved, "mechanism": sizes}, {"versions": {"python": "4"}})
        assert found == {
            ("training.model.base", "bert"): ("a", "c"),
            ("training.model.base", "/elsewhere"): ("b",),
            ("mechanism.public_sizes", "declared long before"): ("a", "c"),
            ("mechanism.public_sizes", "declared yesterday"): ("b",),
            ("versions.python", "3"): ("a", "b"),
            ("versions.python", "4"): ("c",),
        }

    def test_so_is_all_of_the_randomness(self):
        seeded = replace(RANDOMNESS, secret=False, noise="NOT SECRET", public_seed=42)
        found = self.of({}, {"randomness": seeded})
        assert found["randomness.noise", "NOT SECRET"] == ("b",)
        assert found["randomness.secret", "false"] == ("b",)
        assert found["randomness.public_seed", "41"] == ("a",)

    def test_what_one_does_not_state_is_told(self):
        found = self.of({"versions": {"python": "3", "torch": "2"}}, {})
        assert found["versions.torch", "not stated"] == ("b",)

    def test_numbers_that_differ_where_they_are_read_are_listed(self):
        """The last bits of a held-out metric depend on the processor."""
        rows = [(replace(ROUND_RECORD, value=value),) for value in (0.25, 0.250001, 0.2501)]
        found = self.of(*({"rounds": row} for row in rows))
        assert found == {
            ("rounds.1.accuracy", "0.25"): ("a", "b"),
            ("rounds.1.accuracy", "0.2501"): ("c",),
        }
        rows = [(replace(ROUND_RECORD, signal_to_noise=one),) for one in (1.5, 1.5000001, None)]
        assert self.of(*({"rounds": row} for row in rows)) == {
            ("rounds.1.signal_to_noise", "1.5"): ("a", "b"),
            ("rounds.1.signal_to_noise", "not stated"): ("c",),
        }
        found = self.of({}, {"baseline": {"accuracy": 0.1875}})
        assert found["baseline.accuracy", "0.1875"] == ("b",)
