"""A report of three clients that nobody trained."""

from dataclasses import replace

from privfed.agreement import Agreement
from privfed.encryption.schemes import Scheme
from privfed.reports.budget import BudgetReport, ClientGuarantee
from privfed.reports.figures import RoundFigures
from privfed.reports.run_facts import RunFacts
from privfed.settings.encryption import BFV

FACTS = RunFacts(
    agreement=Agreement(
        settings={},
        clients=(),
        weights={"client-1": 1.0, "client-2": 0.5, "client-3": 0.75},
        base_model="1a" * 32,
        layout="2b" * 32,
        num_params=640,
        start="3c" * 32,
        min_clients=3,
    ),
    scheme=Scheme(summation=BFV(bits=9), num_clients=3, num_params=640),
    roster="4d" * 32,
    simulated_keys=True,
    key={"key_id": "5e" * 32},
    key_bytes=72_000,
    in_one_process=True,
)


def guarantee(number=1, **changes):
    plain = ClientGuarantee(
        id=f"client-{number}",
        dataset="news",
        unit="one article",
        neighbouring="add_remove",
        public_size=100,
        epsilon_spent=0.5 * number,
        epsilon_lower=0.49 * number,
        epsilon_before=0.0,
        epsilon_if_begun=0.6 * number,
        epsilon_budget=2.0,
        delta=1e-5,
        rounds=1,
        steps=2,
        unresolved=0,
        noise_multiplier=1.5,
        sample_rate=0.2,
        releases=({"type": "poisson", "steps": 2},),
        attack={"0.001": 0.01, "0.01": 0.03 * number, "0.1": 0.25, "advantage": 0.2 * number},
        ledger_id=f"{number:032x}",
        ledger_length=3,
        ledger_head="ab" * 32,
    )
    return replace(plain, **changes)


FIGURES = RoundFigures(
    round=1,
    clients=("client-1", "client-2"),
    absent=("client-3",),
    metric="accuracy",
    value=0.25,
    bytes_up=10,
    bytes_down=20,
    bytes_holder=0,
    seconds=0.5,
    seconds_aggregator=0.125,
    seconds_opening=0.0625,
    epsilon={"client-1": 0.5, "client-2": 1.0, "client-3": 1.5},
)


def report(**changes):
    plain = BudgetReport(
        schema=2,
        title="a model on text",
        run="00ff",
        created="2026-01-02T03:04:05+00:00",
        status="complete",
        rounds_planned=4,
        rounds_over=1,
        headline="epsilon is at most 1.5",
        guarantee={"unit": "one record", "epsilon": 1.5},
        views=(("who", "sees what", "protected by what"),),
        clients=(guarantee(1), guarantee(2), guarantee(3)),
        mechanism={"clipping norm C": 1.0},
        accounting={"accountant": "certified bounds"},
        encryption={"scheme": "BFV", "parameters": {"bits": 12}},
        training={"model": {"base": "bert", "labels": ["a", "b"]}, "momentum": 0.0},
        randomness={"noise": "secret"},
        published=(("names", "declared"),),
        not_covered=("other things",),
        warnings=(),
        rounds=(FIGURES.to_json(),),
        baseline={"accuracy": 0.125},
        base_sha256="cd" * 32,
        adapter_sha256="ef" * 32,
        versions={"python": "3"},
    )
    return replace(plain, **changes)
