"""From a ledger's export to what the report says of its client: nothing is counted less."""

import json
from dataclasses import replace

import pytest
from scipy import stats

from accountants import (
    Budget,
    Gaussian,
    Ledger,
    LedgerError,
    Neighbouring,
    PoissonGaussian,
    epsilon,
    event_to_json,
)
from privfed.errors import ReportError
from privfed.reports.budget import COMPLETE, RUNNING
from privfed.reports.build import accounting_section, attack_bounds, client_guarantee
from tests.unit.accountants.first_version import FIRST_ANCHOR, FIRST_OWNER, first_version_entries

ROUND = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.1, steps=3)
EARLIER = PoissonGaussian(noise_multiplier=3.0, sample_rate=0.2, steps=2)
BUDGET = Budget(epsilon=1.5, delta=1e-5)


def spent(*events):
    return epsilon(events, BUDGET.delta, Neighbouring.ADD_REMOVE)


@pytest.fixture
def ledger(tmp_path):
    """A round of an earlier run, then two rounds of run "now": one whole, one that was lost."""
    ledger = Ledger.create(
        tmp_path / "ledger",
        client="ward",
        dataset="notes",
        unit="one note",
        neighbouring=Neighbouring.ADD_REMOVE,
    )
    for run, number, event in (("before", 7, EARLIER), ("now", 0, ROUND)):
        reservation = ledger.reserve(run, number, [event], lambda *_: None)
        ledger.commit(reservation.id, [event], b"update")
    ledger.reserve("now", 1, [ROUND], lambda *_: None)
    return ledger


def of(ledger, **changes):
    settings = {
        "run": "now",
        "public_size": 120,
        "budget": BUDGET,
        "client": "ward",
        "planned": [ROUND],
        "status": "stopped in round 2",
    }
    exported = json.loads(json.dumps(ledger.export()))
    return client_guarantee(exported, **{**settings, **changes})


class TestAClient:
    def test_what_its_ledger_says_arrives(self, ledger):
        found = of(ledger)
        assert (found.id, found.dataset, found.unit) == ("ward", "notes", "one note")
        assert found.neighbouring == "add_remove"
        assert (found.public_size, found.epsilon_budget, found.delta) == (120, 1.5, 1e-5)
        assert (found.noise_multiplier, found.sample_rate) == (4.0, 0.1)
        assert found.anchor == f"{ledger.anchor().length}:{ledger.anchor().head}"
        assert found.ledger_id == ledger.export()["id"]

    def test_rounds_that_were_lost_count_as_released(self, ledger):
        found = of(ledger)
        assert (found.rounds, found.steps, found.unresolved) == (2, 6, 1)
        assert found.releases == tuple(map(event_to_json, (EARLIER, ROUND, ROUND)))
        bounds = spent(EARLIER, ROUND, ROUND)
        assert (found.epsilon_spent, found.epsilon_lower) == (bounds.upper, bounds.lower)

    def test_what_was_spent_before_is_that_of_other_runs(self, ledger):
        assert of(ledger).epsilon_before == spent(EARLIER).upper
        assert (
            of(ledger, run="before", planned=[EARLIER]).epsilon_before == spent(ROUND, ROUND).upper
        )

    def test_while_it_goes_on_one_more_round_counts(self, ledger):
        found = of(ledger, status=RUNNING)
        assert found.epsilon_if_begun == spent(EARLIER, ROUND, ROUND, ROUND).upper
        assert found.epsilon_if_begun > found.epsilon_spent
        assert of(ledger).epsilon_if_begun == found.epsilon_spent

    def test_but_never_more_than_the_budget(self, ledger):
        """The client refuses a round that would exceed it."""
        between = (spent(EARLIER, ROUND, ROUND).upper + spent(EARLIER, *[ROUND] * 3).upper) / 2
        tight = Budget(epsilon=between, delta=BUDGET.delta)
        assert of(ledger, status=RUNNING, budget=tight).epsilon_if_begun == between

    def test_where_more_was_spent_than_this_budget_that_is_said(self, ledger):
        """Another run may have had a larger one."""
        small = Budget(epsilon=0.01, delta=BUDGET.delta)
        found = of(ledger, status=RUNNING, budget=small)
        assert found.epsilon_if_begun == found.epsilon_spent > 0.01

    def test_before_its_first_round_noise_and_rate_are_those_that_are_planned(self, ledger):
        planned = replace(ROUND, noise_multiplier=5.0, sample_rate=0.3)
        found = of(ledger, run="later", planned=[planned])
        assert (found.noise_multiplier, found.sample_rate) == (5.0, 0.3)
        assert (found.rounds, found.steps, found.unresolved) == (0, 0, 0)
        assert found.epsilon_before == found.epsilon_spent

    def test_the_curve_of_attacks_is_computed_once_all_rounds_are_over(self, ledger):
        assert of(ledger).attack == of(ledger, status=RUNNING).attack == {}
        found = of(ledger, status=COMPLETE)
        assert set(found.attack) == {"0.001", "0.01", "0.1", "advantage"}


class TestWhatIsRefused:
    def test_an_export_that_was_edited(self, ledger):
        exported = json.loads(json.dumps(ledger.export()))
        del exported["entries"][2]
        with pytest.raises(LedgerError):
            client_guarantee(
                exported,
                client="ward",
                run="now",
                public_size=120,
                budget=BUDGET,
                planned=[ROUND],
                status=COMPLETE,
            )

    def test_an_export_of_the_first_version(self):
        """It states no unit."""
        exported = {
            "schema": "privfed-ledger/1",
            **FIRST_OWNER,
            "entries": [
                {"seq": n, "kind": kind, "body": json.loads(body), "previous": old, "digest": own}
                for n, kind, body, old, own in first_version_entries()
            ],
            "head": FIRST_ANCHOR["head"],
        }
        with pytest.raises(ReportError, match="'ward' is of the first version"):
            client_guarantee(
                exported,
                client="ward",
                run="b",
                public_size=120,
                budget=BUDGET,
                planned=[ROUND],
                status=COMPLETE,
            )

    @pytest.mark.parametrize("name", ["noise_multiplier", "sample_rate"])
    def test_rounds_of_one_run_that_differ(self, ledger, name):
        other = replace(ROUND, **{name: 0.5 * getattr(ROUND, name)})
        ledger.reserve("now", 2, [other], lambda *_: None)
        with pytest.raises(ReportError, match="each of 3 rounds of client 'ward' was to release"):
            of(ledger)

    def test_a_release_of_the_run_that_is_no_training(self, ledger):
        ledger.reserve("now", 2, [Gaussian(noise_multiplier=9.0)], lambda *_: None)
        with pytest.raises(ReportError, match=r"was to release \[Poisson.*, Gaussian"):
            of(ledger)


def test_no_attack_on_a_gaussian_release_can_do_better():
    """Exact: Phi(Phi^-1(a) + 1 / sigma), and 2 Phi(1 / (2 sigma)) - 1 for the advantage."""
    events = (PoissonGaussian(noise_multiplier=2.0, sample_rate=1.0, steps=1),)
    found = attack_bounds(events, Neighbouring.ADD_REMOVE)
    for rate in (0.001, 0.01, 0.1):
        exact = stats.norm.cdf(stats.norm.ppf(rate) + 0.5)
        assert exact <= found[f"{rate:g}"] <= exact + 1e-3
    exact = 2 * stats.norm.cdf(0.25) - 1
    assert exact <= found["advantage"] <= exact + 1e-3


def test_the_relation_is_part_of_how_epsilon_was_computed():
    assert accounting_section("add_remove").neighbouring == "add_remove"
