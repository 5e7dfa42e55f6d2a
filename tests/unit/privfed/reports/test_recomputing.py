"""A row is what its ledger gives, or what its own releases come to; anything less is refused."""

from dataclasses import asdict, replace

import pytest

from accountants import (
    Budget,
    LedgerError,
    Neighbouring,
    UnsupportedAnalysisError,
    event_from_json,
)
from privfed.errors import ReportError
from privfed.reports.budget import RUNNING, BudgetReport, largest_epsilon
from privfed.reports.build import bounds_of
from privfed.reports.recomputing import require_of_itself, require_of_ledger
from tests.unit.privfed.made_up_run import MOMENT


@pytest.fixture
def own(signed):
    return signed.report("client-2")


def changed(own, **changes):
    """The report with another row, whose claim still is that of the row."""
    row = replace(own.clients[0], **changes)
    claim = replace(own.guarantee, epsilon=largest_epsilon([row], own.status))
    return replace(own, clients=(row,), guarantee=claim)


def of_ledger(signed, report):
    require_of_ledger(report, report.clients[0], signed.run.exports["client-2"])


def of_itself(signed, report):
    require_of_itself(report, report.clients[0])


BOTH = pytest.mark.parametrize("check", [of_ledger, of_itself])


@BOTH
@pytest.mark.parametrize("status", ["complete", RUNNING, "stopped before round 4"])
def test_an_honest_row_is_accepted(signed, check, status):
    check(signed, signed.report("client-2", moment=replace(MOMENT, status=status)))


@BOTH
def test_whether_it_was_signed_is_nothing_that_a_ledger_knows(signed, own, check):
    row = replace(own.clients[0], signed=True, recomputed=False)
    if check is of_ledger:
        require_of_ledger(own, row, signed.run.exports["client-2"])
    else:
        require_of_itself(own, row)


@BOTH
@pytest.mark.parametrize("by", [-2e-6, 2e-6])
def test_another_epsilon_is_refused(signed, own, check, by):
    spent = own.clients[0].epsilon_spent + by
    report = changed(own, epsilon_spent=spent, epsilon_if_begun=spent)
    with pytest.raises(
        ReportError, match=f"client 'client-2': .* epsilon_spent = {spent!r}, .*giv"
    ):
        check(signed, report)


@BOTH
@pytest.mark.parametrize("name", ["epsilon_lower", "attack"])
def test_another_lower_bound_or_attack_is_refused(signed, own, check, name):
    row = own.clients[0]
    changes = {
        "epsilon_lower": row.epsilon_lower - 2e-6,
        "attack": {**row.attack, "0.01": row.attack["0.01"] - 2e-6},
    }
    named = {"epsilon_lower": "epsilon_lower", "attack": "attack bound 0.01"}[name]
    with pytest.raises(ReportError, match=f"client 'client-2': .*{named}"):
        check(signed, changed(own, **{name: changes[name]}))


@BOTH
def test_an_attack_that_was_not_computed_is_refused(signed, check):
    """A table of attacks in the report of a run that goes on would be anybody's invention."""
    own = signed.report("client-2", moment=replace(MOMENT, status=RUNNING))
    invented = dict.fromkeys(("0.001", "0.01", "0.1", "advantage"), 0.001)
    with pytest.raises(ReportError, match=r"attack bounds must be \[\], got \['0.001'"):
        check(signed, changed(own, attack=invented))


@BOTH
def test_a_next_round_that_costs_less_is_refused(signed, check):
    own = signed.report("client-2", moment=replace(MOMENT, status=RUNNING))
    row = own.clients[0]
    with pytest.raises(ReportError, match="epsilon_if_begun"):
        check(signed, changed(own, epsilon_if_begun=row.epsilon_if_begun - 2e-6))


@BOTH
def test_rounds_that_grow_beyond_the_claim_are_refused(signed, own, check):
    last = replace(own.rounds[-1], epsilon={"client-2": own.clients[0].epsilon_spent + 2e-6})
    with pytest.raises(ReportError, match="epsilon per round must grow to"):
        check(signed, replace(own, rounds=(own.rounds[0], last)))


@BOTH
def test_rounds_that_shrink_are_refused(signed, own, check):
    with pytest.raises(ReportError, match="epsilon per round must grow to"):
        check(signed, replace(own, rounds=own.rounds[::-1]))


@BOTH
@pytest.mark.parametrize(
    "changes", [{"noise_multiplier": 9.0}, {"steps": 7}, {"sample_rate": 20 / 34}]
)
def test_steps_that_are_among_no_releases_are_refused(signed, own, check, changes):
    with pytest.raises(ReportError, match="client 'client-2'"):
        check(signed, changed(own, **changes))


@BOTH
def test_another_public_size_than_that_of_the_sampling_rate_is_refused(signed, own, check):
    with pytest.raises(ReportError, match=r"must be B / public size = 0.5882352941176471, got 0.6"):
        check(signed, changed(own, public_size=34))


class TestAgainstTheLedger:
    @pytest.mark.parametrize(
        "changes",
        [
            {"id": "client-1"},
            {"dataset": "others"},
            {"unit": "one person"},
            {"rounds": 2},
            {"unresolved": 1},
            {"ledger_id": "0" * 32},
            {"ledger_length": 6},
            {"ledger_head": "ab" * 32},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_anything_else_that_it_says_otherwise_is_refused(self, signed, own, changes):
        row = replace(own.clients[0], **changes)
        wrong = "does not agree with its ledger|must be from its ledger"
        with pytest.raises(ReportError, match=wrong):
            require_of_ledger(own, row, signed.run.exports["client-2"])

    def test_nothing_cheap_is_planned_beside_it(self, signed, own):
        """Else steps of little noise could be stated as if they were of much."""
        row = own.clients[0]
        (planned,) = row.planned
        quiet = {**planned, "noise_multiplier": 1000.0}
        forged = replace(row, planned=(planned, quiet))
        with pytest.raises(ReportError, match="was to release"):
            require_of_ledger(own, forged, signed.run.exports["client-2"])
        releases = (planned, {**quiet, "steps": row.steps - planned["steps"]})
        found = bounds_of(
            tuple(map(event_from_json, releases)),
            planned=tuple(map(event_from_json, forged.planned)),
            budget=Budget(epsilon=row.epsilon_budget, delta=row.delta),
            relation=Neighbouring(row.neighbouring),
            status=own.status,
        )
        assert found.epsilon_spent < 0.6 * row.epsilon_spent
        forged = replace(forged, releases=releases, **asdict(found))
        with pytest.raises(ReportError, match="must be its .* steps, and among its releases"):
            require_of_itself(own, forged)

    @pytest.mark.parametrize("name", ["noise_multiplier", "sample_rate", "steps"])
    def test_what_a_round_was_to_release_is_what_the_report_says(self, signed, own, name):
        (planned,) = own.clients[0].planned
        for changed in ((), ({**planned, name: planned[name] / 2},)):
            row = replace(own.clients[0], planned=changed)
            with pytest.raises(ReportError, match="of a round must be|what a round releases"):
                require_of_ledger(own, row, signed.run.exports["client-2"])

    def test_what_was_spent_before_is_the_ledgers(self, signed, own):
        row = replace(own.clients[0], epsilon_before=0.125)
        with pytest.raises(ReportError, match="epsilon_before = 0.125, its ledger gives 0"):
            require_of_ledger(own, row, signed.run.exports["client-2"])

    def test_an_export_that_was_edited_is_refused(self, signed, own):
        export = signed.run.exports["client-2"]
        cut = {**export, "entries": export["entries"][:-2]}
        with pytest.raises(LedgerError):
            require_of_ledger(own, own.clients[0], cut)


class TestAgainstItself:
    def test_a_release_less_is_refused(self, signed, own):
        with pytest.raises(ReportError, match="epsilon_spent"):
            of_itself(signed, changed(own, releases=own.clients[0].releases[1:]))

    def test_what_is_no_release_is_refused(self, signed, own):
        with pytest.raises(UnsupportedAnalysisError):
            of_itself(signed, changed(own, releases=({"type": "wishful"},)))

    def test_releases_survive_the_json_of_the_report(self, signed, own):
        of_itself(signed, BudgetReport.from_json(own.to_json()))


@BOTH
@pytest.mark.parametrize("steps", [{"client-2": 3}, {"client-1": 2}], ids=["others", "none"])
def test_a_row_has_the_steps_of_its_client(signed, own, check, steps):
    """Those that all agreed on, by the client's name; another's do not count."""
    assert own.mechanism.steps_per_round["client-2"] == 2
    other = replace(own, mechanism=replace(own.mechanism, steps_per_round=steps))
    with pytest.raises(ReportError, match=r"client 'client-2': the private steps of a round must"):
        check(signed, other)
