"""From a TOML file to a federation: what is read, and every mistake by its name."""

import inspect
import re
import tomllib
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest

from accountants import Budget
from privfed import (
    BFV,
    CKKS,
    SGD,
    CausalLanguageModel,
    Classification,
    DoubleSketch,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDPA,
    FedNova,
    FedProx,
    FedSALoRA,
    FedSVD,
    FedYogi,
    FFALoRA,
    Houlsby,
    LocalHead,
    LoRA,
    MixedRanks,
    PeftAdapter,
    Plain,
    PromptGenerator,
    RoLoRA,
    Scaffold,
    SparseUpdate,
    TailAveraging,
    TrainingConfig,
)
from privfed.cli import run_file as run_config
from privfed.cli import run_file_bases
from privfed.cli import run_file_data as run_data
from privfed.cli import run_file_partition as run_partition
from privfed.cli import run_file_settings as run_tables
from privfed.cli import run_file_sizes as run_sizes
from privfed.cli.run_file import load_federation
from privfed.cli.toml_section import Section
from privfed.data.datasets import TextTable
from privfed.errors import ConfigError, DataError
from privfed.identity.enrolment import Enrolment
from privfed.parties.client import joining
from privfed.planning.calibration import calibrate
from privfed.run_settings import check_clients
from privfed.settings.computation import Computation
from privfed.settings.encryption import Custody
from privfed.settings.privacy import PrivacyConfig
from tests.unit.privfed.cli.configurations import MISSING, TOPICS, changed

EXAMPLE = Path(__file__).parents[4] / "docs" / "run.toml"
SOURCES = (run_config, run_file_bases, run_data, run_partition, run_tables, run_sizes)
SOURCE = "".join(map(inspect.getsource, SOURCES))
TABLES = (
    *(run_config._TASKS, run_tables._CLIPPING, run_tables._OPTIMIZERS),
    *(run_tables._SUMMATIONS, run_tables._METHODS, run_tables._SERVER_OPTIMIZERS),
)
KINDS = (
    *(kind for table in TABLES for kind in table.values()),
    *(TailAveraging, LoRA, Houlsby, PromptGenerator, SparseUpdate),
    *(Computation, PrivacyConfig, TrainingConfig),
)
BUILT = {field.name for kind in KINDS for field in fields(kind)} - {"of", "budget"}
BUILT |= {"quantile_learning_rate", *run_config._OF_FEDERATION}
"""Keys that are the fields of a dataclass."""


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
        method = FFALoRA(weighting="public_size", server_learning_rate=0.5)
        assert federation.method == TailAveraging(of=method, first_round=2, decay=0.5)
        assert type(federation.method.of) is FFALoRA
        assert (federation.rounds, federation.min_clients) == (2, 4)
        assert federation.clients_per_round is None
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

    def test_a_client_has_its_own_budget_and_the_others_none(self, load, settings):
        budgets = {client.id: client.budget for client in load(settings).clients}
        assert budgets.pop("south") == Budget(epsilon=1.5, delta=1e-4)
        assert set(budgets.values()) == {None}

    def test_a_client_has_its_own_steps_and_the_others_none(self, load, settings):
        settings["privacy"]["clients"] = {
            "south": {"steps_per_round": 5},
            "north": {"steps_per_round": 3, "epsilon": 1.5, "delta": 1e-4},
        }
        federation = load(settings)
        own = {one.id: (one.steps_per_round, one.budget) for one in federation.clients}
        assert own.pop("south") == (5, None)
        assert own.pop("north") == (3, Budget(epsilon=1.5, delta=1e-4))
        assert set(own.values()) == {(None, None)}
        assert {one["steps_per_round"] for one in federation.describe()["clients"]} == {2, 3, 5}

    def test_an_own_budget_changes_nothing_else(self, load, settings):
        own = {client.id: client for client in load(settings).clients}["south"]
        del settings["privacy"]["clients"]
        plain = {client.id: client for client in load(settings).clients}["south"]
        assert (own.records, own.public_size) == (plain.records, plain.public_size)
        assert (own.dataset, own.description) == (plain.dataset, plain.description)

    def test_loading_it_again_gives_the_same(self, load, settings):
        first, again = load(settings), load(settings)
        assert first.describe() == again.describe()
        assert first.clients == again.clients
        assert list(first.held_out) == list(again.held_out)

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
    "method",
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
    assert federation.method == FedAvg()
    assert type(federation.method) is FedAvg
    assert (federation.min_clients, federation.device) == (3, None)
    assert {client.public_size for client in federation.clients} == {21}
    assert {client.budget for client in federation.clients} == {None}
    privacy = federation.privacy
    assert (privacy.clipping_norm, privacy.steps_per_round) == (1.0, 1)


class TestCustody:
    def test_a_key_holder_on_this_machine(self, load, settings):
        settings["encryption"] = {"custody": "key_holder", "bits": 4}
        assert load(settings).encryption == BFV(bits=4, custody=Custody.KEY_HOLDER)
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
    def test_a_language_model(self, load, settings, llama_folder):
        settings["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 12}
        settings["adapter"] = {"kind": "prefix-tuning", "num_virtual_tokens": 3}
        settings["method"]["kind"] = "fedavg"
        del settings["data"]["label"]
        federation = load(settings)
        assert federation.model == CausalLanguageModel(base=llama_folder, max_length=12)
        assert isinstance(federation.adapter, PeftAdapter)
        assert federation.adapter.config.num_virtual_tokens == 3
        assert federation.held_out[0].label is None
        assert type(federation.method.of) is FedAvg

    def test_each_method(self, load, settings):
        settings["method"] = {"kind": "fedprox", "mu": 0.25}
        assert load(settings).method.of == FedProx(mu=0.25)
        del settings["averaging"]
        assert load(settings).method == FedProx(mu=0.25)
        settings["method"] = {"kind": "scaffold", "server_learning_rate": 0.5}
        del settings["training"]["momentum"]
        assert load(settings).method == Scaffold(server_learning_rate=0.5)
        settings["method"] = {"kind": "fedsvd", "every": 3}
        assert load(settings).method == FedSVD(every=3)
        settings["method"] = {"kind": "double-sketch", "width": 24}
        assert load(settings).method == DoubleSketch(width=24)
        del settings["method"]["width"]
        with pytest.raises(ConfigError, match=r"\[method\] needs the key 'width'"):
            load(settings)
        settings["method"] = {"kind": "fednova", "weighting": "public_size"}
        assert load(settings).method == FedNova(weighting="public_size")
        assert type(load(settings).method) is FedNova

    def test_each_optimiser_of_the_server_inside_the_average(self, load, settings):
        settings["method"] = {"kind": "rolora"}
        for settings["server_optimizer"], expected in (
            ({"kind": "fedavgm", "momentum": 0.5}, FedAvgM(of=RoLoRA(), momentum=0.5)),
            (
                {"kind": "fedyogi", "learning_rate": 0.25, "beta1": 0.5, "beta2": 0.75, "tau": 0.1},
                FedYogi(of=RoLoRA(), learning_rate=0.25, beta1=0.5, beta2=0.75, tau=0.1),
            ),
            ({"kind": "fedadam", "learning_rate": 0.5}, FedAdam(of=RoLoRA(), learning_rate=0.5)),
            (
                {"kind": "fedadagrad", "learning_rate": 0.5},
                FedAdagrad(of=RoLoRA(), learning_rate=0.5),
            ),
        ):
            method = load(settings).method
            assert (type(method), type(method.of)) == (TailAveraging, type(expected))
            assert method.of == expected
        settings["server_optimizer"]["beta2"] = 0.75
        with pytest.raises(ConfigError, match="beta2"):
            load(settings)

    def test_personal_methods_and_what_is_sent_of_them(self, load, settings):
        settings["method"] = {"kind": "fed-dpa", "personal_rank": 1, "upload_share": 0.5}
        assert load(settings).method.of == FedDPA(personal_rank=1, upload_share=0.5)
        for kind, expected in (("fedsa-lora", FedSALoRA()), ("local-head", LocalHead())):
            settings["method"] = {"kind": kind}
            assert load(settings).method.of == expected
            assert type(load(settings).method.of) is type(expected)

    def test_mixed_ranks_around_the_method(self, load, settings):
        settings["method"] = {"kind": "rolora"}
        settings["ranks"] = {"south": 1}
        settings["server_optimizer"] = {"kind": "fedavgm"}
        mixed = MixedRanks(of=RoLoRA(), ranks={"south": 1})
        assert load(settings).method.of == FedAvgM(of=mixed)
        settings["ranks"] = {"south": 1.5}
        with pytest.raises(ConfigError, match="the rank of south"):
            load(settings)

    def test_a_start_is_a_file_beside_the_configuration(self, load, settings, tmp_path):
        assert load(settings).start is None
        settings["start"] = "first.safetensors"
        with pytest.raises(
            ConfigError, match=r"start must be a file.*there is none at .*first\.saf"
        ):
            load(settings)
        (tmp_path / "first.safetensors").write_bytes(b"an adapter")
        assert load(settings).start == tmp_path / "first.safetensors"

    def test_how_many_train_in_a_round(self, load, settings):
        settings["federation"] |= {"min_clients": 3, "clients_per_round": 3}
        assert load(settings).clients_per_round == 3
        settings["federation"]["clients_per_round"] = 5
        with pytest.raises(ConfigError, match="clients_per_round must be a whole number from"):
            load(settings)

    def test_what_a_method_needs_and_what_it_does_not_know(self, load, settings):
        settings["method"] = {"kind": "fedprox"}
        with pytest.raises(ConfigError, match=r"\[method\] needs the key 'mu'"):
            load(settings)
        settings["method"] = {"kind": "fedavg", "mu": 0.25}
        with pytest.raises(ConfigError, match=r"\[method\] has unknown key\(s\) \['mu'\]"):
            load(settings)
        settings["method"] = {"kind": "scaffold"}
        with pytest.raises(ConfigError, match="scaffold needs the optimiser SGD without momentum"):
            load(settings)

    def test_dora(self, load, settings):
        settings["method"] = {"kind": "fedavg"}
        settings["adapter"] = {"kind": "lora", "rank": 3, "target_modules": ["key"], "dora": True}
        assert load(settings).adapter == LoRA(rank=3, target_modules=("key",), dora=True)

    def test_houlsby(self, load, settings):
        settings["method"] = {"kind": "fedavg"}
        targets = ["attention.output.dense", "output.dense"]
        settings["adapter"] = {"kind": "houlsby", "bottleneck": 6, "target_modules": targets}
        expected = Houlsby(bottleneck=6, target_modules=tuple(targets))
        assert load(settings).adapter == expected
        settings["adapter"]["layers"] = [1]
        assert load(settings).adapter == replace(expected, layers=(1,))

    def test_prompt_tuning(self, load, settings):
        settings["method"] = {"kind": "fedavg"}
        settings["adapter"] = {"kind": "prompt-tuning", "num_virtual_tokens": 3}
        assert load(settings).adapter.describe()["adapter"] == "prompt_tuning"

    def test_a_sparse_update(self, load, settings):
        settings["method"] = {"kind": "fedavg"}
        settings["adapter"] = {
            "kind": "sparse-update",
            "target_modules": ["query"],
            "share": 0.25,
            "layers": [1],
        }
        assert load(settings).adapter == SparseUpdate(
            target_modules=("query",), share=0.25, layers=(1,)
        )

    def test_a_prompt_generator(self, load, settings):
        settings["method"] = {"kind": "fedavg"}
        settings["adapter"] = {
            "kind": "prompt-generator",
            "task_text": ["goal score", "bank price"],
            "num_virtual_tokens": 3,
            "width": 10,
            "heads": 5,
        }
        assert load(settings).adapter == PromptGenerator(
            task_text=("goal score", "bank price"), num_virtual_tokens=3, width=10, heads=5
        )


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
    "method",
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
    ("privacy/clients/south/steps_per_round", 2.0),
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
    ("method/kind", 1),
    ("method/weighting", 1),
    ("method/server_learning_rate", "1"),
    ("federation/rounds", 2.0),
    ("federation/min_clients", "4"),
    ("federation/clients_per_round", 3.0),
    ("federation/device", 0),
]

NAN, INF = float("nan"), float("inf")
WRONG_VALUE = [
    ("seed", -1, "seed"),
    ("seed", 2**64, "seed"),
    ("model/task", "translation", "['classification', 'causal-lm'], got 'translation'"),
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
    ("privacy/clients/south/steps_per_round", 0, "steps_per_round of client 'south'"),
    ("privacy/clients/south", {}, "must say epsilon and delta, steps_per_round, or all three"),
    ("privacy/clients/moon", {"epsilon": 1, "delta": 1e-3}, "moon"),
    ("adapter/kind", "dora", "['lora', 'houlsby', 'prompt-tuning', 'prefix-tuning', "),
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
    ("adapter/dora", "yes", "dora"),
    ("training/learning_rate", 0, "learning_rate"),
    ("training/learning_rate", NAN, "learning_rate"),
    ("training/final_learning_rate", -1, "final_learning_rate"),
    ("training/momentum", 1, "momentum"),
    ("training/momentum", NAN, "momentum"),
    ("training/physical_batch_size", 0, "physical_batch_size"),
    ("encryption/kind", "rsa", "['bfv', 'ckks', 'plain'], got 'rsa'"),
    ("encryption/bits", 3, "[4, 16], got 3"),
    ("encryption/public_range", 0, "public_range"),
    ("encryption/public_range", INF, "public_range"),
    (
        "method/kind",
        "fedsgd",
        "'double-sketch', 'fedprox', 'fednova', 'scaffold', 'fedsa-lora', 'local-head', 'fed-dpa']",
    ),
    ("method/weighting", "true_size", "weighting"),
    ("method/server_learning_rate", 0, "server_learning_rate"),
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
            ({"custody": "threshold"}, r"custody must be one of \['shared_key', 'key_holder'\]"),
            ({"custody": "Key_Holder"}, r"custody must be one of \['shared_key', 'key_holder'\]"),
            ({"custody": True}, "custody must be of type str"),
            ({"custody": "key_holder", "key_holder": 7000}, "key_holder must be of type str"),
            ({"custody": "key_holder", "key_holder": "somewhere"}, "key_holder: .*host:port"),
            ({"custody": "key_holder", "key_holder": "here:70000"}, "key_holder: .*host:port"),
            ({"custody": "key_holder", "key_holder": ":7000"}, "key_holder: .*host:port"),
            ({"custody": "key_holder", "key_holder": ""}, "key_holder: .*host:port"),
            ({"key_holder": "here:7000"}, "custody KEY_HOLDER only"),
            ({"kind": "ckks", "custody": "shared_key"}, r"custody is for kind 'bfv' only"),
            ({"kind": "ckks", "bits": 4}, r"unknown key\(s\) \['bits'\]"),
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


@pytest.mark.parametrize("name", ["title", "held_out_source"])
def test_words_that_the_report_needs_are_required_before_anything_is_spent(load, settings, name):
    with pytest.raises(ConfigError, match=name):
        replace(load(settings), **{name: " "})


def test_a_language_model_trains_from_its_configuration(load, settings, llama_folder, tmp_path):
    """From the file to the report, with prefix tuning and an own budget."""
    settings["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 10}
    settings["adapter"] = {"kind": "prefix-tuning", "num_virtual_tokens": 2}
    settings["method"]["kind"] = "fedavg"
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


class TestOtherBases:
    """The tables [bases.NAME]."""

    ANCHORS = ("goal match", "bank price", "film scene")

    @pytest.fixture
    def anchored(self, settings, other_bert_folder):
        settings["model"]["anchor_texts"] = list(self.ANCHORS)
        settings["adapter"] = {"kind": "lora", "rank": 2, "target_modules": ["relative"]}
        settings["bases"] = {"small": {"base": other_bert_folder, "clients": ["east", "west"]}}
        return settings

    def test_their_clients_declare_them(self, load, anchored, other_bert_folder):
        federation = load(anchored)
        assert federation.bases == {"small": other_bert_folder}
        held = {client.id: client.base for client in federation.clients}
        assert held == {"north": None, "south": None, "east": "small", "west": "small"}
        assert federation.model.anchor_texts == self.ANCHORS
        assert federation.task_on("small").base == other_bert_folder
        assert federation.task_on(None) == federation.model

    @pytest.mark.parametrize(
        ("bases", "named"),
        [
            (7, "'bases' at the top level must be of type dict"),
            ({"small": "a folder"}, r"\[bases\] small must be a table"),
            ({"small": {"clients": ["east"]}}, r"\[bases.small\] needs the key 'base'"),
            ({"small": {"base": "b"}}, r"\[bases.small\] needs the key 'clients'"),
            ({"small": {"base": "b", "clients": [7]}}, "a list of items of type str"),
            ({"small": {"base": "b", "clients": [], "x": 1}}, r"unknown key\(s\) \['x'\]"),
            ({"small": {"base": "b", "clients": ["far"]}}, r"names \['far'\], who take no part"),
            (
                {n: {"base": "b", "clients": ["east"]} for n in ("one", "two")},
                "names 'east' twice; a client holds one base model",
            ),
        ],
    )
    def test_what_cannot_be_is_named(self, load, anchored, bases, named):
        with pytest.raises(ConfigError, match=named):
            load({**anchored, "bases": bases})

    def test_a_folder_is_relative_to_the_file(self, tmp_path):
        (tmp_path / "small").mkdir()
        root = Section("", {"bases": {"s": {"base": "small", "clients": ["east"]}}})
        found = run_file_bases.bases_of(root, tmp_path)
        assert found.places == {"s": str(tmp_path.resolve() / "small")}
        root.end()


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
        (south,) = [client for client in federation.clients if client.id == "south"]
        noise_multipliers = calibrate(
            [south], {"south": ()}, federation.method, federation.privacy, {"south": 8}
        )
        assert noise_multipliers["south"] < 0.1 * federation.privacy.expected_batch_size

    def test_every_key_that_the_loader_knows_is_in_it(self):
        keys = r'\b(?:take|take_all|section|optional)\(\s*"(\w+)"'
        known = [*re.findall(keys, SOURCE), *BUILT]
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
        assert not [key for key in named - BUILT if f'"{key}"' not in SOURCE]

    def test_its_other_choices_can_be_made(self):
        """The comments on encryption and parties, with their hashes taken off."""
        text = EXAMPLE.read_text(encoding="utf-8")
        part = text[text.index("[encryption]") : text.index("[method]")]
        chosen = tomllib.loads(re.sub(r"(?m)^# (?=\[?\w+\]?( = |$))", "", part))
        root = Section("", chosen)
        encryption = run_tables.encryption_of(root.section("encryption"))
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
