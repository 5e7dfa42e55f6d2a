"""The settings of a federation: each field has its type, and what is described tells them apart."""

import json
from dataclasses import replace

import numpy as np
import pytest

from privfed import (
    BFV,
    CKKS,
    SGD,
    DoubleSketch,
    FedAvg,
    FedDPA,
    FedSALoRA,
    FedSVD,
    FFALoRA,
    Houlsby,
    LocalHead,
    LoRA,
    MixedRanks,
    NoisySize,
    PeftAdapter,
    Plain,
    Record,
    RecordGroup,
    RoLoRA,
    Scaffold,
    TailAveraging,
    TrainingConfig,
)
from privfed.errors import ConfigError, DataError
from privfed.private_step.randomness import SystemRandomness
from privfed.run_settings import check_clients, check_sizes, training_settings
from privfed.settings.encryption import Custody
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)
from privfed.settings.training import AdamW

CLIPPING = [
    FlatClipping(),
    PerLayerClipping(),
    AutomaticClipping(),
    AutomaticClipping(stability=0.1),
    QuantileClipping(count_noise=5.0),
]
HELD_OUT = (Record("first text", 0), Record("second text", 1))


class TestDescription:
    def test_it_is_json(self, make_federation):
        described = make_federation().describe()
        assert json.loads(json.dumps(described, allow_nan=False)) == described

    @pytest.mark.parametrize("clipping", CLIPPING)
    def test_every_clipping_is_described_by_its_name(self, make_federation, clipping):
        federation = make_federation()
        described = replace(
            federation, privacy=replace(federation.privacy, clipping=clipping)
        ).describe()
        assert described["privacy"]["clipping"]["kind"] == type(clipping).__name__

    def test_no_two_clippings_are_described_alike(self, make_federation):
        federation = make_federation()
        described = [
            replace(federation, privacy=replace(federation.privacy, clipping=rule)).describe()
            for rule in CLIPPING
        ]
        assert all(one != other for n, one in enumerate(described) for other in described[:n])

    def test_the_optimiser_is_described_by_its_name(self, make_federation):
        training = TrainingConfig(learning_rate=0.5, optimizer=SGD(momentum=0.5))
        assert training_settings(training) == {
            "learning_rate": 0.5,
            "final_learning_rate": None,
            "optimizer": {"kind": "SGD", "momentum": 0.5},
            "physical_batch_size": 16,
        }
        federation = make_federation(training=training)
        assert federation.describe()["training"] == training_settings(training)
        assert (
            training_settings(replace(training, optimizer=AdamW()))["optimizer"]["kind"] == "AdamW"
        )

    @pytest.mark.parametrize(
        "other",
        [
            (Record("first text", 0), Record("second text", 0)),
            (Record("first text", 0), Record("other text", 1)),
            (Record("second text", 1), Record("first text", 0)),
            (Record("first text", 0),),
            (Record("first text"), Record("second text")),
        ],
    )
    def test_other_held_out_text_is_another_run(self, make_federation, other):
        described = make_federation(held_out=HELD_OUT).describe()
        assert described != make_federation(held_out=other).describe()

    def test_the_same_held_out_text_is_the_same_run(self, make_federation):
        """Also in a list, and with labels from an array. Golden: sha256sum of the JSON text."""
        described = make_federation(held_out=HELD_OUT).describe()
        assert described["held_out_sha256"] == (
            "742bc843bec6f0aa6051653cbb6d949ede202837fe9b23c4d5e76a3b8099aa18"
        )
        again = [Record(record.text, np.int64(record.label)) for record in HELD_OUT]
        assert make_federation(held_out=again).describe() == described


class TestTypes:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model", "bert"),
            ("model", None),
            ("adapter", "lora"),
            ("adapter", LoRA),
            ("method", FedAvg),
            ("method", "fedavg"),
            ("randomness", SystemRandomness),
            ("randomness", 7),
            ("clients", "client-1"),
            ("clients", ["client-1"]),
            ("held_out", "some text"),
            ("held_out", ["some text"]),
            ("held_out", RecordGroup(HELD_OUT)),
            ("held_out", [RecordGroup(HELD_OUT)]),
            ("privacy", None),
            ("training", {"learning_rate": 0.5}),
            ("training", TrainingConfig),
            ("computation", "bf16"),
            ("encryption", "bfv"),
            ("enrolment", "all.roster"),
            ("state_folder", "state"),
            ("device", 0),
            ("fresh_ledgers", "no"),
            ("title", None),
            ("held_out_source", 3),
            ("public_size_source", None),
            ("rounds", "3"),
            ("rounds", True),
            ("rounds", 1_000_001),
        ],
    )
    def test_another_type_is_refused_by_name(self, make_federation, name, value):
        with pytest.raises(ConfigError, match=f"^{name} must "):
            make_federation(**{name: value})

    @pytest.mark.parametrize(
        "method",
        [
            FFALoRA(),
            RoLoRA(),
            FedSVD(),
            DoubleSketch(width=8),
            MixedRanks(of=FedAvg(), ranks={"client-0": 1}),
            FedSALoRA(),
            LocalHead(),
            TailAveraging(of=FedDPA(personal_rank=1)),
        ],
        ids=lambda method: method.describe()["method"],
    )
    def test_a_method_that_counts_on_lora_with_another_adapter(self, make_federation, method):
        others = {
            "'dora'": LoRA(rank=2, target_modules=("query",), dora=True),
            "'houlsby'": Houlsby(bottleneck=2, target_modules=("output.dense",)),
            "'ia3'": PeftAdapter.ia3(("key",)),
        }
        for name, adapter in others.items():
            with pytest.raises(ConfigError, match=f"the adapter {name} has not; take LoRA"):
                make_federation(method=method, adapter=adapter)
        assert make_federation(method=method).method is method

    def test_what_was_settled_is_not_settled_again_once_sizes_are_known(self, make_federation):
        """A client alone would refuse three in a round, and ranks of others."""
        ranks = {"client-1": 1}
        federation = make_federation(
            num_clients=4, clients_per_round=3, method=MixedRanks(of=FedAvg(), ranks=ranks)
        )
        first = federation.clients[0]
        known = federation.of_clients([replace(first, public_size=77)], "counted")
        assert [client.public_size for client in known.clients] == [77]
        assert (known.public_size_source, known.clients_per_round) == ("counted", 3)
        assert federation.clients[0] is first
        with pytest.raises(ConfigError, match=r"\['client-1'\] are not"):
            replace(federation, clients=[first])

    def test_a_class_in_the_place_of_an_object_is_told_apart(self, make_federation):
        with pytest.raises(
            ConfigError, match=r"got the class FedAvg; make an object of it: FedAvg"
        ):
            make_federation(method=FedAvg)

    def test_objects_of_another_making_are_taken(self, make_federation):
        class Doubling:
            """FedAvg, but that its moves are twice as long."""

            def __getattr__(self, name):
                return getattr(FedAvg(server_learning_rate=2.0), name)

            def describe(self):
                return {"method": "doubling"}

        assert make_federation(method=Doubling()).describe()["method"] == {"method": "doubling"}

    def test_a_method_refuses_what_it_cannot_do(self, make_federation):
        momentum = TrainingConfig(learning_rate=0.5, optimizer=SGD(momentum=0.5))
        with pytest.raises(ConfigError, match="scaffold needs the optimiser SGD without momentum"):
            make_federation(method=Scaffold(), training=momentum)
        late = TailAveraging(of=FedAvg(), first_round=4)
        with pytest.raises(ConfigError, match="averaging begins in round 4, but rounds is 3"):
            make_federation(method=late)

    def test_nothing_held_out(self, make_federation):
        with pytest.raises(DataError, match="at least one record"):
            make_federation(held_out=())


class TestSizes:
    """The expected batch is 20."""

    def with_size(self, federation, size):
        clients = list(federation.clients)
        clients[2] = replace(clients[2], public_size=size)
        return clients

    @pytest.mark.parametrize("size", [20, 21, 400])
    def test_a_batch_may_be_all_that_there_is(self, make_federation, size):
        federation = make_federation()
        check_sizes(self.with_size(federation, size), federation.privacy)

    @pytest.mark.parametrize("size", [1, 19])
    def test_and_not_more(self, make_federation, size):
        federation = make_federation()
        named = f"public size {size} of client 'client-2' .* lower expected_batch_size to at most"
        for check in (check_sizes, lambda clients, privacy: check_clients(clients, privacy, 3)):
            with pytest.raises(ConfigError, match=named):
                check(self.with_size(federation, size), federation.privacy)

    def test_one_that_is_to_be_released_is_checked_later(self, make_federation):
        federation = make_federation()
        to_come = NoisySize(noise_epsilon=0.5)
        check_sizes(self.with_size(federation, to_come), federation.privacy)

    def test_of_nobody_there_is_nothing_to_check(self, make_federation):
        """Unlike `check_clients`, as a client that is prepared alone is one of many."""
        federation = make_federation()
        check_sizes([], federation.privacy)
        check_sizes(federation.clients[:1], federation.privacy)
        with pytest.raises(ConfigError, match="fewer than min_clients"):
            check_clients(federation.clients[:1], federation.privacy, 3)


@pytest.mark.parametrize(
    ("encryption", "shares", "has_holder"),
    [
        (BFV(), True, False),
        (CKKS(), True, False),
        (BFV(custody=Custody.KEY_HOLDER), False, True),
        (Plain(), False, False),
    ],
    ids=str,
)
def test_who_holds_the_key(make_federation, encryption, shares, has_holder):
    federation = make_federation(encryption=encryption)
    assert (federation.shares_key, federation.has_key_holder) == (shares, has_holder)


class TestTheProposal:
    def test_it_is_what_all_must_choose_alike_and_who_is_asked(self, make_federation):
        federation = make_federation()
        proposal = federation.proposal()
        assert proposal.settings == federation.proposed()
        assert list(proposal.clients) == federation.describe()["clients"]

    def test_it_names_no_path_no_seed_and_no_speed(self, make_federation, tmp_path):
        said = json.dumps(make_federation(seed=912_345, device="cpu").proposal().to_json())
        assert str(tmp_path) not in said
        assert "912345" not in said
        for own in ("computation", "physical_batch_size", "fresh_ledgers", "secret_randomness"):
            assert own not in said
