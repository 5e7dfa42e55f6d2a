"""A plan says what a run calibrates, and what is open comes out at its largest or least."""

import dataclasses
import functools
import itertools
import math

import pytest

from accountants import (
    Budget,
    BudgetExceededError,
    Neighbouring,
    NoisedCount,
    PoissonGaussian,
    epsilon,
    noise_multiplier,
)
from privfed import FedProx, Plan, TrainingConfig
from privfed.errors import ConfigError
from privfed.settings.privacy import OwnPrivacy

RELATION = Neighbouring.ADD_REMOVE
SIZES = {"north": 600, "south": 450, "west": 300}
DELTA, TARGET = 1e-4, 2.5


def plan(**changes):
    given = {"sizes": SIZES, "epsilon": TARGET, "delta": DELTA}
    return Plan(**{**given, **changes})


def spent(noise, rate, steps, *history, delta=DELTA):
    event = PoissonGaussian(noise_multiplier=noise, sample_rate=rate, steps=steps)
    return epsilon([*history, event], delta, RELATION).upper


def test_the_example_of_the_docstring():
    found = Plan(
        sizes={"north": 1500, "south": 1500, "west": 900},
        epsilon=3,
        delta=1e-5,
        expected_batch_size=300,
        rounds=8,
    ).answer()
    assert found.noise_multipliers == {"north": 1.2761, "south": 1.2761, "west": 1.7155}
    assert "{'north': 1.2761, 'south': 1.2761, 'west': 1.7155}" in Plan.__doc__


PAST = PoissonGaussian(noise_multiplier=3.0, sample_rate=0.25, steps=4)


@functools.cache
def whole():
    """An answer to which each client brings something of its own."""
    return plan(
        expected_batch_size=90,
        rounds=5,
        steps_per_round=2,
        own={
            "south": OwnPrivacy(budget=Budget(epsilon=1.5, delta=1e-5)),
            "west": OwnPrivacy(steps_per_round=3),
        },
        histories={"north": [PAST]},
    ).answer()


class TestNothingOpen:
    """The noise of each client is the accountant's, for its own size, budget, steps and history."""

    @pytest.fixture
    def answer(self):
        return whole()

    def test_noise(self, answer):
        own = Budget(epsilon=1.5, delta=1e-5)
        everyone = Budget(epsilon=TARGET, delta=DELTA)
        assert answer.noise_multipliers == {
            "north": noise_multiplier(everyone, 90 / 600, 10, [PAST], neighbouring=RELATION),
            "south": noise_multiplier(own, 90 / 450, 10, neighbouring=RELATION),
            "west": noise_multiplier(everyone, 90 / 300, 15, neighbouring=RELATION),
        }
        assert len(set(answer.noise_multipliers.values())) == 3

    def test_epsilon_is_certified_and_kept(self, answer):
        found = answer.epsilons()
        assert found["north"] == spent(answer.noise_multipliers["north"], 0.15, 10, PAST)
        assert found["south"] == spent(answer.noise_multipliers["south"], 0.2, 10, delta=1e-5)
        for name, budget in {"north": TARGET, "south": 1.5, "west": TARGET}.items():
            assert 0.995 * budget < found[name] <= budget

    def test_after_no_round_only_the_past_is_spent(self, answer):
        north, south, _ = answer.clients
        assert answer.epsilon_after(north, 0) == epsilon([PAST], DELTA, RELATION).upper
        assert answer.epsilon_after(south, 0) == 0

    def test_nothing_was_chosen(self, answer):
        assert answer.why == {}
        assert answer.noisiest.id == max(answer.noise_multipliers, key=answer.noise_multipliers.get)


def test_clients_that_differ_in_name_alone_are_calibrated_once(monkeypatch):
    from privfed.planning import answer as module

    seen, real = [], module.calibrate

    def calibrate(clients, *others):
        seen.append([client.id for client in clients])
        return real(clients, *others)

    monkeypatch.setattr(module, "calibrate", calibrate)
    sizes = {"a": 300, "b": 300, "c": 200, "d": 300}
    found = plan(sizes=sizes, expected_batch_size=50, rounds=3).answer().noise_multipliers
    assert seen == [["a", "c"]]
    assert found["a"] == found["b"] == found["d"] < found["c"]


def test_clients_of_one_size_that_differ_in_anything_else_are_not_alike():
    own = {
        "budget": OwnPrivacy(budget=Budget(epsilon=1.1, delta=DELTA)),
        "steps": OwnPrivacy(steps_per_round=4),
    }
    sizes = dict.fromkeys(("plain", "budget", "steps", "past"), 300)
    found = plan(
        sizes=sizes, own=own, histories={"past": [PAST]}, expected_batch_size=50, rounds=3
    ).answer()
    assert len(set(found.noise_multipliers.values())) == 4
    assert min(found.noise_multipliers, key=found.noise_multipliers.get) == "plain"


class TestOpenNumbers:
    def test_rounds_are_the_most_that_the_noise_allows(self):
        found = plan(expected_batch_size=60, noise_multiplier=1.8).answer()
        assert all(spent(1.8, 60 / size, found.rounds) <= TARGET for size in SIZES.values())
        assert spent(1.8, 60 / 300, found.rounds + 1) > TARGET
        assert max(found.noise_multipliers.values()) <= 1.8
        assert found.rounds > 8

    def test_rounds_count_the_steps_of_each(self):
        one = plan(expected_batch_size=60, noise_multiplier=1.8).answer().rounds
        found = plan(expected_batch_size=60, noise_multiplier=1.8, steps_per_round=3).answer()
        assert found.rounds == one // 3

    def test_the_batch_is_the_largest_that_the_noise_allows(self):
        found = plan(rounds=7, noise_multiplier=1.8).answer()
        batch = found.expected_batch_size
        assert spent(1.8, batch / 300, 7) <= TARGET < spent(1.8, (batch + 1) / 300, 7)
        assert 1 < batch < 300

    def test_epsilon_is_the_least_of_the_client_that_pays_most(self):
        found = plan(epsilon=None, expected_batch_size=60, noise_multiplier=1.8, rounds=11).answer()
        least = spent(1.8, 60 / 300, 11)
        assert least < found.privacy.budget.epsilon < 1.001 * least
        assert found.noise_multipliers["west"] <= 1.8
        assert found.noise_multipliers["north"] < 1.7

    def test_where_clients_are_drawn_the_most_rounds_of_a_draw_are_planned(self):
        sizes = dict.fromkeys("abcde", 400)
        found = plan(sizes=sizes, expected_batch_size=50, rounds=7, clients_per_round=3).answer()
        assert set(found.rounds_of.values()) == {5}  # 21 places for 5 clients: 4 or 5 each
        budget = Budget(epsilon=TARGET, delta=DELTA)
        wanted = noise_multiplier(budget, 50 / 400, 5, neighbouring=RELATION)
        assert set(found.noise_multipliers.values()) == {wanted}

    def test_not_even_one_round(self):
        with pytest.raises(BudgetExceededError, match="not even one round fits .* 'north'; allow"):
            plan(expected_batch_size=60, noise_multiplier=0.1).answer()


class TestRules:
    """What the rules choose obeys them, and the answer says by which rule."""

    def test_the_batch(self):
        found = plan(rounds=6).answer()
        batch = found.expected_batch_size
        budget = Budget(epsilon=TARGET, delta=DELTA)

        def noise(size):
            return noise_multiplier(budget, size / 300, 6, neighbouring=RELATION) / size

        tried = [300, 150, 75, 37, 18, 9]
        assert batch in tried
        place = tried.index(batch)
        halved = itertools.pairwise(tried[: place + 1])
        assert all(noise(b) < 4 / 3 * noise(a) for a, b in halved)
        assert noise(tried[place + 1]) >= 4 / 3 * noise(batch)
        assert "less than a third" in found.why["expected_batch_size"]
        assert "rounds" not in found.why

    def test_rounds_without_a_number_of_parameters_are_a_start(self):
        found = plan(expected_batch_size=60).answer()
        assert found.rounds == 8
        assert "a start" in found.why["rounds"]

    def test_rounds_with_one_follow_from_signal_and_noise(self):
        few = plan(expected_batch_size=150, parameters=3000).answer()
        more = plan(expected_batch_size=150, parameters=1500).answer()
        none = plan(expected_batch_size=150, parameters=10**8).answer()
        assert none.rounds == 1 < few.rounds < more.rounds <= 32
        assert "at least twice as long" in few.why["rounds"]
        assert none.why["rounds"].startswith("one: even then")


class TestWhoTakesPart:
    def test_a_size_below_the_batch_cannot(self):
        found = plan(expected_batch_size=400, rounds=3).answer()
        assert [client.id for client in found.clients] == ["north", "south"]
        assert found.left_out == {"west": 300}

    def test_a_size_below_the_minimum_does_not(self):
        found = plan(expected_batch_size=100, rounds=3, minimum=451).answer()
        assert found.left_out == {"south": 450, "west": 300}

    def test_the_size_at_the_minimum_or_batch_does(self):
        found = plan(expected_batch_size=300, rounds=3, minimum=300).answer()
        assert found.left_out == {}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"expected_batch_size": 601, "rounds": 2}, "larger than every public size.* 600;"),
            ({"minimum": 601}, "leaves out every client; the largest public size is 600"),
        ],
    )
    def test_somebody_must(self, changes, words):
        with pytest.raises(ConfigError, match=words):
            plan(**changes).answer()


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"epsilon": math.nan}, "epsilon must be a finite number above 0, got nan; 1 to 10"),
            ({"epsilon": 0}, "epsilon must be a finite number above 0"),
            ({"epsilon": math.inf}, "epsilon must be a finite number above 0"),
            ({"delta": 0}, r"delta must be above 0 and below 1, got 0; .* = 0\.0017"),
            ({"delta": 1}, "delta must be above 0 and below 1"),
            ({"delta": math.nan}, "delta must be above 0 and below 1"),
            ({"sizes": {}}, "sizes must name 1 to 1000 clients, got 0"),
            ({"sizes": {"a": 0}}, "public_size of client 'a' must be a whole number of at least 1"),
            ({"rounds": 0}, "rounds must be a whole number of at least 1"),
            ({"expected_batch_size": 2.5}, "expected_batch_size must be a whole number"),
            ({"noise_multiplier": math.nan}, "noise_multiplier must be a finite number above 0"),
            ({"parameters": 0}, "parameters must be a whole number"),
            ({"own": {"east": OwnPrivacy()}}, r"own names \['east'\], which sizes does not"),
            ({"histories": {"east": []}}, r"histories names \['east'\]"),
            ({"epsilon": None}, "without epsilon all of .* leave open what follows"),
            (
                {"expected_batch_size": 9, "rounds": 2, "noise_multiplier": 1.0},
                "cannot all be given.*leave one of them out",
            ),
        ],
    )
    def test_what_no_plan_can_be(self, changes, words):
        with pytest.raises(ConfigError, match=words):
            plan(**changes)

    def test_epsilon_that_no_noise_reaches(self):
        with pytest.raises(BudgetExceededError, match="plan fewer rounds or .*, agree on a larger"):
            plan(epsilon=1e-9).answer()

    def test_one_record(self):
        with pytest.raises(BudgetExceededError, match="noise would exceed the whole clipped sum"):
            plan(sizes={"north": 1, "south": 2, "west": 3}).answer()

    def test_a_budget_that_is_spent(self):
        past = NoisedCount(epsilon=TARGET)
        with pytest.raises(BudgetExceededError, match="budget of client 'south' is used up"):
            plan(expected_batch_size=60, rounds=2, histories={"south": [past]}).answer()

    def test_what_the_method_cannot_play(self):
        with pytest.raises(ConfigError, match="steps"):
            plan(rounds=2, expected_batch_size=60, method=FedProx(mu=0.1)).answer()


def test_a_plan_is_frozen_and_its_question_stays():
    question = plan(expected_batch_size=60, training=TrainingConfig(learning_rate=0.5))
    question.answer()
    assert question.rounds is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        question.rounds = 3
