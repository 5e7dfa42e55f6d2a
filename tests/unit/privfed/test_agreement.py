"""What all parties hold the same: its digest covers that, and nothing that a party may choose."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from accountants import Budget, Neighbouring, PoissonGaussian
from privfed import (
    CKKS,
    Classification,
    Client,
    Computation,
    FedAvg,
    Federation,
    FedNova,
    LoRA,
    NoisySize,
    Precision,
    PrivacyConfig,
    Record,
    TrainingConfig,
)
from privfed.agreement import (
    Agreement,
    Declaration,
    Proposal,
    budget_of,
    private_steps_of,
    range_from_public_settings,
    sample_rate_of,
    steps_of,
)
from privfed.errors import ConfigError

PRIVACY = PrivacyConfig(
    budget=Budget(epsilon=3.0, delta=1e-4),
    neighbouring=Neighbouring.ADD_REMOVE,
    record="one note",
    expected_batch_size=20,
)


def declared(**changes):
    return Declaration(**{"id": "north", "public_size": 80, "dataset": "notes", **changes})


@pytest.fixture
def federation(tmp_path):
    return Federation(
        model=Classification(base="acme/tiny", labels=("good", "bad"), max_length=16),
        clients=[
            Client(id=name, records=(Record("a note", "good"),), public_size=size, dataset="notes")
            for name, size in (("north", 80), ("south", 90), ("west", 100))
        ],
        adapter=LoRA(rank=2, target_modules=("query",)),
        privacy=PRIVACY,
        training=TrainingConfig(learning_rate=0.5, physical_batch_size=12),
        method=FedAvg(),
        rounds=5,
        held_out=[Record("another", "bad")],
        state_folder=tmp_path,
    )


def agreed(federation, **changes):
    values = {
        "settings": federation.proposed(),
        "clients": tuple(client.describe(federation.privacy) for client in federation.clients),
        "weights": {"north": 0.8, "south": 0.9, "west": 1.0},
        "base_model": "b0",
        "layout": "1a",
        "num_params": 7,
        "start": "57",
        "tokenizer": "70",
        "min_clients": 3,
    }
    return Agreement(**{**values, **changes})


class TestTheDigest:
    @pytest.mark.parametrize(
        "own",
        [
            {"device": "cpu"},
            {"computation": Computation(precision=Precision.BF16, stacked_clients=2)},
            {"training": TrainingConfig(learning_rate=0.5, physical_batch_size=3)},
            {"seed": 8},
            {"fresh_ledgers": True},
        ],
    )
    def test_what_a_party_chooses_alone_is_not_in_it(self, federation, own, tmp_path):
        other = replace(federation, state_folder=tmp_path / "elsewhere", **own)
        assert agreed(other).digest() == agreed(federation).digest()

    @pytest.mark.parametrize(
        "change",
        [
            {"rounds": 6},
            {"min_clients": 4},
            {"clients_per_round": 3},
            {"title": "other letters"},
            {"privacy": replace(PRIVACY, clipping_norm=0.3)},
            {"training": TrainingConfig(learning_rate=0.25, physical_batch_size=12)},
            {"model": Classification(base="acme/tiny", labels=("good", "bad"), max_length=17)},
            {"adapter": LoRA(rank=3, target_modules=("query",))},
            {"method": FedAvg(server_learning_rate=0.5)},
            {"held_out": [Record("another", "good")]},
        ],
    )
    def test_what_all_must_choose_alike_is(self, federation, change):
        assert agreed(replace(federation, **change)).digest() != agreed(federation).digest()

    @pytest.mark.parametrize(
        "change",
        [
            {"weights": {"north": 0.8, "south": 0.9, "west": 0.9}},
            {"base_model": "b1"},
            {"layout": "1b"},
            {"num_params": 8},
            {"start": "58"},
            {"tokenizer": "71"},
            {"min_clients": 4},
            {"clients": ()},
        ],
    )
    def test_so_is_all_else_that_it_states(self, federation, change):
        assert agreed(federation, **change).digest() != agreed(federation).digest()

    def test_a_folder_with_the_base_model_may_lie_anywhere(self, federation, tmp_path):
        digests = set()
        for place in ("here", "there"):
            folder = tmp_path / place
            folder.mkdir(parents=True)
            model = replace(federation.model, base=str(folder))
            assert str(tmp_path) not in json.dumps(replace(federation, model=model).proposed())
            digests.add(agreed(replace(federation, model=model)).digest())
        assert len(digests) == 1


class TestAProposal:
    def test_what_all_are_given(self, federation):
        proposal = federation.proposal()
        assert proposal.names == ("north", "south", "west")
        assert (proposal.rounds, proposal.min_clients) == (5, 3)
        assert proposal.metric == "accuracy"
        assert proposal.summation == federation.encryption
        assert proposal.to_json() == {
            "settings": federation.proposed(),
            "clients": [client.describe(PRIVACY) for client in federation.clients],
        }

    def test_there_and_back(self, federation):
        proposal = federation.proposal()
        found = Proposal.from_json(json.loads(json.dumps(proposal.to_json())))
        assert found == proposal
        assert found.digest() == proposal.digest()

    def test_its_digest_is_that_of_its_canonical_json(self, federation):
        """By hand: sorted keys, no spaces."""
        values = federation.proposal().to_json()
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert federation.proposal().digest() == hashlib.sha256(text.encode()).hexdigest()

    @pytest.mark.parametrize(
        "change", [{"rounds": 6}, {"min_clients": 4}, {"title": "x"}, {"encryption": CKKS()}]
    )
    def test_no_two_are_named_alike(self, federation, change):
        assert replace(federation, **change).proposal().digest() != federation.proposal().digest()

    def test_nor_with_other_clients_or_in_another_order(self, federation):
        clients = federation.clients
        larger = replace(clients[0], public_size=81)
        to_come = replace(clients[0], public_size=NoisySize(noise_epsilon=0.5))
        digests = {
            replace(federation, clients=given).proposal().digest()
            for given in (
                clients,
                clients[::-1],
                clients[:2],
                [larger, *clients[1:]],
                [to_come, *clients[1:]],
            )
        }
        assert len(digests) == 5

    @pytest.mark.parametrize("own", [{"seed": 8}, {"device": "cpu"}, {"fresh_ledgers": True}])
    def test_what_a_party_chooses_alone_is_not_in_it(self, federation, own):
        assert replace(federation, **own).proposal().digest() == federation.proposal().digest()

    @pytest.mark.parametrize("missing", ["rounds", "min_clients", "metric", "encryption"])
    def test_what_an_aggregator_cannot_read_is_refused(self, federation, missing):
        values = federation.proposal().to_json()
        del values["settings"][missing]
        with pytest.raises(ConfigError, match=f"as privfed wrote it: .*{missing}"):
            Proposal.from_json(values)

    @pytest.mark.parametrize(
        "change",
        [
            {"clients": [{"public_size": 80}]},
            {"clients": 7},
            {"clients": ["north"]},
            {"settings": None},
            {"settings": {"rounds": "many"}},
        ],
        ids=str,
    )
    def test_so_is_anything_else(self, federation, change):
        with pytest.raises(ConfigError, match="must be as privfed wrote it"):
            Proposal.from_json({**federation.proposal().to_json(), **change})
        with pytest.raises(ConfigError, match="must be as privfed wrote it"):
            Proposal.from_json({})


class TestADeclaration:
    def test_what_it_says(self):
        described = declared(budget=Budget(epsilon=1.5, delta=1e-5)).describe(PRIVACY)
        assert described == {
            "id": "north",
            "dataset": "notes",
            "description": "the client's own data",
            "public_size": 80,
            "epsilon_budget": 1.5,
            "delta": 1e-5,
            "steps_per_round": PRIVACY.steps_per_round,
        }

    def test_the_federations_budget_where_it_has_none(self):
        assert budget_of(declared(), PRIVACY) == PRIVACY.budget
        assert declared().describe(PRIVACY)["epsilon_budget"] == 3.0

    def test_its_own_steps_and_the_federations_where_it_has_none(self):
        own = declared(steps_per_round=7)
        assert steps_of(own, PRIVACY) == own.describe(PRIVACY)["steps_per_round"] == 7
        assert steps_of(declared(), PRIVACY) == PRIVACY.steps_per_round != 7
        assert private_steps_of(own, PRIVACY, 1.5) == PoissonGaussian(
            noise_multiplier=1.5, sample_rate=0.25, steps=7
        )

    def test_a_size_that_is_to_be_released_is_no_number_yet(self):
        to_come = declared(public_size=NoisySize(noise_epsilon=0.5))
        assert to_come.describe(PRIVACY)["public_size"]["noise_epsilon"] == 0.5
        with pytest.raises(ConfigError, match="'north' is not released yet"):
            _ = to_come.size

    def test_the_sampling_rate_is_public(self):
        assert sample_rate_of(declared(), PRIVACY) == 0.25

    @pytest.mark.parametrize(
        "wrong", [{"id": 7}, {"dataset": None}, {"public_size": 0}, {"budget": 3.0}]
    )
    def test_every_field_is_checked(self, wrong):
        with pytest.raises(ConfigError):
            declared(**wrong)

    @pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "2", 1_000_001])
    def test_its_steps_are_a_count_as_those_of_the_federation(self, wrong):
        with pytest.raises(ConfigError, match="^steps_per_round of client 'north' must be"):
            declared(steps_per_round=wrong)


def test_the_range_is_that_of_the_client_that_can_move_most():
    """Not of the largest noise with the most steps, if these are of two clients."""
    training = TrainingConfig(learning_rate=0.5)

    def of(noise, steps):
        alike = dict.fromkeys(noise, 1.0)
        return range_from_public_settings(PRIVACY, training, noise, steps, alike, 1)

    noise, steps = {"a": 4.0, "b": 1.0}, {"a": 1, "b": 9, "absent": 100}
    assert of(noise, steps) == of({"b": 1.0}, steps) > of({"a": 4.0}, steps)
    assert of(noise, {"a": 2, "b": 2}) == of({"a": 4.0}, {"a": 2}) > of({"b": 1.0}, {"b": 2})

    def test_a_client_is_one_that_holds_records(self):
        client = Client(
            id="north", records=(Record("a note", "good"),), public_size=80, dataset="notes"
        )
        assert client.describe(PRIVACY) == declared().describe(PRIVACY)
        assert "a note" not in repr(client)


def test_an_update_counts_by_its_weight_in_the_range():
    """Move for move, and as if those of larger weight left as far as they may."""
    training = TrainingConfig(learning_rate=0.5)
    noise, steps = dict.fromkeys("abcd", 2.0), {"a": 2, "b": 3, "c": 11, "d": 4}
    weights = FedNova().weights(dict.fromkeys(noise, 50), steps)

    def of(least, **changed):
        return range_from_public_settings(
            PRIVACY, training, noise, steps, {**weights, **changed}, least
        )

    one = range_from_public_settings(PRIVACY, training, {"a": 2.0}, {"a": 1}, {"a": 1.0}, 1)
    assert [of(least) / one for least in (4, 3, 2, 1)] == pytest.approx([2, 3, 4, 11])
    assert of(4, c=1.0) / one == pytest.approx(11)
    for gone in "abcd":
        left = [client for client in steps if client != gone]
        grown = FedNova().weights(dict.fromkeys(left, 50), steps)
        assert max(grown[client] * steps[client] for client in left) <= of(3) / one * (1 + 1e-12)


def test_it_needs_no_torch():
    """An aggregator holds it."""
    code = (
        "import sys, privfed.agreement\n"
        "assert not {'torch', 'tenseal', 'opacus', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
