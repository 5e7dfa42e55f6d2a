"""Runs that vary all but the data continue one ledger, and compose as another library composes."""

import os

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from accountants import EarlierLedgers, Ledger, Neighbouring, PoissonGaussian, epsilon
from tests.unit.accountants.first_version import write_like_it

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note",
    "neighbouring": Neighbouring.ADD_REMOVE,
}
DELTA = 1e-5


def event(sigma, rate, steps):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=rate, steps=steps)


# Another seed, a fourth client, another batch and another model: each its own run.
RUNS = {
    "seed 0, three clients": [event(1.3, 0.02, 40), event(1.3, 0.02, 40)],
    "seed 1, four clients": [event(0.9, 0.05, 25)],
    "seed 1, another model": [event(2.1, 0.11, 60), event(2.1, 0.11, 7)],
}
EARLIER = event(1.7, 0.03, 90)


def golden(events):
    """Epsilon by dp-accounting: a bound from above on a grid of 1e-4."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for each in events:
        one = PoissonSampledDpEvent(each.sample_rate, GaussianDpEvent(each.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(one, each.steps))
    return accountant.get_epsilon(DELTA)


def test_all_runs_continue_one_ledger_and_compose_to_the_epsilon_of_the_union(tmp_path):
    """The file moves between runs; one round is reserved and lost; an earlier ledger is joined."""
    client = tmp_path / "clients" / "ward"
    write_like_it(client / "old" / "ledger.sqlite3", EARLIER)
    path, expected = client / "here" / "ledger-2", [EARLIER]
    for number, (run, rounds) in enumerate(RUNS.items()):
        ledger = Ledger.open_or_create(
            path, **OWNER, earlier=EarlierLedgers(folder=client, assume_unit=True)
        )
        for round_, planned in enumerate(rounds):
            reservation = ledger.reserve(run, round_, [planned], lambda *_: None)
            if (number, round_) != (0, 1):
                ledger.commit(reservation.id, [planned], b"update")
            expected.append(planned)
        moved = client / f"renamed {number}" / "ledger-2"
        moved.parent.mkdir()
        os.replace(path, moved)
        path = moved
    spent = Ledger.open(path, **OWNER).events()
    assert spent == tuple(expected)
    bounds = epsilon(spent, DELTA, Neighbouring.ADD_REMOVE)
    assert bounds.lower <= golden(expected)
    assert bounds.upper == pytest.approx(golden(expected), rel=1e-3)
    assert golden(expected[:-1]) < 0.999 * golden(expected)  # each event would be missed
