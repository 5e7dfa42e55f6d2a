"""Who is here, in which epoch: lost, waited for, and let in again."""

from dataclasses import replace

import pytest

from privfed.errors import AwayError, ConfigError, MessageError
from privfed.parties.aggregator import presence
from privfed.parties.aggregator.presence import PAUSE_S
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import (
    FETCH_STATE,
    HELLO,
    LEFT_OUT,
    MAKE_KEY,
    NO_RUN,
    START,
    STATE,
    TRAIN,
    UPDATE,
)
from privfed.protocol.ready import terms_before
from privfed.protocol.signing import signed_message
from tests.unit.privfed.parties.aggregator.speakers import (
    BASE,
    INITIAL,
    RUN,
    Clock,
    Speakers,
    standing,
)

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
    return gather(speakers)


def gather(speakers, *, patience_s=0.0, presence=None, left_out=(), number=2):
    if presence is None:
        speakers.go_on(number)
        presence = speakers.presence(patience_s)
    members = [name for name in speakers.names if name not in left_out]
    presence.gather(speakers.reached(number), members, list(left_out), members)
    return presence


def again(speakers, presence, **options):
    """Gather once more; which messages that took."""
    speakers.asked.clear()
    gather(speakers, presence=presence, **options)
    return speakers.kinds


def train(speakers):
    terms = terms_before(speakers.roster, "0" * 64, RUN)
    return signed_message(speakers.parties.aggregator, terms, TRAIN)


class TestWhoIsLost:
    def carried(self, speakers, **says):
        """Whom a question loses, by what each says."""
        message, here = train(speakers), speakers.presence()
        replies = {n: reply for n, reply in says.items() if reply is not None}
        here.beginning = replace(speakers.beginning, exchange=lambda _: replies)
        assert here.carry(dict.fromkeys(says, message)) == replies
        return here.lost

    def test_who_does_not_answer_and_who_has_no_run(self, speakers):
        message = train(speakers)
        reply = speakers.says("c1", terms_before(speakers.roster, "0" * 64, RUN), UPDATE)
        absent = speakers.says("c2", terms_before(speakers.roster, "0" * 64, RUN), "absent")
        no_run = speakers.refuses("c3", f"MessageError: {NO_RUN}")(message, None)
        assert self.carried(speakers, c1=reply, c2=absent, c3=no_run, c4=None) == {"c3", "c4"}

    def test_one_that_refuses_for_another_reason_is_here(self, speakers):
        refused = speakers.refuses("c1", "EncryptionError: disk full")(train(speakers), None)
        assert self.carried(speakers, c1=refused) == set()

    def test_nobody_says_it_for_another(self, speakers):
        """A refusal of c2 in the place of c1's reply is no reply of c1; nor is garbage."""
        refused = speakers.refuses("c2", "EncryptionError: no")(train(speakers), None)
        other = speakers.refuses("c3", f"MessageError: {NO_RUN}")(b"another", None)
        assert self.carried(speakers, c1=refused, c2=b"", c3=other) == {"c1", "c2", "c3"}

    def test_before_the_first_epoch(self, speakers):
        here = speakers.presence()
        assert not here.has_epoch
        with pytest.raises(MessageError, match="has not begun"):
            _ = here.epoch


class TestANewRun:
    def test_all_are_in_it(self, speakers):
        here = speakers.presence()
        here.begin(speakers.names, [])
        assert speakers.kinds == BEGUN
        assert (here.epoch.base, sorted(here.epoch.ready)) == (INITIAL, speakers.names)
        assert here.has_epoch
        assert (here.standings, here.lost) == ({}, set())

    def test_who_was_declined_is_not_asked(self, speakers):
        speakers.presence().begin(["c1", "c2", "c4"], ["c5", "c3"])
        assert speakers.asked[0] == (HELLO, ["c1", "c2", "c4"])
        assert statement_of(speakers.messages[-1]["c4"]).manifest[LEFT_OUT] == ["c5", "c3"]

    @pytest.mark.parametrize("patience_s", [0.0, 3.0])
    def test_it_does_not_begin_without_one_of_them(self, speakers, clock, patience_s):
        """Four of five would be enough for a round."""
        speakers.gone = {"c4"}
        with pytest.raises(AwayError, match="once all that were asked are ready, c4: ") as caught:
            speakers.presence(patience_s).begin(speakers.names, [])
        assert caught.value.missing == ("c4",)
        assert set(speakers.kinds) == {HELLO}
        assert patience_s <= clock.passed < patience_s + PAUSE_S
        assert len(speakers.kinds) == 1 + len(clock.slept), "and asked no more"

    def test_one_that_comes_later_is_waited_for(self, speakers, clock):
        speakers.gone = {"c4"}
        clock.after(2.5, speakers.gone.clear)
        here = speakers.presence(3.0)
        here.begin(speakers.names, [])
        assert sorted(here.epoch.ready) == speakers.names
        assert 2.5 <= clock.passed <= 3.0

    @pytest.mark.parametrize(("kind", "lost"), [(MAKE_KEY, "c1"), (START, "c1"), (START, "c5")])
    def test_one_that_dies_on_the_way_costs_another_try(self, speakers, clock, kind, lost):
        speakers.instead = {(kind, lost): lambda *_: speakers.instead.clear()}
        here = speakers.presence(3.0)
        here.begin(speakers.names, [])
        assert speakers.kinds.count(HELLO) == 2
        assert sorted(here.epoch.ready) == speakers.names
        assert speakers.kinds[-3:] == BEGUN

    def test_what_waiting_does_not_mend_is_not_waited_for(self, speakers, clock):
        speakers.facts["c3"] = replace(speakers.facts["c3"], start="ee" * 32)
        with pytest.raises(ConfigError):
            speakers.presence(3.0).begin(speakers.names, [])
        assert clock.slept == []


class TestARunThatGoesOn:
    def test_one_epoch_with_all_who_are_here(self, speakers):
        here = gather(speakers)
        assert speakers.kinds == BEGUN
        assert (here.epoch.run, here.epoch.base) == (RUN, BASE)
        assert here.standings == {n: standing(2, BASE, "") for n in speakers.names}
        assert here.lost == set()

    def test_who_is_not_here_is_lost(self, speakers):
        speakers.gone = {"c2"}
        here = gather(speakers)
        assert here.lost == {"c2"}
        assert sorted(here.epoch.ready) == sorted(here.standings) == ["c1", "c3", "c4", "c5"]

    def test_too_few(self, speakers, clock):
        speakers.gone = {"c1", "c2", "c5"}
        with pytest.raises(AwayError, match="before round 3, 2 are: c1: ") as caught:
            gather(speakers, patience_s=1.0)
        assert caught.value.missing == ("c1", "c2", "c5")
        assert set(speakers.kinds) == {HELLO}
        assert 1.0 <= clock.passed < 1.0 + PAUSE_S

    def test_too_few_of_those_who_would_train(self, speakers, clock):
        """The others are here, and train in other rounds."""
        speakers.go_on(2)
        speakers.gone = {"c2"}
        presence = speakers.presence()
        with pytest.raises(AwayError, match="at least 3 clients must be ready .* 2 are") as caught:
            presence.gather(speakers.reached(2), speakers.names, [], ["c1", "c2", "c5"])
        assert caught.value.missing == ("c2",)
        presence.gather(speakers.reached(2), speakers.names, [], ["c1", "c3", "c5"])

    def test_nor_with_those_who_said_they_were_ready_and_did_not_begin(self, speakers):
        """Enough clients begin, and too few of those who would train: nobody is asked to."""
        speakers.go_on(2)
        speakers.instead = {(START, "c2"): lambda *_: None}
        presence = speakers.presence()
        with pytest.raises(AwayError, match=r"3 clients must begin before round 3, .*'c1', 'c5'"):
            presence.gather(speakers.reached(2), speakers.names, [], ["c1", "c2", "c5"])
        speakers.instead = {}
        presence.gather(speakers.reached(2), speakers.names, [], ["c1", "c2", "c5"])
        assert presence.lost == set()

    def test_until_enough_are(self, speakers, clock):
        speakers.gone = {"c1", "c2", "c5"}
        clock.after(0.9, lambda: speakers.gone.discard("c2"))
        assert gather(speakers, patience_s=1.0).lost == {"c1", "c5"}

    def test_one_that_never_left_costs_no_key(self, speakers, gathered):
        """Its answer to one question did not come; its epoch is still that of all."""
        name, gathered.lost = gathered.epoch.name, {"c3"}
        assert again(speakers, gathered) == [HELLO]
        assert (gathered.epoch.name, gathered.lost) == (name, set())

    def test_one_that_was_restarted_costs_one(self, speakers, gathered):
        name = gathered.epoch.name
        speakers.standings["c3"] = standing(2, BASE, "")
        assert again(speakers, gathered) == BEGUN
        assert gathered.epoch.name != name
        assert gathered.standings["c3"].epoch == ""
        assert gathered.standings["c4"].epoch == name
        assert gathered.lost == set()

    def test_and_so_does_one_with_an_older_key(self, speakers, gathered):
        """It was away when the others began the epoch."""
        speakers.standings["c3"] = standing(2, BASE, "ee" * 32)
        assert again(speakers, gathered) == BEGUN

    def test_what_one_stated_before_it_was_lost_is_forgotten(self, speakers, gathered):
        """Of the next epoch, those are known who are in it."""
        speakers.gone = {"c5"}
        speakers.standings["c3"] = standing(2, BASE, "")
        again(speakers, gathered)
        assert sorted(gathered.standings) == ["c1", "c2", "c3", "c4"]

    def test_one_that_stays_away_costs_none(self, speakers, gathered):
        speakers.gone = {"c3"}
        assert again(speakers, gathered) == [HELLO]
        assert gathered.lost == {"c3"}

    def test_an_aggregator_that_was_restarted_begins_a_new_one(self, speakers, gathered):
        """What it knew of the key is gone."""
        restarted = speakers.presence()
        assert again(speakers, restarted) == BEGUN
        assert restarted.epoch.name != gathered.epoch.name

    def test_one_whose_word_that_it_began_is_lost(self, speakers):
        """It holds the key, and nobody knows; else it would be lost as long as the epoch lasts."""
        speakers.instead = {(START, "c4"): lambda *_: None}
        here = gather(speakers)
        assert here.lost == {"c4"}
        assert "c4" not in here.standings
        assert speakers.standings["c4"].epoch == here.epoch.name
        speakers.instead.clear()
        assert again(speakers, here) == BEGUN
        assert here.lost == set()

    def test_a_ledger_that_was_put_back_is_not_let_in(self, speakers, gathered):
        reached = speakers.reached()
        speakers.lengths["c2"] -= 1
        gathered.gather(reached, speakers.names, [], speakers.names)
        assert gathered.lost == {"c2"}
        speakers.lengths["c2"] += 1
        gathered.gather(reached, speakers.names, [], speakers.names)
        assert gathered.lost == set(), "just as long is long enough"

    def test_and_it_is_said_why(self, speakers, gathered):
        reached = speakers.reached()
        for name in ("c1", "c2", "c5"):
            speakers.lengths[name] -= 3
        with pytest.raises(AwayError, match="c1: .*7 entries.* 10.*; c2: .*17 entries.* 20"):
            gathered.gather(reached, speakers.names, [], speakers.names)

    def test_who_left_is_neither_asked_nor_waited_for(self, speakers):
        here = gather(speakers, left_out=("c1",))
        assert all("c1" not in names for _, names in speakers.asked)
        assert here.lost == set()

    def test_another_makes_the_key_once_its_maker_is_gone(self, speakers, clock):
        """Nobody can begin without; whoever is the first of those who are left makes one."""
        speakers.instead = {(MAKE_KEY, "c1"): lambda *_: speakers.gone.add("c1")}
        here = gather(speakers, patience_s=1.0)
        assert [names for kind, names in speakers.asked if kind == MAKE_KEY] == [["c1"], ["c2"]]
        assert (here.lost, sorted(here.epoch.ready)) == ({"c1"}, ["c2", "c3", "c4", "c5"])

    def test_one_that_opened_a_round_alone_goes_back(self, speakers):
        """It is ahead of the run; its adapter is asked of nobody and handed to nobody."""
        speakers.go_on(2)
        speakers.standings["c3"] = standing(3, "ee" * 32, "", before=BASE)
        here = speakers.presence()
        here.gather(speakers.reached(), speakers.names, [], speakers.names)
        assert speakers.kinds == BEGUN
        assert here.lost == set()
        assert sorted(here.epoch.ready) == speakers.names

    def test_one_that_is_ahead_and_cannot_go_back_is_given_the_adapter(self, speakers):
        """As any that stands elsewhere; whether it takes it is its own matter."""
        speakers.go_on(2)
        speakers.standings["c3"] = standing(3, "ee" * 32, "")
        here = speakers.presence()
        here.gather(speakers.reached(), speakers.names, [], speakers.names)
        assert speakers.asked[1:3] == [(FETCH_STATE, ["c1"]), (STATE, ["c3"])]
        assert here.lost == set()


class TestWhatEachBrought:
    @pytest.mark.parametrize(
        "changes",
        [
            {"noise_multiplier": 0.5},
            {"epsilon_before": 0.0},
            {"client": {"id": "c3", "public_size": 999}},
            {"base_model": "ee" * 32},
            {"num_params": 8},
            {"num_values": 9},
        ],
        ids=lambda one: next(iter(one)),
    )
    def test_who_brings_something_else_later_is_not_let_in_and_nobody_else_is_kept_out(
        self, speakers, gathered, changes
    ):
        speakers.facts["c3"] = replace(speakers.facts["c3"], **changes)
        speakers.standings["c5"] = standing(2, BASE, "")
        assert again(speakers, gathered) == BEGUN
        assert gathered.lost == {"c3"}
        assert sorted(gathered.epoch.ready) == ["c1", "c2", "c4", "c5"]

    def test_it_is_let_in_once_it_brings_that_again(self, speakers, gathered):
        first = speakers.facts["c3"]
        speakers.facts["c3"] = replace(first, noise_multiplier=0.5)
        again(speakers, gathered)
        speakers.facts["c3"] = first
        again(speakers, gathered)
        assert gathered.lost == set()

    def test_it_is_said_why(self, speakers, gathered):
        for name in ("c1", "c2", "c5"):
            speakers.facts[name] = replace(speakers.facts[name], noise_multiplier=0.5)
        with pytest.raises(AwayError, match="before round 3, 2 are: c1: it brings something else"):
            again(speakers, gathered)


class TestWhatTheyStandIn:
    def test_it_is_of_the_next_round_and_of_no_other(self, speakers, gathered):
        assert gathered.standings_of(3) == gathered.standings != {}
        assert gathered.standings_of(2) == gathered.standings_of(4) == {}
        assert gathered.asked_about == 3

    def test_the_question_says_which_rounds_are_over(self, speakers, gathered):
        assert {statement_of(message).round for message in speakers.messages[0].values()} == {2}

    def test_of_a_new_run_nothing_is_known(self, speakers):
        here = speakers.presence()
        here.begin(speakers.names, [])
        assert here.standings_of(1) == {}
        assert here.asked_about == 1
