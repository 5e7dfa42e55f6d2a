"""The hub's program: who it is, whom it waits for, and that a run goes on where it was."""

import pytest

from privfed import BFV
from privfed.engines.machines import hub as hub_module
from privfed.engines.machines.hub import REACHED, most_that_fit
from privfed.errors import IdentityError, PrivfedError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
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

    def test_nobody(self):
        assert most_that_fit({}, "abc", self.agree) == {}
