"""A report of three clients that nobody trained."""

from dataclasses import replace

from privfed.agreement import Agreement
from privfed.encryption.schemes import Scheme
from privfed.reports.budget import BudgetReport, Scope
from privfed.reports.clients import ClientGuarantee
from privfed.reports.round_record import RoundRecord
from privfed.reports.run_facts import RunFacts
from privfed.reports.sections import (
    Accounting,
    Encryption,
    Guarantee,
    Measured,
    Mechanism,
    Published,
    Randomness,
    Training,
    View,
)
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
        tokenizer="5e" * 32,
        min_clients=3,
    ),
    participants=("client-1", "client-2", "client-3"),
    base_model="b5" * 32,
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
        planned=(
            {
                "type": "PoissonGaussian",
                "noise_multiplier": 1.5,
                "sample_rate": 0.2,
                "steps": 2,
            },
        ),
        releases=({"type": "poisson", "steps": 2},),
        attack={"0.001": 0.01, "0.01": 0.03 * number, "0.1": 0.25, "advantage": 0.2 * number},
        ledger_id=f"{number:032x}",
        ledger_length=3,
        ledger_head="ab" * 32,
        signed=False,
        recomputed=True,
    )
    return replace(plain, **changes)


ROUND_RECORD = RoundRecord(
    round=1,
    clients=("client-1", "client-2"),
    absent=("client-3",),
    metric="accuracy",
    value=0.25,
    signal_to_noise=1.375,
    figures={},
    bytes_up=10,
    bytes_down=20,
    bytes_holder=0,
    seconds=0.5,
    seconds_aggregator=0.125,
    seconds_opening=0.0625,
    epsilon={"client-1": 0.5, "client-2": 1.0, "client-3": 1.5},
)


GUARANTEE = Guarantee(
    unit="one record: one article",
    neighbouring="add or remove one",
    covers="every update",
    adversary="anyone",
    epsilon=1.5,
    delta=1e-5,
    reading="nearly as if it had not taken part",
)
MECHANISM = Mechanism(
    mechanism="DP-SGD",
    clipping="all together to C",
    clipping_norm=0.75,
    expected_batch_size=20,
    steps_per_round={"client-1": 2, "client-2": 2, "client-3": 2},
    sampler_accounted="Poisson, as planned",
    sampler_ran="Poisson, as drawn",
    public_sizes="declared long before",
    noise_multipliers="to each budget",
    num_params=640,
)
ACCOUNTING = Accounting(
    accountant="certified bounds",
    bound="the upper one",
    neighbouring="add_remove",
    directions="both",
    one_bound="one function",
    stop_rule="refuses",
    theorem="a fixed schedule",
    counted="all rounds",
)
MEASURED = Measured(
    upload_bytes=2.25,
    download_bytes=3.5,
    aggregator_seconds=0.125,
    opening_seconds=0.0625,
    key_holder_bytes=None,
    key_bytes=72_000,
)
ENCRYPTION = Encryption(
    scheme="BFV",
    custody="shared_key: every client",
    consequence="who colludes opens",
    keys="one key",
    identities="signatures",
    correctness="exactly",
    setting="in one process",
    bits_per_value=9,
    public_range=0.015625,
    follow_released=False,
    parameters={"ring": 4096, "key_id": "5e5e"},
    base_model="1a" * 32,
    roster="4d" * 32,
    measured=MEASURED,
)
RANDOMNESS = Randomness(
    secret=True,
    noise="ChaCha20 for noise",
    rounding="ChaCha20 for rounding",
    batch_sampling="ChaCha20 for batches",
    public_seed=41,
)
TRAINING = Training(
    model={"base": "bert", "labels": ["a", "b"]},
    adapter={"rank": 6},
    method={"server_learning_rate": 1.25},
    adapter_left="the newest",
    participants=("client-1", "client-2", "client-3"),
    optimizer={"learning_rate": 0.5, "momentum": 0.0},
    rounds=4,
    participation="every client, in every round",
    weights={"client-1": 1.0, "client-2": 0.5, "client-3": 0.875},
    held_out="31 articles",
    other_bases=None,
)


def report(**changes):
    plain = BudgetReport(
        schema=4,
        scope=Scope.SIMULATION,
        title="a model on text",
        run="00ff",
        created="2026-01-02T03:04:05+00:00",
        status="complete",
        rounds_planned=4,
        rounds_over=1,
        headline="epsilon is at most 1.5",
        guarantee=GUARANTEE,
        views=(View(observer="who", sees="sees what", protection="protected by what"),),
        clients=(guarantee(1), guarantee(2), guarantee(3)),
        not_closed=(),
        mechanism=MECHANISM,
        accounting=ACCOUNTING,
        encryption=ENCRYPTION,
        training=TRAINING,
        randomness=RANDOMNESS,
        published=(Published(what="names", source="declared"),),
        not_covered=("other things",),
        warnings=(),
        differences=(),
        rounds=(ROUND_RECORD,),
        baseline={"accuracy": 0.125},
        base_sha256="cd" * 32,
        adapter_sha256="ef" * 32,
        versions={"python": "3"},
    )
    return replace(plain, **changes)


def claiming(epsilon, **changes):
    """A report with this epsilon of all its clients together."""
    return report(guarantee=replace(GUARANTEE, epsilon=epsilon), **changes)
