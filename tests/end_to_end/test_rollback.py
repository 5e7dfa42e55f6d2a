"""What was put back from a backup, deleted or renamed never makes a budget larger."""

import json
import shutil
from dataclasses import replace

import pytest

from accountants import (
    AnchorFolder,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerRolledBackError,
)
from privfed import Callback
from privfed.errors import ConfigError
from privfed.storage.state_folder import ledger_path
from tests.end_to_end.test_federation import independent_epsilon
from tests.organisations import with_share


class BackUp(Callback):
    """Copies folders after a round, and interrupts the run after another one."""

    def __init__(self, pairs, after, stop):
        self.pairs, self.after, self.stop = pairs, after, stop

    def on_round(self, record):
        if record.round == self.after:
            for source, copy in self.pairs:
                shutil.copytree(source, copy)
        if record.round == self.stop:
            raise KeyboardInterrupt


def put_back(pairs):
    for source, copy in pairs:
        shutil.rmtree(source)
        shutil.copytree(copy, source)


def test_state_and_run_folder_put_back_are_refused(make_federation, tmp_path):
    """Rounds 2 and 3 would run, and be released, a second time, beyond every budget."""
    federation = make_federation()
    pairs = [(tmp_path / name, tmp_path / f"{name}-old") for name in ("state", "run")]
    federation.run(tmp_path / "run", callbacks=[BackUp(pairs, after=1, stop=None)])
    put_back(pairs)
    with pytest.raises(LedgerRolledBackError, match="older copy was put back"):
        federation.run(tmp_path / "run", resume=True)


@pytest.fixture
def first_of_two(make_federation, tmp_path):
    """A federation whose first, small run is over, and the ledgers as they were before it."""
    federation = make_federation(rounds=2)
    first = with_share(federation, 0.25)
    pairs = [(tmp_path / name, tmp_path / f"{name}-old") for name in ("state", "anchors")]
    result = first.run(tmp_path / "first", callbacks=[BackUp(pairs, after=1, stop=None)])
    return federation, result, pairs


def test_a_ledger_put_back_between_two_runs_is_refused(first_of_two, tmp_path):
    federation, _, (state, _) = first_of_two
    put_back([state])
    with pytest.raises(LedgerRolledBackError):
        federation.run(tmp_path / "second")


def test_a_ledger_that_was_deleted_does_not_start_at_zero(first_of_two, tmp_path):
    federation, _, _ = first_of_two
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(LedgerMissingError, match="counting must not start at zero"):
        federation.run(tmp_path / "second")


def test_both_places_put_back_need_the_anchor_of_a_report(first_of_two, tmp_path):
    """The named limit, and what closes it."""
    federation, result, pairs = first_of_two
    anchors = {client.id: client.anchor for client in result.report.clients}
    assert anchors["client-2"] in (tmp_path / "first/report.html").read_text()
    put_back(pairs)
    continuing = [replace(c, continues=anchors[c.id]) for c in federation.clients]
    with pytest.raises(LedgerRolledBackError):
        replace(federation, clients=continuing).run(tmp_path / "second")
    federation.run(tmp_path / "third")


def test_an_anchor_of_a_ledger_that_is_not_here_is_refused(make_federation, tmp_path):
    federation = make_federation()
    first, *others = federation.clients
    known = replace(first, continues=f"7:{'ab' * 32}")
    with pytest.raises(LedgerMissingError):
        replace(federation, clients=[known, *others]).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="continues of client 'client-0'"):
        replace(first, continues="seven")


def test_a_second_place_that_cannot_be_written_is_refused_before_anything(
    make_federation, tmp_path
):
    (tmp_path / "file").write_text("no folder")
    federation = make_federation(anchor_folder=tmp_path / "file" / "anchors")
    with pytest.raises((LedgerError, ConfigError)):
        federation.run(tmp_path / "run")
    assert not list((tmp_path / "state").rglob("ledger*"))


@pytest.mark.parametrize("place", ["state/anchors", "run/anchors", "state"])
def test_a_second_place_inside_the_first_is_refused(make_federation, tmp_path, place):
    with pytest.raises(ConfigError, match="must lie outside"):
        make_federation(anchor_folder=tmp_path / place).run(tmp_path / "run")


def test_all_runs_on_the_data_continue_one_ledger(make_federation, tmp_path):
    """Another seed, path, split, number of clients: one budget, composed as dp-accounting does."""
    first = make_federation(rounds=1, seed=5)
    first = with_share(first, 0.25)
    moved = [replace(client, description="another file and split") for client in first.clients]
    replace(first, clients=moved).run(tmp_path / "first")
    second = make_federation(rounds=2, seed=6, num_clients=5)
    report = second.run(tmp_path / "second").report
    for client in report.clients:
        export = json.loads((tmp_path / f"second/ledgers/{client.id}.json").read_text())
        independent = independent_epsilon(export, client.delta)
        assert client.epsilon_spent == pytest.approx(independent, abs=2e-3)
        assert len(client.releases) == (2 if client.id == "client-4" else 3)
        assert client.unit == "one made-up sentence"


def test_another_unit_on_the_same_data_is_refused(make_federation, tmp_path):
    federation = make_federation(rounds=1)
    with_share(federation, 0.25).run(tmp_path / "first")
    other = replace(federation.privacy, record="one person")
    with pytest.raises(LedgerForeignError, match="one made-up sentence"):
        replace(federation, privacy=other).run(tmp_path / "second")


def test_ledgers_of_equal_names_are_told_apart(make_federation, tmp_path):
    """Two demonstrations: same clients and data set, two state folders, one second place."""
    for name in ("one", "two"):
        make_federation(rounds=1, state_folder=tmp_path / name).run(tmp_path / f"run-{name}")
    ids = []
    for name in ("one", "two"):
        report = json.loads((tmp_path / f"run-{name}/report.json").read_text())
        (mine,) = [c for c in report["clients"] if c["id"] == "client-1"]
        kept = AnchorFolder(tmp_path / "anchors").find(mine["ledger_id"])
        assert kept.path == ledger_path(tmp_path / name, "client-1", "topics")
        ids.append(kept.id)
    assert ids[0] != ids[1]
