"""The federation's report is the worst of what its clients sign, and needs no torch."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from privfed.errors import MessageError, ReportError
from privfed.protocol.kinds import EPSILON
from privfed.reports.budget import RUNNING, BudgetReport, Scope
from privfed.reports.clients import LastStatement
from privfed.reports.sections import Difference
from tests.unit.privfed.made_up_run import MOMENT

PROBE = """
import sys
import privfed.reports.assembling, privfed.reports.statement_folder
heavy = ("torch", "opacus", "tenseal", "transformers", "peft")
own = ("privfed.custody", "privfed.models", "privfed.private_step", "privfed.parties")
print([name for name in sys.modules if name.split(".")[0] in heavy or name.startswith(own)])
"""


def closed_of(signed, names=None, **changes):
    """Honest statements, but for the changed ones."""
    given = {name: signed.closed(name) for name in names or signed.names}
    return {**given, **changes}


def with_(signed, client, **settings):
    """Statements of which one is of a client with settings of its own."""
    own = signed.report(client, **settings)
    return closed_of(signed) | {client: signed.closed(client, report=own)}


class TestAllClosed:
    def test_every_row_is_stated_and_signed_by_its_client(self, signed):
        found = signed.assembled()
        assert found.scope is Scope.FEDERATION
        assert [row.id for row in found.clients] == signed.names
        for row in found.clients:
            assert row == replace(signed.report(row.id).clients[0], signed=True)
        assert found.not_closed == ()

    def test_the_claim_is_the_largest_of_them(self, signed):
        found = signed.assembled()
        spent = {name: signed.run.spent(name, 3).upper for name in signed.names}
        assert found.guarantee.epsilon == max(spent.values())
        assert found.guarantee.delta == 2e-3
        assert found.guarantee.epsilon != spent["client-0"], "not that of the first"
        assert found.headline.endswith("4 of 4 were recomputed from the client's ledger.")
        assert "for every client." in found.headline

    def test_what_was_recomputed_is_told_of_each(self, signed):
        closed = closed_of(signed) | {"client-2": signed.closed("client-2", export=False)}
        found = signed.assembled(closed)
        told = {row.id: row.recomputed for row in found.clients}
        assert told == {"client-0": True, "client-1": True, "client-2": False, "client-3": True}
        assert found.headline.endswith("3 of 4 were recomputed from the client's ledger.")

    def test_what_all_state_alike_is_there_once(self, signed):
        found, one = signed.assembled(), signed.report("client-3")
        for name in ("title", "run", "views", "mechanism", "training", "randomness", "warnings"):
            assert getattr(found, name) == getattr(one, name), name
        assert found.not_covered == one.not_covered
        assert found.differences == ()

    def test_rounds_hold_what_each_spent(self, signed):
        found = signed.assembled()
        for row in found.rounds:
            spent = {name: signed.run.spent(name, row.round).upper for name in signed.names}
            assert row.epsilon == spent

    def test_rows_come_in_the_order_that_is_asked_for(self, signed):
        order = signed.names[::-1]
        assert [row.id for row in signed.assembled(clients=order).clients] == order

    def test_it_survives_its_json(self, signed):
        found = signed.assembled()
        assert BudgetReport.from_json(found.to_json()) == found


class TestNeverTheMoreFavourable:
    @pytest.mark.parametrize("client", ["client-0", "client-3"])
    def test_one_with_repeatable_coins_makes_it_not_private(
        self, signed, seeded_randomness, client
    ):
        found = signed.assembled(with_(signed, client, randomness=seeded_randomness()))
        assert found.headline.startswith(f"NOT PRIVATE: the random numbers of {client} were")
        assert "epsilon is at most" not in found.headline
        assert not found.randomness.secret
        assert found.randomness.noise.startswith("NOT SECRET")
        said = {(row.field, row.clients) for row in found.differences}
        assert ("randomness.noise", (client,)) in said

    def test_one_that_ignored_earlier_ledgers_is_named_first(self, signed):
        found = signed.assembled(with_(signed, "client-2", fresh_ledgers=True))
        assert found.not_covered[0].startswith("client-2: Earlier runs on these data")
        assert found.not_covered[1:] == signed.assembled().not_covered

    def test_other_words_for_what_need_not_be_agreed_are_listed(self, signed):
        found = signed.assembled(with_(signed, "client-1", seed=99))
        assert Difference(field="randomness.public_seed", value="99", clients=("client-1",)) in (
            found.differences
        )

    def test_one_that_stopped_makes_it_not_finished(self, signed):
        stopped = replace(MOMENT, status="stopped after the last round")
        own = signed.closed("client-1", report=signed.report("client-1", moment=stopped))
        found = signed.assembled(closed_of(signed) | {"client-1": own})
        assert found.status.startswith("ended differently for its clients (client-1: 'stopped")
        assert found.headline.startswith("NOT FINISHED: 3 of 3")
        assert found.clients[1].attack == {}

    def test_one_that_goes_on_counts_with_its_next_round(self, signed):
        going_on = replace(MOMENT, status=RUNNING)
        most = max(signed.names, key=lambda name: signed.run.spent(name, 3).upper)
        own = signed.closed(most, report=signed.report(most, moment=going_on))
        found = signed.assembled(closed_of(signed) | {most: own})
        assert found.status == RUNNING
        assert found.guarantee.epsilon == signed.run.spent(most, 4).upper


class TestNotClosed:
    def test_no_bound_is_stated_for_it_nor_for_the_federation(self, signed):
        names = ["client-0", "client-3"]
        opened = {"client-1": signed.opened("client-1")}
        found = signed.assembled(closed_of(signed, names), opened)
        assert [row.id for row in found.clients] == names
        assert [one.id for one in found.not_closed] == ["client-1", "client-2"]
        assert found.guarantee.epsilon is None
        assert found.guarantee.delta is None
        assert found.headline.startswith(
            "NO BOUND FOR EVERY CLIENT: none is stated for client-1, client-2, who"
        )
        assert "for every client that closed its part." in found.headline
        assert "so there is none" in found.guarantee.reading
        assert BudgetReport.from_json(found.to_json()) == found

    def test_what_it_signed_last_is_told(self, signed):
        opened = {"client-1": signed.opened("client-1", round=1)}
        found = signed.assembled(closed_of(signed, ["client-0", "client-2", "client-3"]), opened)
        (one,) = found.not_closed
        assert one.last == LastStatement(
            round=1,
            epsilon=signed.run.spent("client-1", 1).upper,
            ledger_length=3,
            ledger_head=signed.run.exports["client-1"]["entries"][2]["digest"],
        )

    def test_nobody_closed(self, signed):
        with pytest.raises(ReportError, match="at least one client must have closed"):
            signed.assembled({}, {"client-1": signed.opened("client-1")})


class TestWhatMustBeAlike:
    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"title": "something else"}, "title"),
            ({"mechanism.clipping_norm": 0.5}, "mechanism"),
            ({"training.method": {"method": "none"}}, "training"),
            ({"training.optimizer.learning_rate": 0.25}, "training"),
            ({"encryption.parameters": {"ring": 1024}}, "encryption"),
            ({"encryption.base_model": "00" * 32}, "encryption"),
            ({"encryption.setting": "in a safe"}, "encryption"),
            ({"guarantee.unit": "one record: one word"}, "guarantee"),
            ({"views.0.sees": "nothing"}, "views"),
            ({"rounds.1.absent": ["client-0"]}, "rounds"),
            ({"base_sha256": "00" * 32}, "base model"),
            ({"adapter_sha256": "00" * 32}, "adapter"),
        ],
        ids=str,
    )
    def test_one_that_states_it_otherwise_is_named(self, signed, values, named):
        closed = closed_of(signed) | {"client-2": signed.forged("client-2", values=values)}
        with pytest.raises(ReportError) as caught:
            signed.assembled(closed)
        assert str(caught.value) == (
            f"all clients must state the same {named}: that of client-2 is not that of client-0, "
            "client-1, client-3"
        )

    def test_so_is_one_that_agreed_to_something_else(self, signed):
        own = signed.closed("client-1", agreement="00" * 32)
        with pytest.raises(ReportError, match="same agreement: that of client-1 is not"):
            signed.assembled(closed_of(signed) | {"client-1": own})

    def test_and_one_that_closed_at_another_round(self, signed):
        earlier = replace(MOMENT, rounds_over=2, status="stopped before round 3")
        record = replace(signed.run.record, rounds=signed.run.record.rounds[:1])
        behind = replace(signed, run=replace(signed.run, record=record))
        own = behind.report("client-3", moment=earlier)
        message = signed.closed("client-3", report=own, rounds=2)
        with pytest.raises(ReportError, match="same rounds that are over: that of client-3 is"):
            signed.assembled(closed_of(signed) | {"client-3": message})

    @pytest.mark.parametrize(
        "values",
        [
            {"mechanism.public_sizes": "declared by us"},
            {"training.held_out": "our notes"},
            {"training.model.base": "/ours/bert"},
            {"training.optimizer.physical_batch_size": 64},
            {"encryption.measured.upload_bytes": 99.5},
        ],
        ids=str,
    )
    def test_what_is_its_own_is_accepted(self, signed, values):
        closed = closed_of(signed) | {"client-2": signed.forged("client-2", values=values)}
        found = signed.assembled(closed)
        (name, value) = next(iter(values.items()))
        if name.startswith("encryption"):
            assert found.encryption.measured.upload_bytes == 99.5
        else:
            said = {(row.field, row.value): row.clients for row in found.differences}
            assert said[name, str(value)] == ("client-2",)


class TestWhoTookPart:
    def test_one_that_others_name_cannot_be_left_out(self, signed):
        """Else an aggregator could leave out who spent most."""
        names = signed.names[:3]
        with pytest.raises(ReportError, match=r"\['client-3'\] took part in the run, by what its"):
            signed.assembled(closed_of(signed, names), clients=names)

    def test_nor_one_that_was_left_out_before_it_completed_a_round(self, signed):
        """It trained in a round that was given up: no weight and no row of a round names it."""
        weights = {"client-0": 1.0, "client-1": 0.875, "client-2": 0.75}
        names = signed.names[:3]
        closed = {name: signed.forged(name, values={"training.weights": weights}) for name in names}
        with pytest.raises(ReportError, match=r"\['client-3'\] took part in the run, by what its"):
            signed.assembled(closed, clients=names)

    def test_statements_of_somebody_else_are_refused(self, signed):
        with pytest.raises(ReportError, match=r"clients that took part, \['client-3'\] did not"):
            signed.assembled(clients=signed.names[:3])

    def test_one_that_others_do_not_know_is_refused(self, signed):
        known = ["client-0", "client-1", "client-2"]
        closed = {
            name: signed.forged(name, values={"training.participants": known})
            for name in signed.names
        }
        with pytest.raises(ReportError, match=r"\['client-3'\] closed a run in which they take no"):
            signed.assembled(closed)


class TestStatements:
    def test_one_under_the_name_of_another_is_refused(self, signed):
        closed = closed_of(signed) | {"client-1": signed.closed("client-2")}
        with pytest.raises(MessageError, match="expected a 'closed' of 'client-1'"):
            signed.assembled(closed)

    def test_one_that_contradicts_itself_is_refused_with_its_name(self, signed):
        forged = signed.forged("client-1", values={"clients.0.epsilon_lower": 0.0625})
        with pytest.raises(ReportError, match=r"client 'client-1' states .* epsilon_lower"):
            signed.assembled(closed_of(signed) | {"client-1": forged})

    def test_one_that_closes_with_less_than_it_opened_is_refused(self, signed):
        more = {"client-2": signed.opened("client-2", epsilon=9.5)}
        with pytest.raises(ReportError, match="client 'client-2' stated epsilon 9.5"):
            signed.assembled(opened=more)

    def test_an_opened_of_no_epsilon_is_refused(self, signed):
        message = signed.opened("client-1", epsilon="none")
        assert EPSILON.encode() in message
        with pytest.raises(MessageError, match="'client-1' must state an epsilon"):
            signed.assembled(closed_of(signed, ["client-0"]), {"client-1": message})


def test_it_needs_neither_torch_nor_a_key():
    """The aggregator's program holds no model, and no library that opens what is encrypted."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
