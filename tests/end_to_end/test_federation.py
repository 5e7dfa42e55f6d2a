"""A whole federation on a small model: what it leaves, and what it refuses before spending."""

import json
import math
import re
import shutil
import sqlite3
from dataclasses import fields, replace

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from transformers import AutoTokenizer

from accountants import (
    AnchorFolder,
    BudgetExceededError,
    Ledger,
    LedgerForeignError,
    LedgerMissingError,
)
from privfed import (
    BFV,
    SGD,
    Budget,
    Callback,
    Client,
    FFALoRA,
    LoRA,
    PeftAdapter,
    Plain,
    Record,
    TrainingConfig,
)
from privfed.errors import (
    ConfigError,
    DataError,
    GateError,
    ModelError,
    RunFolderError,
    TooFewClientsError,
)
from privfed.parties.client import node
from privfed.reports.headlines import headline
from privfed.reports.round_record import RoundRecord
from privfed.settings.encryption import Custody
from privfed.storage.checkpoint import load_latest
from privfed.storage.state_folder import default_anchor_folder
from privfed.verification import verify_and_render as verify_with_anchors
from tests.organisations import ORGANISATIONS, with_share


def verify_and_render(folder):
    """What `privfed report` does on the machine where the ledgers lie."""
    report, notes = verify_with_anchors(folder, AnchorFolder(default_anchor_folder()))
    assert notes == []
    return report


def independent_epsilon(export, delta):
    """Epsilon of an export's releases by dp-accounting, without this project's accountant."""
    accountant = PLDAccountant()
    committed = {
        entry["body"]["reservation"]: entry["body"]["ran"]
        for entry in export["entries"]
        if entry["kind"] == "commit"
    }
    for entry in export["entries"]:
        if entry["kind"] != "reserve":
            continue
        for event in committed.get(entry["seq"], entry["body"]["planned"]):
            step = dp_accounting.PoissonSampledDpEvent(
                event["sample_rate"], dp_accounting.GaussianDpEvent(event["noise_multiplier"])
            )
            accountant.compose(step, event["steps"])
    return accountant.get_epsilon(delta)


def test_a_run_leaves_what_it_promises(make_federation, tmp_path):
    federation = make_federation()
    result = federation.run(tmp_path / "run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["status"] == "complete"
    assert [row["round"] for row in run["rounds"]] == [1, 2, 3]
    for row in run["rounds"]:
        assert 0 <= row["accuracy"] <= 1
        assert row["bytes_up"] > 0
        assert row["bytes_down"] > 0
        assert row["seconds"] > 0
        assert len(row["clients"]) == 4
    wanted = {"id", "epsilon_spent", "epsilon_budget", "delta", "steps"}
    assert all(wanted | {"noise_multiplier", "sample_rate"} <= set(c) for c in report["clients"])
    assert all(client["steps"] == 3 * 2 for client in report["clients"])
    assert (tmp_path / "run/report.html").read_text().startswith("<!doctype html>")
    assert result.adapter == tmp_path / "run/adapter"
    assert report["encryption"]["custody"].startswith("shared_key")


def test_epsilon_equals_an_independent_computation(make_federation, tmp_path):
    result = make_federation().run(tmp_path / "run")
    for client, one in zip(result.report.clients, ORGANISATIONS, strict=False):
        export = json.loads((tmp_path / f"run/ledgers/{client.id}.json").read_text())
        assert client.epsilon_spent == pytest.approx(
            independent_epsilon(export, one.budget.delta), abs=1e-3
        )
        assert 0.99 * one.budget.epsilon <= client.epsilon_spent <= one.budget.epsilon
        assert (client.epsilon_budget, client.delta) == (one.budget.epsilon, one.budget.delta)
        assert client.public_size == one.public_size
        assert client.sample_rate == 20 / one.public_size
    assert len({client.noise_multiplier for client in result.report.clients}) == 4


def test_two_runs_on_one_data_set_report_the_composed_total(make_federation, tmp_path):
    federation = make_federation(rounds=1)
    former = with_share(federation, 0.25).run(tmp_path / "first").report.clients
    latter = federation.run(tmp_path / "second").report.clients
    for first, second in zip(former, latter, strict=True):
        assert second.epsilon_before == first.epsilon_spent
        assert second.epsilon_spent > first.epsilon_spent
        export = json.loads((tmp_path / f"second/ledgers/{second.id}.json").read_text())
        assert len(second.releases) == 2
        independent = independent_epsilon(export, second.delta)
        assert second.epsilon_spent == pytest.approx(independent, abs=1e-3)
    with pytest.raises(BudgetExceededError):
        federation.run(tmp_path / "third")


def test_the_adapter_loads_with_peft_and_predicts_as_reported(make_federation, tmp_path):
    import torch
    from peft import PeftModel

    federation = make_federation()
    result = federation.run(tmp_path / "run")
    task = federation.model
    model = PeftModel.from_pretrained(task.build(), result.adapter).eval()
    batch = task.collate(task.tokenizer(), federation.held_out)
    with torch.inference_mode():
        right, count = task.metric_parts(model, batch)
    assert right / count == pytest.approx(result.rounds[-1].value)


@pytest.mark.parametrize("custody", list(Custody))
def test_signal_to_noise_of_a_round_is_that_of_what_it_released(make_federation, tmp_path, custody):
    """From the two adapters around the last round; sigma C / B and both steps' rate make noise."""
    encryption = BFV(bits=6, custody=custody, public_range=0.25)
    federation = make_federation(rounds=2, encryption=encryption)
    result = federation.run(tmp_path / "run")
    folder = tmp_path / "run/checkpoints"
    states = [load_latest(folder, back).tensors["adapter"] for back in (1, 0)]
    sigmas = [client.noise_multiplier for client in result.report.clients]
    noise = math.hypot(*sigmas) / 4 * 0.75 / 20 * 0.5 * math.sqrt(2)
    moved = states[1].astype(np.float64) - states[0]
    expected = np.linalg.norm(moved) / (noise * math.sqrt(moved.size))
    found = [record.signal_to_noise for record in result.rounds]
    assert found[1] == pytest.approx(expected, rel=1e-3)
    assert found[0] != found[1]
    assert [record.signal_to_noise for record in result.report.rounds] == found
    kept = json.loads((tmp_path / "run/run.json").read_text())["rounds"]
    assert [row["signal_to_noise"] for row in kept] == found


def test_signal_to_noise_is_none_where_noise_is_not_known(make_federation, tmp_path):
    momentum = TrainingConfig(learning_rate=0.5, optimizer=SGD(momentum=0.5))
    result = make_federation(rounds=1, training=momentum).run(tmp_path / "run")
    assert [record.signal_to_noise for record in result.rounds] == [None]


def test_encrypted_and_plain_sums_give_the_same_run(make_federation, tmp_path, seeded_randomness):
    """At the same randomness, decryption returns exactly the plain sum of fixed-point integers."""
    states = {}
    for encryption in (BFV(), Plain()):
        name = type(encryption).__name__
        federation = make_federation(
            encryption=encryption, randomness=seeded_randomness(3), state_folder=tmp_path / name
        )
        federation.run(tmp_path / f"run-{name}")
        states[name] = load_latest(tmp_path / f"run-{name}/checkpoints").tensors["adapter"]
    assert np.array_equal(states["BFV"], states["Plain"])


def test_ffa_lora_never_moves_a(make_federation, tmp_path):
    from safetensors.numpy import load_file

    result = make_federation(method=FFALoRA()).run(tmp_path / "run")
    again = make_federation(method=FFALoRA(), rounds=1, state_folder=tmp_path / "other").run(
        tmp_path / "again"
    )
    first = load_file(result.adapter / "adapter_model.safetensors")
    second = load_file(again.adapter / "adapter_model.safetensors")
    factors = [name for name in first if "lora_A" in name]
    assert factors
    for name in factors:
        assert np.array_equal(first[name], second[name])
        gram = first[name] @ first[name].T
        assert np.allclose(gram, gram[0, 0] * np.eye(len(gram)), atol=1e-5)
    assert any(not np.array_equal(first[n], second[n]) for n in first if "lora_B" in n)


def test_a_public_seed_repeats_initial_weights_but_never_randomness(make_federation, tmp_path):
    runs = []
    for name in ("a", "b"):
        federation = make_federation(rounds=1, seed=7, state_folder=tmp_path / f"state-{name}")
        folder = tmp_path / name
        federation.run(folder)
        paths = sorted((folder / "checkpoints").iterdir())
        runs.append([load_latest_state(path) for path in paths])
    assert np.array_equal(runs[0][0], runs[1][0]), "initial weights are public"
    moves = [after - before for before, after in runs]
    assert abs(np.corrcoef(moves)[0, 1]) < 0.5, "noise and batches must differ"
    assert np.mean(moves[0] == moves[1]) < 0.1, "only the fixed-point grid is common"


def load_latest_state(path):
    from safetensors.numpy import load_file

    return load_file(path)["adapter"]


def test_seeded_randomness_is_reported_as_not_private(make_federation, tmp_path, seeded_randomness):
    result = make_federation(randomness=seeded_randomness(1), rounds=1).run(tmp_path / "run")
    assert result.report.headline.startswith("NOT PRIVATE")


def test_seeded_and_secret_runs_do_not_share_a_ledger(make_federation, tmp_path, seeded_randomness):
    class Stop(Callback):
        def on_round(self, record):
            raise Killed

    with pytest.raises(Killed):
        make_federation(randomness=seeded_randomness(1)).run(tmp_path / "run", callbacks=[Stop()])
    with pytest.raises(RunFolderError, match="secret_randomness"):
        make_federation().run(tmp_path / "run", resume=True)
    with pytest.raises(LedgerForeignError, match="seeded coins"):
        make_federation().run(tmp_path / "other")


def test_coins_that_only_claim_to_be_secret_are_not_believed(
    make_federation, tmp_path, seeded_randomness
):
    randomness = seeded_randomness(1)
    randomness.secret = True
    result = make_federation(randomness=randomness, rounds=1).run(tmp_path / "run")
    assert result.report.headline.startswith("NOT PRIVATE")


def test_what_is_wrong_with_records_stays_in_the_clients_own_log(make_federation, tmp_path):
    federation = make_federation()
    odd = Client(id="odd", records=(Record("patient Smith", 7),) * 30, public_size=30, dataset="d")
    log = tmp_path / "state/clients/odd/d/client.log"
    with pytest.raises(DataError, match=f"client 'odd' .* own log, {log}") as caught:
        replace(federation, clients=[*federation.clients, odd]).run(tmp_path / "run")
    assert "label" not in str(caught.value)
    assert "every label" in log.read_text()


def test_markers_that_the_model_does_not_embed_are_found_before_anything_is_reserved(
    make_federation, bert_folder, tmp_path, monkeypatch
):
    """Every client failed after reserving: 5.93 of 8 was spent for nothing."""
    folder = shutil.copytree(bert_folder, tmp_path / "marked")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    markers = [f"<|{number}|>" for number in range(30)]
    tokenizer.add_special_tokens({"additional_special_tokens": markers})
    tokenizer.save_pretrained(folder)
    federation = make_federation()
    clients = [
        replace(
            client,
            records=tuple(Record(f"<|29|> {r.text}", r.label) for r in client.records),
        )
        for client in federation.clients
    ]
    reserved = []
    monkeypatch.setattr(Ledger, "reserve", lambda *arguments: reserved.append(arguments))
    task = replace(federation.model, base=folder)
    with pytest.raises(DataError, match="client 'client-0' cannot be prepared"):
        replace(federation, model=task, clients=clients).run(tmp_path / "run")
    assert reserved == []
    public = [federation.held_out[0], Record("<|29|> river", 1)]
    with pytest.raises(DataError, match=r"held-out .* record 1, which holds token \d+"):
        replace(federation, model=task, held_out=public).run(tmp_path / "other")
    log = (tmp_path / "state/clients/client-0/topics/client.log").read_text()
    assert "none of the 37 records can be used" in log
    assert "and the model embeds 64" in log


def test_a_record_that_cannot_be_used_is_left_out_and_counted_locally(
    make_federation, tmp_path, capfd
):
    federation = make_federation(rounds=1)
    first, *others = federation.clients
    marked = replace(
        first, records=(*first.records[:7], Record("patient Smith", 7), *first.records[7:])
    )
    result = replace(federation, clients=[marked, *others]).run(tmp_path / "run")
    assert result.rounds[0].absent == ()
    log = (tmp_path / "state/clients/client-0/topics/client.log").read_text()
    assert "record 7 cannot be encoded" in log
    assert "1 of 38 records are left out" in log
    shown = "".join(capfd.readouterr())
    for path in (tmp_path / "run").rglob("*.*"):
        shown += path.read_text(errors="replace")
    assert "left out" not in shown
    assert "patient Smith" not in shown


def test_nothing_private_is_written_to_the_run_folder(make_federation, tmp_path):
    federation = make_federation()
    federation.run(tmp_path / "run")
    texts = [record.text for client in federation.clients for record in client.records]
    content = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert not [text for text in texts if text.encode() in content]


def test_a_delta_that_allows_one_disclosed_record_warns(make_federation, tmp_path):
    """Each client's own delta against its own public size: 1 / 38 lies above 0.025, 1 / 41 not."""
    federation = make_federation(rounds=1)
    budgets = [Budget(epsilon=4.0 + n, delta=0.025) for n in range(2)] + [None, None]
    clients = [replace(c, budget=b) for c, b in zip(federation.clients, budgets, strict=True)]
    with pytest.warns(UserWarning, match="one whole record"):
        result = replace(federation, clients=clients).run(tmp_path / "run")
    (warning,) = result.report.warnings
    assert warning.startswith("delta = 0.025 of client 'client-0' is not below 1 / public size")
    deltas = [client.delta for client in result.report.clients]
    assert deltas == [0.025, 0.025, *2 * [federation.privacy.budget.delta]]


class TestAClientThatFails:
    def test_it_drops_out_and_the_others_go_on(self, make_federation, tmp_path, monkeypatch):
        self._fail(monkeypatch, {"client-2"})
        result = make_federation().run(tmp_path / "run")
        assert all(row.absent == ("client-2",) for row in result.rounds)
        html = (tmp_path / "run/report.html").read_text()
        assert "client-2" in html
        everything = "".join(
            path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*.*")
        )
        assert "secret cause" not in everything
        log = next((tmp_path / "state/clients/client-2").rglob("client.log"))
        assert "secret cause" in log.read_text()
        lost = next(c for c in result.report.clients if c.id == "client-2")
        assert lost.unresolved == 3
        assert lost.steps == 3 * 2
        own = ORGANISATIONS[2].budget.epsilon
        assert 0.99 * own <= lost.epsilon_spent <= own, "as if it had sent everything"

    def test_too_few_clients_stop_the_run(self, make_federation, tmp_path, monkeypatch):
        self._fail(monkeypatch, {"client-1", "client-2"})
        with pytest.raises(TooFewClientsError, match="2 contribution"):
            make_federation().run(tmp_path / "run")
        stopped = json.loads((tmp_path / "run/report.json").read_text())
        assert stopped["status"].startswith("stopped before round 2: round 1 has 2 contribution")
        assert all(client["epsilon_spent"] > 1 for client in stopped["clients"])
        monkeypatch.undo()
        result = make_federation().run(tmp_path / "run", resume=True)
        assert [row.round for row in result.rounds] == [2, 3]
        assert any(
            "Round 1 was abandoned: too few clients sent an update (missing: client-1, client-2)."
            in warning
            for warning in result.report.warnings
        )

    def test_resuming_is_advised_only_where_it_can_help(
        self, make_federation, tmp_path, monkeypatch
    ):
        """Followed again and again, the advice would cost the others their whole budget."""
        self._fail(monkeypatch, {"client-1", "client-2"})
        with pytest.raises(TooFewClientsError, match="`--resume` goes on with the next round"):
            make_federation().run(tmp_path / "run")
        with pytest.raises(TooFewClientsError, match="did not help before") as caught:
            make_federation().run(tmp_path / "run", resume=True)
        assert "`--resume`" not in str(caught.value)
        with pytest.raises(TooFewClientsError, match="No round was completed and none is left"):
            make_federation().run(tmp_path / "run", resume=True)

    @staticmethod
    def _fail(monkeypatch, failing):
        real = node.ClientNode.update

        def update(self, plan, state, start):
            if self.id in failing:
                raise RuntimeError("secret cause")
            return real(self, plan, state, start)

        monkeypatch.setattr(node.ClientNode, "update", update)


def test_two_runs_that_spend_one_budget_at_once(make_federation, tmp_path):
    """Both were planned before either spent; the one that is late is told that nothing is left."""

    class Other(Callback):
        def on_start(self, *arguments):
            make_federation().run(tmp_path / "other")

    with pytest.raises(TooFewClientsError, match="0 contribution") as caught:
        make_federation(rounds=2).run(tmp_path / "run", callbacks=[Other()])
    assert "The budget of ['client-0', 'client-1', 'client-2', 'client-3'] is used up" in str(
        caught.value
    )
    assert "resume" not in str(caught.value), "which could not help"


@pytest.mark.parametrize("custody", list(Custody))
class TestADivergedModel:
    """An update that is not finite is not sent: the client drops out, and its round is counted."""

    @pytest.fixture
    def sent(self, monkeypatch):
        from privfed.parties.aggregator.collecting import Aggregator
        from privfed.protocol.envelopes import Envelope

        messages = []
        real = Aggregator.receive

        def receive(self, message):
            statement = Envelope.from_bytes(message).statement
            messages.append((statement.sender, statement.round))
            real(self, message)

        monkeypatch.setattr(Aggregator, "receive", receive)
        return messages

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_one_client(self, make_federation, tmp_path, monkeypatch, sent, custody, value):
        real = node.ClientNode.update

        def update(self, plan, state, start):
            vector = real(self, plan, state, start)
            if (self.id, plan.round) == ("client-1", 2):
                vector[-1] = value
            return vector

        monkeypatch.setattr(node.ClientNode, "update", update)
        federation = make_federation(encryption=BFV(custody=custody))
        result = federation.run(tmp_path / "run")
        assert [row.absent for row in result.rounds] == [(), ("client-1",), ()]
        assert ("client-1", 2) not in sent
        assert len(sent) == 11
        counted = {client.id: client for client in result.report.clients}
        assert (counted["client-1"].unresolved, counted["client-1"].steps) == (1, 3 * 2)
        log = next((tmp_path / "state/clients/client-1").rglob("client.log")).read_text()
        assert "must be finite" in log
        for path in (tmp_path / "run").rglob("*.*"):
            assert "must be finite" not in path.read_text(errors="replace"), path
        assert np.isfinite(load_latest(tmp_path / "run/checkpoints").tensors["adapter"]).all()

    def test_every_client(self, make_federation, tmp_path, sent, custody):
        """A learning rate that overflows: nobody sends anything, and the global state stays."""
        training = TrainingConfig(learning_rate=1.0)
        object.__setattr__(training, "learning_rate", 1e300)  # which the settings would refuse
        federation = make_federation(encryption=BFV(custody=custody), training=training)
        with pytest.raises(TooFewClientsError, match="0 contribution"):
            federation.run(tmp_path / "run")
        assert sent == []
        assert all(not committed(tmp_path / "state", f"client-{n}") for n in range(4))
        assert np.isfinite(load_latest(tmp_path / "run/checkpoints").tensors["adapter"]).all()


class TestThePublicRange:
    @pytest.fixture
    def messages(self, monkeypatch):
        from privfed.parties.aggregator.collecting import Aggregator
        from privfed.protocol.envelopes import Envelope

        seen = []
        real = Aggregator.receive

        def receive(self, message):
            seen.append(Envelope.from_bytes(message).statement)
            real(self, message)

        monkeypatch.setattr(Aggregator, "receive", receive)
        return seen

    def ranges(self, messages):
        """The range of each round, on which all messages of the round agree."""
        found = {}
        for statement in messages:
            found.setdefault(statement.round, set()).add(statement.manifest["public_range"])
        assert all(len(values) == 1 for values in found.values())
        return [values.pop() for values in found.values()]

    def test_it_follows_what_was_released_and_never_grows_beyond_the_first(
        self, make_federation, tmp_path, messages, seeded_randomness
    ):
        states = [read_state(tmp_path / "run")]

        class Follow(Callback):
            def on_start(self, *arguments):
                states[0] = read_state(tmp_path / "run")

            def on_round(self, record):
                states.append(read_state(tmp_path / "run"))

        federation = make_federation(
            encryption=BFV(follow_released=True), randomness=seeded_randomness(1)
        )
        result = federation.run(tmp_path / "run", callbacks=[Follow()])
        ranges = self.ranges(messages)
        record = load_latest(tmp_path / "run/checkpoints").record
        assert ranges[0] == record["first_range"]
        assert ranges[1] < 0.9 * ranges[0]
        sigmas = np.array([client.noise_multiplier for client in result.report.clients])
        loudest = 4 * sigmas.max() / np.linalg.norm(sigmas)
        assert loudest > 2.05, "of four clients whose noise differs"
        assert all(value <= ranges[0] for value in ranges)
        for before, after, used in zip(states, states[1:], ranges[1:], strict=False):
            mean = after.astype(np.float64) - before.astype(np.float64)
            spread = 6 * np.sqrt(np.mean(mean**2))
            from_released = loudest * max(1.5 * np.abs(mean).max(), spread)
            rounded = math.ldexp(1, math.frexp(used)[1] - 12)  # up to 12 significant bits
            wanted = min(ranges[0], from_released)
            assert wanted * (1 - 1e-4) <= used <= wanted * (1 + 1e-4) + rounded
            assert used == ranges[0] or used % rounded == 0
        assert result.report.encryption.follow_released

    def test_a_first_range_that_is_narrow_stays_the_widest(
        self, make_federation, tmp_path, messages
    ):
        """Every update saturates, so what is released would ask for more."""
        encryption = BFV(public_range=1e-3, follow_released=True)
        with pytest.warns(UserWarning, match="cuts off a part of what clients send"):
            make_federation(encryption=encryption).run(tmp_path / "run")
        assert self.ranges(messages) == [1e-3, 1e-3, 1e-3]

    def test_by_default_it_stays(self, make_federation, tmp_path, messages):
        result = make_federation().run(tmp_path / "run")
        assert len(set(self.ranges(messages))) == 1
        assert not result.report.encryption.follow_released

    def test_a_resume_goes_on_with_the_range_of_its_round(
        self, make_federation, tmp_path, messages, monkeypatch
    ):
        """Committed numbers belong to one range; the next attempt must use the same."""
        from privfed.storage.run_folder import RunFolder

        real = RunFolder.save

        def save(self, checkpoint):
            if checkpoint.round == 2:
                raise Killed
            real(self, checkpoint)

        federation = make_federation(encryption=BFV(follow_released=True))
        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, "save", save)
            with pytest.raises(Killed):
                federation.run(tmp_path / "run")
        federation.run(tmp_path / "run", resume=True)
        first, second, _ = self.ranges(messages)
        assert second < first
        assert sum(statement.round == 2 for statement in messages) == 8

    @pytest.mark.parametrize("custody", list(Custody))
    def test_how_much_was_clipped_is_nowhere(
        self, make_federation, tmp_path, messages, seeded_randomness, custody
    ):
        """One run in which every value saturates, and one in which none does, say the same."""
        keys = {}
        for name, public_range in {"all": 1e-6, "none": 1e3}.items():
            messages.clear()
            federation = make_federation(
                encryption=BFV(public_range=public_range, custody=custody),
                rounds=2,
                randomness=seeded_randomness(1),
                state_folder=tmp_path / f"state-{name}",
            )
            with pytest.warns(UserWarning, match="the public range"):  # as the mean shows
                federation.run(tmp_path / name)
            numbers = np.frombuffer(
                committed(tmp_path / f"state-{name}", "client-0")[0], dtype="<i2", offset=40
            )
            assert (np.mean(np.abs(numbers) == 2047) > 0.9) == (name == "all")
            run = json.loads((tmp_path / name / "run.json").read_text())
            report = json.loads((tmp_path / name / "report.json").read_text())
            files = sorted(
                str(path.relative_to(tmp_path / name))
                for path in (tmp_path / name).rglob("*")
                if path.is_file()
            )
            manifests = [dict(statement.manifest) for statement in messages]
            keys[name] = (all_keys(run), all_keys(report), all_keys(manifests), files)
            row = {field.name for field in fields(RoundRecord)} - {"metric", "value"}
            assert all(set(record) == row | {"accuracy"} for record in run["rounds"])
            for path in (tmp_path / name).rglob("*"):
                if path.is_file():
                    assert b"saturat" not in path.read_bytes().lower(), path
            logs = [p.read_text() for p in (tmp_path / f"state-{name}").rglob("*.log")]
            assert not any(logs)
        assert keys["all"] == keys["none"]
        expected = {
            "agreement",
            "base",
            "encryption",
            "ledger",
            "left_out",
            "public_range",
        }
        for statement in messages:
            assert set(statement.manifest) == expected | {"roster", "key_id", "software"}


def read_state(folder):
    checkpoint = load_latest(folder / "checkpoints")
    return None if checkpoint is None else checkpoint.tensors["adapter"]


def all_keys(value, path=""):
    """Every path of keys in nested JSON values; list items share one."""
    if isinstance(value, dict):
        inner = [all_keys(item, f"{path}/{key}") for key, item in value.items()]
        return set().union(*inner, {f"{path}/{key}" for key in value})
    if isinstance(value, list):
        return set().union(*(all_keys(item, f"{path}[]") for item in value))
    return set()


class TestRefusedBeforeAnyBudgetIsSpent:
    @pytest.fixture(autouse=True)
    def _nothing_spent(self, tmp_path):
        yield
        for path in (tmp_path / "state").rglob("ledger-2.sqlite3"):
            with sqlite3.connect(path) as connection:
                kinds = connection.execute("select kind from entries").fetchall()
            connection.close()
            assert kinds == [("open",)]

    def test_a_public_size_below_the_expected_batch(self, make_federation, tmp_path):
        federation = make_federation()
        small = replace(federation.clients[0], public_size=19)
        with pytest.raises(ConfigError, match=r"public size 19 .* lower expected_batch_size"):
            replace(federation, clients=[small, *federation.clients[1:]]).run(tmp_path / "run")

    def test_an_empty_client(self):
        with pytest.raises(DataError, match="holds no records"):
            Client(id="a", records=(), public_size=10, dataset="d")

    def test_an_adapter_without_exact_gradients(self, make_federation, llama_folder, tmp_path):
        from peft import LoraConfig

        from privfed import CausalLanguageModel

        config = LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
        federation = make_federation(
            model=CausalLanguageModel(base=llama_folder, max_length=16),
            adapter=PeftAdapter(config=config),
        )
        with pytest.raises(GateError, match=r"lora_embedding_A.*outside of any layer"):
            federation.run(tmp_path / "run")

    def test_a_budget_too_small_for_one_round(self, make_federation, tmp_path):
        """Of one client; the others' would do."""
        federation = make_federation()
        first, second, *others = federation.clients
        poor = replace(second, budget=Budget(epsilon=1e-7, delta=1e-6))
        with pytest.raises(BudgetExceededError, match="larger budget"):
            replace(federation, clients=[first, poor, *others]).run(tmp_path / "run")

    @pytest.mark.parametrize(
        ("epsilon", "delta"), [(0, 1e-5), (float("nan"), 1e-5), (1, 0), (1, 1)]
    )
    def test_a_budget_out_of_range(self, epsilon, delta):
        with pytest.raises(ValueError, match=r"epsilon|delta"):
            Budget(epsilon=epsilon, delta=delta)

    def test_an_output_folder_that_is_not_empty(self, make_federation, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/notes.txt").write_text("mine")
        with pytest.raises(RunFolderError, match="not empty"):
            make_federation().run(tmp_path / "run")

    def test_two_clients(self, make_federation, tmp_path):
        with pytest.raises(ConfigError, match="fewer than min_clients"):
            make_federation(num_clients=2).run(tmp_path / "run")
        with pytest.raises(ConfigError, match="at least 3"):
            make_federation(min_clients=2).run(tmp_path / "run")

    def test_nan_in_the_base_model(self, make_federation, bert_folder, tmp_path):
        import shutil

        from safetensors.numpy import load_file, save_file

        broken = tmp_path / "broken"
        shutil.copytree(bert_folder, broken)
        weights = load_file(broken / "model.safetensors")
        name = next(n for n in weights if n.endswith("query.weight"))
        weights[name][0, 0] = np.nan
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
        federation = make_federation()

        with pytest.raises(ModelError, match=r"query\.weight"):
            replace(federation, model=replace(federation.model, base=str(broken))).run(
                tmp_path / "run"
            )

    def test_an_unknown_model(self, make_federation, tmp_path):

        federation = make_federation()
        unknown = replace(federation.model, base="nobody/no-such-model")
        with pytest.raises(ModelError, match="no-such-model"):
            replace(federation, model=unknown).run(tmp_path / "run")

    def test_an_adapter_that_fits_nothing(self, make_federation, tmp_path):

        adapter = LoRA(rank=2, target_modules=("no_such_layer",))
        with pytest.raises(ModelError, match="no_such_layer"):
            make_federation(adapter=adapter).run(tmp_path / "run")

    def test_a_ledger_of_another_unit(self, make_federation, tmp_path):
        federation = make_federation()
        from accountants import Ledger
        from privfed.storage.state_folder import ledger_path

        path = ledger_path(tmp_path / "state", "client-0", "topics")
        Ledger.create(
            path,
            client="client-0",
            dataset="topics",
            unit="one person",
            neighbouring=federation.privacy.neighbouring,
        )
        with pytest.raises(LedgerForeignError, match="unit .* 'one person', and not"):
            federation.run(tmp_path / "run")


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


def committed(state, client):
    """What a ledger keeps of the last committed round: salt, length and numbers to be sent."""
    (path,) = state.glob(f"clients/{client}/*/ledger-2.sqlite3")
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("select payload from outbox")]
    finally:
        connection.close()


class TestResume:
    def test_it_goes_on_after_the_last_complete_round(self, make_federation, tmp_path):
        class StopAfterOne(Callback):
            def on_round(self, record):
                raise Killed

        federation = make_federation()
        with pytest.raises(Killed):
            federation.run(tmp_path / "run", callbacks=[StopAfterOne()])
        result = federation.run(tmp_path / "run", resume=True)
        assert [row.round for row in result.rounds] == [1, 2, 3]
        assert all(client.unresolved == 0 for client in result.report.clients)
        assert all(client.steps == 3 * 2 for client in result.report.clients)

    def test_committed_numbers_are_encrypted_afresh_and_the_sum_is_the_same(
        self, make_federation, tmp_path, monkeypatch
    ):
        from privfed.custody.shared_key import SharedKeyCipher
        from privfed.protocol.envelopes import Envelope

        sent, sums = [], []
        real, real_open = node.ClientNode.encrypt, SharedKeyCipher.open

        def encrypt(self, *arguments):
            sent.append(real(self, *arguments))
            if len(sent) == 3:
                raise Killed
            return sent[-1]

        def opened(self, terms, message):
            sums.append(real_open(self, terms, message))
            return sums[-1]

        monkeypatch.setattr(node.ClientNode, "encrypt", encrypt)
        monkeypatch.setattr(SharedKeyCipher, "open", opened)
        federation = make_federation(rounds=1)
        with pytest.raises(Killed):
            federation.run(tmp_path / "run")
        names = [f"client-{index}" for index in range(4)]
        first = {name: committed(tmp_path / "state", name) for name in names}
        assert {name for name in names if first[name]} == {"client-0", "client-1", "client-2"}
        result = federation.run(tmp_path / "run", resume=True)
        assert len(sent) == 7
        assert all((client.rounds, client.steps) == (1, 2) for client in result.report.clients)

        last = {name: committed(tmp_path / "state", name) for name in names}
        assert all(first[name] in ([], last[name]) for name in names), "numbers are kept to the bit"
        numbers = [np.frombuffer(last[name][0], dtype="<i2", offset=40) for name in names]
        (opened_sum,) = sums
        assert opened_sum.contributors == tuple(names)
        assert np.array_equal(opened_sum.values, np.sum(numbers, axis=0, dtype=np.int64))
        assert all(np.abs(one).max() > 0 for one in numbers)

        salts = {last[name][0][:32] for name in names}
        assert len(salts) == 4, "a digest of what is committed stands in the ledger's export"
        envelopes = [Envelope.from_bytes(message) for message in sent]
        for blob in ("ciphertexts", "seeds"):
            assert len({bytes(envelope.blobs[blob]) for envelope in envelopes}) == 7, blob
        keys = [envelope.statement.manifest["key_id"] for envelope in envelopes]
        assert len(set(keys[:3])) == len(set(keys[3:])) == 1
        assert keys[0] != keys[3], "a key does not outlive its process"

    def test_an_uncommitted_update_is_counted_and_lost(
        self, make_federation, tmp_path, monkeypatch
    ):
        real = node.ClientNode.update

        def update(self, plan, state, start):
            if self.id == "client-1" and plan.round == 2:
                raise Killed
            return real(self, plan, state, start)

        monkeypatch.setattr(node.ClientNode, "update", update)
        federation = make_federation()
        with pytest.raises(Killed):
            federation.run(tmp_path / "run")
        monkeypatch.undo()
        result = federation.run(tmp_path / "run", resume=True)
        assert [row.absent for row in result.rounds] == [(), ("client-1",), ()]
        counted = {client.id: client for client in result.report.clients}
        assert counted["client-1"].unresolved == 1
        assert (counted["client-1"].rounds, counted["client-1"].steps) == (3, 3 * 2)

    def test_a_missing_or_shorter_ledger_is_refused(self, make_federation, tmp_path):
        import shutil

        from accountants import LedgerRolledBackError

        class StopAfter(Callback):
            def on_round(self, record):
                if record.round == 1:
                    shutil.copytree(tmp_path / "state", tmp_path / "old")
                if record.round == 2:
                    raise Killed

        federation = make_federation()
        with pytest.raises(Killed):
            federation.run(tmp_path / "run", callbacks=[StopAfter()])
        shutil.rmtree(tmp_path / "state/clients")
        shutil.copytree(tmp_path / "old/clients", tmp_path / "state/clients")
        with pytest.raises(LedgerRolledBackError):
            federation.run(tmp_path / "run", resume=True)
        shutil.rmtree(tmp_path / "state/clients/client-3")
        with pytest.raises((LedgerMissingError, LedgerRolledBackError)):
            federation.run(tmp_path / "run", resume=True)

    def test_other_settings_are_refused(self, make_federation, tmp_path):
        make_federation(rounds=1).run(tmp_path / "run")
        with pytest.raises(RunFolderError, match="rounds"):
            make_federation(rounds=2).run(tmp_path / "run", resume=True)

    def test_a_second_process_is_refused(self, make_federation, tmp_path):
        class Second(Callback):
            def on_round(self, record):
                with pytest.raises(RunFolderError, match="another process"):
                    make_federation().run(tmp_path / "run", resume=True)

        result = make_federation().run(tmp_path / "run", callbacks=[Second()])
        assert len(result.rounds) == 3

    def test_a_folder_without_a_run_is_refused(self, make_federation, tmp_path):
        with pytest.raises(RunFolderError, match="no run to resume"):
            make_federation().run(tmp_path / "nothing", resume=True)


class TestReportCommand:
    def test_it_recomputes_and_accepts(self, make_federation, tmp_path):
        make_federation(rounds=1).run(tmp_path / "run")
        (tmp_path / "run/report.html").unlink()
        verify_and_render(tmp_path / "run")
        assert (tmp_path / "run/report.html").is_file()

    def test_a_lowered_epsilon_is_refused(self, make_federation, tmp_path):
        from privfed.errors import ReportError

        make_federation(rounds=1).run(tmp_path / "run")
        path = tmp_path / "run/report.json"
        text = path.read_text()
        spent = json.loads(text)["clients"][1]["epsilon_spent"]
        path.write_text(text.replace(repr(spent), repr(spent - 5e-4)))
        with pytest.raises(ReportError, match="ledger gives"):
            verify_and_render(tmp_path / "run")
        path.write_text(text.replace(repr(spent), repr(spent - 0.5)))
        with pytest.raises(ReportError, match="lower bound <= epsilon spent"):
            verify_and_render(tmp_path / "run")

    def test_a_changed_lower_bound_is_refused(self, make_federation, tmp_path):
        from privfed.errors import ReportError

        make_federation(rounds=1).run(tmp_path / "run")
        path = tmp_path / "run/report.json"
        values = json.loads(path.read_text())
        client = values["clients"][1]
        assert 0.999 * client["epsilon_spent"] < client["epsilon_lower"] < client["epsilon_spent"]
        client["epsilon_lower"] -= 0.5
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError, match="epsilon_lower"):
            verify_and_render(tmp_path / "run")

    @pytest.mark.parametrize("field", ["noise_multiplier", "sample_rate", "steps", "unresolved"])
    def test_an_edited_setting_is_refused(self, make_federation, tmp_path, field):
        from privfed.errors import ReportError

        make_federation(rounds=1).run(tmp_path / "run")
        path = tmp_path / "run/report.json"
        values = json.loads(path.read_text())
        values["clients"][1][field] = 9 if field != "sample_rate" else 0.001
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError, match="client-1"):
            verify_and_render(tmp_path / "run")

    def test_an_edited_headline_or_round_is_refused(self, make_federation, tmp_path):
        from privfed.errors import ReportError

        make_federation(rounds=1).run(tmp_path / "run")
        path = tmp_path / "run/report.json"
        whole = path.read_text()
        assert "epsilon is at most 5.99" in json.loads(whole)["headline"], "the largest budget"
        path.write_text(whole.replace("epsilon is at most 5.99", "epsilon is at most 0.599"))
        with pytest.raises(ReportError, match="headline"):
            verify_and_render(tmp_path / "run")
        values = json.loads(whole)
        values["rounds"][0]["epsilon"]["client-2"] = 0.001
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError, match="per round"):
            verify_and_render(tmp_path / "run")

    def test_a_headline_that_hides_repeatable_coins_is_refused(
        self, make_federation, seeded_randomness, tmp_path
    ):
        from privfed.errors import ReportError

        make_federation(rounds=1, randomness=seeded_randomness()).run(tmp_path / "run")
        path = tmp_path / "run/report.json"
        values = json.loads(path.read_text())
        assert values["headline"].startswith("NOT PRIVATE")
        values["headline"] = headline(
            epsilon=values["guarantee"]["epsilon"],
            delta=values["guarantee"]["delta"],
            private=True,
            status="complete",
            over=1,
            planned=1,
        )
        for secret in (False, True):
            values["randomness"]["secret"] = secret
            path.write_text(json.dumps(values))
            with pytest.raises(ReportError, match="headline"):
                verify_and_render(tmp_path / "run")

    def test_a_missing_field_is_refused(self, make_federation, tmp_path):
        from privfed.errors import ReportError

        make_federation(rounds=1).run(tmp_path / "run")
        path = tmp_path / "run/report.json"
        whole = path.read_text()
        for field in ("views", "not_covered", "headline"):
            values = json.loads(whole)
            del values[field]
            path.write_text(json.dumps(values))
            with pytest.raises(ReportError, match=field):
                verify_and_render(tmp_path / "run")
            values[field] = None
            path.write_text(json.dumps(values))
            with pytest.raises(ReportError):
                verify_and_render(tmp_path / "run")

    def test_the_page_loads_nothing_from_outside(self, make_federation, tmp_path):
        make_federation(rounds=1).run(tmp_path / "run")
        html = (tmp_path / "run/report.html").read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
        assert "@import" not in html


class TestTheStartFile:
    """Where training starts is a public file in the run folder."""

    @pytest.fixture
    def stopped(self, make_federation, tmp_path):
        """A run that was killed after its first round."""

        class Stop(Callback):
            def on_round(self, record):
                raise Killed

        with pytest.raises(Killed):
            make_federation(rounds=2).run(tmp_path / "run", callbacks=[Stop()])
        return make_federation(rounds=2)

    @pytest.mark.parametrize("left", ["changed", "missing"])
    def test_a_resume_needs_the_one_that_the_run_began_with(self, stopped, tmp_path, left):
        start = tmp_path / "run/start.safetensors"
        if left == "changed":
            content = bytearray(start.read_bytes())
            content[-1] ^= 1
            start.write_bytes(content)
        else:
            start.unlink()
        ledgers = {p: p.read_bytes() for p in tmp_path.rglob("ledger-2.sqlite3")}
        with pytest.raises((RunFolderError, ModelError), match=r"start\.safetensors"):
            stopped.run(tmp_path / "run", resume=True)
        assert {p: p.read_bytes() for p in tmp_path.rglob("ledger-2.sqlite3")} == ledgers

    def test_another_run_may_start_from_it_whatever_its_seed(self, make_federation, tmp_path):
        first = make_federation(rounds=1)
        first.run(tmp_path / "first")
        start = tmp_path / "first/start.safetensors"
        for name, given in (("alike", start), ("other", None)):
            federation = make_federation(
                rounds=1, seed=9, start=given, state_folder=tmp_path / name / "state"
            )
            federation.run(tmp_path / name / "run")
            same = (tmp_path / name / "run/start.safetensors").read_bytes() == start.read_bytes()
            assert same is (name == "alike")
