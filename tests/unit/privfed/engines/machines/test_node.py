"""One organisation's node: it plays the one run that was prepared, and ends with it."""

import grp
import hashlib
import os
import shutil
import socket
import stat
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from accountants import AnchorFolder
from privfed import BFV, FedSALoRA
from privfed.engines.machines import sockets
from privfed.engines.machines.node import Told, require_enrolled
from privfed.engines.machines.status import status_of
from privfed.errors import (
    ConfigError,
    EncryptionError,
    IdentityError,
    RunFolderError,
    TooFewClientsError,
)
from privfed.identity.keys import Identity, Role
from privfed.parties.client.setup import prepare
from privfed.protocol import streams
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import CLOSED, FINISH, HELLO, READY, REFUSAL, TRAIN
from privfed.protocol.ready import terms_before
from privfed.protocol.signing import signed_message
from privfed.storage.state_folder import client_folder
from privfed.verification import verify_and_render
from tests.unit.privfed.engines.machines.beside import NAMES, SHARING, begun

ME = "client-1"


def message(beside, kind=HELLO, *, run="", number=0):
    proposal = beside.settings.proposal().digest()
    terms = terms_before(beside.roster, proposal, run, number)
    return signed_message(beside.identities["hub"], terms, kind)


class TestWhoItIs:
    def test_its_keys_are_those_of_the_roster(self, beside):
        made = beside()
        require_enrolled(made.roster, made.identities[ME], ME)
        assert made.node(ME).folder == client_folder(made.settings.state, ME, "topics")

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.AGGREGATOR])
    def test_other_keys_are_refused(self, beside, role):
        made = beside()
        with pytest.raises(IdentityError, match="'client-1' must have the keys that the roster"):
            made.node(ME, identity=Identity.generate(ME, role))

    def test_so_are_those_of_another_client(self, beside):
        made = beside()
        with pytest.raises(IdentityError, match="'client-1' must have the keys"):
            made.node(ME, identity=made.identities["client-2"])

    def test_so_is_one_of_another_role(self, beside):
        made = beside()
        for name, role in (("hub", "aggregator"), ("keys", "key_holder")):
            with pytest.raises(IdentityError, match=f"enrolled as client.* as {role}"):
                require_enrolled(made.roster, made.identities[name], name)

    def test_so_is_one_that_is_not_enrolled(self, beside):
        made = beside()
        with pytest.raises(IdentityError, match="'elsewhere'"):
            require_enrolled(made.roster, made.identities[ME], "elsewhere")

    def test_one_process_at_a_time_has_its_runs(self, beside):
        made = beside()
        first = made.node(ME)
        made.nodes.clear()
        with pytest.raises(RunFolderError, match="another process plays a run"):
            made.node(ME)
        first.files.release()
        made.node(ME)


class TestBeforeARun:
    def test_it_answers_nobody_before_it_is_prepared(self, beside):
        made = beside()
        with pytest.raises(ConfigError, match="prepared before it answers"):
            made.node(ME).answer(message(made))
        assert made.told[ME] == []

    def test_prepared_it_greets_and_refuses_what_belongs_to_no_run(self, beside):
        made = beside()
        node = made.node(ME)
        assert node.prepare().nodes.keys() == {ME}
        assert statement_of(node.answer(message(made))).kind == READY
        assert made.told[ME] == [], "a greeting is nothing that an operator asked about"
        assert status_of(node.folder) is None
        refused = message(made, TRAIN, run="ab" * 16, number=2)
        assert statement_of(node.answer(refused)).kind == REFUSAL
        (told,) = made.told[ME]
        assert (told.what, told.epsilon, told.metric) == ("refused", None, None)
        assert status_of(node.folder) is None, "it would hide how far the node has come"
        assert not node.is_over

    def test_one_that_cannot_take_part_says_why(self, beside, monkeypatch):
        made = beside()

        class Nobody:
            nodes, notes = {}, ("its size is too small",)

        monkeypatch.setattr("privfed.engines.machines.node.prepare", lambda *given, **about: Nobody)
        with pytest.raises(ConfigError, match="^its size is too small$"):
            made.node(ME).prepare()

    def test_what_the_reader_should_question_goes_into_its_report(self, beside, monkeypatch):
        made = beside()
        monkeypatch.setattr(
            "privfed.engines.machines.node.prepare",
            lambda *given, **about: replace(prepare(*given, **about), notes=("a size of 3",)),
        )
        node = made.node(ME)
        node.prepare()
        assert node._program._outside.closing.notes == ("a size of 3",)

    def test_the_results_of_an_earlier_run_are_not_written_over(self, beside):
        made = beside()
        made.results(ME).mkdir()
        (made.results(ME) / "report.json").write_text("of last year")
        with pytest.raises(ConfigError, match="results-client-1 holds the results of an earlier"):
            made.node(ME).prepare()

    def test_it_starts_at_the_adapter_of_its_file(self, beside, tmp_path):
        made = beside()
        other = made.node(ME, settings=replace(made.settings, seed=6)).prepare()
        assert not np.array_equal(other.initial, made.node(ME).prepare().initial)
        path = tmp_path / "start.safetensors"
        path.write_bytes(other.start)
        found = made.node(ME, settings=replace(made.settings, start=path)).prepare()
        assert np.array_equal(found.initial, other.initial)
        assert found.start == other.start


class TestAWholeRun:
    @pytest.fixture
    def played(self, beside):
        made = beside()
        made.prepared()
        hub = begun(made.hub())
        hub.play()
        made.report, before = hub.finish(), hub.run.record
        made.start_sha256, made.start_value = before.start_sha256, before.baseline
        return made, hub

    def test_each_step_is_told_and_the_last_one_kept(self, played):
        made, hub = played
        run = hub.run.record.run
        for name in NAMES:
            told = made.told[name]
            assert [(one.what, one.round) for one in told] == [
                ("began", 0),
                ("round", 1),
                ("round", 2),
                ("closed", 2),
            ]
            assert {one.run for one in told} == {run}
            for number in (1, 2):
                row = hub.run.record.rounds[number - 1]
                assert told[number].epsilon == row.epsilon[name]
                assert told[number].metric == row.value
                assert told[number].seconds > 0
            assert told[1].epsilon < told[2].epsilon
            found = status_of(made.nodes[name].folder)
            assert (found["what"], found["run"], found["round"]) == ("closed", run, 2)
            assert abs(found["at"] - time.time()) < 60
            assert made.nodes[name].is_over
        spent = {made.told[name][2].epsilon for name in NAMES}
        assert len(spent) == len(NAMES), "each its own"
        self.check_results(made)
        self.check_after_the_end(made)

    def check_results(self, made):
        """What `privfed report` checks; all hold the same adapter."""
        anchors, adapters = AnchorFolder(made.settings.anchors), set()
        for name in NAMES:
            report, _ = verify_and_render(made.results(name), anchors)
            assert [row.id for row in report.clients] == [name]
            assert report.adapter_sha256 == made.report.adapter_sha256
            assert report.baseline == {"accuracy": made.start_value}
            start = (made.results(name) / "start.safetensors").read_bytes()
            assert hashlib.sha256(start).hexdigest() == made.start_sha256
            adapters.add((made.results(name) / "adapter/adapter_model.safetensors").read_bytes())
        assert len(adapters) == 1
        told = {row.id for row in made.report.clients if row.recomputed}
        assert told == {SHARING}, "no other operator lets the ledger leave"

    def check_after_the_end(self, made):
        """Started again, it needs no model to say so, and says the same once more."""
        messages = made.carrying.carried[-1]
        assert statement_of(messages[ME]).kind == FINISH
        again = made.node(ME)
        assert again.prepare() is None
        assert not again.is_over
        assert statement_of(again.answer(message(made))).kind == REFUSAL
        assert not again.is_over
        assert statement_of(again.answer(messages[ME])).kind == CLOSED
        assert again.is_over
        assert [one.what for one in made.told[ME]][-2:] == ["refused", "closed"]


def test_started_again_it_goes_on_with_its_run(beside):
    """It has no key of the epoch any more: one round is lost, and the next has a new one."""
    made = beside(encryption=BFV(bits=8), rounds=3)
    made.prepared()
    hub = begun(made.hub())
    hub.run.play_round()
    before = made.nodes[ME].files.kept()
    made.node(ME).prepare()
    assert made.nodes[ME].files.kept().run == before.run == hub.run.record.run
    with pytest.raises(TooFewClientsError, match="client-1"):
        hub.play()
    hub = begun(made.hub(resume=True))
    hub.play()
    assert hub.run.record.over == 3
    assert hub.run.record.rounds[-1].clients == NAMES
    assert {one.run for one in made.told[ME] if one.what != "refused"} == {before.run}
    assert [one.what for one in made.told[ME]].count("began") == 2
    assert made.told[ME][-1].round == 3


def test_an_own_model_that_cannot_be_kept_is_nobody_elses_affair(beside, monkeypatch):
    """The client closes as the others do, and why is in its own log."""

    def fails(*arguments):
        raise ValueError("an own figure of patient Smith")

    monkeypatch.setattr("privfed.engines.machines.node.keep_own_model", fails)
    made = beside(rounds=1)
    made.prepared()
    hub = begun(made.hub())
    hub.play()
    hub.finish()
    for name in NAMES:
        assert [one.what for one in made.told[name]][-1] == "closed"
        assert (made.results(name) / "report.json").exists()
        assert "own figure of patient Smith" in (made.nodes[name].folder / "client.log").read_text()


def test_a_personal_method_leaves_each_its_own_beside_its_ledger(beside):
    made = beside(rounds=1, method=FedSALoRA())
    made.prepared()
    hub = begun(made.hub())
    hub.play()
    hub.finish()
    own = [
        list((made.nodes[name].folder / "own").glob("*/adapter/*.safetensors")) for name in NAMES
    ]
    assert [len(found) for found in own] == [1] * len(NAMES)
    assert len({found[0].read_bytes() for found in own}) == len(NAMES)
    for name in NAMES:
        assert not list(made.results(name).rglob("figures.json"))


class TestARunThatIsOpen:
    def test_of_other_files_it_stops_before_anything(self, beside):
        made = beside()
        made.prepared()
        run = begun(made.hub()).run.record.run
        node = made.node(ME, settings=replace(made.settings, rounds=3))
        with pytest.raises(ConfigError, match="other public files is open.*node give-up"):
            node.prepare()
        assert node.files.kept().run == run

    def test_whose_memory_is_gone_it_says_so_before_it_answers(self, beside):
        """Without it the client could agree to a second sum of one round."""
        made = beside(encryption=BFV(bits=8))
        made.prepared()
        hub = begun(made.hub())
        hub.run.play_round()
        shutil.rmtree(made.settings.anchors / "opened")
        with pytest.raises(EncryptionError, match="client-1"):
            made.node(ME).prepare()

    def test_in_clear_needs_no_memory(self, beside):
        made = beside()
        made.prepared()
        hub = begun(made.hub())
        hub.run.play_round()
        made.node(ME).prepare()
        again = begun(made.hub(resume=True))
        again.play()
        assert again.run.record.rounds[-1].clients == NAMES

    def test_may_have_written_its_results_already(self, beside):
        """As when it was killed before it could say its last word."""
        made = beside()
        made.prepared()
        begun(made.hub())
        made.results(ME).mkdir()
        (made.results(ME) / "report.json").write_text("of this run")
        assert made.node(ME).prepare() is not None


def test_seconds_are_counted_from_the_round_before(beside):
    made = beside()
    node = made.prepared()[ME]
    node._since -= 5000.0
    hub = begun(made.hub())
    node._since -= 1000.0
    hub.play()
    first, second = [one.seconds for one in made.told[ME] if one.what == "round"]
    assert 1000 < first < 2000
    assert 0 < second < 1000


class TestListening:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(sockets, "_LOOK_S", 0.02)

    def test_ends_when_the_run_is_over(self, beside, tmp_path):
        made = beside()
        node = made.node(ME)
        node.prepare()
        closed = signed_message(
            made.identities[ME], terms_before(made.roster, "ab" * 32, "cd" * 16), CLOSED
        )
        greeted = message(made)
        genuine = type(node._program).handle
        node._program.handle = lambda asked: (
            genuine(node._program, asked) if asked == greeted else closed
        )
        path, group = tmp_path / "node.sock", grp.getgrgid(os.getgid()).gr_name
        thread = threading.Thread(target=node.listen, args=(path, group), daemon=True)
        thread.start()
        assert statement_of(asked(path, greeted)).kind == READY
        assert stat.S_IMODE(path.stat().st_mode) == 0o660, "the group may ask it too"
        assert thread.is_alive()
        assert asked(path, message(made, FINISH)) == closed
        thread.join(10)
        assert not thread.is_alive()
        assert not path.exists()
        assert [one.what for one in made.told[ME]] == ["closed"]


def asked(path, question):
    with socket.socket(socket.AF_UNIX) as client:
        for _ in range(500):
            try:
                client.connect(str(path))
                break
            except OSError:
                time.sleep(0.01)
        with client.makefile("rwb") as stream:
            streams.send(stream, question)
            return streams.receive(stream)


class TestTheStatus:
    def test_of_one_that_never_wrote_any(self, tmp_path):
        assert status_of(tmp_path) is None
        assert status_of(tmp_path / "none") is None

    def test_of_a_file_that_is_none(self, tmp_path):
        (tmp_path / "node.json").write_bytes(b"{")
        assert status_of(tmp_path) is None

    def test_that_it_cannot_be_written_stops_nothing(self, beside):
        """The disk is full: the round counts all the same."""
        made = beside()
        made.prepared()
        (made.nodes[ME].folder / "node.json").mkdir()
        begun(made.hub()).play()
        assert [one.what for one in made.told[ME]] == ["began", "round", "round"]
        assert [row.clients for row in made.rounds] == [NAMES, NAMES]

    def test_what_is_told_can_be_a_round_without_a_number(self):
        told = Told(what="round", round=3)
        assert (told.metric, told.epsilon) == (None, None)
        assert replace(told, epsilon=1.5).epsilon == 1.5
