"""What a run of a few clients leaves of numbers, without training: ledgers, facts and a record."""

import json
from dataclasses import dataclass, replace

from accountants import Ledger, Neighbouring, PoissonGaussian, epsilon
from privfed.agreement import Agreement
from privfed.encryption.schemes import Scheme
from privfed.reports.making import Moment
from privfed.reports.round_record import Abandoned, Reason, RoundRecord
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord

RUN = "0a1b2c3d"
MOMENT = Moment(status="complete", rounds_over=3, adapter_sha256="ef" * 32)
SIGMAS = (3.0, 2.5, 2.75, 3.25)
NUM_PARAMS = 640


@dataclass(frozen=True, kw_only=True)
class MadeUpRun:
    """Settings of a federation, and what a run of two rounds and an abandoned one left."""

    settings: object
    facts: RunFacts
    record: RunRecord
    exports: dict

    @property
    def ids(self):
        return [client.id for client in self.settings.clients]

    def spent(self, client, rounds):
        """Epsilon of so many rounds of a client, and nothing else."""
        events = [event_of(self.settings, client)] * rounds
        (one,) = [each for each in self.settings.clients if each.id == client]
        return epsilon(events, one.budget.delta, Neighbouring.ADD_REMOVE)


def event_of(settings, client):
    """A round of a client."""
    ids = [each.id for each in settings.clients]
    one = settings.clients[ids.index(client)]
    return PoissonGaussian(
        noise_multiplier=SIGMAS[ids.index(client)],
        sample_rate=settings.privacy.expected_batch_size / one.public_size,
        steps=settings.steps[client],
    )


def ledger_of(settings, client, folder):
    """A ledger of that client that counts nothing."""
    return Ledger.create(
        folder / client,
        client=client,
        dataset="topics",
        unit=settings.privacy.record,
        neighbouring=Neighbouring.ADD_REMOVE,
    )


def play(settings, client, ledger, rounds=3, run=RUN):
    """Reserve and commit rounds of the run."""
    event = event_of(settings, client)
    for number in range(1, rounds + 1):
        reservation = ledger.reserve(run, number, [event], lambda *_: None)
        ledger.commit(reservation.id, [event], b"update")


def made_up_run(settings, folder):
    """Three rounds at every client, of which the second was abandoned."""
    ids = [client.id for client in settings.clients]
    ledgers = {client: ledger_of(settings, client, folder) for client in ids}
    for client, ledger in ledgers.items():
        play(settings, client, ledger)
    exports = {client: json.loads(json.dumps(each.export())) for client, each in ledgers.items()}
    record = RunRecord(
        run=RUN,
        settings=settings.describe(),
        base_sha256="ba" * 32,
        start_sha256="57" * 32,
        notes=("the weights are not even",),
        noise_multipliers=dict(zip(ids, SIGMAS, strict=False)),
        first_range=0.0625,
        public_range=0.03125,
        anchors={client: ledger.anchor() for client, ledger in ledgers.items()},
        baseline=0.25,
        rounds=(),
        abandoned=(Abandoned(round=2, reason=Reason.AWAY, missing=(ids[1],)),),
        left_out={},
    )
    run = MadeUpRun(settings=settings, facts=facts_of(settings), record=record, exports=exports)
    rounds = (_round_record(run, 1, 0.375), _round_record(run, 3, 0.5))
    return replace(run, record=replace(record, rounds=rounds))


def facts_of(settings):
    """As a simulation states them."""
    ids = [client.id for client in settings.clients]
    agreement = Agreement(
        settings=settings.proposed(),
        clients=tuple(client.describe(settings.privacy) for client in settings.clients),
        weights={client: 1.0 - 0.125 * number for number, client in enumerate(ids)},
        base_model="1a" * 32,
        layout="2b" * 32,
        num_params=NUM_PARAMS,
        start="3c" * 32,
        tokenizer="5e" * 32,
        min_clients=settings.min_clients,
    )
    return RunFacts(
        agreement=agreement,
        participants=tuple(ids),
        base_model="b5" * 32,
        scheme=Scheme(summation=settings.encryption, num_clients=len(ids), num_params=NUM_PARAMS),
        roster="4d" * 32,
        simulated_keys=True,
        key={"key_id": "5e" * 32},
        key_bytes=72_000,
        in_one_process=True,
    )


def _round_record(run, number, value):
    return RoundRecord(
        round=number,
        clients=tuple(run.ids),
        absent=(),
        metric="accuracy",
        value=value,
        signal_to_noise=1.0 + 0.25 * number,
        figures={},
        bytes_up=9_600 * number,
        bytes_down=7_200 * number,
        bytes_holder=0,
        seconds=1.5 * number,
        seconds_aggregator=0.75 * number,
        seconds_opening=0.5 * number,
        epsilon={client: run.spent(client, number).upper for client in run.ids},
    )
