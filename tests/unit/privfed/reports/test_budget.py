"""The report refuses a gap or a contradiction instead of showing it."""

import json
from dataclasses import fields, replace

import pytest

from privfed.errors import ReportError
from privfed.reports.budget import BudgetReport, Scope
from privfed.reports.clients import ClientGuarantee, LastStatement, NotClosed
from privfed.reports.sections import Difference
from tests.unit.privfed.reports.made_up import (
    ENCRYPTION,
    GUARANTEE,
    MECHANISM,
    ROUND_RECORD,
    claiming,
    guarantee,
    report,
)

FIELDS = [field.name for field in fields(BudgetReport)]
CLIENT_FIELDS = [field.name for field in fields(ClientGuarantee)]
MAY_BE_EMPTY = {"warnings", "rounds", "not_closed", "differences"}
NUMBERS = {"schema", "scope", "rounds_planned", "rounds_over"}


class TestRoundTrip:
    def test_a_report_survives_its_json(self):
        assert BudgetReport.from_json(report().to_json()) == report()

    def test_json_of_json_is_the_same_text(self):
        text = report().to_json()
        assert BudgetReport.from_json(text).to_json() == text
        assert text.endswith("}\n")

    def test_warnings_and_rounds_may_be_empty(self):
        empty = report(warnings=(), rounds=())
        assert BudgetReport.from_json(empty.to_json()) == empty


class TestAGap:
    @pytest.mark.parametrize("name", FIELDS)
    def test_a_missing_field_is_refused(self, name):
        values = json.loads(report().to_json())
        del values[name]
        with pytest.raises(ReportError, match=name):
            BudgetReport.from_json(json.dumps(values))

    @pytest.mark.parametrize("name", FIELDS)
    def test_none_is_refused(self, name):
        values = json.loads(report().to_json())
        values[name] = None
        with pytest.raises(ReportError):
            BudgetReport.from_json(json.dumps(values))
        if name not in MAY_BE_EMPTY | {"clients"}:
            with pytest.raises(ReportError, match=name):
                report(**{name: None})

    @pytest.mark.parametrize("name", sorted(set(FIELDS) - MAY_BE_EMPTY - NUMBERS))
    def test_an_empty_field_is_refused(self, name):
        values = json.loads(report().to_json())
        values[name] = type(values[name])()
        with pytest.raises(ReportError, match=name):
            BudgetReport.from_json(json.dumps(values))

    @pytest.mark.parametrize("inner", [None, "", [], {}, float("nan"), float("inf")])
    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("guarantee", "unit"),
            ("mechanism", "clipping_norm"),
            ("accounting", "theorem"),
            ("encryption", "roster"),
            ("training", "optimizer"),
            ("randomness", "noise"),
        ],
    )
    def test_a_gap_inside_a_section_is_named(self, name, key, inner):
        section = replace(getattr(report(), name), **{key: inner})
        with pytest.raises(ReportError, match=rf"{name}\.{key}"):
            report(**{name: section})

    def test_a_gap_deeper_inside_is_named(self):
        section = replace(ENCRYPTION, parameters={"bits": None})
        with pytest.raises(ReportError, match=r"encryption\.parameters\.bits"):
            report(encryption=section)

    @pytest.mark.parametrize("inner", [{"accuracy": None}, {}, {"accuracy": float("nan")}])
    def test_a_gap_in_the_baseline_is_named(self, inner):
        with pytest.raises(ReportError, match="baseline"):
            report(baseline=inner)

    @pytest.mark.parametrize("name", ["keys", "correctness", "bits_per_value", "measured"])
    def test_what_not_every_encryption_has_may_be_none(self, name):
        whole = report(encryption=replace(ENCRYPTION, **{name: None}))
        assert BudgetReport.from_json(whole.to_json()) == whole

    def test_a_gap_in_a_list_is_refused(self):
        with pytest.raises(ReportError, match="views"):
            report(views=(replace(report().views[0], sees=None),))
        with pytest.raises(ReportError, match="not_covered"):
            report(not_covered=("other things", ""))

    @pytest.mark.parametrize("name", CLIENT_FIELDS)
    def test_a_missing_field_of_a_client_is_refused(self, name):
        values = json.loads(report().to_json())
        del values["clients"][1][name]
        with pytest.raises(ReportError, match=name):
            BudgetReport.from_json(json.dumps(values))

    @pytest.mark.parametrize("name", sorted(set(CLIENT_FIELDS) - {"releases"}))
    @pytest.mark.parametrize("value", [None, ""])
    def test_a_gap_in_a_client_is_named(self, name, value):
        clients = (guarantee(1), guarantee(2, **{name: value}), guarantee(3))
        with pytest.raises(ReportError, match=name if name != "id" else "clients"):
            report(clients=clients)

    @pytest.mark.parametrize(
        "name",
        [
            "epsilon_spent",
            "epsilon_lower",
            "epsilon_before",
            "epsilon_budget",
            "delta",
            "noise_multiplier",
        ],
    )
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_number_of_a_client_that_is_not_finite_is_named(self, name, value):
        with pytest.raises(ReportError, match=name):
            report(clients=(guarantee(1), guarantee(2, **{name: value}), guarantee(3)))

    def test_nan_in_the_file_is_refused(self):
        text = report().to_json().replace('"epsilon_spent": 0.5', '"epsilon_spent": NaN')
        assert "NaN" in text
        with pytest.raises(ReportError, match="epsilon_spent"):
            BudgetReport.from_json(text)

    @pytest.mark.parametrize(
        "name",
        [
            "value",
            "bytes_up",
            "bytes_holder",
            "seconds",
            "seconds_aggregator",
            "seconds_opening",
        ],
    )
    @pytest.mark.parametrize("value", [float("nan"), None])
    def test_a_gap_in_a_round_is_refused(self, name, value):
        with pytest.raises(ReportError, match=f"rounds.*{name}"):
            report(rounds=(replace(ROUND_RECORD, **{name: value}),))

    @pytest.mark.parametrize("value", [float("nan"), None])
    def test_a_gap_in_the_epsilon_of_a_round_is_refused(self, value):
        with pytest.raises(ReportError, match="rounds"):
            report(rounds=(replace(ROUND_RECORD, epsilon={"client-1": value}),))

    def test_an_unknown_field_is_refused(self):
        values = json.loads(report().to_json())
        with pytest.raises(ReportError, match="comment"):
            BudgetReport.from_json(json.dumps({**values, "comment": "mine"}))
        values["clients"][0]["comment"] = "mine"
        with pytest.raises(ReportError, match="comment"):
            BudgetReport.from_json(json.dumps(values))

    @pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", "null", "3"])
    def test_what_is_no_report_is_refused(self, text):
        with pytest.raises(ReportError, match="no complete budget report"):
            BudgetReport.from_json(text)

    @pytest.mark.parametrize("schema", [3, 5, "4", None])
    def test_another_schema_is_refused_before_anything_else(self, schema):
        with pytest.raises(ReportError, match=f"schema must be 4, got {schema!r}; read it with"):
            report(schema=schema)
        values = {"schema": schema, "mechanism": {"clipping norm C": 1.0}}
        with pytest.raises(ReportError, match=f"schema must be 4, got {schema!r}; read it with"):
            BudgetReport.from_json(json.dumps(values))

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"title": 3}, "'title' must be of the kind str, got 3"),
            ({"rounds_over": 1.5}, "'rounds_over' must be of the kind int"),
            ({"rounds_over": True}, "'rounds_over' must be of the kind int, got True"),
            ({"mechanism": {"clipping_norm": 0.75}}, "'mechanism' must be of the kind Mechanism"),
            ({"views": [["who", "what", "how"]]}, "'views' must be of the kind tuple"),
            ({"randomness": None}, "lacks 'randomness'"),
        ],
    )
    def test_a_value_of_another_kind_is_refused(self, changes, named):
        with pytest.raises(ReportError, match=named):
            report(**changes)

    @pytest.mark.parametrize(
        ("section", "changes", "named"),
        [
            ("mechanism", {"steps_per_round": 2}, "mechanism.steps_per_round"),
            ("randomness", {"secret": 1}, "randomness.secret"),
            ("encryption", {"follow_released": "no"}, "encryption.follow_released"),
            ("encryption", {"measured": {"upload_bytes": 1.0}}, "'measured' lacks"),
            ("training", {"weights": {"client-1": "heavy"}}, "training.weights.client-1"),
            ("accounting", {"comment": "mine"}, "'accounting' must not have"),
        ],
    )
    def test_so_is_one_inside_a_section(self, section, changes, named):
        values = json.loads(report().to_json())
        values[section] |= changes
        with pytest.raises(ReportError, match=named):
            BudgetReport.from_json(json.dumps(values))

    def test_deep_nesting_is_refused(self):
        with pytest.raises(ReportError, match="no complete budget report"):
            BudgetReport.from_json('{"schema": ' + "[" * 100_000)


class TestReading:
    def test_a_program_reads_a_section_by_its_terms(self):
        found = BudgetReport.from_json(report().to_json())
        assert found.mechanism == MECHANISM
        assert found.mechanism.clipping_norm == 0.75
        assert found.encryption.measured.key_bytes == 72_000
        assert found.rounds[0].epsilon["client-3"] == 1.5
        assert found.metric == "accuracy"


class TestAContradiction:
    def test_one_more_round_beyond_the_budget(self):
        with pytest.raises(ReportError, match=r"'client-3' must have .*only within the budget"):
            report(clients=(guarantee(1), guarantee(2), guarantee(3, epsilon_budget=1.4999)))

    def test_exactly_the_budget_is_accepted(self):
        last = guarantee(3, epsilon_if_begun=1.5, epsilon_budget=1.5)
        report(clients=(guarantee(1), guarantee(2), last))

    @pytest.mark.parametrize(("begun", "accepted"), [(1.4, False), (2.0, True), (2.1, False)])
    def test_one_more_round_costs_no_less_and_stays_within_the_budget(self, begun, accepted):
        clients = (guarantee(1), guarantee(2), guarantee(3, epsilon_if_begun=begun))
        if accepted:
            report(clients=clients)
            return
        with pytest.raises(ReportError, match="with one more round"):
            report(clients=clients)

    def test_while_it_goes_on_the_next_round_is_in_the_claim(self):
        claiming(0.6 * 3, status="running")
        with pytest.raises(ReportError, match=r"largest of its clients, .* 1\.7999"):
            report(status="running")

    @pytest.mark.parametrize("before", [-0.1, 0.6])
    def test_more_or_less_than_nothing_before(self, before):
        with pytest.raises(ReportError, match="'client-1' must have 0 <= before <= spent"):
            report(clients=(guarantee(1, epsilon_before=before), guarantee(2), guarantee(3)))

    @pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 1.5000001])
    def test_an_epsilon_that_is_not_the_largest_of_the_clients(self, epsilon):
        with pytest.raises(ReportError, match=r"largest of its clients, .* 1\.5"):
            claiming(epsilon)

    def test_no_epsilon_for_the_federation(self):
        with pytest.raises(ReportError, match=r"largest of its clients, .* 1\.5, got None"):
            claiming(None)
        with pytest.raises(ReportError, match=r"guarantee\.epsilon"):
            claiming("1.5")

    def test_a_round_that_says_nothing_of_a_client(self):
        some = {"client-1": 0.5, "client-3": 1.5}
        with pytest.raises(ReportError, match="every round must state the epsilon of each"):
            report(rounds=(replace(ROUND_RECORD, epsilon=some),))

    def test_two_rows_of_one_client(self):
        with pytest.raises(ReportError, match="clients of a report must differ"):
            report(clients=(guarantee(1), guarantee(3), guarantee(3)))

    def test_a_round_with_another_metric(self):
        with pytest.raises(ReportError, match="metric of the baseline, 'accuracy'"):
            report(rounds=(ROUND_RECORD, replace(ROUND_RECORD, round=2, metric="perplexity")))

    def test_two_numbers_of_the_baseline(self):
        with pytest.raises(ReportError, match=r"one metric, got \['accuracy', 'perplexity'\]"):
            report(baseline={"accuracy": 0.125, "perplexity": 40.0})

    def test_steps_without_releases(self):
        with pytest.raises(ReportError, match="'client-2' took steps that are in no ledger"):
            report(clients=(guarantee(1), guarantee(2, releases=()), guarantee(3)))


SIGNED = tuple(guarantee(number, signed=True, recomputed=number != 2) for number in (1, 2, 3))
AWAY = (
    NotClosed(
        id="away",
        last=LastStatement(round=2, epsilon=0.75, ledger_length=5, ledger_head="7c" * 32),
    ),
    NotClosed(id="silent", last=None),
)
NO_CLAIM = replace(GUARANTEE, epsilon=None, delta=None)


class TestScopes:
    def signed(self, **changes):
        return report(**{"scope": Scope.FEDERATION, "clients": SIGNED, **changes})

    def test_what_clients_sign_survives_its_json(self):
        differs = Difference(field="versions.python", value="3.12", clients=("client-2",))
        found = self.signed(not_closed=AWAY, guarantee=NO_CLAIM, differences=(differs,))
        again = BudgetReport.from_json(found.to_json())
        assert again == found
        assert again.scope is Scope.FEDERATION
        assert json.loads(found.to_json())["scope"] == "federation"

    @pytest.mark.parametrize("scope", ["simulations", "", 3, None, ["client"]])
    def test_an_unknown_scope_is_refused(self, scope):
        values = json.loads(report().to_json()) | {"scope": scope}
        with pytest.raises(ReportError, match="scope"):
            BudgetReport.from_json(json.dumps(values))

    def test_with_a_client_that_did_not_close_there_is_no_epsilon(self):
        with pytest.raises(ReportError, match="or none if one did not close: None, got 1.5"):
            self.signed(not_closed=AWAY)
        assert self.signed(not_closed=AWAY, guarantee=NO_CLAIM).guarantee.epsilon is None

    @pytest.mark.parametrize("scope", [Scope.SIMULATION, Scope.CLIENT])
    def test_rows_from_ledgers_are_not_said_to_be_signed(self, scope):
        with pytest.raises(ReportError, match=f"scope {scope!s} must be computed from ledgers"):
            report(scope=scope, clients=SIGNED)

    def test_rows_of_statements_are_signed_every_one(self):
        with pytest.raises(ReportError, match="scope federation must be signed by their clients"):
            self.signed(clients=(*SIGNED[:2], guarantee(3)))

    def test_rows_from_ledgers_are_computed_and_there_for_everybody(self):
        rows = (guarantee(1), guarantee(2, recomputed=False), guarantee(3))
        with pytest.raises(ReportError, match="must be so for every client"):
            report(clients=rows)
        with pytest.raises(ReportError, match="must be so for every client"):
            report(not_closed=AWAY, guarantee=NO_CLAIM)

    def test_a_clients_own_report_is_about_it_alone(self):
        claiming(0.5, scope=Scope.CLIENT, clients=(guarantee(1),))
        with pytest.raises(ReportError, match="must be about it alone"):
            report(scope=Scope.CLIENT)

    def test_nobody_closes_and_does_not(self):
        again = (NotClosed(id="client-2", last=None),)
        with pytest.raises(ReportError, match="clients of a report must differ"):
            self.signed(not_closed=again, guarantee=NO_CLAIM)
