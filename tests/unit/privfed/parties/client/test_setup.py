"""What comes before the first message: nothing is released of text that was not tried."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from accountants import (
    Anchor,
    AnchorFolder,
    BudgetExceededError,
    Ledger,
    LedgerError,
    PoissonGaussian,
)
from privfed import Budget, Computation, GradientMethod, NoisySize, Record, RoLoRA
from privfed.errors import ConfigError, DataError
from privfed.identity.keys import Identity, Role
from privfed.models.tokenizer_digest import tokenizer_digest
from privfed.parties.client import joining, setup
from privfed.parties.client.setup import Known, prepare
from privfed.storage.state_folder import ledger_path
from tests.organisations import ORGANISATIONS

NAMES = [f"client-{index}" for index in range(4)]
IDENTITIES = {name: Identity.generate(name, Role.CLIENT) for name in NAMES}


@pytest.fixture
def federation(make_federation, tmp_path):
    return make_federation(anchor_folder=tmp_path / "anchors")


@pytest.fixture
def start(federation, tmp_path):
    """The file with the initial adapter, as one party makes it for all."""
    path = tmp_path / "start.safetensors"
    path.write_bytes(prepared(federation, []).start)
    return path


def prepared(federation, clients, **about):
    return prepare(federation, clients, IDENTITIES, **{"start": None, **about})


def reserved(federation, client, *, steps=2, run="0a1b"):
    """A ledger of this client that counts a round of another run, and its anchor."""
    path = ledger_path(federation.state, client.id, client.dataset)
    path.parent.mkdir(parents=True)
    ledger = Ledger.create(
        path,
        client=client.id,
        dataset=client.dataset,
        unit=federation.privacy.record,
        neighbouring=federation.privacy.neighbouring,
        anchors=AnchorFolder(federation.anchors),
    )
    event = PoissonGaussian(noise_multiplier=2.5, sample_rate=0.5, steps=steps)
    ledger.reserve(run, 1, [event], lambda *_: None)
    return ledger.anchor()


class TestClients:
    def test_one_alone_brings_what_it_would_among_all(self, federation, start):
        alone = prepared(federation, [federation.clients[1]], start=start)
        among = prepared(federation, federation.clients, start=start)
        assert list(alone.facts) == ["client-1"]
        assert list(among.facts) == list(among.nodes) == list(among.ledgers) == NAMES
        assert alone.facts["client-1"] == among.facts["client-1"]
        assert np.array_equal(alone.initial, among.initial)
        adapter = alone.initial + 1
        assert alone.evaluate(adapter) == among.evaluate(adapter)

    def test_what_it_brings(self, federation, start):
        found = prepared(federation, [federation.clients[2]], start=start)
        facts = found.facts["client-2"]
        assert facts.client == federation.clients[2].describe(federation.privacy)
        assert facts.client["public_size"] == ORGANISATIONS[2].public_size
        assert facts.num_params == facts.num_values == len(found.initial)
        assert facts.start == hashlib.sha256(start.read_bytes()).hexdigest()
        assert facts.tokenizer == tokenizer_digest(federation.model.tokenizer())
        assert facts.base_weights == found.model.base_sha256
        assert facts.epsilon_before == 0
        assert found.size_source == federation.public_size_source

    def test_hooks_cannot_train_a_part_of_an_adapter(self, federation, start):
        """They would fail in every round, each of which is counted."""
        federation = replace(
            federation,
            method=RoLoRA(),
            computation=Computation(gradients=GradientMethod.OPACUS_HOOKS),
        )
        with pytest.raises(ConfigError, match="take gradients = 'expanded_leaves'"):
            prepared(federation, federation.clients, start=start)

    def test_its_node_trains_with_that_noise_and_these_keys(self, federation, start):
        found = prepared(federation, [federation.clients[2]], start=start)
        node = found.nodes["client-2"]
        assert node.config.noise_multiplier == found.facts["client-2"].noise_multiplier > 0
        assert node.config.sample_rate == 20 / ORGANISATIONS[2].public_size
        assert node.identity is IDENTITIES["client-2"]
        assert (node.rounds, node.config.steps, node.config.clipping_norm) == (3, 2, 0.75)
        assert node.ledger is found.ledgers["client-2"]

    def test_no_two_need_the_same_noise(self, federation, start):
        facts = prepared(federation, federation.clients, start=start).facts
        assert len({one.noise_multiplier for one in facts.values()}) == 4

    def test_without_a_file_the_adapter_is_drawn_and_the_file_is_made(self, federation, start):
        drawn = prepared(federation, [])
        assert drawn.start == start.read_bytes()
        assert np.array_equal(prepared(federation, [], start=start).initial, drawn.initial)
        other = replace(federation, seed=7)
        assert prepared(other, []).start != drawn.start
        assert prepared(other, [], start=start).start == drawn.start


class TestWhatWasSpentBefore:
    def test_is_stated_and_leaves_less(self, federation, start):
        fresh = prepared(federation, [federation.clients[0]], start=start).facts["client-0"]
        client = replace(federation.clients[0], dataset="other topics")
        reserved(federation, client)
        found = prepared(federation, [client], start=start)
        facts = found.facts["client-0"]
        assert facts.epsilon_before == found.nodes["client-0"].epsilon_spent() > 0
        assert facts.noise_multiplier > fresh.noise_multiplier

    def test_a_budget_that_is_used_up_is_refused(self, federation, start):
        client = replace(federation.clients[0], budget=Budget(epsilon=0.01, delta=1e-3))
        with pytest.raises(BudgetExceededError, match="client-0"):
            prepared(federation, [client], start=start)


class TestARunThatGoesOn:
    def known(self, found, **anchors):
        return Known(anchors=anchors, facts=found.facts)

    def test_noise_is_calibrated_once(self, federation, start):
        """Its ledger has grown since; what it brought has not."""
        client = federation.clients[0]
        found = prepared(federation, [client], start=start)
        before, ledger = found.facts["client-0"], found.ledgers["client-0"]
        ledger.reserve("0a1b", 1, found.nodes["client-0"].releases(), lambda *_: None)
        again = prepared(federation, [client], start=start, known=self.known(found))
        assert again.facts["client-0"] == before
        assert again.nodes["client-0"].config.noise_multiplier == before.noise_multiplier
        assert again.nodes["client-0"].epsilon_spent() > before.epsilon_before == 0

    def test_not_with_a_ledger_that_was_put_back(self, federation, start):
        client = federation.clients[0]
        found = prepared(federation, [client], start=start)
        longer = Anchor(length=9, head="1e" * 32)
        known = self.known(found, **{"client-0": longer})
        with pytest.raises(LedgerError):
            prepared(federation, [client], start=start, known=known)

    def test_nor_without_its_ledger(self, federation, start):
        found = prepared(federation, federation.clients[:1], start=start)
        known = self.known(found, **{"client-0": found.ledgers["client-0"].anchor()})
        client = replace(federation.clients[0], dataset="other topics")
        with pytest.raises(LedgerError):
            prepared(federation, [client], start=start, known=known)

    def test_who_was_left_out_does_not_train_and_keeps_its_ledger(self, federation, start):
        found = prepared(federation, federation.clients, start=start, left_out=["client-2"])
        here = ["client-0", "client-1", "client-3"]
        assert list(found.nodes) == list(found.facts) == here
        assert list(found.ledgers) == NAMES


class TestTheOrder:
    def test_text_is_tried_before_anything_of_it_is_released(self, federation, start, monkeypatch):
        monkeypatch.setattr(joining, "usable_records", lambda *_: 1 / 0)
        with pytest.raises(DataError, match="'client-0' cannot be prepared") as caught:
            prepared(federation, [self.noisy(federation)], start=start)
        assert "division" not in str(caught.value)
        assert not ledger_path(federation.state, "client-0", "topics").exists()

    def test_a_released_size_is_counted_before_noise_is_calibrated(
        self, federation, start, monkeypatch
    ):
        seen, real = [], setup.calibrate

        def calibrate(clients, histories, method, privacy, rounds):
            seen.append((clients[0].size, len(histories["client-0"])))
            return real(clients, histories, method, privacy, rounds)

        monkeypatch.setattr(setup, "calibrate", calibrate)
        found = prepared(federation, [self.noisy(federation)], start=start)
        assert seen == [(found.clients[0].size, 1)]
        assert found.facts["client-0"].client["public_size"] == found.clients[0].size
        assert found.facts["client-0"].epsilon_before >= 1.5
        assert "client-0" in found.size_source

    def test_who_turns_out_too_small_takes_no_part(self, federation, start):
        client = self.noisy(federation, minimum=10_000)
        found = prepared(federation, [client, federation.clients[1]], start=start)
        assert [one.id for one in found.clients] == list(found.nodes) == ["client-1"]
        (note,) = found.notes
        assert "'client-0' takes no part" in note

    def noisy(self, federation, minimum=1):
        size = NoisySize(noise_epsilon=1.5, minimum=minimum)
        return replace(federation.clients[0], public_size=size)


def test_held_out_text_that_cannot_be_read_is_refused(federation, start):
    """It is nobody's secret, so that the error may say why."""
    unread = replace(federation, held_out=[Record("", None)])
    with pytest.raises(DataError, match="every label must be an int"):
        prepared(unread, [], start=start)
