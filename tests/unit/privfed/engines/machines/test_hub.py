"""The hub's program: who it is, whom it waits for, and that a run goes on where it was."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from privfed import BFV
from privfed.engines.machines import hub as hub_module
from privfed.engines.machines.hub import REACHED, most_that_fit
from privfed.errors import IdentityError, PrivfedError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import CLOSED
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import Terms
from privfed.reports.budget import BudgetReport
from privfed.reports.closed import REPORT
from privfed.reports.statement_folder import verify_statements
from tests.unit.privfed.engines.machines.beside import NAMES, SHARING, begun


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(hub_module, "_PAUSE_S", 0.0)


class TestWhoItIs:
    def test_the_aggregator_of_the_roster(self, beside):
        assert beside().hub().run.members == list(NAMES)

    @pytest.mark.parametrize("name", ["client-1", "keys"])
    def test_another_party_is_refused(self, beside, name):
        made = beside()
        with pytest.raises(IdentityError, match=f"keys of the aggregator.*'{name}'"):
            made.hub(identity=made.identities[name])

    def test_so_are_other_keys_of_the_same_name(self, beside):
        with pytest.raises(IdentityError, match="keys of the aggregator"):
            beside().hub(identity=Identity.generate("hub", Role.AGGREGATOR))

    def test_so_is_a_client_that_the_roster_has_as_something_else(self, beside):
        made = beside()
        made.identities["client-2"] = Identity.generate("client-2", Role.KEY_HOLDER)
        parties = [one.party for name, one in made.identities.items() if name != "keys"]
        made.roster = Roster.signed("wards", parties, Identity.generate("m", Role.AUTHORITY))
        with pytest.raises(IdentityError, match="'client-2' must be enrolled as client"):
            made.hub()


class Arriving:
    """Who is there at each look; the last one stays."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.exchange = None

    def present(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


class TestWaiting:
    def test_for_all_clients_telling_each_change_once(self, beside):
        looks = [[], [], ["client-1"], ["client-1"], ["client-1", "client-2"], list(NAMES)]
        told = []
        beside().hub(carried=Arriving(*looks)).wait(told.append)
        assert told == [list(NAMES), ["client-0", "client-2"], ["client-0"]]

    def test_for_nobody_that_begins_without(self, beside):
        told = []
        there = Arriving(["client-0", "client-1"])
        beside().hub(carried=there, without=["client-2"]).wait(told.append)
        assert told == []

    def test_for_a_key_holder_too(self, beside):
        told = []
        there = Arriving(list(NAMES), [*NAMES, "keys"])
        beside().hub(carried=there, besides=["keys"]).wait(told.append)
        assert told == [["keys"]]

    def test_for_a_key_holder_also_when_a_run_goes_on(self, beside):
        made = beside()
        made.prepared()
        begun(made.hub())
        told, there = [], Arriving([], ["keys"])
        made.hub(carried=there, besides=["keys"], resume=True).wait(told.append)
        assert told == [["keys"]], "clients come back when they can"


class TestARun:
    def test_its_report_is_what_clients_signed(self, beside):
        made = beside()
        made.prepared()
        hub = begun(made.hub())
        hub.play()
        report = hub.finish()
        assert [row.round for row in made.rounds] == [1, 2]
        verified, _ = verify_statements(hub.folder, authority=made.roster.authority.hex())
        assert verified == report
        assert {row.id for row in report.clients} == set(NAMES)
        assert {row.id for row in report.clients if row.recomputed} == {SHARING}
        assert report.rounds_over == 2
        assert made.refused == []

    def test_of_a_new_process_it_goes_on_without_waiting_for_all(self, beside):
        """With a key that the clients share; one of them does not come back."""
        made = beside(encryption=BFV(bits=8), min_clients=2)
        made.prepared()
        hub = begun(made.hub())
        hub.run.play_round()
        run = hub.run.record.run
        made.carrying.away = {"client-1"}
        again = begun(made.hub(resume=True, without=["client-1"]))
        assert again.run.record.run == run
        assert again.run.record.left_out == {"client-1": 2}
        again.play()
        assert [row.clients for row in again.run.record.rounds] == [NAMES, (NAMES[0], NAMES[2])]
        third = made.hub(resume=True)
        assert third.run.record.left_out == {"client-1": 2}
        assert (third.folder / REACHED).exists()

    def test_who_left_before_is_not_said_to_leave_again(self, beside):
        made = beside(min_clients=2, rounds=3)
        made.prepared()
        begun(made.hub()).run.play_round()
        begun(made.hub(resume=True, without=["client-1"])).run.play_round()
        again = begun(made.hub(resume=True, without=["client-1"]))
        assert again.run.record.left_out == {"client-1": 2}

    def test_nor_is_one_that_never_took_part(self, beside):
        made = beside(min_clients=2)
        made.prepared()
        begun(made.hub(without=["client-0"])).run.play_round()
        again = begun(made.hub(resume=True, without=["client-0"]))
        assert again.run.record.left_out == {}

    def test_without_resume_it_is_a_new_one(self, beside):
        made = beside()
        made.prepared()
        hub = begun(made.hub())
        hub.run.play_round()
        assert made.hub().run.reached is None

    def test_one_that_began_without_a_client_leaves_it_out(self, beside):
        made = beside(min_clients=2)
        made.prepared()
        hub = begun(made.hub(without=["client-0"]))
        assert hub.run.members == list(NAMES[1:])
        hub.run.play_round()
        again = begun(made.hub(resume=True))
        assert again.run.members == list(NAMES[1:]), "and so does a process that goes on"
        assert again.run.record.left_out == {}, "it never took part"
        again.play()
        assert {row.clients for row in again.run.record.rounds} == {NAMES[1:]}

    def test_too_few_that_come_begin_nothing(self, beside):
        made = beside()
        made.prepared()
        hub = made.hub()
        made.carrying.away = {"client-2"}
        with pytest.raises(PrivfedError):
            hub.begin()
        assert not (hub.folder / REACHED).exists()


def lying(made, name):
    """Have a client sign another title at the end than all others."""
    node = made.nodes[name]

    def answer(message):
        reply = node.answer(message)
        envelope = Envelope.from_bytes(reply)
        if envelope.statement.kind != CLOSED:
            return reply
        report = BudgetReport.from_json(bytes(envelope.blobs[REPORT]).decode())
        lie = replace(report, title="another run").to_json().encode()
        said = envelope.statement
        terms = Terms(run=said.run, round=said.round, manifest=said.manifest)
        return signed_message(made.identities[name], terms, CLOSED, blobs={REPORT: lie})

    made.nodes[name] = SimpleNamespace(answer=answer, files=node.files)


class TestTheEnd:
    @pytest.fixture
    def over(self, beside):
        """A hub whose rounds are over; nobody has closed its part."""
        made = beside()
        made.prepared()
        hub = begun(made.hub())
        hub.play()
        return made, hub

    def verified(self, made, hub):
        found, _ = verify_statements(hub.folder, authority=made.roster.authority.hex())
        return found

    def test_who_has_said_its_last_word_need_not_come_again(self, over):
        made, hub = over
        made.carrying.away = {"client-0"}
        report = hub.finish()
        assert [row.id for row in report.clients] == ["client-1", "client-2"]
        assert [one.id for one in report.not_closed] == ["client-0"]
        assert report.guarantee.epsilon is None
        made.carrying.away = {"client-1", "client-2"}
        report = made.hub(resume=True).finish()
        assert [row.id for row in report.clients] == list(NAMES)
        assert report.not_closed == ()
        assert self.verified(made, hub) == report

    def test_what_a_client_says_now_counts_more_than_what_lies_there(self, over):
        _, hub = over
        (hub.folder / "statements").mkdir()
        (hub.folder / "statements/client-1.closed").write_bytes(b"of another run")
        assert [row.id for row in hub.finish().clients] == list(NAMES)

    def test_of_one_that_is_away_its_last_word_in_a_round_is_told(self, over):
        made, hub = over
        made.carrying.away = {"client-0"}
        (one,) = hub.finish().not_closed
        assert one.last.epsilon == hub.run.record.rounds[-1].epsilon["client-0"]

    def test_what_lies_there_and_is_nobodys_is_as_if_nothing_was_said(self, over):
        made, hub = over
        (hub.folder / "statements").mkdir()
        (hub.folder / "statements/client-1.closed").write_bytes(b"of another run")
        made.carrying.away = {"client-1"}
        report = hub.finish()
        assert [one.id for one in report.not_closed] == ["client-1"]
        assert self.verified(made, hub) == report

    def test_a_liar_has_no_row_and_puts_nobody_else_out(self, over):
        made, hub = over
        lying(made, "client-0")
        report = hub.finish()
        assert [row.id for row in report.clients] == ["client-1", "client-2"]
        assert [one.id for one in report.not_closed] == ["client-0"]
        assert self.verified(made, hub) == report

    def test_nor_does_one_that_came_first(self, over):
        """Its statement makes the first report, and is in no later one."""
        made, hub = over
        lying(made, "client-0")
        made.carrying.away = {"client-1", "client-2"}
        report = hub.finish()
        assert (report.title, [row.id for row in report.clients]) == ("another run", ["client-0"])
        made.carrying.away = set()
        report = made.hub(resume=True).finish()
        assert [row.id for row in report.clients] == ["client-1", "client-2"]
        assert self.verified(made, hub) == report


class TestWhatMostSay:
    def agree(self, closed):
        """Statements that begin alike fit; one that is empty fits with none."""
        return all(closed.values()) and len({said[:1] for said in closed.values()}) == 1

    def test_all_that_fit(self):
        said = {"a": b"x1", "b": b"x2", "c": b"x3"}
        assert most_that_fit(said, "abc", self.agree) == said

    @pytest.mark.parametrize("liar", ["a", "b", "c"])
    def test_one_that_says_another_thing_puts_nobody_else_out(self, liar):
        """Wherever it comes in their order."""
        said = {name: b"y" if name == liar else b"x" for name in "abc"}
        found = most_that_fit(said, "abc", self.agree)
        assert found == {name: b"x" for name in "abc" if name != liar}

    def test_one_that_contradicts_itself_is_left_out(self):
        said = {"a": b"", "b": b"x", "d": b"x"}
        assert most_that_fit(said, "abcd", self.agree) == {"b": b"x", "d": b"x"}

    def test_of_two_halves_the_first_is_taken(self):
        said = {"a": b"x", "b": b"y", "c": b"x", "d": b"y"}
        assert most_that_fit(said, "abcd", self.agree) == {"a": b"x", "c": b"x"}

    def test_nobody(self):
        assert most_that_fit({}, "abc", self.agree) == {}
