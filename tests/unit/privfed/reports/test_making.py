"""A report says what settings, facts, record and ledgers say, and no more."""

from dataclasses import replace

import pytest

from privfed import BFV, CKKS, Plain
from privfed.errors import ReportError
from privfed.reports.budget import RUNNING, SCHEMA, BudgetReport, Scope
from privfed.reports.making import client_report, federation_report
from privfed.reports.render import render_html
from privfed.settings.encryption import Custody
from privfed.storage.run_folder import software_versions
from tests.unit.privfed.made_up_run import MOMENT, RUN, SIGMAS, facts_of, made_up_run


@pytest.fixture
def run(make_federation, tmp_path):
    return made_up_run(make_federation(num_clients=3), tmp_path / "ledgers")


def report(run, **changes):
    moment = replace(MOMENT, **changes)
    return federation_report(run.settings, run.facts, run.record, run.exports, moment)


class TestAFederation:
    def test_every_client_has_a_row_from_its_ledger(self, run):
        found = report(run)
        assert [client.id for client in found.clients] == run.ids
        for client, sigma in zip(found.clients, SIGMAS, strict=False):
            assert client.epsilon_spent == run.spent(client.id, 3).upper
            assert client.noise_multiplier == sigma
            assert client.rounds == 3
        assert [client.public_size for client in found.clients] == [41, 38, 33]
        assert [client.epsilon_budget for client in found.clients] == [4.0, 5.0, 4.5]

    def test_the_claim_is_the_largest_of_them(self, run):
        found = report(run)
        most = max(run.spent(client, 3).upper for client in run.ids)
        assert found.guarantee.epsilon == most
        assert found.guarantee.delta == 2e-3
        assert f"at delta {0.002:g}, for every client" in found.headline

    def test_between_two_rounds_the_next_one_counts(self, run):
        found = report(run, status=RUNNING)
        assert found.guarantee.epsilon == max(run.spent(client, 4).upper for client in run.ids)
        assert found.headline.startswith("NOT FINISHED: 3 of 3")

    def test_what_the_record_says_arrives(self, run):
        found = report(run)
        assert (found.run, found.rounds) == (RUN, run.record.rounds)
        assert found.baseline == {"accuracy": 0.25}
        assert (found.base_sha256, found.adapter_sha256) == ("ba" * 32, "ef" * 32)
        assert found.warnings[0] == "the weights are not even"
        assert found.warnings[1].startswith("Round 2 was abandoned: clients whose updates")
        assert (found.schema, found.versions) == (SCHEMA, software_versions())

    def test_what_the_settings_say_arrives(self, run):
        found = report(run)
        step = found.mechanism
        assert (step.clipping_norm, step.expected_batch_size) == (0.75, 20)
        assert step.steps_per_round == dict.fromkeys(run.ids, 2)
        assert step.num_params == 640
        assert found.training.optimizer["learning_rate"] == 0.5
        assert "final_learning_rate" not in found.training.optimizer
        assert found.training.weights == {"client-0": 1.0, "client-1": 0.875, "client-2": 0.75}
        assert found.guarantee.unit == "one record: one made-up sentence"
        assert found.randomness.secret
        assert found.randomness.public_seed == run.settings.seed

    def test_repeatable_coins_are_owned_up_to(self, make_federation, seeded_randomness, tmp_path):
        federation = make_federation(num_clients=3, randomness=seeded_randomness())
        found = report(made_up_run(federation, tmp_path / "ledgers"))
        assert found.headline.startswith("NOT PRIVATE")
        assert not found.randomness.secret

    def test_fresh_ledgers_are_owned_up_to(self, make_federation, tmp_path):
        federation = make_federation(num_clients=3, fresh_ledgers=True)
        found = report(made_up_run(federation, tmp_path / "ledgers"))
        assert found.not_covered[0].startswith("Earlier runs on these data")

    def test_a_record_of_several_examples_is_explained(self, run):
        privacy = replace(run.settings.privacy, examples_per_record=4)
        found = report(replace(run, settings=replace(run.settings, privacy=privacy)))
        assert "with all its examples (at most 4 are read" in found.guarantee.unit

    def test_a_gap_is_refused(self, run):
        unknown = replace(run, record=replace(run.record, base_sha256=None))
        with pytest.raises(ReportError, match="lacks 'base_sha256'"):
            report(unknown)


def own_report(run, client="client-1", **changes):
    moment = replace(MOMENT, **changes)
    export = run.exports.get(client)
    return client_report(run.settings, run.facts, run.record, export, moment, client=client)


class TestOneClient:
    def test_there_is_one_row_which_is_its_own(self, run):
        found = own_report(run)
        assert found.scope is Scope.CLIENT
        (row,) = found.clients
        assert row.id == "client-1"
        assert row.epsilon_spent == run.spent("client-1", 3).upper
        assert (row.noise_multiplier, row.public_size, row.epsilon_budget) == (2.5, 38, 5.0)
        assert not row.signed
        assert row.recomputed

    @pytest.mark.parametrize("client", ["client-0", "client-1", "client-2"])
    def test_claim_and_headline_are_for_it_alone(self, run, client):
        found = own_report(run, client)
        (one,) = [each for each in run.settings.clients if each.id == client]
        assert found.guarantee.epsilon == run.spent(client, 3).upper
        assert found.guarantee.delta == one.budget.delta
        assert f"for every record of {client}." in found.headline
        assert "every client" not in found.headline
        assert f"about the records of {client};" in found.guarantee.reading
        assert "federation" not in found.guarantee.reading

    def test_while_it_goes_on_the_next_round_counts(self, run):
        found = own_report(run, status=RUNNING)
        assert found.guarantee.epsilon == run.spent("client-1", 4).upper
        assert found.headline.startswith("NOT FINISHED: 3 of 3")

    def test_nothing_is_said_of_what_others_spent(self, run):
        """Their names and weights are public; what they spent, and their noise, is theirs."""
        found = own_report(run)
        assert [set(row.epsilon) for row in found.rounds] == [{"client-1"}] * 2
        text = found.to_json()
        for other in ("client-0", "client-2"):
            for rounds in (1, 3):
                assert repr(run.spent(other, rounds).upper) not in text
        assert BudgetReport.from_json(text) == found

    def test_it_needs_nothing_of_the_others_but_what_they_declare(self, run):
        """No ledger, no noise multiplier and no spending of anybody else."""
        own = {"client-1": run.record.noise_multipliers["client-1"]}
        rounds = tuple(
            replace(row, epsilon={"client-1": row.epsilon["client-1"]}) for row in run.record.rounds
        )
        record = replace(run.record, noise_multipliers=own, rounds=rounds)
        alone = replace(run, record=record, exports={"client-1": run.exports["client-1"]})
        assert replace(own_report(alone), created="x") == replace(own_report(run), created="x")

    def test_the_page_says_whose_report_it_is(self, run):
        html = render_html(own_report(run))
        assert "<h1>Budget report of client-1</h1>" in html
        assert "It states nothing of what the other clients of the run guarantee." in html
        assert "2. client-1: spent against budget" in html

    def test_repeatable_coins_are_its_own_affair(
        self, make_federation, seeded_randomness, tmp_path
    ):
        federation = make_federation(num_clients=3, randomness=seeded_randomness())
        found = own_report(made_up_run(federation, tmp_path / "ledgers"))
        assert found.headline.startswith("NOT PRIVATE: the random numbers of client-1 in this run")

    def test_the_ledger_of_another_is_refused(self, run):
        swapped = replace(run, exports={"client-1": run.exports["client-0"]})
        with pytest.raises(
            ReportError, match="'client-1' must be from its ledger, this is of 'client-0'"
        ):
            own_report(swapped)

    def test_somebody_who_takes_no_part_is_refused(self, run):
        with pytest.raises(ReportError, match="'stranger' is none"):
            own_report(run, "stranger")


class TestEncryption:
    def of(self, run, encryption, **changes):
        settings = replace(run.settings, encryption=encryption)
        facts = replace(facts_of(settings), **changes)
        return report(replace(run, settings=settings, facts=facts)).encryption

    def test_integers_under_a_shared_key(self, run):
        found = self.of(run, BFV(bits=9))
        assert found.custody.startswith("shared_key")
        assert found.scheme.startswith("BFV")
        assert (found.bits_per_value, found.public_range) == (9, 0.0625)
        assert not found.follow_released
        assert found.parameters["num_params"] == 640
        assert found.parameters["key_id"] == "5e" * 32
        assert (found.base_model, found.roster) == ("b5" * 32, "4d" * 32)
        assert found.setting.startswith("All clients and the aggregator ran in one process")

    def test_a_key_holder(self, run):
        found = self.of(run, BFV(custody=Custody.KEY_HOLDER), simulated_keys=False)
        assert found.custody.startswith("key_holder")
        assert "signed by its authority" in found.identities

    def test_floats_have_no_bits(self, run):
        found = self.of(run, CKKS(follow_released=True))
        assert found.bits_per_value is None
        assert found.scheme.startswith("CKKS")
        assert found.follow_released

    def test_without_encryption_there_are_no_keys(self, run):
        found = self.of(run, Plain(bits=10), key={}, key_bytes=0)
        assert (found.keys, found.correctness, found.measured.key_bytes) == (None, None, None)
        assert found.bits_per_value == 10

    def test_programs_of_their_own_are_said_to_be_that(self, run):
        found = self.of(run, BFV(), simulated_keys=False, in_one_process=False)
        assert found.setting.startswith("The parties ran as programs of their own")

    def test_what_is_measured_is_that_of_the_last_whole_round(self, run):
        """By hand: 28800 bytes of 3 clients and 640 parameters are 15 each, 21600 are 11.25."""
        found = self.of(run, BFV()).measured
        assert (found.upload_bytes, found.download_bytes) == (15.0, 11.25)
        assert (found.aggregator_seconds, found.opening_seconds) == (0.75, 1.5)
        assert (found.key_holder_bytes, found.key_bytes) == (None, 72_000)

    def test_absent_clients_download_and_do_not_upload(self, run):
        """28800 bytes of 2 clients are 22.5, 21600 bytes of 3 stay 11.25; 6400 to the holder 10."""
        last = replace(
            run.record.rounds[-1],
            clients=("client-0", "client-2"),
            absent=("client-1",),
            bytes_holder=6_400,
        )
        rounds = (run.record.rounds[0], last)
        found = report(replace(run, record=replace(run.record, rounds=rounds))).encryption.measured
        assert (found.upload_bytes, found.download_bytes) == (22.5, 11.25)
        assert found.aggregator_seconds == 1.125
        assert found.key_holder_bytes == 10.0

    def test_before_the_first_round_nothing_is_measured(self, run):
        found = report(replace(run, record=replace(run.record, rounds=())))
        assert found.encryption.measured is None
