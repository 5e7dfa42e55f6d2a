"""Clients on base models of other width, depth and tokenizer, which share one small adapter."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from accountants import AnchorFolder
from privfed import (
    Callback,
    Classification,
    Computation,
    FedAvg,
    FFALoRA,
    Houlsby,
    InPlace,
    LocalHead,
    LoRA,
    Plain,
    Record,
    load_adapter,
)
from privfed.data.packaged import minilm_folder
from privfed.engines import play, stacked
from privfed.engines.simulation import Simulation
from privfed.errors import AwayError, ConfigError, ModelError, ReportError
from privfed.models.vector import base_digest, read_vector
from privfed.parties.client.round import Transition
from privfed.reports.budget import BudgetReport
from privfed.reports.run_record import RunRecord
from privfed.storage.checkpoint import load_latest
from privfed.storage.run_folder import RunFolder
from privfed.verification import verify_and_render
from tests.unit.privfed.engines.machines.beside import NAMES, Beside, begun

ANCHORS = (
    *("goal match team", "bank share profit", "film actor stage", "river stone", "coach score"),
    *("trade price", "music album", "winter garden market", "letter paper answer"),
)
LABEL_TEXTS = ("goal team", "bank price", "film scene")
SMALL = ("client-1", "client-3")


@pytest.fixture
def on_bases(make_federation, bert_folder, other_bert_folder, tmp_path):
    """A function that makes a federation of which two of four clients hold another base."""

    def make(*, small=SMALL, **changes):
        federation = make_federation(anchor_folder=tmp_path / "anchors")
        clients = [
            replace(client, base="small" if client.id in small else None)
            for client in federation.clients
        ]
        settings = {
            "model": Classification(
                base=bert_folder,
                labels=("sport", "money", "culture"),
                max_length=16,
                logit_scale=4.0,
                label_texts=LABEL_TEXTS,
                anchor_texts=ANCHORS,
            ),
            "bases": {"small": other_bert_folder},
            "clients": clients,
            "adapter": LoRA(rank=2, target_modules=("relative",)),
            "rounds": 2,
        }
        return replace(federation, **{**settings, **changes})

    return make


@pytest.fixture
def prepared(tmp_path):
    """A function that prepares a run, which has not begun."""
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    yield lambda made: Simulation.prepared(made, made.clients, folder, None, ())
    folder.release()


@pytest.mark.parametrize("method", [FedAvg(), LocalHead(), FFALoRA()])
def test_a_whole_run_says_who_held_what(on_bases, tmp_path, method):
    federation = on_bases(method=method)
    out = tmp_path / "run"
    result = federation.run(out)
    report, _ = verify_and_render(out, AnchorFolder(federation.anchors))
    base = load_adapter(result.adapter)[0].base
    assert base == federation.model.base
    assert set(report.training.other_bases) == set(SMALL)
    digests = {report.base_sha256, *report.training.other_bases.values()}
    assert len(digests) == 2
    described = json.loads((result.adapter / "privfed.json").read_text())
    assert {described["base_sha256"], *described["other_bases"].values()} == digests
    record = json.loads((out / "run.json").read_text())
    assert record["other_bases"] == report.training.other_bases
    page = (out / "report.html").read_text()
    assert all(digest in page for digest in digests)
    assert "on its own base model" in report.training.held_out
    assert federation.bases["small"] not in (out / "report.json").read_text()


class TestTheAdapter:
    def test_it_loads_on_each_of_its_bases_and_is_the_same(
        self, on_bases, tmp_path, other_bert_folder, llama_folder, topic_records
    ):
        federation = on_bases()
        result = federation.run(tmp_path / "run")
        _, one = load_adapter(result.adapter)
        task, other = load_adapter(result.adapter, other_bert_folder)
        saved = [dict(model.named_parameters()) for model in (one, other)]
        behind = [name for name in saved[0] if "lora" in name or "modules_to_save" in name]
        assert len(behind) == 4
        assert all(saved[0][name].equal(saved[1][name]) for name in behind)
        assert saved[0].keys() != saved[1].keys()
        batch = task.collate(task.tokenizer(), topic_records(3, seed=5))
        assert task.losses(other, batch).shape == (3,)

    def test_it_is_refused_on_a_third(self, on_bases, tmp_path, folders):
        result = on_bases().run(tmp_path / "run")
        with pytest.raises(ModelError, match=r"weights have SHA-256 \w{64} or \w{64}; those of"):
            load_adapter(result.adapter, folders["roberta"])

    def test_where_nobody_holds_that_of_the_settings_it_is_saved_on_the_first_clients(
        self, on_bases, prepared, tmp_path, bert_folder
    ):
        """A new start is that of the settings' base, and nothing else is done with it."""
        everyone = [f"client-{n}" for n in range(4)]
        federation = on_bases(small=everyone, encryption=Plain(), rounds=1)
        assert set(prepared(federation).brought.models) == {"small"}
        result = federation.run(tmp_path / "whole")
        assert load_adapter(result.adapter)[0].base == federation.bases["small"]
        with pytest.raises(ModelError, match="those of"):
            load_adapter(result.adapter, bert_folder)

    def test_it_is_saved_on_the_base_of_the_first_of_those_who_stay(self, on_bases, tmp_path):
        federation = on_bases(small=("client-1", "client-3"), encryption=Plain())
        with pytest.raises(InterruptedError):
            federation.run(tmp_path / "run", callbacks=[StopAfterOne()])
        result = federation.run(tmp_path / "run", resume=True, without=["client-0"])
        assert load_adapter(result.adapter)[0].base == federation.bases["small"]


class TestWhatAllHoldAlike:
    def test_layout_start_and_adapter_but_not_the_base(self, on_bases, prepared):
        running = prepared(on_bases())
        running.begin([])
        running.aggregator.play_round()
        facts = {name: client.membership.facts for name, client in running.clients.items()}
        for name in ("layout", "num_params", "num_values", "start"):
            assert len({getattr(one, name) for one in facts.values()}) == 1
        for name in ("base_weights", "base_model", "tokenizer"):
            assert len({getattr(one, name) for one in facts.values()}) == 2
            assert getattr(facts["client-0"], name) == getattr(facts["client-2"], name)
            assert getattr(facts["client-1"], name) == getattr(facts["client-3"], name)
        states = {c.membership.progress.state.adapter.tobytes() for c in running.clients.values()}
        assert len(states) == 1
        assert len({id(node.model) for node in running.brought.nodes.values()}) == 2
        agreement = running.clients["client-2"].membership.starting.agreement
        assert set(agreement.other_bases) == set(SMALL)
        other = replace(agreement, other_bases={"client-1": agreement.other_bases["client-1"]})
        assert other.digest() != agreement.digest()

    def test_what_all_are_given_names_bases_and_no_place(self, on_bases, other_bert_folder):
        federation = on_bases()
        given = json.dumps(federation.proposal().to_json())
        assert '"base": "small"' in given
        assert other_bert_folder not in given
        assert federation.model.base not in given
        elsewhere = replace(federation, bases={"small": "another/place"})
        assert elsewhere.proposal().digest() == federation.proposal().digest()
        assert on_bases(small=("client-3",)).proposal().digest() != federation.proposal().digest()

    def test_models_begin_from_one_file(self, on_bases, prepared):
        """Label sentences give the head other numbers on another base: those of the first count."""
        brought = prepared(on_bases()).brought
        first, second = brought.models.values()
        assert np.array_equal(read_vector(first.adapter), read_vector(second.adapter))
        assert brought.initial.any()


class TestTheMetric:
    def test_each_client_evaluates_on_its_own_base(self, on_bases, prepared, monkeypatch):
        stated = {}
        genuine = Transition.after

        def noted(self, progress, number, sums, contributors):
            moved = genuine(self, progress, number, sums, contributors)
            stated[self.evaluate.keywords["base"]] = moved.metric_value
            return moved

        monkeypatch.setattr(Transition, "after", noted)
        running = prepared(on_bases())
        running.begin([])
        running.aggregator.play_round()
        adapter = running.clients["client-0"].membership.progress.state.adapter
        for base in (None, "small"):
            assert stated[base] == running.brought.evaluate(adapter, base)
        assert stated[None] != stated["small"], "a seed with which the figures differ"
        assert running.record.rounds[-1].value == min(stated.values()), "the lower median of four"


class TestWhatIsKept:
    def test_a_clients_own_head_is_in_no_upload(self, on_bases, prepared, monkeypatch):
        sent, genuine = {}, LocalHead.local

        def noted(self, trained, client, round_):
            """What each client trained comes first; later the noise of a mean is worked out."""
            vectors = genuine(self, trained, client, round_)
            sent.setdefault(client, (vectors, trained.delta[self.own(round_.layout)]))
            return vectors

        running = prepared(on_bases(method=LocalHead()))
        running.begin([])
        monkeypatch.setattr(LocalHead, "local", noted)
        running.aggregator.play_round()
        assert list(sent) == [f"client-{n}" for n in range(4)]
        for vectors, head in sent.values():
            shared = np.concatenate(list(vectors.values()))
            assert len(shared) == 2 * 2 * len(ANCHORS)
            assert head.all()
            assert not set(head.tolist()) & set(shared.tolist())

    def test_a_clients_own_model_is_on_its_own_base(self, on_bases, tmp_path):
        federation = on_bases(method=LocalHead())
        result = federation.run(tmp_path / "run")
        assert set(result.own) == {f"client-{n}" for n in range(4)}
        for name, own in result.own.items():
            task, _ = load_adapter(own.folder / "adapter")
            where = federation.bases["small"] if name in SMALL else federation.model.base
            assert task.base == where


class StopAfterOne(Callback):
    """Ends a run once its first round is kept."""

    def on_round(self, record):
        raise InterruptedError


class TestARunThatGoesOn:
    def test_it_comes_to_the_same(self, on_bases, tmp_path, seeded_randomness):
        def played(name, *, stop):
            federation = on_bases(
                method=LocalHead(),
                randomness=seeded_randomness(3),
                state_folder=tmp_path / f"{name}-state",
                anchor_folder=tmp_path / f"{name}-anchors",
            )
            out = tmp_path / name
            if stop:
                with pytest.raises(InterruptedError):
                    federation.run(out, callbacks=[StopAfterOne()])
            result = federation.run(out, resume=stop)
            return load_latest(out / "checkpoints"), result.own

        (whole, own), (resumed, own_after) = played("whole", stop=False), played("two", stop=True)
        assert resumed.round == whole.round == 2
        assert resumed.record["other_bases"] == whole.record["other_bases"] != {}
        assert resumed.tensors.keys() == whole.tensors.keys()
        assert all(
            np.array_equal(resumed.tensors[key], whole.tensors[key]) for key in whole.tensors
        )
        assert own.keys() == own_after.keys()
        assert all(np.array_equal(own[name].values, own_after[name].values) for name in own)
        rounds = [RunRecord.from_json(one.record).rounds for one in (whole, resumed)]
        first, second = ([row.value for row in rows] for rows in rounds)
        assert first == second

    def test_a_base_that_was_changed_meanwhile_is_refused(
        self, on_bases, tmp_path, other_bert_folder
    ):
        place = tmp_path / "small"
        shutil.copytree(other_bert_folder, place)
        federation = on_bases(bases={"small": str(place)})
        with pytest.raises(InterruptedError):
            federation.run(tmp_path / "run", callbacks=[StopAfterOne()])
        change_weights(place)
        with pytest.raises(ModelError, match="base model of 'client-1' must have the frozen"):
            federation.run(tmp_path / "run", resume=True)


def digests_of(federation):
    """SHA-256 of the weights of the two bases, as the task builds them."""
    return [base_digest(federation.task_on(name).build()) for name in (None, "small")]


class TestWithoutTheFirst:
    """It trained in the first round: what it held stays the base that all others are said by."""

    @pytest.mark.parametrize("small", [SMALL, ("client-1", "client-2", "client-3"), ("client-0",)])
    def test_report_record_and_adapter_name_the_bases_of_all(self, on_bases, tmp_path, small):
        federation, out = on_bases(small=small, encryption=Plain()), tmp_path / "run"
        with pytest.raises(InterruptedError):
            federation.run(out, callbacks=[StopAfterOne()])
        before = BudgetReport.from_json((out / "report.json").read_text())
        result = federation.run(out, resume=True, without=["client-0"])
        held = dict(zip((None, "small"), digests_of(federation), strict=True))
        base_of = {one.id: held[one.base] for one in federation.clients}
        first = base_of["client-0"]
        others = {name: one for name, one in base_of.items() if one != first}
        report, _ = verify_and_render(out, AnchorFolder(federation.anchors))
        assert (report.base_sha256, report.training.other_bases) == (first, others)
        assert report.encryption.base_model == before.encryption.base_model
        for name in ("run.json", "adapter/privfed.json"):
            said = json.loads((out / name).read_text())
            assert (said["base_sha256"], said["other_bases"]) == (first, others)
        for place in (federation.model.base, federation.bases["small"]):
            assert load_adapter(result.adapter, place)[0].base == place

    def test_between_machines_too(self, on_bases, make_federation, tmp_path):
        federation = on_bases(encryption=Plain(), min_clients=3)
        made = Beside(make_federation, tmp_path, names=[one.id for one in federation.clients])
        made.settings = federation
        try:
            made.prepared()
            begun(made.hub()).run.play_round()
            for name in ("client-2", "client-3"):  # as it remembers the run, and as it keeps it
                made.node(name).prepare()
            again = begun(made.hub(resume=True, without=["client-0"]))
            again.play()
            report = again.finish()
            first, second = digests_of(federation)
            frozen = made.nodes["client-0"]._program.membership.facts.base_model
            found = (report.base_sha256, report.training.other_bases)
            assert found == (first, dict.fromkeys(SMALL, second))
            assert (again.run.record.base_sha256, again.run.record.other_bases) == found
            for name in ("client-1", "client-2", "client-3"):
                own, _ = verify_and_render(made.results(name), AnchorFolder(federation.anchors))
                assert (own.base_sha256, own.training.other_bases) == found
                assert own.encryption.base_model == frozen
                for place in (federation.model.base, federation.bases["small"]):
                    load_adapter(made.results(name) / "adapter", place)
        finally:
            made.close()

    @pytest.mark.parametrize("changed", [{"base_sha256": "ce" * 32}, {"other_bases": None}])
    def test_a_report_that_names_others_is_refused(self, on_bases, tmp_path, changed):
        federation, out = on_bases(encryption=Plain(), rounds=1), tmp_path / "run"
        federation.run(out)
        values = json.loads((out / "report.json").read_text())
        part = values if "base_sha256" in changed else values["training"]
        part |= changed
        (out / "report.json").write_text(json.dumps(values))
        with pytest.raises(ReportError, match="base models in the report must be those of"):
            verify_and_render(out, AnchorFolder(federation.anchors))


def change_weights(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "embeddings" in name)
    weights[name] = weights[name] + 1e-3
    save_file(weights, path, metadata={"format": "pt"})


class TestWhatIsRefused:
    def test_an_undeclared_other_base(self, on_bases, prepared):
        """One of those that declare one base holds another: as where nobody declares any."""
        running = prepared(on_bases())
        program, other = running.clients["client-2"], running.clients["client-3"]
        held = other.membership.facts.base
        program.membership.facts = replace(program.membership.facts, **held)
        with pytest.raises(ConfigError, match="'client-2' has another .*base_weights.* 'client-0'"):
            running.begin([])

    def test_a_name_that_is_nowhere(self, on_bases, bert_folder):
        with pytest.raises(ConfigError, match=r"\['small'\], bases must say .* \['large'\]"):
            on_bases(bases={"large": bert_folder})

    @pytest.mark.parametrize("small", [(), SMALL])
    def test_one_that_no_client_declares(self, on_bases, bert_folder, small):
        unused = {"spare": bert_folder, **({"small": bert_folder} if small else {})}
        with pytest.raises(ConfigError, match=r"none declares \['spare'\]: give base="):
            on_bases(small=small, bases=unused)

    def test_a_task_without_anchors(self, on_bases, bert_folder):
        plain = Classification(base=bert_folder, labels=("sport", "money", "culture"))
        with pytest.raises(ConfigError, match="must be a Classification with anchor_texts"):
            on_bases(model=plain)

    @pytest.mark.parametrize(
        "adapter",
        [
            LoRA(rank=2, target_modules=("query", "relative")),
            InPlace.biases(),
            InPlace(last_layers=1),
            Houlsby(bottleneck=3, target_modules=("output.dense",)),
        ],
    )
    def test_an_adapter_inside_of_the_base(self, on_bases, tmp_path, adapter, bert_folder):
        """Also where the other base has the same shapes: the numbers would mean something else."""
        federation = on_bases(adapter=adapter, bases={"small": bert_folder})
        with pytest.raises(ConfigError, match=r"take LoRA\(target_modules=\('relative',\)\)"):
            federation.run(tmp_path / "run")

    def test_several_processes(self, on_bases):
        with pytest.raises(ConfigError, match="take processes = 1"):
            on_bases(computation=Computation(processes=2))

    def test_frozen_layers_that_nothing_is_trained_above(self, on_bases, tmp_path):
        federation = on_bases(computation=Computation(cache_frozen_layers=True))
        with pytest.raises(ConfigError, match="or leave it out"):
            federation.run(tmp_path / "run")


def test_parties_apart_hold_one_base_each(on_bases, make_federation, tmp_path):
    """Programs that know of the others what they sign, each with the base that it declared."""
    made = Beside(make_federation, tmp_path)
    settings = on_bases(encryption=Plain())
    made.settings = replace(settings, clients=settings.clients[: len(NAMES)])
    try:
        nodes = made.prepared()
        for name, node in nodes.items():
            held = node._program.node.model.task.base
            assert held == settings.task_on(node.client.base).base, name
        hub = begun(made.hub())
        hub.play()
        report = hub.finish()
        assert set(report.training.other_bases) == {"client-1"}
        for name in NAMES:
            own, _ = verify_and_render(made.results(name), AnchorFolder(settings.anchors))
            assert own.training.other_bases == report.training.other_bases
            assert own.base_sha256 == report.base_sha256
            task, _ = load_adapter(made.results(name) / "adapter")
            held = "small" if name == "client-1" else None
            assert task.base == settings.task_on(held).base
    finally:
        made.close()


@pytest.mark.parametrize("elsewhere", ["/disk of the north/bert", "ministry/public-model"])
def test_no_message_says_where_a_node_keeps_a_base(on_bases, make_federation, tmp_path, elsewhere):
    """With a file that all start from, the base of the others need not lie on its machine."""
    made = Beside(make_federation, tmp_path)
    settings = on_bases(encryption=Plain(), rounds=1)
    made.settings = replace(settings, clients=settings.clients[: len(NAMES)])
    start = tmp_path / "start.safetensors"
    start.write_bytes(made.node("client-0").prepare().start)
    made.settings = replace(made.settings, start=start)
    own = replace(made.settings, model=replace(settings.model, base=elsewhere))
    try:
        made.prepared()
        made.node("client-1", settings=own).prepare()
        hub = begun(made.hub())
        hub.play()
        report = hub.finish()
        kept = [path.read_bytes() for path in hub.folder.rglob("*") if path.is_file()]
        for place in (elsewhere, settings.model.base, settings.bases["small"]):
            assert not any(place.encode() in content for content in kept), place
        said = {
            row.clients: row.value for row in report.differences if row.field.endswith("model.base")
        }
        digests = dict(
            zip((("client-0", "client-2"), ("client-1",)), digests_of(settings), strict=True)
        )
        assert said == {who: f"local files, SHA-256 {digest}" for who, digest in digests.items()}
    finally:
        made.close()


@pytest.mark.parametrize("digest", [None, "the wards of the north"])
def test_who_holds_a_base_alone_must_state_a_digest(on_bases, make_federation, tmp_path, digest):
    """Nobody else holds it to compare, and every report names it: refused before any round."""
    made = Beside(make_federation, tmp_path)
    settings = on_bases(encryption=Plain())
    made.settings = replace(settings, clients=settings.clients[: len(NAMES)])
    try:
        membership = made.prepared()["client-1"]._program.membership
        membership.facts = replace(membership.facts, base_weights=digest)
        with pytest.raises(AwayError, match="client-1.*its base_weights as a SHA-256"):
            begun(made.hub())
        for node in made.nodes.values():
            assert not node._program.node.ledger.events()
    finally:
        made.close()


@pytest.fixture(scope="module")
def cut_minilm(tmp_path_factory):
    """MiniLM's first three layers, a base of its own."""
    folder = tmp_path_factory.mktemp("cut")
    model = AutoModel.from_pretrained(minilm_folder(), num_hidden_layers=3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return str(folder)


def test_real_encoders_agree_on_what_an_adapter_means(on_bases, tmp_path, cut_minilm):
    """What is shared is better than chance on both, though neither saw the other's numbers."""
    topics = {
        "sport": ("The team won the match.", "A striker scored a late goal."),
        "money": ("The bank raised its rates.", "Shares fell on the market."),
        "culture": ("The film won an award.", "A singer released an album."),
    }
    records = [Record(text, label) for label, texts in enumerate(topics.values()) for text in texts]
    anchors = (
        *("The players trained for the game.", "Investors bought stocks.", "A new novel."),
        *("The coach praised his side.", "Profits grew.", "The actor played a king."),
    )
    federation = on_bases(
        model=Classification(
            base=minilm_folder(),
            labels=tuple(topics),
            max_length=12,
            logit_scale=4.0,
            label_texts=("Sport.", "Business and money.", "Film and music."),
            anchor_texts=anchors,
        ),
        bases={"small": cut_minilm},
        held_out=records,
        rounds=1,
    )
    result = federation.run(tmp_path / "run")
    assert len(set(result.report.training.other_bases.values())) == 1
    for base in (minilm_folder(), cut_minilm):
        task, model = load_adapter(result.adapter, base)
        batch = task.collate(task.tokenizer(), records)
        with torch.no_grad():
            right, of = task.metric_parts(model, batch)
        assert right / of > 0.5, base


def test_stacked_clients_are_of_one_base(on_bases, tmp_path, monkeypatch):
    stacks, genuine = [], stacked.updates_of

    def noted(stack):
        stacks.append([run.node.id for run, _ in stack])
        return genuine(stack)

    monkeypatch.setattr(play, "updates_of", noted)
    federation = on_bases(
        small=("client-2", "client-3"), computation=Computation(stacked_clients=4), rounds=1
    )
    result = federation.run(tmp_path / "run")
    assert stacks == [["client-0", "client-1"], ["client-2", "client-3"]]
    assert result.rounds[0].clients == ("client-0", "client-1", "client-2", "client-3")
