"""What the clients of a real run sign comes to the very numbers of its simulation."""

import json
from dataclasses import replace

import pytest

from privfed.engines.simulation import Simulation
from privfed.methods.method import vector_digest
from privfed.parties.client.run import ClientRun
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import OPENED
from privfed.protocol.terms import RunTerms
from privfed.reports.assembling import assemble
from privfed.reports.closed import closed_message
from privfed.reports.making import Moment, client_report
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.reports.statement_folder import verify_statements, write_statements
from privfed.storage.checkpoint import load_latest

CLIENTS = [f"client-{number}" for number in range(4)]


class Seen:
    """A real run, and what its clients signed of it."""

    def __init__(self):
        self.opened = {}
        self.running = self.result = self.federation = None

    @property
    def roster(self):
        return self.running.parties.roster

    @property
    def facts(self):
        found = self.running._facts()
        assert isinstance(found, RunFacts)
        return replace(found, simulated_keys=False, in_one_process=False)

    def closed(self, client, *, export=True):
        """As the client's own program would make it."""
        checkpoint = load_latest(self.result.folder / "checkpoints")
        record = RunRecord.from_json(checkpoint.record)
        moment = Moment(
            status=self.result.report.status,
            rounds_over=checkpoint.round,
            adapter_sha256=vector_digest(checkpoint.tensors["adapter"]),
        )
        ledger = json.loads(json.dumps(self.result.ledgers[client]))
        own = client_report(self.federation, self.facts, record, ledger, moment, client=client)
        terms = RunTerms(
            run=record.run,
            agreement=self.facts.agreement.digest(),
            encryption=self.facts.scheme.to_json(),
            roster=self.facts.roster,
            left_out=(),
        )
        identity = self.running.parties.clients[client]
        at_the_end = replace(terms.of_run(), round=checkpoint.round)
        return closed_message(identity, at_the_end, own, ledger if export else None)


@pytest.fixture
def seen(make_federation, tmp_path, monkeypatch):
    found = Seen()
    handle, begin = ClientRun.handle, Simulation.begin

    def handled(self, message):
        reply = handle(self, message)
        if statement_of(reply).kind == OPENED:
            found.opened[self.node.id] = reply
        return reply

    def begun(self, callbacks):
        found.running = self
        begin(self, callbacks)

    monkeypatch.setattr(ClientRun, "handle", handled)
    monkeypatch.setattr(Simulation, "begin", begun)
    found.federation = make_federation(rounds=2)
    found.result = found.federation.run(tmp_path / "run")
    assert sorted(found.opened) == CLIENTS
    return found


def assembled(seen, closed, opened):
    return assemble(closed, opened, seen.roster, run=seen.result.report.run, clients=CLIENTS)


def test_statements_come_to_what_the_ledgers_say(seen):
    closed = {client: seen.closed(client, export=client != "client-2") for client in CLIENTS}
    found, simulated = assembled(seen, closed, seen.opened), seen.result.report
    for signed, row in zip(found.clients, simulated.clients, strict=True):
        assert signed == replace(row, signed=True, recomputed=row.id != "client-2")
    assert found.guarantee == simulated.guarantee
    assert found.headline.startswith(simulated.headline)
    assert found.encryption == replace(
        simulated.encryption,
        identities=found.encryption.identities,
        setting=found.encryption.setting,
    )
    for name in ("rounds", "mechanism", "training", "not_covered", "warnings", "adapter_sha256"):
        assert getattr(found, name) == getattr(simulated, name), name


def test_what_a_client_opened_last_stands_where_it_did_not_close(seen, tmp_path):
    closed = {client: seen.closed(client) for client in CLIENTS[1:]}
    found = assembled(seen, closed, seen.opened)
    (away,) = found.not_closed
    (row,) = [row for row in seen.result.report.clients if row.id == "client-0"]
    assert away.last.round == 2
    assert away.last.epsilon == pytest.approx(row.epsilon_spent, abs=1e-9)
    assert (away.last.ledger_length, away.last.ledger_head) == (row.ledger_length, row.ledger_head)
    assert found.guarantee.epsilon is None
    write_statements(tmp_path / "hub", found, closed, seen.opened, seen.roster)
    again, _ = verify_statements(tmp_path / "hub", authority=seen.roster.authority.hex())
    assert again == found
