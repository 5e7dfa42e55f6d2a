"""Clients that were away: they are given the adapter, or waited for within a round."""

from dataclasses import replace

import pytest

from privfed.errors import AwayError, EncryptionError, MessageError
from privfed.parties.aggregator import presence
from privfed.parties.aggregator.presence import PAUSE_S
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    CLIENT,
    FETCH_STATE,
    HELLO,
    MAKE_KEY,
    START,
    STATE,
    opened_by,
)
from tests.unit.privfed.parties.aggregator.speakers import BASE, RUN, Clock, Speakers, standing

BEGUN = [HELLO, MAKE_KEY, START]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(presence, "time", clock)
    return clock


@pytest.fixture
def speakers():
    return Speakers()


@pytest.fixture
def gathered(speakers):
    """Five clients of a run whose second round is over, all in one epoch."""
    speakers.go_on(2)
    here = speakers.presence()
    here.gather(speakers.reached(), speakers.names, [], speakers.names)
    return here


class TestOneThatMissedARound:
    @pytest.fixture
    def late(self, speakers):
        """c4 is at the end of round 1, all others at that of round 2."""
        speakers.go_on(2)
        speakers.standings["c4"] = standing(1, "ee" * 32, "")
        return speakers

    def gather(self, speakers):
        here = speakers.presence()
        here.gather(speakers.reached(), speakers.names, [], speakers.names)
        return here

    def test_another_gives_it_the_adapter(self, late):
        here = self.gather(late)
        assert late.asked[1:3] == [(FETCH_STATE, ["c1"]), (STATE, ["c4"])]
        assert late.kinds == [HELLO, FETCH_STATE, STATE, *BEGUN]
        assert late.asked[3] == (HELLO, ["c4"]), "where it stands now"
        assert (here.lost, sorted(here.epoch.ready)) == (set(), late.names)
        assert here.standings["c4"] == standing(2, BASE, ""), "what it stated last"

    def test_for_that_one_alone_with_what_was_stated(self, late):
        self.gather(late)
        question, relayed = late.messages[1]["c1"], late.messages[2]["c4"]
        assert statement_of(question).manifest[CLIENT] == "c4"
        assert (statement_of(relayed).run, statement_of(relayed).round) == (RUN, 2)
        blobs = {name: bytes(blob) for name, blob in Envelope.from_bytes(relayed).blobs.items()}
        state = blobs.pop(STATE)
        assert (statement_of(state).sender, statement_of(state).kind) == ("c1", STATE)
        assert blobs == {opened_by(n): one for n, one in late.reached().opened.items()}

    def test_one_that_holds_the_adapter_since_rounds_that_were_given_up(self, late):
        """The round that a peer is at counts, not that of the run."""
        for name in ("c1", "c2", "c3", "c5"):
            late.standings[name] = standing(1, BASE, "")
        self.gather(late)
        assert statement_of(late.messages[1]["c1"]).round == 1
        assert late.asked[2] == (STATE, ["c4"])

    def test_no_peer_is_asked_that_does_not_hold_it(self, late):
        late.standings["c1"] = standing(3, "ee" * 32, "")
        self.gather(late)
        assert late.asked[1] == (FETCH_STATE, ["c2"])

    def test_where_one_has_no_adapter_to_give_the_next_is_asked(self, late):
        late.instead = {
            (FETCH_STATE, "c1"): lambda *_: None,
            (FETCH_STATE, "c2"): late.refuses("c2", "MessageError: no"),
        }
        late.instead[STATE, "c4"] = taken_only_from(late, "c3")
        assert self.gather(late).lost == set()
        assert [names for kind, names in late.asked if kind == FETCH_STATE] == [
            ["c1"],
            ["c2"],
            ["c3"],
        ]

    def test_and_where_what_it_gave_is_refused(self, late):
        """A client that lies about its adapter keeps nobody out."""
        late.instead[STATE, "c4"] = taken_only_from(late, "c2")
        here = self.gather(late)
        given = [(FETCH_STATE, ["c1"]), (STATE, ["c4"]), (HELLO, ["c4"])]
        again = [(FETCH_STATE, ["c2"]), (STATE, ["c4"]), (HELLO, ["c4"])]
        assert late.asked[1:7] == given + again
        assert late.kinds[7:] == [MAKE_KEY, START]
        assert (here.lost, sorted(here.epoch.ready)) == (set(), late.names)

    @pytest.mark.parametrize("silent", [True, False])
    def test_without_it_the_others_go_on(self, late, silent):
        """Nobody gives it, or nothing of it reaches the client; each was asked once."""
        if silent:
            late.instead = {(FETCH_STATE, name): lambda *_: None for name in late.names}
        late.instead[STATE, "c4"] = taken_only_from(late, "nobody")
        here = self.gather(late)
        assert (here.lost, sorted(here.epoch.ready)) == ({"c4"}, ["c1", "c2", "c3", "c5"])
        asked = [names for kind, names in late.asked if kind == FETCH_STATE]
        assert asked == [["c1"], ["c2"], ["c3"], ["c5"]]

    def test_its_word_that_it_took_it_may_be_lost(self, late):
        """It is asked where it stands, and that counts."""
        late.instead = {(STATE, "c4"): lambda *_: None}
        assert self.gather(late).lost == set()

    def test_one_that_dies_over_it_keeps_nobody_from_going_on(self, late):
        late.instead = {(STATE, "c4"): lambda *_: late.gone.add("c4")}
        here = self.gather(late)
        assert (here.lost, sorted(here.epoch.ready)) == ({"c4"}, ["c1", "c2", "c3", "c5"])

    def test_nor_is_one_let_in_that_still_has_another(self, late):
        """Whatever it says to the adapter: where it stands is what it says to a `hello`."""

        def stubborn(message, reply):
            late.standings["c4"] = standing(1, "ee" * 32, "")
            return reply

        late.instead = {(STATE, "c4"): stubborn}
        assert self.gather(late).lost == {"c4"}

    def test_before_anything_was_opened_there_is_nothing_to_give(self, late):
        here, reached = late.presence(), replace(late.reached(), opened={})
        here.gather(reached, late.names, [], late.names)
        assert late.kinds == BEGUN
        assert here.lost == {"c4"}

    def test_nobody_holds_what_the_run_came_to(self, late):
        for name in late.names:
            late.standings[name] = standing(2, "ee" * 32, "")
        with pytest.raises(AwayError, match="are: c1: it has another adapter than the run"):
            self.gather(late)
        assert late.kinds == [HELLO]


def taken_only_from(speakers, giver):
    """A change of what c4 says that takes the adapter of one client and refuses all others."""

    def change(message, reply):
        state = bytes(Envelope.from_bytes(message).blobs[STATE])
        try:
            sent = statement_of(state)
        except MessageError:
            sent = None  # none came
        if sent is not None and (sent.kind, sent.sender) == (STATE, giver):
            return reply
        speakers.standings["c4"] = standing(1, "ee" * 32, "")
        return speakers.refuses("c4", "MessageError: not the one that was stated")(message, None)

    return change


class TestComingBack:
    def come_back(self, speakers, here, clock, *, within_s=5.0, needed=()):
        speakers.asked.clear()
        return here.come_back(
            speakers.reached(),
            speakers.names,
            [],
            needed=set(needed),
            drawn=speakers.names,
            deadline=clock.now + within_s,
        )

    def test_in_time_with_a_new_key(self, speakers, gathered, clock):
        gathered.lost, speakers.gone = {"c3"}, {"c3"}
        speakers.standings["c3"] = standing(2, BASE, "")
        clock.after(1.1, speakers.gone.clear)
        assert self.come_back(speakers, gathered, clock)
        assert speakers.kinds == [HELLO] * 6 + BEGUN
        assert gathered.lost == set()

    def test_not_in_time(self, speakers, gathered, clock):
        gathered.lost, speakers.gone = {"c3"}, {"c3"}
        clock.after(5.5, speakers.gone.clear)
        assert not self.come_back(speakers, gathered, clock)
        assert 5.0 <= clock.passed < 5.0 + PAUSE_S

    def test_nobody_was_lost(self, speakers, gathered, clock):
        """Too few sent an update for reasons of their own."""
        assert not self.come_back(speakers, gathered, clock)
        assert (speakers.kinds, clock.slept) == ([], [])

    def test_no_time_is_left(self, speakers, gathered, clock):
        gathered.lost = {"c3"}
        assert not self.come_back(speakers, gathered, clock, within_s=0.0)
        assert speakers.kinds == []

    def test_the_one_that_is_needed_and_no_other(self, speakers, gathered, clock):
        gathered.lost, speakers.gone = {"c2", "c3"}, {"c2", "c3"}
        clock.after(1.1, lambda: speakers.gone.discard("c2"))
        clock.after(3.1, lambda: speakers.gone.discard("c3"))
        assert self.come_back(speakers, gathered, clock, needed={"c3", "c4"})
        assert clock.passed >= 3.1

    def test_one_of_two_is_enough_where_none_is_needed(self, speakers, gathered, clock):
        gathered.lost, speakers.gone = {"c2", "c3"}, {"c2", "c3"}
        clock.after(1.1, lambda: speakers.gone.discard("c2"))
        assert self.come_back(speakers, gathered, clock)
        assert gathered.lost == {"c3"}

    def test_too_few_are_asked_again(self, speakers, gathered, clock):
        gathered.lost, speakers.gone = {"c3"}, {"c1", "c2", "c3"}
        clock.after(1.1, speakers.gone.clear)
        assert self.come_back(speakers, gathered, clock)

    def test_what_waiting_does_not_mend_ends_it(self, speakers, gathered, clock):
        gathered.lost = {"c3"}
        speakers.standings["c3"] = standing(2, BASE, "")
        for name in ("c1", "c2", "c3"):
            speakers.instead[START, name] = speakers.refuses(name, "EncryptionError: no")
        with pytest.raises(EncryptionError, match="c1: no"):
            self.come_back(speakers, gathered, clock)
