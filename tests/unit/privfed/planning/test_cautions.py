"""Each known way to fail is named where it holds, and only there."""

import pytest

from accountants import Budget, NoisedCount, PoissonGaussian
from privfed import BFV, FedAvgM, Plan, Scaffold, TrainingConfig
from privfed.planning.cautions import cautions_of, not_counted
from privfed.settings.privacy import OwnPrivacy


def answer(**changes):
    given = {
        "sizes": {"north": 400, "south": 380, "west": 350},
        "epsilon": 3.0,
        "delta": 1e-5,
        "expected_batch_size": 100,
        "rounds": 4,
    }
    return Plan(**{**given, **changes}).answer()


def test_sound_settings_have_none():
    assert cautions_of(answer(parameters=2000)) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"sizes": {"north": 400, "south": 380}},
            "2 client(s) are too few: a run needs",
        ),
        ({"min_clients": 4}, "3 client(s) are too few: a run needs at least 4"),
        (
            {"sizes": {"north": 400, "south": 380, "west": 350, "tiny": 99}},
            "tiny must be left out: a run refuses a public size below the expected batch of 100",
        ),
        ({"delta": 1 / 400}, "delta 0.0025 of north is not below 1 / public size = 0.0025"),
        ({"epsilon": 10.5}, "epsilon 10.5 is hardly a guarantee"),
        (
            {"own": {"west": OwnPrivacy(budget=Budget(epsilon=0.3, delta=1e-5))}},
            "west add(s) up to",
        ),
        (
            {"sizes": {"north": 900, "south": 990, "tiny": 120, "west": 950}},
            "tiny with 120 records holds the batch of all down",
        ),
        ({"parameters": 10**7}, "times as long as the longest update can be"),
        ({"encryption": BFV(bits=6)}, "rounding drowns updates"),
        ({"method": FedAvgM(of=Scaffold())}, "SCAFFOLD with one step in a round is FedAvg"),
        ({"encryption": BFV(public_range=0.01)}, "cuts off a part of what clients send"),
    ],
)
def test_it_is_named(changes, words):
    found = cautions_of(answer(**changes))
    assert sum(words in sentence for sentence in found) == 1, found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": Scaffold(), "steps_per_round": 2}, "SCAFFOLD"),
        ({"delta": 0.99 / 400}, "delta"),
        ({"epsilon": 10.0}, "hardly"),
        ({"encryption": BFV(bits=6, follow_released=True)}, "rounding"),
        ({"encryption": BFV(bits=6, public_range=0.2)}, "rounding"),
        ({"sizes": {"a": 400, "b": 380, "c": 350, "tiny": 99}, "minimum": 100}, "joined"),
    ],
)
def test_it_is_not_named_on_the_other_side(changes, words):
    assert not [sentence for sentence in cautions_of(answer(**changes)) if words in sentence]


def test_whom_the_minimum_leaves_out_needs_no_warning():
    sizes = {"a": 400, "b": 380, "c": 350, "tiny": 120}
    assert cautions_of(answer(sizes=sizes, minimum=150)) == ()


def test_many_are_named_by_three():
    sizes = {"north": 400, "south": 380, "west": 350, **{f"t{n}": 20 + n for n in range(5)}}
    (found,) = cautions_of(answer(sizes=sizes))
    assert found.startswith("t0, t1, t2 and 2 more must be left out")


def test_a_learning_rate_does_not_make_rounding_worse():
    slow = answer(training=TrainingConfig(learning_rate=1e-3))
    assert cautions_of(slow) == ()


def test_what_was_released_before_is_said():
    assert not_counted(answer()).startswith("No ledger was found or read")
    past = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.25, steps=2)
    found = not_counted(answer(histories={"south": [past]}))
    assert found.startswith("What was released before is counted for south; for the others")
    both = answer(histories={"west": [past, NoisedCount(epsilon=0.1)]})
    assert "west, the release of their sizes included" in not_counted(both)
