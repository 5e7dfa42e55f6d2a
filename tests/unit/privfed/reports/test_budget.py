"""The report refuses a gap or a contradiction instead of showing it."""

import json
from dataclasses import fields

import pytest

from privfed.errors import ReportError
from privfed.reports.budget import BudgetReport, ClientGuarantee
from tests.unit.privfed.reports.made_up import FIGURES, guarantee, report

FIELDS = [field.name for field in fields(BudgetReport)]
CLIENT_FIELDS = [field.name for field in fields(ClientGuarantee)]
MAY_BE_EMPTY = {"warnings", "rounds"}
NUMBERS = {"schema", "rounds_planned", "rounds_over"}


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
        empty = type(getattr(report(), name))()
        with pytest.raises(ReportError, match=name):
            report(**{name: empty})

    @pytest.mark.parametrize("inner", [None, "", [], {}, float("nan"), float("inf")])
    @pytest.mark.parametrize(
        "name", ["guarantee", "mechanism", "accounting", "encryption", "training", "baseline"]
    )
    def test_a_gap_inside_a_section_is_named(self, name, inner):
        section = {**getattr(report(), name), "key": inner}
        with pytest.raises(ReportError, match=rf"{name}\.key"):
            report(**{name: section})

    def test_a_gap_deeper_inside_is_named(self):
        with pytest.raises(ReportError, match=r"encryption\.parameters\.bits"):
            report(encryption={"scheme": "BFV", "parameters": {"bits": None}})

    def test_a_gap_in_a_list_is_refused(self):
        with pytest.raises(ReportError, match="views"):
            report(views=(("who", None, "protected by what"),))
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
            "accuracy",
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
            report(rounds=({**FIGURES.to_json(), name: value},))

    @pytest.mark.parametrize("value", [float("nan"), None])
    def test_a_gap_in_the_epsilon_of_a_round_is_refused(self, value):
        with pytest.raises(ReportError, match="rounds"):
            report(rounds=({**FIGURES.to_json(), "epsilon": {"client-1": value}},))

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

    def test_another_schema_is_refused(self):
        with pytest.raises(ReportError, match="schema must be 2, got 3"):
            report(schema=3)


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
        report(status="running", guarantee={"unit": "one record", "epsilon": 0.6 * 3})
        with pytest.raises(ReportError, match=r"largest of its clients, 1\.7999"):
            report(status="running")

    @pytest.mark.parametrize("before", [-0.1, 0.6])
    def test_more_or_less_than_nothing_before(self, before):
        with pytest.raises(ReportError, match="'client-1' must have 0 <= before <= spent"):
            report(clients=(guarantee(1, epsilon_before=before), guarantee(2), guarantee(3)))

    @pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 1.5000001, "1.5"])
    def test_an_epsilon_that_is_not_the_largest_of_the_clients(self, epsilon):
        with pytest.raises(ReportError, match=r"largest of its clients, 1\.5"):
            report(guarantee={"unit": "one record", "epsilon": epsilon})

    def test_no_epsilon_for_the_federation(self):
        with pytest.raises(ReportError, match="largest of its clients"):
            report(guarantee={"unit": "one record"})

    def test_steps_without_releases(self):
        with pytest.raises(ReportError, match="'client-2' took steps that are in no ledger"):
            report(clients=(guarantee(1), guarantee(2, releases=()), guarantee(3)))
