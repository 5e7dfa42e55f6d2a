"""A run that its aggregator begins, or goes on with: what is kept, and who is asked."""

from dataclasses import replace

import pytest

from privfed.errors import AwayError, IdentityError
from privfed.parties.aggregator import presence
from privfed.parties.aggregator.openers import ClientsAgree, ClientsOpen, HolderOpens
from privfed.parties.aggregator.run import AggregatorRun, Following
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import ABANDON, HELLO, LEFT_OUT, MAKE_KEY, MISSING, START
from privfed.reports.round_record import Abandoned, Reason
from privfed.settings.encryption import BFV, Custody, Plain
from tests.unit.privfed.parties.aggregator.speakers import (
    BASE,
    INITIAL,
    INITIAL_RANGE,
    INITIAL_RELEASED,
    ROUNDS,
    RUN,
    Clock,
    Speakers,
    standing,
)

BEGUN = [HELLO, MAKE_KEY, START]
SETTINGS = {"rounds": ROUNDS, "what": "the settings"}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(presence, "time", clock)
    return clock


class Kept:
    """Keeps how far a run has come, and when: after how many messages."""

    def __init__(self, speakers):
        self.speakers, self.all = speakers, []

    def __call__(self, reached):
        self.all.append((len(self.speakers.asked), reached))
        return reached


def run_of(speakers, keep=None, **changes):
    options = {"patience_s": changes.pop("patience_s", 0.0)}
    return AggregatorRun(
        **{
            "identity": speakers.parties.aggregator,
            "roster": speakers.roster,
            "proposal": speakers.proposal,
            "described": SETTINGS,
            "connect": None,
            "exchange": speakers.exchange,
            "following": Following(keep=keep or Kept(speakers), **options),
            **changes,
        }
    )


class TestANewRun:
    def test_what_is_known_of_it(self):
        speakers = Speakers()
        keep = Kept(speakers)
        asked = run_of(speakers, keep, notes=("the weights are not even",))
        asked.begin()
        ((_, kept),) = keep.all
        record = kept.record
        assert (kept.base, kept.released, kept.opened) == (INITIAL, INITIAL_RELEASED, {})
        assert kept.facts == speakers.facts
        assert (record.run, record.settings) == (asked.presence.epoch.run, SETTINGS)
        assert (record.base_sha256, record.start_sha256) == ("d1" * 32, "d4" * 32)
        assert record.notes == ("the weights are not even",)
        assert (record.public_range, record.first_range) == (INITIAL_RANGE, INITIAL_RANGE)
        assert record.baseline == asked.presence.epoch.metric_value != 0
        assert {n: a.length for n, a in record.anchors.items()} == speakers.lengths
        noise_multipliers = {n: one.noise_multiplier for n, one in speakers.facts.items()}
        assert record.noise_multipliers == noise_multipliers
        assert record.over == 0

    def test_who_is_too_small_takes_no_part_in_it(self):
        speakers = Speakers()
        asked = run_of(speakers, declined=["c4"])
        asked.begin()
        assert speakers.kinds == BEGUN
        assert all(names == ["c1", "c2", "c3", "c5"] for k, names in speakers.asked if k == HELLO)
        assert asked.members == ["c1", "c2", "c3", "c5"]
        assert statement_of(speakers.messages[-1]["c1"]).manifest[LEFT_OUT] == ["c4"]
        assert sorted(asked.record.anchors) == asked.members

    def test_it_is_kept_once_all_have_begun(self):
        speakers = Speakers()
        keep = Kept(speakers)
        run_of(speakers, keep).begin()
        assert [when for when, _ in keep.all] == [len(BEGUN)]

    def test_a_key_holder_that_does_not_answer_is_found_before_that(self):
        speakers, opened = Speakers(summation=BFV(bits=8, custody=Custody.KEY_HOLDER)), []
        keep = Kept(speakers)

        def connect(name):
            opened.append(name)
            raise IdentityError("it has no identity file")

        asked = run_of(speakers, keep, connect=connect)
        with pytest.raises(IdentityError):
            asked.begin()
        assert (opened, keep.all) == ([asked.presence.epoch.run], [])
        assert asked.reached is None

    def test_patience_is_that_of_who_follows(self, clock):
        speakers = Speakers()
        speakers.gone = {"c2"}
        with pytest.raises(AwayError):
            run_of(speakers, patience_s=7.0).begin()
        assert 7.0 <= clock.passed < 7.0 + presence.PAUSE_S


class TestWhoOpens:
    def test_one_for_all_epochs_of_a_run(self):
        speakers = Speakers()
        speakers.go_on(2)
        asked = run_of(speakers, reached=speakers.reached())
        asked.begin()
        opener = asked.summing.opener
        speakers.standings["c3"] = standing(2, BASE, "")
        asked.presence.gather(asked.reached, asked.members, [], asked.members)
        assert speakers.kinds == BEGUN * 2
        assert asked.summing.opener is opener, "it counts its bytes over the whole run"

    @pytest.mark.parametrize(
        ("summation", "kind"),
        [
            (BFV(bits=8), ClientsAgree),
            (Plain(bits=8), ClientsOpen),
            (BFV(bits=8, custody=Custody.KEY_HOLDER), HolderOpens),
        ],
        ids=["shared key", "plain", "key holder"],
    )
    def test_it_is_who_holds_the_key(self, summation, kind):
        speakers, opened = Speakers(summation=summation), []
        holder = summation.custody == "key_holder" if isinstance(summation, BFV) else False
        asked = run_of(speakers, connect=opened.append if holder else None)
        asked.begin()
        assert type(asked.summing.opener) is kind
        assert opened == ([asked.record.run] if holder else [])

    def test_what_the_sum_states_is_of_the_epoch(self):
        speakers = Speakers(min_clients=4)
        asked = run_of(speakers)
        asked.begin()
        epoch, summing = asked.presence.epoch, asked.summing_or_none
        assert (summing.run_terms, summing.scheme) == (epoch.terms, epoch.scheme)
        assert (summing.key, summing.key_bytes) == (epoch.key, epoch.key_bytes)
        assert summing.key_bytes > 0
        assert summing.min_clients == 4


class TestOneThatGoesOn:
    @pytest.fixture
    def speakers(self):
        speakers = Speakers()
        speakers.go_on(2)
        return speakers

    def test_it_gathers_its_clients_and_keeps_nothing_new(self, speakers):
        keep = Kept(speakers)
        asked = run_of(speakers, keep, reached=speakers.reached())
        asked.begin({})
        assert speakers.kinds == BEGUN
        assert keep.all == []
        assert asked.record == speakers.reached().record
        assert asked.presence.epoch.run == RUN

    def test_one_whose_rounds_are_over_asks_nobody(self, speakers):
        asked = run_of(speakers, reached=speakers.reached(ROUNDS))
        asked.begin({})
        assert speakers.asked == []
        assert asked.summing_or_none is None

    def test_who_leaves_is_kept_before_anybody_goes_on(self, speakers):
        keep = Kept(speakers)
        asked = run_of(speakers, keep, reached=speakers.reached(), notes=("c1 weighs much",))
        asked.begin({"c2": 3})
        assert asked.members == ["c1", "c3", "c4", "c5"]
        assert all("c2" not in names for _, names in speakers.asked)
        ((when, kept),) = keep.all
        assert (when, kept.record.left_out) == (len(BEGUN), {"c2": 3})
        assert kept.record.notes == ("the weights are not even", "c1 weighs much")
        assert kept.record.over == 2

    def test_who_left_before_is_no_news(self, speakers):
        keep, before = Kept(speakers), speakers.reached()
        record = replace(before.record, left_out={"c2": 2})
        asked = run_of(speakers, keep, reached=replace(before, record=record), declined=["c5"])
        asked.begin({"c2": 2})
        assert keep.all == []
        assert asked.members == ["c1", "c3", "c4"]
        assert asked.participants == ["c1", "c2", "c3", "c4"], "who left since took part"
        assert sorted(statement_of(speakers.messages[-1]["c1"]).manifest[LEFT_OUT]) == ["c2", "c5"]

    @pytest.mark.parametrize(
        ("committed", "agreed", "reason"),
        [
            ("committed", None, Reason.LEFT),
            ("reserved", ("c1", "c2", "c3"), Reason.OTHERS),
        ],
    )
    def test_a_round_that_had_come_far_is_given_up(self, speakers, committed, agreed, reason):
        for name in ("c1", "c4"):
            speakers.standings[name] = replace(
                speakers.standings[name], next_status=committed, agreed=agreed
            )
        keep = Kept(speakers)
        asked = run_of(speakers, keep, reached=speakers.reached())
        asked.begin({"c2": 3})
        assert speakers.kinds == [*BEGUN, ABANDON]
        assert statement_of(speakers.messages[-1]["c5"]).manifest[MISSING] == ["c2"]
        ((when, kept),) = keep.all
        assert when == len(BEGUN) + 1, "once all have recorded it"
        assert kept.record.left_out == {"c2": 3}
        assert kept.record.abandoned[-1] == Abandoned(round=3, reason=reason, missing=("c2",))

    def test_leaving_after_the_last_round_is_agreed_on_too(self, speakers):
        speakers.go_on(ROUNDS)
        keep = Kept(speakers)
        run_of(speakers, keep, reached=speakers.reached(ROUNDS)).begin({"c2": ROUNDS + 1})
        assert speakers.kinds == BEGUN
        assert len(keep.all) == 1
