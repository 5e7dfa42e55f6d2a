"""What every message states: of a run, of an epoch, of a round; none passes for another."""

from dataclasses import replace

import pytest

from privfed.protocol.kinds import BASE, EPOCH, KEY_ID, PUBLIC_RANGE
from privfed.protocol.terms import RoundPlan, RunTerms

RUN = RunTerms(
    run="0a1b",
    agreement="a9" * 32,
    encryption={"scheme": "BFV", "bits": 12},
    roster="70" * 32,
    left_out=("d", "e"),
)


def test_of_a_run():
    assert (RUN.of_run().run, RUN.of_run().round) == ("0a1b", 0)
    assert RUN.of_run().manifest == {
        "agreement": "a9" * 32,
        "encryption": {"scheme": "BFV", "bits": 12},
        "roster": "70" * 32,
        "left_out": ["d", "e"],
    }


def test_of_an_epoch():
    found = RUN.of_epoch("e1" * 32)
    assert found.manifest == {**RUN.of_run().manifest, EPOCH: "e1" * 32}
    assert replace(found, manifest=RUN.of_run().manifest) == RUN.of_run()


def test_no_two_epochs_state_the_same():
    assert RUN.of_epoch("e1" * 32) != RUN.of_epoch("e2" * 32) != RUN.of_run()


def test_of_a_round():
    plan = RoundPlan(run="0a1b", round=3, base_digest="b0" * 32)
    found = RUN.of_round(plan, 0.5, {KEY_ID: "k1"})
    own = {BASE: "b0" * 32, PUBLIC_RANGE: 0.5, KEY_ID: "k1"}
    assert (found.run, found.round) == ("0a1b", 3)
    assert found.manifest == {**RUN.of_run().manifest, **own}


@pytest.mark.parametrize(
    "change",
    [
        {"run": "0a1c"},
        {"agreement": "a8" * 32},
        {"encryption": {"scheme": "BFV", "bits": 11}},
        {"roster": "71" * 32},
        {"left_out": ("d",)},
    ],
    ids=str,
)
def test_all_of_it_tells_runs_apart(change):
    other = replace(RUN, **change)
    assert other.of_run() != RUN.of_run()
    assert other.of_epoch("e1" * 32) != RUN.of_epoch("e1" * 32)
