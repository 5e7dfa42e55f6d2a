"""What a client signs of its part is believed only if it is its own and contradicts nothing."""

from dataclasses import replace

import pytest

from accountants import Anchor
from privfed.errors import MessageError, ReportError
from privfed.protocol.kinds import EPSILON, LEDGER, OPENED
from privfed.protocol.signing import signed_message
from privfed.reports.closed import (
    EXPORT,
    REPORT,
    closed_message,
    read_closed,
    read_opened,
    require_continues,
)
from privfed.reports.headlines import client_headline
from tests.unit.privfed.made_up_run import MOMENT, RUN

ME = "client-1"


def read(signed, message, client=ME, run=RUN):
    return read_closed(message, signed.roster, client=client, run=run)


class TestAnHonestStatement:
    def test_it_arrives_with_its_ledger(self, signed):
        found = read(signed, signed.closed(ME))
        assert found.client == found.row.id == ME
        assert found.agreement == signed.run.facts.agreement.digest()
        assert found.export == signed.run.exports[ME]
        assert found.row.epsilon_spent == signed.run.spent(ME, 3).upper

    def test_or_without_it(self, signed):
        found = read(signed, signed.closed(ME, export=False))
        assert found.export is None
        assert found.row == read(signed, signed.closed(ME)).row

    def test_a_report_of_repeatable_coins_is_honest_too(self, signed, seeded_randomness):
        own = signed.report(ME, randomness=seeded_randomness())
        assert not read(signed, signed.closed(ME, report=own)).report.randomness.secret

    def test_so_is_one_of_a_run_that_was_stopped(self, signed):
        own = signed.report(ME, moment=replace(MOMENT, status="stopped before round 4"))
        assert read(signed, signed.closed(ME, report=own)).row.attack == {}

    @pytest.mark.parametrize(
        ("client", "changes", "named"),
        [
            ("client-0", {}, "report of 'client-1' alone"),
            (ME, {"rounds": 2}, "after 2 rounds, this is of '0a1b2c3d' after 3"),
            (ME, {"run": "ffff"}, "of run 'ffff'"),
        ],
    )
    def test_none_is_made_for_another_report(self, signed, client, changes, named):
        own = signed.report(client)
        with pytest.raises(ReportError, match=named):
            closed_message(signed.identities[ME], signed.terms(**changes), own, None)


class TestWhoseMessageItIs:
    def refused(self, signed, message, named, client=ME):
        with pytest.raises(MessageError, match=named):
            read(signed, message, client)

    def test_one_that_was_changed_is_refused(self, signed):
        message = bytearray(signed.closed(ME))
        message[-1] ^= 1
        self.refused(signed, bytes(message), f"'{ME}' must carry its signature")
        message = bytearray(signed.closed(ME))
        message[200] ^= 1
        self.refused(signed, bytes(message), "not the one that was signed")

    def test_that_of_another_client_is_refused(self, signed):
        self.refused(signed, signed.closed("client-0"), f"of '{ME}' in run .* of 'client-0'")

    def test_one_that_the_aggregator_signed_is_refused(self, signed):
        message = signed_message(
            signed.identities["hub"], signed.terms(), "closed", blobs={REPORT: b"{}"}
        )
        self.refused(signed, message, "'hub' has the role", client="hub")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"kind": "opened"}, "expected a 'closed'"),
            ({"terms": {"run": "ffff"}}, "in run 'ffff'"),
            ({"terms": {"roster": "00" * 32}}, "another roster"),
            ({"terms": {"agreement": None}}, "no digest of what was agreed"),
            ({"blobs": {}}, "must send its report"),
            ({"blobs": {EXPORT: b"{}"}}, "must send its report"),
            ({"blobs": {REPORT: b"{}", "more": b""}}, "must send its report"),
        ],
        ids=str,
    )
    def test_another_kind_run_roster_or_content_is_refused(self, signed, changes, named):
        if "terms" in changes:
            changes = {**changes, "terms": signed.terms(**changes["terms"])}
        self.refused(signed, signed.forged(ME, **changes), named)


class TestAContradiction:
    def refused(self, signed, message, named):
        with pytest.raises(ReportError, match=named) as caught:
            read(signed, message)
        assert f"client '{ME}'" in str(caught.value)

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"clients.0.id": "client-2"}, "epsilon of each of"),
            ({"run": "ffff"}, "this is of 'ffff' after 3"),
            ({"rounds_over": 2}, "this is of '0a1b2c3d' after 2"),
            ({"schema": 2}, "schema must be 4, got 2"),
            ({"guarantee.epsilon": 0.5}, "largest of its clients"),
            (
                {"rounds_planned": 5},
                "complete only after all of them; it is 'complete' after 3 of 5",
            ),
            ({"rounds.1.round": 4}, r"in order, .* with \[1, 4\]"),
            ({"rounds.1.round": 1}, r"in order, .* with \[1, 1\]"),
            ({"headline": "All is well."}, "headline does not follow"),
            ({"randomness.secret": False}, "headline does not follow"),
            ({"encryption.roster": "00" * 32}, "another roster"),
            ({"scope": "simulation"}, "a simulation report"),
            ({"clients.0.public_size": 0}, "division by zero"),
            ({"clients.0.delta": 0}, "is refused: "),
            ({"clients.0.neighbouring": "nobody"}, "is refused: "),
            ({"clients.0.releases": [3]}, "is refused: "),
            ({"clients.0.signed": True}, "computed from ledgers"),
        ],
        ids=str,
    )
    def test_in_its_report_is_refused(self, signed, values, named):
        self.refused(signed, signed.forged(ME, values=values), named)

    def test_less_than_its_releases_come_to_is_refused(self, signed):
        less = signed.run.spent(ME, 2)
        values = self.values_of(signed, less)
        self.refused(signed, signed.forged(ME, values=values), "the releases that it lists give")

    def test_less_than_its_ledger_gives_is_refused(self, signed):
        """Also where the report itself forgets a round."""
        values = self.values_of(signed, signed.run.spent(ME, 2))
        own = signed.report(ME)
        values["clients.0.releases"] = list(own.clients[0].releases[1:])
        values |= {"clients.0.rounds": 2, "clients.0.steps": 4}
        forged = signed.forged(ME, values=values, export=signed.run.exports[ME])
        self.refused(signed, forged, "epsilon_spent .* its ledger gives")

    def values_of(self, signed, bounds):
        """A report that claims these bounds, and whose claim, headline and rounds follow."""
        own = signed.report(ME)
        row = replace(
            own.clients[0],
            epsilon_spent=bounds.upper,
            epsilon_lower=bounds.lower,
            epsilon_if_begun=bounds.upper,
        )
        return {
            "clients.0.epsilon_spent": row.epsilon_spent,
            "clients.0.epsilon_lower": row.epsilon_lower,
            "clients.0.epsilon_if_begun": row.epsilon_if_begun,
            "guarantee.epsilon": row.epsilon_spent,
            "rounds.1.epsilon": {ME: row.epsilon_spent},
            "headline": client_headline(row, private=True, status="complete", over=3, planned=3),
        }

    def test_an_anchor_that_is_not_that_of_its_export_is_refused(self, signed):
        forged = signed.forged(
            ME, values={"clients.0.ledger_length": 8}, export=signed.run.exports[ME]
        )
        self.refused(signed, forged, "does not agree with its ledger")

    def test_the_ledger_of_another_is_refused(self, signed):
        forged = signed.forged(ME, export=signed.run.exports["client-0"])
        self.refused(signed, forged, "must be from its ledger")

    @pytest.mark.parametrize("export", [[], {}, "x", 3, {"schema": "x", "entries": []}])
    def test_what_is_no_export_is_refused(self, signed, export):
        self.refused(signed, signed.forged(ME, export=export), "is refused: ")

    @pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"[" * 100_000, b"null"])
    def test_what_is_no_report_is_refused(self, signed, content):
        self.refused(signed, signed.forged(ME, blobs={REPORT: content}), "is refused: ")

    @pytest.mark.parametrize("content", [b"", b"\xff", b"null", b"[" * 100_000])
    def test_what_is_no_json_of_a_ledger_is_refused(self, signed, content):
        report = signed.report(ME).to_json().encode()
        blobs = {REPORT: report, EXPORT: content}
        self.refused(signed, signed.forged(ME, blobs=blobs), "is refused: ")


class TestOpened:
    def read(self, signed, message):
        return read_opened(message, signed.roster, client=ME, run=RUN)

    def test_it_states_epsilon_and_anchor(self, signed):
        found = self.read(signed, signed.opened(ME, round=1))
        assert found.epsilon == signed.run.spent(ME, 1).upper
        assert (found.round, found.ledger_length) == (1, 3)
        assert found.ledger_head == signed.run.exports[ME]["entries"][2]["digest"]

    @pytest.mark.parametrize("epsilon", [-0.5, "1.5", True, None, [1.5]])
    def test_another_epsilon_is_refused(self, signed, epsilon):
        manifest = {EPSILON: epsilon, LEDGER: {"length": 3, "head": "ab" * 32}}
        message = signed_message(signed.identities[ME], signed.terms(1), OPENED, manifest=manifest)
        with pytest.raises(MessageError, match=f"'{ME}' must state an epsilon"):
            self.read(signed, message)

    @pytest.mark.parametrize("anchor", [None, {}, {"length": 3}, {"length": 0, "head": "x"}])
    def test_another_anchor_is_refused(self, signed, anchor):
        manifest = {EPSILON: 1.5, LEDGER: anchor}
        message = signed_message(signed.identities[ME], signed.terms(1), OPENED, manifest=manifest)
        with pytest.raises(MessageError, match=f"'{ME}' must state the anchor of its ledger"):
            self.read(signed, message)

    def test_that_of_another_client_or_kind_is_refused(self, signed):
        with pytest.raises(MessageError, match=f"expected a 'opened' of '{ME}'"):
            self.read(signed, signed.opened("client-2"))
        with pytest.raises(MessageError, match="got a 'closed'"):
            self.read(signed, signed.closed(ME))


class TestContinuing:
    def check(self, signed, export=True, **last):
        closed = read(signed, signed.closed(ME, export=export))
        opened = read_opened(signed.opened(ME, **last), signed.roster, client=ME, run=RUN)
        require_continues(closed, opened)

    @pytest.mark.parametrize("export", [True, False])
    def test_what_goes_on_is_accepted(self, signed, export):
        self.check(signed, export)

    @pytest.mark.parametrize("export", [True, False])
    def test_a_smaller_epsilon_than_before_is_refused(self, signed, export):
        more = signed.run.spent(ME, 3).upper + 2e-6
        with pytest.raises(ReportError, match=f"'{ME}' .* never counts less than before"):
            self.check(signed, export, epsilon=more)

    @pytest.mark.parametrize("export", [True, False])
    def test_a_shorter_ledger_than_before_is_refused(self, signed, export):
        longer = Anchor(length=8, head="ab" * 32)
        with pytest.raises(ReportError, match="never counts less than before"):
            self.check(signed, export, anchor=longer)

    def test_another_history_is_refused(self, signed):
        other = Anchor(length=3, head="ab" * 32)
        with pytest.raises(ReportError, match=f"ledger of client '{ME}' does not continue"):
            self.check(signed, anchor=other)
