"""From a TOML file to a federation: what is read, and every mistake by its name."""

import copy
import inspect
import json
import re
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from accountants import Budget
from privfed import (
    BFV,
    CKKS,
    SGD,
    CausalLanguageModel,
    Classification,
    FedAvg,
    FFALoRA,
    LoRA,
    NoisySize,
    PeftAdapter,
    Plain,
    RecordGroup,
    TailAveraging,
    TrainingConfig,
)
from privfed.cli import run_file as run_config
from privfed.cli import run_file_data as run_data
from privfed.cli.run_file import load_federation
from privfed.cli.toml_section import Section
from privfed.data.datasets import TextTable
from privfed.errors import ConfigError, DataError
from privfed.identity.enrolment import Enrolment
from privfed.parties.client import joining
from privfed.run_settings import check_clients
from privfed.settings.encryption import Custody

EXAMPLE = Path(__file__).parents[4] / "docs" / "run.toml"
SOURCE = inspect.getsource(run_config) + inspect.getsource(run_data)
TOPICS = ("sport", "money", "culture")


def as_toml(values, name=""):
    """TOML text of nested tables; values as JSON writes them, which TOML reads."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            path = f"{name}.{json.dumps(key)}" if name else json.dumps(key)
            lines += ["", f"[{path}]", as_toml(value, path)]
    return "\n".join(lines).replace("NaN", "nan").replace("Infinity", "inf") + "\n"


MISSING = object()


def changed(values, path, value):
    """The settings with one value set, or removed; tables on the way are made."""
    settings = copy.deepcopy(values)
    *tables, key = path.split("/")
    table = settings
    for name in tables:
        table = table.setdefault(name, {})
    if value is MISSING:
        del table[key]
    else:
        table[key] = value
    return settings


@pytest.fixture
def settings(bert_folder):
    """A whole configuration: every optional key is given, none at its default."""
    return {
        "title": "topics at wards",
        "seed": 7,
        "model": {
            "task": "classification",
            "base": bert_folder,
            "labels": list(TOPICS),
            "max_length": 16,
            "logit_scale": 3,
        },
        "data": {
            "source": "notes.jsonl",
            "text": "note",
            "label": "topic",
            "dataset": "notes-2026",
            "missing": "drop",
            "encoding": "latin-1",
            "held_out": 0.2,
            "partition": {
                "rule": "column",
                "column": "ward",
                "clients": ["west", "north", "east", "south"],
                "others": "drop",
                "minimum": 11,
            },
            "public_size": 21,
            "public_sizes": {"north": 25},
        },
        "privacy": {
            "epsilon": 4,
            "delta": 1e-3,
            "neighbouring": "add_remove",
            "record": "one made-up sentence",
            "expected_batch_size": 10,
            "clipping_norm": 0.5,
            "steps_per_round": 2,
            "clients": {"south": {"epsilon": 1.5, "delta": 1e-4}},
        },
        "adapter": {
            "kind": "lora",
            "rank": 2,
            "target_modules": ["query", "value"],
            "layers": [1],
            "alpha": 5,
        },
        "training": {
            "learning_rate": 0.5,
            "final_learning_rate": 0.25,
            "momentum": 0.5,
            "physical_batch_size": 8,
        },
        "encryption": {"kind": "plain", "bits": 10, "public_range": 2, "follow_released": True},
        "parties": {"roster": "all.roster", "authority": "ab" * 32, "identities": "secret"},
        "strategy": {
            "kind": "ffa-lora",
            "weighting": "public_size",
            "server_learning_rate": 0.5,
        },
        "averaging": {"first_round": 2, "decay": 0.5},
        "federation": {"rounds": 2, "min_clients": 4, "device": "cpu"},
    }


@pytest.fixture
def load(tmp_path, topic_records):
    """A function that writes settings beside 160 notes of four wards and loads them."""
    wards = ("east", "north", "south", "west")
    rows = [
        {"note": record.text, "topic": TOPICS[record.label], "ward": wards[position % 4]}
        for position, record in enumerate(topic_records(160, seed=1))
    ]
    other = [{"note": r.text, "topic": TOPICS[r.label]} for r in topic_records(12, seed=2)]
    for name, lines in {"notes.jsonl": rows, "other.jsonl": other}.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def make(values):
        path = tmp_path / "run.toml"
        path.write_text(as_toml(values), encoding="utf-8")
        return load_federation(path, tmp_path / "ledgers")

    return make


def texts(records):
    return {record.text for record in records}


class TestAWholeConfiguration:
    def test_every_setting_arrives(self, load, settings, tmp_path):
        federation = load(settings)
        assert federation.title == "topics at wards"
        assert federation.seed == 7
        assert federation.model == Classification(
            base=settings["model"]["base"], labels=TOPICS, max_length=16, logit_scale=3.0
        )
        assert federation.adapter == LoRA(
            rank=2, target_modules=("query", "value"), layers=(1,), alpha=5.0
        )
        assert federation.training == TrainingConfig(
            learning_rate=0.5,
            final_learning_rate=0.25,
            optimizer=SGD(momentum=0.5),
            physical_batch_size=8,
        )
        assert federation.encryption == Plain(bits=10, public_range=2.0, follow_released=True)
        assert type(federation.encryption) is Plain
        assert federation.strategy == FFALoRA(weighting="public_size", server_learning_rate=0.5)
        assert type(federation.strategy) is FFALoRA
        assert federation.averaging == TailAveraging(first_round=2, decay=0.5)
        assert (federation.rounds, federation.min_clients) == (2, 4)
        assert federation.device == "cpu"
        assert federation.state_folder == tmp_path / "ledgers"
        assert federation.enrolment == Enrolment(
            roster=tmp_path / "all.roster", authority="ab" * 32, identities=tmp_path / "secret"
        )

    def test_every_privacy_setting_arrives(self, load, settings):
        privacy = load(settings).privacy
        assert privacy.budget == Budget(epsilon=4.0, delta=1e-3)
        assert privacy.neighbouring.value == "add_remove"
        assert privacy.record == "one made-up sentence"
        assert (privacy.expected_batch_size, privacy.clipping_norm) == (10, 0.5)
        assert privacy.steps_per_round == 2

    def test_each_value_of_the_column_is_a_client_with_its_own_notes(self, load, settings):
        federation = load(settings)
        clients = {client.id: client for client in federation.clients}
        assert list(clients) == ["east", "north", "south", "west"]
        assert {client.dataset for client in federation.clients} == {"notes-2026"}
        assert sum(len(client.records) for client in federation.clients) == 129
        assert {r.label for client in federation.clients for r in client.records} == {0, 1, 2}
        held = texts(federation.held_out)
        assert len(federation.held_out) == 31
        assert not any(held & texts(client.records) for client in federation.clients)

    def test_a_listed_public_size_is_taken_and_others_have_that_of_all(self, load, settings):
        clients = {client.id: client for client in load(settings).clients}
        sizes = {name: client.public_size for name, client in clients.items()}
        assert sizes == {"east": 21, "north": 25, "south": 21, "west": 21}
        assert not {len(client.records) for client in clients.values()} & {21, 25}

    def test_a_client_has_its_own_budget_and_the_others_none(self, load, settings):
        budgets = {client.id: client.budget for client in load(settings).clients}
        assert budgets.pop("south") == Budget(epsilon=1.5, delta=1e-4)
        assert set(budgets.values()) == {None}

    def test_an_own_budget_changes_nothing_else(self, load, settings):
        own = {client.id: client for client in load(settings).clients}["south"]
        del settings["privacy"]["clients"]
        plain = {client.id: client for client in load(settings).clients}["south"]
        assert (own.records, own.public_size) == (plain.records, plain.public_size)
        assert (own.dataset, own.description) == (plain.dataset, plain.description)

    def test_where_held_out_text_and_sizes_come_from_is_said(self, load, settings):
        federation = load(settings)
        assert federation.held_out_source == "0.2 of notes.jsonl, taken out before the split"
        assert federation.public_size_source == "declared in the configuration"

    def test_loading_it_again_gives_the_same(self, load, settings):
        first, again = load(settings), load(settings)
        assert first.describe() == again.describe()
        assert first.clients == again.clients
        assert list(first.held_out) == list(again.held_out)

    def test_another_seed_holds_out_the_same_notes(self, load, settings):
        """Else a note would be trained on in one run and evaluated in clear in the next."""
        first, other = load(settings), load(changed(settings, "seed", 8))
        assert list(first.held_out) == list(other.held_out)
        assert [client.records for client in first.clients] == [
            client.records for client in other.clients
        ]

    def test_another_file_of_the_data_set_holds_out_the_same_notes(self, load, settings, tmp_path):
        first = load(settings)
        (tmp_path / "notes.jsonl").rename(tmp_path / "renamed.jsonl")
        other = load(changed(settings, "data/source", "renamed.jsonl"))
        assert list(first.held_out) == list(other.held_out)

    def test_another_data_set_holds_out_other_notes(self, load, settings):
        first, other = load(settings), load(changed(settings, "data/dataset", "notes-2027"))
        assert texts(first.held_out) != texts(other.held_out)
        assert {client.dataset for client in other.clients} == {"notes-2027"}

    def test_it_passes_the_checks_of_a_run(self, load, settings):
        federation = load(settings)
        check_clients(federation.clients, federation.privacy, federation.min_clients)


OPTIONAL = [
    "title",
    "model/max_length",
    "model/logit_scale",
    "data/missing",
    "data/encoding",
    "data/public_sizes",
    "data/partition/others",
    "data/partition/minimum",
    "privacy/clients",
    "privacy/clipping_norm",
    "privacy/steps_per_round",
    "adapter/layers",
    "adapter/alpha",
    "training/final_learning_rate",
    "training/momentum",
    "training/physical_batch_size",
    "encryption",
    "parties",
    "strategy",
    "averaging",
    "federation/min_clients",
    "federation/device",
]


class TestWhereTheBaseModelLies:
    def base(self, load, settings, base):
        return load(changed(settings, "model/base", base)).model.base

    def test_a_folder_beside_the_configuration_is_found_from_anywhere(
        self, load, settings, tmp_path, monkeypatch
    ):
        """Like the source of the data, and unlike what lies where the command is run."""
        for folder in (tmp_path, tmp_path / "elsewhere"):
            (folder / "models" / "small").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        expected = str(tmp_path / "models" / "small")
        assert self.base(load, settings, "models/small") == expected
        assert self.base(load, settings, "./models/small") == expected
        assert self.base(load, settings, expected) == expected

    def test_a_name_on_the_hub_stays(self, load, settings):
        assert self.base(load, settings, "somebody/some-model.v2") == "somebody/some-model.v2"
        assert self.base(load, settings, "some-model") == "some-model"

    @pytest.mark.parametrize("path", ["./none", "../none", "a/b/none"])
    def test_a_path_that_is_no_folder_is_never_looked_up_as_a_name(
        self, path, load, settings, tmp_path
    ):
        assert self.base(load, settings, path) == str((tmp_path / path).resolve())


def test_without_the_optional_keys_there_are_defaults(load, settings):
    for path in OPTIONAL:
        settings = changed(settings, path, MISSING)
    federation = load(settings)
    assert federation.title == "run"
    assert (federation.model.max_length, federation.model.logit_scale) == (128, 1.0)
    assert federation.adapter == LoRA(rank=2, target_modules=("query", "value"))
    assert federation.training == TrainingConfig(learning_rate=0.5)
    assert federation.encryption == BFV()
    assert type(federation.encryption) is BFV
    assert federation.encryption.custody is Custody.SHARED_KEY
    assert federation.enrolment is None
    assert federation.strategy == FedAvg()
    assert type(federation.strategy) is FedAvg
    assert federation.averaging is None
    assert (federation.min_clients, federation.device) == (3, None)
    assert {client.public_size for client in federation.clients} == {21}
    assert {client.budget for client in federation.clients} == {None}
    privacy = federation.privacy
    assert (privacy.clipping_norm, privacy.steps_per_round) == (1.0, 1)


class TestCustody:
    def test_a_key_holder_on_this_machine(self, load, settings):
        settings["encryption"] = {"custody": "key_holder", "bits": 9}
        assert load(settings).encryption == BFV(bits=9, custody=Custody.KEY_HOLDER)
        assert load(settings).has_key_holder

    def test_a_key_holder_elsewhere(self, load, settings):
        settings["encryption"] = {"custody": "key_holder", "key_holder": "[::1]:7000"}
        assert load(settings).encryption.key_holder == "[::1]:7000"

    def test_the_clients_share_the_key(self, load, settings):
        settings["encryption"] = {"custody": "shared_key", "follow_released": True}
        assert load(settings).encryption == BFV(follow_released=True)
        assert not load(settings).has_key_holder

    def test_floats(self, load, settings):
        settings["encryption"] = {"kind": "ckks", "public_range": 2, "follow_released": True}
        federation = load(settings)
        assert federation.encryption == CKKS(public_range=2.0, follow_released=True)
        assert not federation.has_key_holder

    def test_a_resumed_run_may_find_its_key_holder_elsewhere_but_not_another_custody(
        self, load, settings
    ):
        def described(**changes):
            settings["encryption"] = {"custody": "key_holder", **changes}
            return load(settings).describe()

        first = described(key_holder="here:7000")
        assert first == described(key_holder="there:7001") == described()
        assert first != described(custody="shared_key")
        assert first != described(follow_released=True)

    def test_a_resumed_run_has_the_same_authority(self, load, settings):
        first = load(settings).describe()
        assert first == load(changed(settings, "parties/identities", "moved")).describe()
        assert first != load(changed(settings, "parties/authority", "cd" * 32)).describe()
        assert first != load(changed(settings, "parties", MISSING)).describe()


class TestOtherChoices:
    def split(self, settings, **rule):
        return {**settings, "data": {**settings["data"], "partition": rule, "public_sizes": {}}}

    @pytest.fixture
    def pooled(self, settings):
        return changed(settings, "privacy/clients", {"client-02": {"epsilon": 1, "delta": 1e-4}})

    def test_iid(self, load, pooled):
        federation = load(self.split(pooled, rule="iid", clients=5))
        sizes = [len(client.records) for client in federation.clients]
        assert next(client.id for client in federation.clients) == "client-01"
        assert sizes == [26, 26, 26, 26, 25]
        everyone = [r.text for client in federation.clients for r in client.records]
        assert len(everyone) == len(set(everyone)) == 129
        assert federation.clients[1].budget == Budget(epsilon=1.0, delta=1e-4)

    def test_dirichlet(self, load, pooled):
        split = self.split(pooled, rule="dirichlet", clients=4, alpha=1, minimum=15)
        federation = load(split)
        assert min(len(client.records) for client in federation.clients) >= 15
        everyone = [r.text for client in federation.clients for r in client.records]
        assert len(everyone) == len(set(everyone)) == 129
        assert not set(everyone) & texts(federation.held_out)

    def test_a_dirichlet_split_needs_classes(self, load, pooled, llama_folder):
        split = self.split(pooled, rule="dirichlet", clients=4, alpha=1.0)
        split["model"] = {"task": "causal-lm", "base": llama_folder}
        del split["data"]["label"]
        with pytest.raises(ConfigError, match="needs a classification task"):
            load(split)

    def test_another_held_out_source_leaves_every_note_to_the_clients(self, load, settings):
        settings = changed(settings, "data/held_out_source", "other.jsonl")
        federation = load(changed(settings, "data/held_out", MISSING))
        assert len(federation.held_out) == 12
        assert sum(len(client.records) for client in federation.clients) == 160
        assert federation.held_out_source == "other.jsonl"

    def test_a_share_beside_another_source_is_refused(self, load, settings):
        with pytest.raises(
            ConfigError, match=r"\[data\] takes held_out or held_out_source, got both"
        ):
            load(changed(settings, "data/held_out_source", "other.jsonl"))

    @pytest.mark.parametrize("spelling", ["notes.jsonl", "./notes.jsonl", "sub/../notes.jsonl", ""])
    def test_the_source_itself_is_no_held_out_source(self, load, settings, tmp_path, spelling):
        (tmp_path / "sub").mkdir()
        (tmp_path / "link.jsonl").symlink_to(tmp_path / "notes.jsonl")
        settings = changed(settings, "data/held_out", MISSING)
        other = spelling or "link.jsonl"
        with pytest.raises(ConfigError, match="held_out_source must be another source"):
            load(changed(settings, "data/held_out_source", other))

    def test_a_split_that_is_the_default_is_the_same_source(self, load, settings):
        settings["data"].update(source="ag_news", held_out_source="ag_news:train")
        with pytest.raises(ConfigError, match="held_out_source must be another source"):
            load(changed(settings, "data/held_out", MISSING))

    def test_what_is_held_out_does_not_depend_on_what_is_trained_on(self, load, settings, tmp_path):
        """Else the public held-out set would tell who holds which text."""
        first = json.loads((tmp_path / "notes.jsonl").read_text().splitlines()[0])
        copy = {**first, "note": "  " + first["note"].replace(" ", "  ")}
        with (tmp_path / "other.jsonl").open("a") as file:
            file.write(json.dumps(copy) + "\n")
        settings = changed(settings, "data/held_out", MISSING)
        federation = load(changed(settings, "data/held_out_source", "other.jsonl"))
        assert len(federation.held_out) == 13
        assert federation.held_out_source == "other.jsonl"
        trained = {text for client in federation.clients for text in texts(client.records)}
        assert first["note"] not in trained
        assert len(trained) > 100
        (tmp_path / "other.jsonl").write_text((tmp_path / "notes.jsonl").read_text())
        with pytest.raises(DataError, match="every text is also held out"):
            load(changed(settings, "data/held_out_source", "other.jsonl"))

    @pytest.mark.parametrize("source", ["notes.txt", "absent.txt", ".", "folder", "two words"])
    def test_what_is_neither_a_file_nor_a_hub_name_is_refused(
        self, load, settings, tmp_path, source
    ):
        (tmp_path / "notes.txt").write_text("a note")
        (tmp_path / "folder").mkdir()
        with pytest.raises(DataError, match=r"ends in \.jsonl, \.json, \.csv, \.parquet, or"):
            load(changed(settings, "data/source", source))

    @pytest.mark.parametrize("source", ["ag_news", "owner/corpus-1.1", "owner/c4.en:train[:1%]"])
    def test_a_hub_name_is_handed_on_as_it_is(self, load, settings, monkeypatch, source):
        asked = []

        def load_table(place, **columns):
            asked.append(place)
            raise DataError("stop")

        monkeypatch.setattr(run_data, "load_table", load_table)
        with pytest.raises(DataError, match="stop"):
            load(changed(settings, "data/source", source))
        assert asked == [source]

    def test_an_absolute_source(self, load, settings, tmp_path):
        path = str(tmp_path / "notes.jsonl")
        federation = load(changed(settings, "data/source", path))
        assert len(federation.held_out) == 31

    def test_a_language_model(self, load, settings, llama_folder):
        settings["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 12}
        settings["adapter"] = {"kind": "prefix-tuning", "num_virtual_tokens": 3}
        settings["strategy"]["kind"] = "fedavg"
        del settings["data"]["label"]
        federation = load(settings)
        assert federation.model == CausalLanguageModel(base=llama_folder, max_length=12)
        assert isinstance(federation.adapter, PeftAdapter)
        assert federation.adapter.config.num_virtual_tokens == 3
        assert federation.held_out[0].label is None
        assert type(federation.strategy) is FedAvg

    def test_documents_are_cut_into_chunks_that_are_one_record(self, load, settings, llama_folder):
        settings["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 12}
        settings["data"]["chunk_tokens"] = 2
        del settings["data"]["label"]
        federation = load(settings)
        whole = load(changed(settings, "data/chunk_tokens", MISSING))
        for client, other in zip(federation.clients, whole.clients, strict=True):
            assert len(client.records) == len(other.records)
            for group, document in zip(client.records, other.records, strict=True):
                assert isinstance(group, RecordGroup)
                assert " ".join(e.text for e in group.examples) == document.text
                assert {len(e.text.split()) for e in group.examples[:-1]} <= {2}

    def test_chunks_are_for_documents_of_a_language_model(self, load, settings):
        settings["data"]["chunk_tokens"] = 2
        with pytest.raises(ConfigError, match="chunk_tokens cuts documents for task 'causal-lm'"):
            load(settings)
        settings["data"]["chunk_tokens"] = 0
        with pytest.raises(ConfigError, match="chunk_tokens must be at least 1"):
            load(settings)

    def test_prompt_tuning(self, load, settings):
        settings["adapter"] = {"kind": "prompt-tuning", "num_virtual_tokens": 3}
        assert load(settings).adapter.describe()["adapter"] == "prompt_tuning"


REQUIRED = [
    "seed",
    "model",
    "model/task",
    "model/base",
    "model/labels",
    "data",
    "data/source",
    "data/text",
    "data/label",
    "data/dataset",
    "data/held_out",
    "data/partition",
    "data/partition/rule",
    "data/partition/column",
    "privacy",
    "privacy/epsilon",
    "privacy/delta",
    "privacy/neighbouring",
    "privacy/record",
    "privacy/expected_batch_size",
    "privacy/clients/south/epsilon",
    "privacy/clients/south/delta",
    "adapter",
    "adapter/kind",
    "adapter/rank",
    "adapter/target_modules",
    "training",
    "training/learning_rate",
    "federation",
    "federation/rounds",
    "parties/roster",
    "parties/authority",
    "parties/identities",
]

TABLES = [
    "",
    "model",
    "data",
    "data/partition",
    "privacy",
    "privacy/clients/south",
    "adapter",
    "training",
    "encryption",
    "parties",
    "strategy",
    "federation",
]

WRONG_TYPE = [
    ("title", 3),
    ("seed", 1.5),
    ("seed", True),
    ("seed", "7"),
    ("model", "classification"),
    ("model/task", 1),
    ("model/base", ["x"]),
    ("model/labels", "sport"),
    ("model/max_length", 16.0),
    ("model/logit_scale", "3"),
    ("data", []),
    ("data/source", 1),
    ("data/text", 1),
    ("data/label", True),
    ("data/dataset", 1),
    ("data/held_out", "0.2"),
    ("data/held_out_source", 1),
    ("data/partition", "column"),
    ("data/partition/rule", 1),
    ("data/partition/column", 1),
    ("data/missing", True),
    ("data/encoding", 8),
    ("data/partition/clients", 4),
    ("data/partition/clients", ["north", 4]),
    ("data/partition/others", True),
    ("data/partition/minimum", 11.0),
    ("data/public_size", "21"),
    ("data/public_size", 21.0),
    ("data/public_size", True),
    ("data/public_sizes", 25),
    ("privacy/epsilon", "4"),
    ("privacy/epsilon", True),
    ("privacy/delta", "1e-3"),
    ("privacy/neighbouring", 1),
    ("privacy/record", 1),
    ("privacy/expected_batch_size", 10.0),
    ("privacy/clipping_norm", "1"),
    ("privacy/steps_per_round", 1.0),
    ("privacy/clients", []),
    ("privacy/clients/south", 3),
    ("privacy/clients/south/epsilon", "1"),
    ("adapter/kind", 1),
    ("adapter/rank", 2.0),
    ("adapter/target_modules", "query"),
    ("adapter/layers", 1),
    ("adapter/alpha", "5"),
    ("training/learning_rate", "0.5"),
    ("training/final_learning_rate", True),
    ("training/momentum", "0"),
    ("training/physical_batch_size", 8.0),
    ("encryption", "plain"),
    ("encryption/kind", 1),
    ("encryption/bits", 10.0),
    ("encryption/public_range", "2"),
    ("encryption/follow_released", 1),
    ("encryption/follow_released", "true"),
    ("parties", "all.roster"),
    ("parties/roster", ["all.roster"]),
    ("parties/authority", 12),
    ("parties/identities", True),
    ("strategy/kind", 1),
    ("strategy/weighting", 1),
    ("strategy/server_learning_rate", "1"),
    ("federation/rounds", 2.0),
    ("federation/min_clients", "4"),
    ("federation/device", 0),
]

NAN, INF = float("nan"), float("inf")
WRONG_VALUE = [
    ("seed", -1, "seed"),
    ("seed", 2**64, "seed"),
    ("model/task", "translation", "'classification' or 'causal-lm'"),
    ("model/labels", [], "labels"),
    ("model/labels", ["sport"], "labels"),
    ("model/labels", ["sport", "sport"], "labels"),
    ("model/labels", ["sport", "money"], "label"),
    ("model/labels", [["sport"], ["money"]], "[model] labels must be a list of"),
    ("model/labels", [1, 2, 3], "[model] labels must be a list of"),
    ("model/labels", ["sport", "money", "culture", ""], "labels"),
    ("model/max_length", 1, "max_length"),
    ("model/logit_scale", 0, "logit_scale"),
    ("model/logit_scale", NAN, "logit_scale"),
    ("data/source", "absent.jsonl", "absent.jsonl does not exist"),
    ("data/held_out_source", "absent.csv", "absent.csv does not exist"),
    ("data/text", "body", "no column 'body' for the text"),
    ("data/label", "body", "no column 'body' for the label"),
    ("data/partition/column", "body", "no column 'body' for the client"),
    ("data/held_out", 0, "held-out"),
    ("data/held_out", 1.0, "held-out"),
    ("data/held_out", NAN, "held-out"),
    ("data/public_sizes/north", 0, "public_size of client 'north'"),
    ("data/public_sizes/north", 2.5, "public_size of client 'north'"),
    ("data/public_sizes/north", True, "public_size of client 'north'"),
    ("data/public_sizes/moon", 25, "moon"),
    ("data/public_sizes/north", {}, "[data.public_sizes.north] needs the key 'noise_epsilon'"),
    ("data/public_sizes/north", {"noise_epsilon": 0}, "noise_epsilon"),
    ("data/public_sizes/north", {"noise_epsilon": True}, "noise_epsilon must be of type float"),
    ("data/public_size", {"noise_epsilon": "0.1"}, "[data.public_size] noise_epsilon must be of"),
    ("data/public_sizes/north", {"noise_epsilon": INF}, "noise_epsilon"),
    ("data/public_sizes/north", {"noise_epsilon": 1, "delta": 0}, "['delta']"),
    ("data/public_size", 0, "public_size of client"),
    ("data/public_size", {"noise_epsilon": -1}, "noise_epsilon"),
    ("data/missing", "ignore", "missing must be 'refuse' or 'drop'"),
    ("data/encoding", "utf-9", "encoding must be one that Python knows"),
    ("data/partition/others", "ignore", "others must be 'refuse' or 'drop'"),
    ("data/partition/minimum", 26, "leaves out every client"),
    ("data/partition/clients", ["north", "north"], "names must differ"),
    ("data/partition/clients", ["north", "1", "1.0"], "names must differ"),
    ("data/partition/clients", ["north", "moon"], "client 'moon' holds no records"),
    ("privacy/epsilon", 0, "epsilon"),
    ("privacy/epsilon", -1.0, "epsilon"),
    ("privacy/epsilon", NAN, "epsilon"),
    ("privacy/epsilon", INF, "epsilon"),
    ("privacy/delta", 0, "delta"),
    ("privacy/delta", 1, "delta"),
    ("privacy/delta", NAN, "delta"),
    ("privacy/neighbouring", "replace_one", "neighbouring"),
    ("privacy/neighbouring", "both", "neighbouring"),
    ("privacy/record", " ", "record"),
    ("privacy/expected_batch_size", 0, "expected_batch_size"),
    ("privacy/clipping_norm", 0, "clipping_norm"),
    ("privacy/clipping_norm", NAN, "clipping_norm"),
    ("privacy/steps_per_round", 0, "steps_per_round"),
    ("privacy/clients/south/epsilon", 0, "epsilon"),
    ("privacy/clients/moon", {"epsilon": 1, "delta": 1e-3}, "moon"),
    ("adapter/kind", "dora", "'lora', 'prefix-tuning', 'prompt-tuning'"),
    ("adapter/target_modules", [["query"], "value"], "[adapter] target_modules must be a list of"),
    ("adapter/target_modules", [1], "[adapter] target_modules must be a list of"),
    ("adapter/layers", [[1]], "[adapter] layers must be a list of"),
    ("adapter/layers", [True], "[adapter] layers must be a list of"),
    ("adapter/layers", ["1"], "[adapter] layers must be a list of"),
    ("adapter/rank", 0, "rank"),
    ("adapter/target_modules", [], "target_modules"),
    ("adapter/layers", [], "layers"),
    ("adapter/alpha", 0, "alpha"),
    ("adapter/alpha", NAN, "alpha"),
    ("training/learning_rate", 0, "learning_rate"),
    ("training/learning_rate", NAN, "learning_rate"),
    ("training/final_learning_rate", -1, "final_learning_rate"),
    ("training/momentum", 1, "momentum"),
    ("training/momentum", NAN, "momentum"),
    ("training/physical_batch_size", 0, "physical_batch_size"),
    ("encryption/kind", "rsa", "'bfv', 'ckks' or 'plain'"),
    ("encryption/bits", 7, "bits"),
    ("encryption/public_range", 0, "public_range"),
    ("encryption/public_range", INF, "public_range"),
    ("strategy/kind", "scaffold", "'fedavg' or 'ffa-lora'"),
    ("strategy/weighting", "true_size", "weighting"),
    ("strategy/server_learning_rate", 0, "server_learning_rate"),
    ("federation/rounds", 0, "rounds"),
    ("title", "", "title"),
]


class TestMistakes:
    @pytest.mark.parametrize("path", REQUIRED)
    def test_a_missing_key_is_named(self, load, settings, path):
        *tables, key = path.split("/")
        where = re.escape(f"[{'.'.join(tables)}]") if tables else "the top level"
        with pytest.raises(ConfigError, match=f"^{where} needs the key '{key}'"):
            load(changed(settings, path, MISSING))

    @pytest.mark.parametrize("table", TABLES)
    def test_an_unknown_key_is_named_with_its_table(self, load, settings, table):
        path = f"{table}/epsilom" if table else "epsilom"
        where = re.escape(f"[{table.replace('/', '.')}]") if table else "the top level"
        with pytest.raises(ConfigError, match=rf"{where} has unknown key\(s\) \['epsilom'\]"):
            load(changed(settings, path, 1))

    @pytest.mark.parametrize(("path", "value"), WRONG_TYPE, ids=lambda item: repr(item))
    def test_a_value_of_another_type_is_named_with_its_table(self, load, settings, path, value):
        *tables, key = path.split("/")
        name = (
            rf"\[{re.escape('.'.join(tables))}\].*{key}" if tables else f"'{key}' at the top level"
        )
        with pytest.raises(ConfigError, match=f"{name}.*must be"):
            load(changed(settings, path, value))

    @pytest.mark.parametrize(
        ("path", "value", "named"), WRONG_VALUE, ids=lambda item: repr(item)[:40]
    )
    def test_a_value_out_of_range_is_named(self, load, settings, path, value, named):
        if path == "data/held_out_source":
            settings = changed(settings, "data/held_out", MISSING)
        if path == "data/partition/clients":
            settings = changed(settings, "privacy/clients", MISSING)
        with pytest.raises((ConfigError, DataError), match=re.escape(named)):
            load(changed(settings, path, value))

    @pytest.mark.parametrize(
        ("rule", "named"),
        [
            ({"rule": "random", "clients": 3}, "'column', 'dirichlet' or 'iid'"),
            ({"rule": "iid"}, "needs the key 'clients'"),
            ({"rule": "iid", "clients": 3, "alpha": 1.0}, r"unknown key\(s\) \['alpha'\]"),
            ({"rule": "iid", "clients": 3, "column": "ward"}, r"unknown key\(s\) \['column'\]"),
            ({"rule": "iid", "clients": 0}, "clients must be at least 1, got 0"),
            ({"rule": "iid", "clients": 1000}, "cannot give 1000 clients"),
            ({"rule": "iid", "clients": 10**12}, "at most 1000 clients .*got 1000000000000"),
            ({"rule": "dirichlet", "clients": 1001}, "at most 1000 clients .*got 1001"),
            ({"rule": "dirichlet", "clients": 3}, "needs the key 'alpha'"),
            ({"rule": "dirichlet", "clients": 3, "alpha": 0}, "alpha"),
            ({"rule": "dirichlet", "clients": 3, "alpha": NAN}, "alpha"),
            ({"rule": "dirichlet", "clients": 3, "alpha": 1, "minimum": 100}, "cannot give 3"),
            ({"rule": "column", "column": "ward", "clients": 4}, "clients must be of type list"),
            ({"rule": "column", "column": "ward"}, "names are not taken from the rows"),
            ({"rule": "column", "column": "ward", "clients": []}, "names are not taken from the"),
            ({"rule": "iid", "clients": 3, "others": "drop"}, r"unknown key\(s\) \['others'\]"),
        ],
    )
    def test_a_split_that_cannot_be_made_is_named(self, load, settings, rule, named):
        del settings["data"]["public_sizes"]
        del settings["privacy"]["clients"]
        with pytest.raises((ConfigError, DataError), match=named):
            load(changed(settings, "data/partition", rule))

    def test_the_rule_of_a_split_is_judged_before_other_keys_are_asked_for(self, load, settings):
        settings["data"] = {"partition": {"rule": "random"}}
        with pytest.raises(ConfigError, match=r"\[data\.partition\] rule must be 'column'"):
            load(settings)

    @pytest.mark.parametrize(
        ("inputs", "named"),
        [
            (["output", "query"], r"feedforward_modules must be among.*\['output'\]"),
            ([["query"]], r"\[adapter\] feedforward_modules must be a list of items of type str"),
        ],
    )
    def test_feedforward_modules_are_target_modules(self, load, settings, inputs, named):
        settings["adapter"] = {
            "kind": "ia3",
            "target_modules": ["query", "value"],
            "feedforward_modules": inputs,
        }
        with pytest.raises(ConfigError, match=named):
            load(settings)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"custody": "threshold"}, "custody must be 'shared_key' or 'key_holder'"),
            ({"custody": "Key_Holder"}, "custody must be 'shared_key' or 'key_holder'"),
            ({"custody": True}, "custody must be of type str"),
            ({"custody": "key_holder", "key_holder": 7000}, "key_holder must be of type str"),
            ({"custody": "key_holder", "key_holder": "somewhere"}, "key_holder: .*host:port"),
            ({"custody": "key_holder", "key_holder": "here:70000"}, "key_holder: .*host:port"),
            ({"custody": "key_holder", "key_holder": ":7000"}, "key_holder: .*host:port"),
            ({"custody": "key_holder", "key_holder": ""}, "key_holder: .*host:port"),
            ({"key_holder": "here:7000"}, "custody KEY_HOLDER only"),
            ({"kind": "ckks", "custody": "shared_key"}, r"custody is for kind 'bfv' only"),
            ({"kind": "ckks", "bits": 12}, r"unknown key\(s\) \['bits'\]"),
            ({"kind": "plain", "custody": "key_holder"}, r"custody is for kind 'bfv' only"),
            ({"kind": "plain", "key_holder": "here:1"}, r"unknown key\(s\) \['key_holder'\]"),
        ],
    )
    def test_a_custody_that_cannot_be_is_named(self, load, settings, changes, named):
        settings["encryption"] = {"kind": "bfv", **changes}
        with pytest.raises(ConfigError, match=named):
            load(settings)

    def test_keys_of_another_adapter_are_refused(self, load, settings):
        settings["adapter"]["kind"] = "prefix-tuning"
        settings["adapter"]["num_virtual_tokens"] = 3
        with pytest.raises(ConfigError, match=r"\[adapter\].*'rank', 'target_modules'"):
            load(settings)

    def test_keys_of_another_task_are_refused(self, load, settings, llama_folder):
        settings["model"] = {"task": "causal-lm", "base": llama_folder, "labels": ["a", "b"]}
        with pytest.raises(ConfigError, match=r"\[model\] has unknown key\(s\) \['labels'\]"):
            load(settings)
        del settings["model"]["labels"]
        with pytest.raises(ConfigError, match=r"\[data\] has unknown key\(s\) \['label'\]"):
            load(settings)

    @pytest.mark.parametrize(
        "content",
        [b"seed = ", b"[a]\n[a]\n", b"\xff\xfe", b"seed = 1\nseed = 2", b"seed = " + b"9" * 5000],
    )
    def test_what_is_no_toml_is_named(self, tmp_path, content):
        path = tmp_path / "broken.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.toml is no readable TOML file"):
            load_federation(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"absent\.toml does not exist"):
            load_federation(tmp_path / "absent.toml")

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(ConfigError, match="no readable TOML file"):
            load_federation(tmp_path)


class TestDeclaredClients:
    """Names and sizes are public before any row is read."""

    @pytest.fixture
    def more(self, settings, tmp_path):
        """The settings, with nine more notes of a ward that is not declared."""
        extra = [{"note": f"river stone {n}", "topic": "sport", "ward": "tiny"} for n in range(9)]
        with (tmp_path / "notes.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in extra)
        settings = changed(settings, "data/held_out_source", "other.jsonl")
        return changed(settings, "data/held_out", MISSING)

    @pytest.fixture
    def loaded(self, load, more):
        """What `load` would do, when the nine notes are there."""
        return lambda path, value: load(changed(more, path, value))

    def test_rows_of_another_client_are_refused_by_number(self, loaded):
        with pytest.raises(DataError, match=r"9 row\(s\) .*first in row 161.* = 'drop'") as caught:
            loaded("data/partition/others", "refuse")
        assert "tiny" not in str(caught.value)

    def test_or_left_out_also_of_what_is_held_out(self, load, loaded, more):
        clients = loaded("data/partition/others", "drop").clients
        assert [client.id for client in clients] == ["east", "north", "south", "west"]
        drawn = changed(changed(more, "data/held_out_source", MISSING), "data/held_out", 0.9)
        everything = texts(load(drawn).held_out)
        assert len(everything) > 100
        assert not any(text.startswith("river stone") and text[-1].isdigit() for text in everything)

    def test_the_listed_sizes_name_the_clients_where_nothing_else_does(self, load, more):
        more = changed(more, "data/partition/clients", MISSING)
        more = changed(more, "data/public_size", MISSING)
        sizes = {"tiny": 12, "north": 25, "east": 30}
        more = changed(more, "privacy/clients", MISSING)
        clients = load(changed(more, "data/public_sizes", sizes)).clients
        assert {client.id: client.public_size for client in clients} == sizes
        assert {client.id: len(client.records) for client in clients}["tiny"] == 9

    def test_a_client_without_a_size_is_refused(self, load, settings):
        """There is no default: a true number would tell whether one record is there."""
        with pytest.raises(ConfigError, match=r"3 client\(s\) have no public size, such as 'west'"):
            load(changed(settings, "data/public_size", MISSING))

    def test_a_size_may_be_released_under_noise(self, load, settings):
        settings = changed(settings, "data/public_size", {"noise_epsilon": 0.5})
        federation = load(settings)
        sizes = {client.id: client.public_size for client in federation.clients}
        noisy = NoisySize(noise_epsilon=0.5, minimum=11)
        assert sizes == {"east": noisy, "north": 25, "south": noisy, "west": noisy}
        assert "released once under noise" in federation.public_size_source
        settings = changed(settings, "data/public_sizes/north", {"noise_epsilon": 0.25})
        (north,) = [client for client in load(settings).clients if client.id == "north"]
        assert north.public_size == NoisySize(noise_epsilon=0.25, minimum=11)

    def test_a_client_whose_declared_size_is_too_small_is_left_out(self, load, settings):
        """By its declared size: that it holds more, or fewer, must not show."""
        settings = changed(settings, "data/partition/minimum", 22)
        assert [client.id for client in load(changed(settings, "privacy/clients", MISSING)).clients]
        settings = changed(settings, "data/public_sizes", {"north": 25, "east": 22, "west": 90})
        settings = changed(settings, "privacy/clients", MISSING)
        federation = load(settings)
        assert [client.id for client in federation.clients] == ["east", "north", "west"]
        held = load(changed(settings, "data/partition/minimum", 1)).held_out
        assert len(federation.held_out) < len(held)

    def test_an_own_budget_of_a_client_that_is_left_out_is_no_mistake(self, load, settings):
        """Nor is an anchor of it."""
        settings = changed(settings, "data/public_sizes", {"north": 25, "east": 22, "west": 90})
        settings = changed(settings, "data/partition/minimum", 22)
        settings = changed(settings, "data/continues", {"south": "3:" + "ab" * 32})
        settings = changed(settings, "privacy/clients/east", {"epsilon": 2.5, "delta": 1e-5})
        budgets = {client.id: client.budget for client in load(settings).clients}
        own = Budget(epsilon=2.5, delta=1e-5)
        assert budgets == {"east": own, "north": None, "west": None}

    @pytest.mark.parametrize(
        ("table", "value"),
        [
            ("privacy/clients", {"epsilon": 1.5, "delta": 1e-4}),
            ("data/continues", "3:" + "ab" * 32),
            ("data/public_sizes", 30),
        ],
    )
    def test_a_name_that_is_not_declared_is_refused_with_those_that_are(
        self, load, settings, table, value
    ):
        with pytest.raises(ConfigError) as refused:
            load(changed(settings, f"{table}/suoth", value))
        assert str(refused.value) == (
            f"[{table.replace('/', '.')}] names unknown client(s) ['suoth']; those declared in "
            "[data] are ['east', 'north', 'south', 'west']"
        )

    def test_of_many_declared_names_some_are_shown(self, load, settings):
        names = ["north", *(f"ward-{number}" for number in range(10, 33))]
        with pytest.raises(ConfigError, match=r"\['south'\]; .*'ward-27', 'ward-28'\] and 4 more$"):
            load(changed(settings, "data/partition/clients", names))

    @pytest.mark.parametrize("form", ["clients", "public_sizes"])
    def test_the_limit_of_clients_is_checked_before_any_text_is_read(
        self, load, settings, monkeypatch, form
    ):
        monkeypatch.setattr(run_data, "load_table", None)
        settings = changed(settings, "privacy/clients", MISSING)
        names = [f"ward-{number}" for number in range(1001)]
        if form == "clients":
            settings = changed(settings, "data/partition/clients", names)
        else:
            settings = changed(settings, "data/partition/clients", MISSING)
        settings = changed(settings, "data/public_sizes", dict.fromkeys(names, 30))
        with pytest.raises(ConfigError, match="at most 1000 clients can take part.*got 1001"):
            load(settings)
        settings["data"]["public_sizes"][names[0]] = 10
        with pytest.raises(TypeError):  # it goes on to read: one client is too small to take part
            load(settings)

    def test_names_are_compared_in_the_spelling_of_a_table(self, load, settings, tmp_path):
        path = tmp_path / "notes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        spelt = {"north": True, "south": 2.0, "east": "3", "west": 4}
        rows = [{**row, "ward": spelt[row["ward"]]} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = changed(settings, "data/partition/clients", ["True", "2", "3.0", "4"])
        settings = changed(settings, "data/public_sizes", {"True": 25})
        settings = changed(settings, "privacy/clients", MISSING)
        federation = load(settings)
        assert [client.id for client in federation.clients] == ["2", "3.0", "4", "True"]
        assert all(len(client.records) > 25 for client in federation.clients)


class TestRowsThatAreLeftOut:
    """Said to whoever runs it, as counts."""

    def test_they_are_counted_in_a_warning(self, load, settings, tmp_path, caplog):
        path = tmp_path / "notes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        other = json.loads((tmp_path / "other.jsonl").read_text().splitlines()[0])
        extra = [rows[0], rows[0], rows[1], {**rows[2], "topic": None}]
        extra += [{**rows[3], "ward": "tiny"} for _ in range(1)]
        extra += [{**other, "note": other["note"] + " " * n, "ward": "north"} for n in range(5)]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
        settings = changed(settings, "data/held_out_source", "other.jsonl")
        settings = changed(settings, "data/held_out", MISSING)
        with caplog.at_level("INFO", logger="privfed"):
            load(settings)
        (record,) = [
            record for record in caplog.records if record.name == "privfed.cli.run_file_data"
        ]
        assert record.levelname == "WARNING"
        assert record.getMessage() == (
            "notes.jsonl: 170 rows, of which 1 lack a value, 3 are copies, 1 are of clients that "
            "do not take part, 5 are in held_out_source too, 0 are held out, and 160 are trained on"
        )

    def test_else_they_are_counted_quietly(self, load, settings, caplog):
        with caplog.at_level("INFO", logger="privfed"):
            federation = load(settings)
        (record,) = [
            record for record in caplog.records if record.name == "privfed.cli.run_file_data"
        ]
        assert record.levelname == "INFO"
        held = len(federation.held_out)
        assert f"{held} are held out, and {160 - held} are trained on" in record.getMessage()


@pytest.mark.parametrize("name", ["title", "held_out_source"])
def test_words_that_the_report_needs_are_required_before_anything_is_spent(load, settings, name):
    with pytest.raises(ConfigError, match=name):
        replace(load(settings), **{name: " "})


def test_a_language_model_trains_from_its_configuration(load, settings, llama_folder, tmp_path):
    """From the file to the report, with prefix tuning and an own budget."""
    settings["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 10}
    settings["adapter"] = {"kind": "prefix-tuning", "num_virtual_tokens": 2}
    settings["strategy"]["kind"] = "fedavg"
    settings["federation"]["rounds"] = 1
    settings["averaging"]["first_round"] = 1
    settings["data"]["public_sizes"] = dict.fromkeys(["east", "north", "south", "west"], 25)
    del settings["data"]["label"]
    del settings["parties"]
    result = load(settings).run(tmp_path / "out")
    spent = {client.id: client.epsilon_spent for client in result.report.clients}
    assert 0 < spent["south"] <= 1.5 < spent["east"] <= 4.0
    assert result.rounds[0].metric == "perplexity"
    assert result.report.title == "topics at wards"


class TestTheExample:
    """docs/run.toml, with made-up letters in place of the file that it names."""

    HOSPITALS = ("north", "south", "east", "west")
    DEPARTMENTS = ("cardiology", "neurology", "oncology", "surgery")

    @pytest.fixture
    def federation(self, monkeypatch):
        asked = {}

        def load_table(source, **columns):
            asked["source"], asked["columns"] = source, columns
            count = 400
            return TextTable(
                texts=tuple(f"letter {n}" for n in range(count)),
                labels=tuple(self.DEPARTMENTS[n % 4] for n in range(count)),
                owners=tuple(self.HOSPITALS[n // 4 % 4] for n in range(count)),
            )

        monkeypatch.setattr(run_data, "load_table", load_table)
        loaded = load_federation(EXAMPLE)
        assert asked == {
            "source": str(EXAMPLE.parent / "letters.jsonl"),
            "columns": {
                "text": "text",
                "label": "department",
                "owner": "hospital",
                "person": None,
                "missing": "refuse",
                "encoding": "utf-8",
            },
        }
        return loaded

    def test_it_is_read(self, federation):
        assert sorted(client.id for client in federation.clients) == sorted(self.HOSPITALS)
        assert federation.model.labels == self.DEPARTMENTS
        assert len(federation.held_out) == 35
        sizes = {client.id: client.public_size for client in federation.clients}
        assert sizes == {"north": 1200, "south": 900, "east": 2000, "west": 1500}

    def test_its_clients_could_start_without_a_warning(self, federation):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_clients(federation.clients, federation.privacy, federation.min_clients)
            assert joining.delta_notes(federation.clients, federation.privacy) == []

    def test_its_noise_leaves_something_to_learn(self, federation):
        class Fresh:
            def events(self):
                return ()

        (south,) = [client for client in federation.clients if client.id == "south"]
        sigmas = joining.calibrate([south], {"south": Fresh()}, federation.privacy, 8)
        assert sigmas["south"] < 0.1 * federation.privacy.expected_batch_size

    def test_every_key_that_the_loader_knows_is_in_it(self):
        keys = r'\b(?:take|take_all|section|optional)\(\s*"(\w+)"'
        known = re.findall(keys, SOURCE)
        assert len(known) > 40
        assert {"custody", "key_holder", "follow_released", "parties", "authority"} <= set(known)
        assert {"labels", "layers", "feedforward_modules"} <= set(known)
        text = EXAMPLE.read_text(encoding="utf-8")
        absent = [
            key
            for key in known
            if not re.search(rf"^(# )?{key} = |^(# )?\[.*\b{key}\b|^# .*\{{ {key} = ", text, re.M)
        ]
        assert not absent

    def test_every_key_that_it_names_is_known_also_those_in_comments(self):
        text = EXAMPLE.read_text(encoding="utf-8")
        free = {"north", "south", "east", "west"}
        named = set(re.findall(r"^(?:# )?(\w+) = ", text, re.M)) - free
        assert len(named) > 40
        assert not [key for key in named if f'"{key}"' not in SOURCE]

    def test_its_other_choices_can_be_made(self):
        """The comments on encryption and parties, with their hashes taken off."""
        text = EXAMPLE.read_text(encoding="utf-8")
        part = text[text.index("[encryption]") : text.index("[strategy]")]
        chosen = tomllib.loads(re.sub(r"(?m)^# (?=\[?\w+\]?( = |$))", "", part))
        root = Section("", chosen)
        encryption = run_config._encryption(root.section("encryption"))
        assert encryption.custody is Custody.KEY_HOLDER
        assert (encryption.key_holder, encryption.follow_released) == (
            "keys.example.org:7000",
            True,
        )
        files = run_config._enrolment(root.optional("parties"), Path("there"))
        assert files.roster == Path("there/letters.roster")
        root.end()


def test_a_key_holder_at_an_address_needs_parties(load, settings):
    """It has keys of its own, which no simulated roster can name."""
    settings.pop("parties", None)
    settings["encryption"] = {"custody": "key_holder", "key_holder": "localhost:7000"}
    with pytest.raises(ConfigError, match=r"needs a roster and identities \(\[parties\]\)"):
        load(settings)
