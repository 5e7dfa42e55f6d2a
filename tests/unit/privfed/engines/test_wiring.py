"""How the parties of a simulation are put together in one process."""

import socket
from dataclasses import replace

import pytest

from privfed import BFV, Plain
from privfed.custody.opened_rounds import OpenedRounds
from privfed.engines import wiring
from privfed.engines.wiring import SharedStore, open_link, programs
from privfed.errors import ConfigError, EncryptionError, IdentityError, MessageError
from privfed.identity.enrolment import Enrolment
from privfed.parties.client.kept_run import KeptRun
from privfed.parties.client.setup import Prepared
from privfed.protocol.links import AddressLink
from privfed.settings.encryption import Custody
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import opened_path, results_folder

NAMES = ["client-0", "client-1", "client-2", "client-3"]
RUN = "0a1b2c3d"


def kept_run(running, **changes):
    """What every client of the run would have kept of it."""
    progress = running.clients["client-0"].membership.progress
    values = {
        "run": running.record.run,
        "start": running.folder.beginning(),
        "left_out": None,
        "progress": progress,
        "before": None,
    }
    return KeptRun(**{**values, **changes})


def programs_of(running, goes_on):
    store = SharedStore(folder=running.folder, goes_on=goes_on)
    return programs(running.settings, running.brought, running.parties, store)


class TestTheStoreOfAll:
    @pytest.fixture
    def folder(self, tmp_path):
        return RunFolder(tmp_path)

    def test_what_began_the_run_is_written_once_for_all(self, folder, monkeypatch):
        written, genuine = [], RunFolder.keep_beginning

        def counted(self, message):
            written.append(message)
            genuine(self, message)

        monkeypatch.setattr(RunFolder, "keep_beginning", counted)
        store, start = SharedStore(folder=folder, goes_on=None), b"what began it"
        for _ in NAMES:
            store.begin(RUN, start)
        assert written == [start]
        assert folder.beginning() == start
        store.begin("another", b"and again")
        assert folder.beginning() == b"and again"

    def test_the_checkpoint_says_the_rest(self, folder):
        store = SharedStore(folder=folder, goes_on=None)
        store.leave_out(RUN, ["client-2"])
        store.save(RUN, progress=None)
        store.close(RUN, "a9" * 32, b"closed")
        assert store.closed(RUN) is None
        assert not store.played("a9" * 32), "whoever runs a simulation may run it again"
        assert store.kept() is None
        assert list(folder.path.iterdir()) == []

    def test_the_run_that_goes_on(self, folder):
        kept = KeptRun(run=RUN, start=b"", left_out=None, progress=None, before=None)
        assert SharedStore(folder=folder, goes_on=kept).kept() is kept


class TestPrograms:
    def test_one_for_each_with_what_is_its_own(self, prepared):
        running = prepared()
        assert list(running.clients) == NAMES
        for name, program in running.clients.items():
            assert program.node is running.brought.nodes[name]
            assert program.membership.facts is running.brought.facts[name]
            assert program.membership.proposal == running.settings.proposal().digest()
            assert program.membership.name is None

    def test_what_equal_bytes_determine_is_computed_once(self, prepared, monkeypatch):
        evaluated, genuine = [], Prepared.evaluate

        def counted(self, adapter, base):
            evaluated.append(1)
            return genuine(self, adapter, base)

        monkeypatch.setattr(Prepared, "evaluate", counted)
        running = prepared(encryption=Plain())
        running.begin([])
        assert len(evaluated) == 1, "the first metric"
        running.aggregator.play_round()
        assert len(evaluated) == 2, "and that of the round"

    def test_a_run_that_goes_on_goes_on_with_what_was_remembered(self, prepared):
        running = prepared()
        running.begin([])
        made = programs_of(running, kept_run(running))
        assert list(made) == NAMES
        assert {program.membership.name for program in made.values()} == {running.record.run}
        assert sorted(made["client-3"].membership.known) == NAMES

    @pytest.mark.parametrize("name", ["client-0", "client-3"])
    def test_a_memory_that_is_missing_or_damaged_is_refused(self, prepared, name):
        running = prepared()
        running.begin([])
        path = opened_path(running.settings.anchors, running.record.run, name)
        assert OpenedRounds.resume(path).contributors_of(1) is None
        path.write_text("damaged")
        with pytest.raises(EncryptionError, match=name):
            programs_of(running, kept_run(running))
        path.unlink()
        with pytest.raises(EncryptionError, match=name):
            programs_of(running, kept_run(running))

    def test_in_clear_nothing_needs_to_be_remembered(self, prepared):
        running = prepared(encryption=Plain())
        running.begin([])
        run = running.record.run
        assert not opened_path(running.settings.anchors, run, "client-0").exists()
        assert list(programs_of(running, kept_run(running))) == NAMES

    def test_who_brings_something_else_is_named(self, prepared):
        running = prepared(encryption=Plain())
        running.begin([])
        other = {**running.brought.facts}
        other["client-2"] = replace(other["client-2"], noise_multiplier=9.5)
        running.brought = replace(running.brought, facts=other)
        with pytest.raises(MessageError, match="'client-2' must bring to a run what it brought"):
            programs_of(running, kept_run(running))


class TestTheLink:
    @pytest.fixture
    def running(self, prepared):
        """Its keys are made here, those of a key holder too."""
        return prepared(encryption=BFV(custody=Custody.KEY_HOLDER))

    def test_one_that_is_started_here(self, running, monkeypatch):
        monkeypatch.setattr(wiring, "ProcessLink", lambda **options: options)
        settings = replace(running.settings, min_clients=4)
        parties = running.parties
        assert parties.key_holder_file != parties.roster_file
        assert open_link(settings, parties, RUN) == {
            "identity": parties.key_holder_file,
            "roster": parties.roster_file,
            "authority": parties.roster.authority.hex(),
            "results": results_folder(settings.state, RUN),
            "min_clients": 4,
        }

    @pytest.mark.parametrize("there", ["none", "missing", "folder"])
    def test_it_needs_an_identity(self, running, there, tmp_path):
        file = {"none": None, "missing": tmp_path / "no.identity", "folder": tmp_path}[there]
        parties = replace(running.parties, key_holder_file=file)
        with pytest.raises(IdentityError, match=f"identity file, there is none at {file};"):
            open_link(running.settings, parties, RUN)

    def elsewhere(self, running, address, tmp_path):
        enrolment = Enrolment(roster=tmp_path / "roster", authority="00", identities=tmp_path)
        encryption = BFV(custody=Custody.KEY_HOLDER, key_holder=address)
        return replace(running.settings, encryption=encryption, enrolment=enrolment)

    def test_one_at_an_address_needs_none(self, running, tmp_path):
        parties = replace(running.parties, key_holder_file=None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            link = open_link(self.elsewhere(running, address, tmp_path), parties, RUN)
            assert type(link) is AddressLink
            link.close()

    def test_nobody_listens_there(self, running, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"must listen at {address}"):
            open_link(self.elsewhere(running, address, tmp_path), running.parties, RUN)
