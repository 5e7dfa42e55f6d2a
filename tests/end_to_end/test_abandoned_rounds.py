"""A client that stays away, or sends what spoils the sum, costs a round and never the run."""

import json
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from accountants import LedgerError
from privfed import BFV, CKKS, Budget, Callback, Client, FedAvg, Plain
from privfed.custody.ckks import CKKSCipher
from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption.tags import Tags
from privfed.errors import AwayError, ConfigError, EncryptionError, SpoiledSumError
from privfed.parties.aggregator import abandoning
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.client import node
from privfed.protocol.envelopes import Envelope
from privfed.settings.encryption import Custody
from privfed.storage.checkpoint import load_latest
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import opened_path
from tests.end_to_end.test_federation import independent_epsilon, verify_and_render

ROUNDS, STEPS = 5, 2
SIZES = {"client-0": 41, "client-1": 52, "client-2": 63, "client-3": 77}
LARGEST = 77


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture(params=list(Custody))
def federation(request, make_federation, topic_records):
    """Four clients of different sizes and budgets, several steps a round, weights by size."""
    clients = [
        Client(
            id=name,
            records=tuple(topic_records(size - 3, seed=size)),
            public_size=size,
            dataset="topics",
            budget=Budget(epsilon=3.0 + size / 50, delta=1e-3),
        )
        for name, size in SIZES.items()
    ]
    made = make_federation(
        clients=clients,
        rounds=ROUNDS,
        method=FedAvg(weighting="public_size"),
        encryption=BFV(custody=request.param),
    )
    return replace(made, privacy=replace(made.privacy, steps_per_round=STEPS))


@pytest.fixture
def opened(monkeypatch):
    """(round, contributors) of every sum that a client opened, in order."""
    seen = []

    def watch(cipher):
        real = cipher.open

        def watched(self, terms, message):
            found = real(self, terms, message)
            seen.append((terms.round, found.contributors))
            return found

        monkeypatch.setattr(cipher, "open", watched)

    watch(SharedKeyCipher)
    watch(RoundKeyCipher)
    watch(CKKSCipher)
    return seen


def stays_away(monkeypatch, client, rounds, when="answer"):
    """The client fails to answer (or to send its update) in these rounds."""
    real = getattr(node.ClientNode, when)

    def fail(self, terms, *arguments):
        if self.id == client and terms.round in rounds:
            raise RuntimeError("secret cause")
        return real(self, terms, *arguments)

    monkeypatch.setattr(node.ClientNode, when, fail)


def spoils(monkeypatch, client, rounds):
    """The client's update has wrong tags in these rounds."""
    real, write = node.ClientNode.encrypt, Tags.write
    spoiling = []

    def encrypt(self, terms, *arguments):
        spoiling[:] = [self.id == client and terms.round in rounds]
        return real(self, terms, *arguments)

    def tags(self, slots):
        write(self, slots)
        if spoiling[-1]:
            slots[:, -1] ^= np.uint64(1)

    monkeypatch.setattr(node.ClientNode, "encrypt", encrypt)
    monkeypatch.setattr(Tags, "write", tags)


def run_record(folder):
    return json.loads((folder / "run.json").read_text())


def others(client):
    return tuple(name for name in SIZES if name != client)


class States(Callback):
    """The global adapter after every round, complete or abandoned."""

    def __init__(self, folder):
        self.folder, self.states, self.abandoned = folder, {}, []

    def on_start(self, *arguments):
        self.states[0] = load_latest(self.folder / "checkpoints").tensors["adapter"]

    def on_round(self, record):
        self.states[record.round] = load_latest(self.folder / "checkpoints").tensors["adapter"]

    def on_abandoned(self, abandoned):
        self.abandoned.append(abandoned)
        self.states[abandoned.round] = load_latest(self.folder / "checkpoints").tensors["adapter"]


@pytest.fixture
def committed(monkeypatch):
    """The numbers that each client committed, by round, decoded and weighted as they are sent."""
    seen, codecs = {}, {}
    real, encoded = node.ClientNode.commit, node.ClientNode.numbers

    def numbers(self, vectors, codec):
        codecs[self.id] = codec
        return encoded(self, vectors, codec)

    def commit(self, reservation, numbers, kept):
        real(self, reservation, numbers, kept)
        written = self.ledger.outgoing(reservation.run, reservation.round)[40:]
        decoded = codecs[self.id].decode(np.frombuffer(written, dtype="<i2").astype(np.int64))
        (values,) = decoded.values()
        seen.setdefault(reservation.round, {})[self.id] = values

    monkeypatch.setattr(node.ClientNode, "numbers", numbers)
    monkeypatch.setattr(node.ClientNode, "commit", commit)
    return seen


def check_moves(states, committed, contributors, *, lost=()):
    """Every round moved the adapter by the weighted mean of its contributors, or not at all."""
    for number in sorted(states)[1:]:
        move = states[number].astype(np.float64) - states[number - 1]
        if number in lost:
            assert not move.any()
            continue
        names = contributors(number)
        total = sum(committed[number][name] for name in names)
        mean = total / (sum(SIZES[name] for name in names) / max(SIZES[n] for n in taking(names)))
        assert np.abs(move).max() > 0
        assert np.allclose(move, mean, atol=1e-5)


def taking(names):
    """Weights are relative to the largest of those who take part; client-3 always does here."""
    assert "client-3" in names
    return names


class TestAClientThatStaysAwayOnce:
    @pytest.mark.parametrize("lost", [1, 2, ROUNDS])
    def test_the_round_is_named_and_the_run_goes_on(
        self, federation, tmp_path, monkeypatch, opened, committed, lost
    ):
        stays_away(monkeypatch, "client-2", {lost})
        follow = States(tmp_path / "run")
        result = federation.run(tmp_path / "run", callbacks=[follow])
        complete = [number for number in range(1, ROUNDS + 1) if number != lost]
        assert [row.round for row in result.rounds] == complete
        assert opened == [(number, tuple(SIZES)) for number in complete]
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (lost, ["client-2"])
        assert "stayed away" in entry["reason"]
        (told,) = follow.abandoned
        assert str(told) in " ".join(result.report.warnings)
        check_moves(follow.states, committed, lambda number: tuple(SIZES), lost={lost})
        for client in result.report.clients:
            assert client.steps == ROUNDS * STEPS, "the abandoned round is counted"
            export = json.loads((tmp_path / f"run/ledgers/{client.id}.json").read_text())
            independent = independent_epsilon(export, client.delta)
            assert client.epsilon_spent == pytest.approx(independent, abs=1e-3)
        verify_and_render(tmp_path / "run")
        everything = "".join(
            path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*.*")
        )
        assert "secret cause" not in everything

    def test_every_client_closed_the_round(self, federation, tmp_path, monkeypatch):
        """The missing one too, which was back by then."""
        stays_away(monkeypatch, "client-2", {2})
        federation.run(tmp_path / "run")
        for name in SIZES:
            path = opened_path(tmp_path / "anchors", run_record(tmp_path / "run")["run"], name)
            memory = OpenedRounds.resume(path)
            assert memory.why_closed(2)["missing"] == ["client-2"]
            with pytest.raises(EncryptionError, match="closed"):
                memory.require(2, tuple(SIZES))
            assert memory.contributors_of(3) == tuple(SIZES)


class TestAClientThatStaysAway:
    def test_the_run_stops_after_two_rounds_and_the_advice_works(
        self, federation, tmp_path, monkeypatch, opened, committed
    ):
        stays_away(monkeypatch, "client-2", {2, 3, 4, 5})
        states = States(tmp_path / "run")
        with pytest.raises(AwayError) as caught:
            federation.run(tmp_path / "run", callbacks=[states])
        assert caught.value.missing == ("client-2",)
        assert "`--resume --without client-2` goes on without client-2" in str(caught.value)
        stopped = json.loads((tmp_path / "run/report.json").read_text())
        assert stopped["status"].startswith("stopped")
        assert "client-2" in stopped["status"]
        spent = {row["id"]: row["epsilon_spent"] for row in stopped["clients"]}
        assert [entry["round"] for entry in run_record(tmp_path / "run")["abandoned"]] == [2, 3]

        messages = self._messages(monkeypatch)

        class StopAfterFour(Callback):
            def on_round(self, record):
                if record.round == 4:
                    raise Killed

        with pytest.raises(Killed):
            federation.run(
                tmp_path / "run",
                resume=True,
                without=["client-2"],
                callbacks=[states, StopAfterFour()],
            )
        result = federation.run(tmp_path / "run", resume=True, callbacks=[states])
        assert [row.round for row in result.rounds] == [1, 4, 5]
        assert [row.clients for row in result.rounds[1:]] == [others("client-2")] * 2
        assert all(row.absent == () for row in result.rounds)
        assert opened == [(1, tuple(SIZES)), (4, others("client-2")), (5, others("client-2"))]
        assert run_record(tmp_path / "run")["left_out"] == {"client-2": 4}
        assert "client-2 was left out from round 4 on" in " ".join(result.report.warnings)
        check_moves(
            {number: states.states[number] for number in (3, 4, 5)},
            committed,
            lambda number: others("client-2"),
        )
        reported = {client.id: client for client in result.report.clients}
        assert list(reported) == list(SIZES), "who was left out stays in the report"
        assert reported["client-2"].steps == 3 * STEPS
        assert reported["client-2"].epsilon_spent == pytest.approx(spent["client-2"])
        assert all(reported[name].steps == ROUNDS * STEPS for name in others("client-2"))
        verify_and_render(tmp_path / "run")
        assert {statement.sender for statement in messages} == set(others("client-2"))
        assert len({statement.manifest["agreement"] for statement in messages}) == 1
        assert messages[0].manifest["agreement"] != self.first[0].manifest["agreement"]

    @pytest.fixture(autouse=True)
    def _before(self, monkeypatch):
        self.first = self._messages(monkeypatch)

    @staticmethod
    def _messages(monkeypatch):
        seen, real = [], Aggregator.receive

        def receive(self, message):
            seen.append(Envelope.from_bytes(message).statement)
            real(self, message)

        monkeypatch.setattr(Aggregator, "receive", receive)
        return seen

    def test_no_advice_that_cannot_succeed(self, make_federation, tmp_path, monkeypatch):
        stays_away(monkeypatch, "client-1", {1, 2, 3})
        federation = make_federation(num_clients=3, encryption=BFV())
        with pytest.raises(AwayError, match="fewer than 3 clients are left") as caught:
            federation.run(tmp_path / "run")
        assert "--without" not in str(caught.value)
        with pytest.raises(ConfigError, match="at least 3 clients"):
            federation.run(tmp_path / "run", resume=True, without=["client-1"])

    def test_a_name_that_a_shell_would_split_is_quoted(
        self, make_federation, tmp_path, monkeypatch
    ):
        clients = [
            replace(client, id=f"ward {number}")
            for number, client in enumerate(make_federation().clients)
        ]
        stays_away(monkeypatch, "ward 1", {1, 2})
        with pytest.raises(AwayError, match="--resume --without 'ward 1'"):
            make_federation(clients=clients).run(tmp_path / "run")


class TestAnUpdateThatSpoilsTheSum:
    def test_once_it_costs_one_round(self, federation, tmp_path, monkeypatch, opened):
        spoils(monkeypatch, "client-1", {2})
        result = federation.run(tmp_path / "run")
        assert [row.round for row in result.rounds] == [1, 3, 4, 5]
        assert [number for number, _ in opened] == [1, 3, 4, 5]
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert entry["missing"] == [], "wrong tags name nobody"
        assert "nobody can tell" in entry["reason"]
        assert all(client.steps == ROUNDS * STEPS for client in result.report.clients)

    def test_in_two_rounds_in_a_row_the_run_stops(self, federation, tmp_path, monkeypatch, opened):
        spoils(monkeypatch, "client-1", {2, 3})
        with pytest.raises(SpoiledSumError, match="Nobody can tell whose update is at fault"):
            federation.run(tmp_path / "run")
        assert [number for number, _ in opened] == [1]
        result = federation.run(tmp_path / "run", resume=True, without=["client-1"])
        assert [row.round for row in result.rounds] == [1, 4, 5]

    def test_in_two_rounds_apart_it_goes_on(self, federation, tmp_path, monkeypatch):
        spoils(monkeypatch, "client-1", {2, 4})
        result = federation.run(tmp_path / "run")
        assert [row.round for row in result.rounds] == [1, 3, 5]


def test_two_causes_in_a_row_stop_the_run_too(federation, tmp_path, monkeypatch):
    spoils(monkeypatch, "client-1", {2})
    stays_away(monkeypatch, "client-2", {3})
    with pytest.raises(AwayError, match="--resume --without client-2"):
        federation.run(tmp_path / "run")


def test_a_ckks_sum_out_of_range_costs_one_round(make_federation, tmp_path, monkeypatch):
    real = CKKSCipher._check_plausible

    def check(self, values, contributors):
        calls.append(1)
        in_round_2 = 2 <= len(calls) <= 5  # once in round 1, for all; then by each of four clients
        real(self, values * (1e6 if in_round_2 else 1), contributors)

    calls = []
    monkeypatch.setattr(CKKSCipher, "_check_plausible", check)
    result = make_federation(encryption=CKKS()).run(tmp_path / "run")
    assert [row.round for row in result.rounds] == [1, 3]


class TestPutBack:
    """State folder and run folder as they were after round 1; only the second place is newer."""

    def put_back(self, federation, tmp_path, monkeypatch, until):
        """Play with client-3 away in round 2 (its update is committed, and never comes)."""

        class Keep(Callback):
            def on_round(self, record):
                if record.round == 1:
                    shutil.copytree(tmp_path / "run", tmp_path / "old-run")
                    for name in ("key-holder", "opened"):
                        if (tmp_path / "state" / name).exists():
                            shutil.copytree(tmp_path / "state" / name, tmp_path / "old" / name)
                if record.round == until:
                    raise Killed

        with monkeypatch.context() as patched:
            stays_away(patched, "client-3", {2}, when="encrypt")
            with pytest.raises(Killed):
                federation.run(tmp_path / "run", callbacks=[Keep()])
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "old-run").rename(tmp_path / "run")
        for name in ("key-holder", "opened"):
            shutil.rmtree(tmp_path / "state" / name, ignore_errors=True)
            if (tmp_path / "old" / name).exists():
                (tmp_path / "old" / name).rename(tmp_path / "state" / name)

    def test_the_same_sum_is_opened_again(self, federation, tmp_path, monkeypatch, opened):
        self.put_back(federation, tmp_path, monkeypatch, until=2)
        federation.run(tmp_path / "run", resume=True)
        of_round_2 = [contributors for number, contributors in opened if number == 2]
        assert of_round_2 == [others("client-3")] * 2

    def test_no_client_helps_to_open_another(self, federation, tmp_path, monkeypatch, opened):
        """An aggregator that does not care what clients agreed to asks for a sum with client-3."""
        self.put_back(federation, tmp_path, monkeypatch, until=2)
        refused = []
        real = node.ClientNode.answer

        def answer(self, terms, *arguments):
            try:
                return real(self, terms, *arguments)
            except EncryptionError as error:
                refused.append((self.id, terms.round, str(error)))
                raise

        with monkeypatch.context() as patched:
            patched.setattr(node.ClientNode, "answer", answer)
            patched.setattr(abandoning, "sums_of", lambda standings: set())
            federation.run(tmp_path / "run", resume=True)
        assert [contributors for number, contributors in opened if number == 2] == [
            others("client-3")
        ], "the second sum's difference to the first would be client-3's update"
        assert [(name, number) for name, number, _ in refused] == [(name, 2) for name in SIZES], (
            "client-3 sent nothing in it, but opened what the others sent"
        )
        assert all("would show by its difference" in reason for *_, reason in refused)
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (2, list(SIZES))

    def test_a_lost_second_place_is_not_replaced(self, federation, tmp_path, monkeypatch):
        self.put_back(federation, tmp_path, monkeypatch, until=2)
        shutil.rmtree(tmp_path / "anchors/opened")
        with pytest.raises(EncryptionError, match="in which the run was begun"):
            federation.run(tmp_path / "run", resume=True)


class TestKilled:
    def test_between_the_closed_records_and_the_checkpoint(
        self, federation, tmp_path, monkeypatch, opened
    ):
        """The missing client is back by then: the round could be played, and is not."""
        real = RunFolder.save

        def save(self, checkpoint):
            if checkpoint.record["abandoned"]:
                raise Killed
            real(self, checkpoint)

        with monkeypatch.context() as patched:
            stays_away(patched, "client-2", {2})
            patched.setattr(RunFolder, "save", save)
            with pytest.raises(Killed):
                federation.run(tmp_path / "run")
        assert run_record(tmp_path / "run")["abandoned"] == []
        result = federation.run(tmp_path / "run", resume=True)
        assert [row.round for row in result.rounds] == [1, 3, 4, 5]
        assert 2 not in [number for number, _ in opened]
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (2, ["client-2"]), "as it was recorded"
        assert all(client.steps == ROUNDS * STEPS for client in result.report.clients)

    def kill_after_agreeing(self, federation, tmp_path, monkeypatch):
        """All have agreed to the sum of round 2, or answered for it; nobody has opened it."""

        def die(*arguments):
            raise Killed

        class Arm(Callback):
            def on_round(self, record):
                if record.round == 1:
                    for cipher in (SharedKeyCipher, RoundKeyCipher):
                        patched.setattr(cipher, "open", die)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            federation.run(tmp_path / "run", callbacks=[Arm()])

    def test_whoever_agreed_is_waited_for(self, federation, tmp_path, monkeypatch, opened):
        """The others' second sum would lack what the missing one sent: it is not even listed."""
        self.kill_after_agreeing(federation, tmp_path, monkeypatch)
        stays_away(monkeypatch, "client-1", {2}, when="encrypt")
        result = federation.run(tmp_path / "run", resume=True)
        rounds = [row.round for row in result.rounds]
        if federation.has_key_holder:
            assert rounds == [1, 2, 3, 4, 5], (
                "the key holder has the result: it completes the round"
            )
            assert opened[0] == (2, tuple(SIZES)) or opened[1] == (2, tuple(SIZES))
            return
        assert rounds == [1, 3, 4, 5]
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (2, ["client-1"])

    def test_leaving_ends_the_round_that_was_agreed_to(
        self, federation, tmp_path, monkeypatch, opened
    ):
        self.kill_after_agreeing(federation, tmp_path, monkeypatch)
        result = federation.run(tmp_path / "run", resume=True, without=["client-1"])
        assert [row.round for row in result.rounds] == [1, 3, 4, 5]
        assert all(row.clients == others("client-1") for row in result.rounds[1:])
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (2, ["client-1"])
        assert "agreed to before" in entry["reason"]
        assert 2 not in [number for number, _ in opened]

    def test_leaving_ends_the_round_that_was_committed(self, federation, tmp_path, monkeypatch):
        """Those numbers have the weights of all; and their ledgers do not grow for them again."""
        real, sums = Aggregator.total, []

        def die(self):
            sums.append(self)
            if len(sums) == 2:
                raise Killed
            return real(self)

        with monkeypatch.context() as patched:
            patched.setattr(Aggregator, "total", die)
            with pytest.raises(Killed):
                federation.run(tmp_path / "run")
        result = federation.run(tmp_path / "run", resume=True, without=["client-3"])
        assert [row.round for row in result.rounds] == [1, 3, 4, 5]
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (2, ["client-3"])
        assert "before clients were left out" in entry["reason"]

    def test_a_lost_client_costs_the_others_nothing(self, make_federation, tmp_path, monkeypatch):
        """Three of three are needed, and the crash lost the first one's round: nobody trains."""
        federation = make_federation(num_clients=3, rounds=4)
        real, trained = node.train_round, []

        def die(*arguments, **named):
            trained.append(1)
            if len(trained) == 4:  # round 2, client-0
                raise Killed
            return real(*arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(node, "train_round", die)
            with pytest.raises(Killed):
                federation.run(tmp_path / "run")
        result = federation.run(tmp_path / "run", resume=True)
        assert [row.round for row in result.rounds] == [1, 3, 4]
        (entry,) = run_record(tmp_path / "run")["abandoned"]
        assert (entry["round"], entry["missing"]) == (2, ["client-0"])
        assert {client.id: client.rounds for client in result.report.clients} == {
            "client-0": 4,
            "client-1": 3,
            "client-2": 3,
        }


class TestRefusedBeforeAnyBudgetIsSpent:
    @pytest.fixture(autouse=True)
    def _nothing_spent(self, tmp_path):
        yield
        for path in (tmp_path / "state").rglob("ledger*.sqlite3"):
            with sqlite3.connect(path) as connection:
                kinds = connection.execute("select kind from entries").fetchall()
            connection.close()
            assert kinds == [("open",)]

    def test_a_second_place_that_cannot_be_written(self, federation, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(LedgerError, match=r"file/anchors/.* must be readable, and is not"):
            replace(federation, anchor_folder=tmp_path / "file/anchors").run(tmp_path / "run")

    @pytest.mark.parametrize("place", ["state/anchors", "run/anchors"])
    def test_a_second_place_that_is_put_back_with_the_first(self, federation, tmp_path, place):
        with pytest.raises(ConfigError, match="must lie outside"):
            replace(federation, anchor_folder=tmp_path / place).run(tmp_path / "run")

    def test_leaving_out_at_the_start(self, federation, tmp_path):
        with pytest.raises(ConfigError, match="leave client-1 out of the configuration"):
            federation.run(tmp_path / "run", without=["client-1"])


def test_who_can_be_left_out(make_federation, tmp_path):
    class StopAfterOne(Callback):
        def on_round(self, record):
            raise Killed

    federation = make_federation(encryption=Plain())
    with pytest.raises(Killed):
        federation.run(tmp_path / "run", callbacks=[StopAfterOne()])
    with pytest.raises(ConfigError, match=r"client of the run, \['nobody'\] are not"):
        federation.run(tmp_path / "run", resume=True, without=["nobody"])
    with pytest.raises(ConfigError, match="at least 3 clients"):
        federation.run(tmp_path / "run", resume=True, without=["client-0", "client-1"])
    result = federation.run(tmp_path / "run", resume=True, without=["client-0", "client-0"])
    assert [row.clients for row in result.rounds[1:]] == [("client-1", "client-2", "client-3")] * 2
