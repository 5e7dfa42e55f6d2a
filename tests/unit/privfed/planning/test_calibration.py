"""Where no noise fits a plan into a budget, the error says whose, what was planned, what to do."""

import re

import pytest

from accountants import (
    Budget,
    BudgetExceededError,
    Neighbouring,
    PoissonGaussian,
    epsilon,
)
from privfed import FedAvg
from privfed.data.records import Record
from privfed.parties.client.client import Client
from privfed.planning.calibration import calibrate
from privfed.settings.privacy import PrivacyConfig

ROUNDS, STEPS, BATCH, SIZE = 7, 3, 8, 40
PRIVACY = PrivacyConfig(
    budget=Budget(epsilon=2.0, delta=1e-4),
    neighbouring=Neighbouring.ADD_REMOVE,
    record="one note",
    expected_batch_size=BATCH,
    steps_per_round=STEPS,
)
BEFORE = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=2)


def client(id_, budget=None, steps=None):
    return Client(
        id=id_,
        records=(Record("a text", 0),),
        public_size=SIZE,
        dataset=f"notes of {id_}",
        budget=budget,
        steps_per_round=steps,
    )


def calibrated(own, *before):
    """The noise of a client of its own budget and history, after one of the federation's."""
    histories = {"north": (), "ward": before}
    rounds = {"north": ROUNDS + 2, "ward": ROUNDS}
    return calibrate([client("north"), client("ward", own)], histories, FedAvg(), PRIVACY, rounds)


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [
        (1e-7, "and does not with any noise"),
        (0.05, r"with a noise multiplier of at most expected_batch_size = 8, and needs \d+\.\d+:"),
    ],
)
def test_a_budget_too_small_for_the_plan_is_named_with_its_client(allowed, reason):
    with pytest.raises(BudgetExceededError) as refused:
        calibrated(Budget(epsilon=allowed, delta=1e-6))
    text = str(refused.value)
    assert text.startswith("the plan, 7 rounds of 3 steps, must fit the budget of client 'ward' ")
    assert f"(epsilon {allowed:g} at delta 1e-06, of which 0 is spent on data set 'notes of" in text
    assert re.search(reason, text)
    assert "; plan fewer rounds or steps_per_round, agree on a larger budget, or leave" in text
    assert (refused.value.epsilon, refused.value.allowed) == (0, allowed)


def test_what_is_spent_is_named_too():
    spent = epsilon([BEFORE], 1e-4, Neighbouring.ADD_REMOVE).upper
    with pytest.raises(BudgetExceededError, match=f"of which {spent:.6g} is spent on data"):
        calibrated(Budget(epsilon=spent / 0.98, delta=1e-4), BEFORE)
    with pytest.raises(BudgetExceededError, match=f"'ward' is used up: epsilon {spent:.6g} of"):
        calibrated(Budget(epsilon=spent / 0.995, delta=1e-4), BEFORE)


class TestOwnSteps:
    """The noise of a client is that of its own steps, and of nobody else's."""

    def noise(self, **steps):
        clients = [client(name, steps=own) for name, own in steps.items()]
        rounds = dict.fromkeys(steps, ROUNDS)
        return calibrate(clients, dict.fromkeys(steps, ()), FedAvg(), PRIVACY, rounds)

    def test_it_uses_up_the_budget_with_these_and_no_other(self):
        found = self.noise(few=1, default=None, many=STEPS + 2)
        for name, steps in (("few", 1), ("default", STEPS), ("many", STEPS + 2)):
            event = PoissonGaussian(
                noise_multiplier=found[name], sample_rate=BATCH / SIZE, steps=steps * ROUNDS
            )
            spent = epsilon([event], 1e-4, Neighbouring.ADD_REMOVE).upper
            assert 0.99 * 2.0 <= spent <= 2.0, name
        assert found["few"] < found["default"] < found["many"]

    def test_they_are_named_where_they_do_not_fit(self):
        poor = client("ward", Budget(epsilon=1e-7, delta=1e-6), steps=STEPS + 2)
        with pytest.raises(BudgetExceededError, match="the plan, 7 rounds of 5 steps, must fit"):
            calibrate([poor], {"ward": ()}, FedAvg(), PRIVACY, {"ward": ROUNDS})
