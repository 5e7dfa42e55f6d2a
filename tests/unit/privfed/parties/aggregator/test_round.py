"""The aggregator's half of a round, with clients that say what they like."""

from dataclasses import replace

import pytest

from privfed.engines.play import Play
from privfed.errors import (
    AwayError,
    EncryptionError,
    MessageError,
    ModelError,
    SpoiledSumError,
    TooFewClientsError,
)
from privfed.methods.method import vector_digest
from privfed.parties.aggregator.round import abandon
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import (
    ABANDON,
    ABSENT,
    LISTING,
    NEXT_BASE,
    NO_RUN,
    NOTE,
    OPENED,
    RELEASED,
    SUM,
    TRAIN,
    UPDATE,
)
from privfed.protocol.signing import refusal, signed_message
from privfed.reports.round_record import Reason

NAMES = [f"client-{index}" for index in range(4)]


class Carried:
    """An exchange over real clients in which a test may replace what they say."""

    def __init__(self, clients, **instead):
        self.clients, self.instead, self.asked = clients, instead, []
        self._play = Play(clients.programs, stacked_clients=1, on_client=lambda _: None)

    def __call__(self, messages):
        kinds = {statement_of(message).kind for message in messages.values()}
        assert len(kinds) == 1, "all get one kind of message"
        (kind,) = kinds
        self.asked.append((kind, list(messages)))
        replies = self._play.exchange(messages)
        change = self.instead.get(kind)
        return replies if change is None else change(messages, replies)


def played(clients, **instead):
    carried = Carried(clients, **instead)
    return replace(clients._round(1), exchange=carried).play(), carried


def says(clients, name, kind, **manifest):
    terms = clients.summing.terms_of_run(1)
    return signed_message(clients.runs[name].node.identity, terms, kind, manifest=manifest)


def opened_as(reply, clients, name, **changes):
    """The statement of a client that opened, signed by itself, with something changed."""
    common = clients.summing.terms_of_run(1).manifest
    manifest = {k: v for k, v in statement_of(reply).manifest.items() if k not in common}
    return says(clients, name, OPENED, **{**manifest, **changes})


def no_metric(clients, names):
    """A change of what these say that opened a sum: for each the adapter has no metric."""

    def diverge(_, replies):
        return {
            **replies,
            **{n: opened_as(replies[n], clients, n, metric_value=None) for n in names},
        }

    return diverge


def without(*names):
    return lambda _, replies: {n: r for n, r in replies.items() if n not in names}


class TestARound:
    def test_its_messages(self, encrypted):
        released, carried = played(encrypted)
        assert carried.asked == [(kind, NAMES) for kind in (TRAIN, LISTING, SUM)]
        assert released.contributors == released.opened == tuple(NAMES)
        assert released.base == encrypted.one.progress.base
        assert released.epsilon == {
            name: run.node.epsilon_spent() for name, run in encrypted.runs.items()
        }

    def test_one_that_stays_away_at_first_opens_what_the_others_sent(self, encrypted):
        absent = {"client-2": says(encrypted, "client-2", ABSENT)}
        released, carried = played(encrypted, train=lambda _, replies: {**replies, **absent})
        others = [name for name in NAMES if name != "client-2"]
        assert released.contributors == tuple(others)
        assert released.opened == tuple(NAMES), "it holds the key, and moves on like all"
        assert carried.asked[1] == (LISTING, others)

    def test_too_few(self, encrypted):
        with pytest.raises(TooFewClientsError, match="2 contribution") as caught:
            played(encrypted, train=without("client-1", "client-3"))
        assert caught.value.missing == ("client-1", "client-3")

    def test_one_that_does_not_answer_about_the_list(self, encrypted):
        with pytest.raises(AwayError, match="client-3 did not") as caught:
            played(encrypted, listing=without("client-3"))
        assert caught.value.missing == ("client-3",)

    def test_an_update_in_the_name_of_another_counts_for_neither(self, encrypted):
        told = []

        def swapped(_, replies):
            return {**replies, "client-1": replies["client-0"]}

        carried = Carried(encrypted, train=swapped)
        playing = replace(
            encrypted._round(1), exchange=carried, on_refused=lambda *why: told.append(why)
        )
        assert playing.play().contributors == ("client-0", "client-2", "client-3")
        assert [name for name, _ in told] == ["client-1"]
        assert "second update" in str(told[0][1])

    def test_a_round_agreed_to_before_waits_for_those_alone(self, encrypted):
        before = {("client-0", "client-1", "client-2")}
        carried = Carried(encrypted)
        playing = replace(encrypted._round(1), exchange=carried, before=before)
        assert playing.play().contributors == ("client-0", "client-1", "client-2")
        assert carried.asked[0] == (TRAIN, NAMES[:3])

    def test_and_is_not_played_without_one_of_them(self, encrypted):
        carried = Carried(encrypted, train=without("client-1"))
        playing = replace(encrypted._round(1), exchange=carried, before={tuple(NAMES)})
        with pytest.raises(AwayError, match="client-1, whose update did not come again"):
            playing.play()


class TestWhatWasOpened:
    def test_one_that_came_to_something_else_is_not_believed(self, plain):
        def lie(_, replies):
            mine = opened_as(replies["client-0"], plain, "client-0", **{NEXT_BASE: "0" * 64})
            return {**replies, "client-0": mine}

        released, _ = played(plain, sum=lie)
        assert released.opened == ("client-1", "client-2", "client-3")
        assert released.base == plain.runs["client-1"].progress.base

    def test_nor_with_the_right_adapter_and_another_range(self, plain):
        def lie(_, replies):
            mine = opened_as(replies["client-0"], plain, "client-0", next_range=0.125)
            return {**replies, "client-0": mine}

        released, _ = played(plain, sum=lie)
        assert released.opened == ("client-1", "client-2", "client-3")
        assert released.public_range != 0.125

    def test_a_metric_may_differ_and_the_middle_one_counts(self, plain):
        """Another batch in memory or another precision gives another one."""
        record = iter([0.25, 0.5, 0.75, 1e6])

        def differ(_, replies):
            return {
                name: opened_as(reply, plain, name, metric_value=next(record))
                for name, reply in replies.items()
            }

        released, _ = played(plain, sum=differ)
        assert (released.opened, released.metric_value) == (tuple(NAMES), 0.5)

    @pytest.mark.parametrize(
        ("stated", "shown"),
        [
            ([1.5, 1.5000001, 1.4999999, 1e6], 1.5),
            ([1.25, None, 1.75, 2.0], 1.75),
            ([1.25, None, 1.75, None], None),
            ([None] * 4, None),
        ],
    )
    def test_signal_to_noise_may_differ_and_the_middle_one_counts(self, plain, stated, shown):
        """It is in no digest: sums in another order differ in their last bits."""

        def differ(_, replies):
            return {
                name: opened_as(replies[name], plain, name, signal_to_noise=one)
                for name, one in zip(NAMES, stated, strict=True)
            }

        released, _ = played(plain, sum=differ)
        assert (released.opened, released.signal_to_noise) == (tuple(NAMES), shown)

    def test_of_each_figure_the_middle_one_counts_if_most_state_it(self, plain):
        stated = [{"lost": 0.5, "cut": 0.25}, {"lost": 0.125}, {"lost": 2.0}, {"cut": 1.0}]

        def differ(_, replies):
            return {
                name: opened_as(replies[name], plain, name, figures=one)
                for name, one in zip(NAMES, stated, strict=True)
            }

        released, _ = played(plain, sum=differ)
        assert (released.opened, released.figures) == (tuple(NAMES), {"lost": 0.5})

    def test_nor_with_another_average(self, plain):
        """What the run leaves need not be the adapter, so that a quorum must state it too."""

        def lie(_, replies):
            mine = opened_as(replies["client-0"], plain, "client-0", **{RELEASED: "0" * 64})
            return {**replies, "client-0": mine}

        released, _ = played(plain, sum=lie)
        assert released.opened == ("client-1", "client-2", "client-3")
        held = plain.runs["client-1"].progress.state
        assert released.released == vector_digest(held.adapter)

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_one_that_diverged_stops_the_run(self, plain, count):
        """It is one if no more than half of the clients have a metric."""
        with pytest.raises(ModelError, match="diverged in round 1"):
            played(plain, sum=no_metric(plain, NAMES[:count]))

    def test_one_client_without_a_metric_does_not(self, plain):
        released, _ = played(plain, sum=no_metric(plain, NAMES[1:2]))
        assert released.opened == tuple(NAMES)
        assert released.metric_value == plain.one._transition.evaluate(
            plain.one.progress.state.adapter
        )

    @pytest.mark.parametrize(
        ("notes", "shown"),
        [
            (["wide"] * 4, "wide"),
            (["wide"] * 3 + ["no"], "wide"),
            (["wide"] * 2 + ["no"] * 2, None),
            (["wide"] * 2 + [None] * 2, None),
            (["wide"] + [None] * 3, None),
            (["a", "b", "c", "d"], None),
            ([None] * 4, None),
            (["wide\x1b[2J"] * 4, None),
            (["two\nlines"] * 4, None),
            (["z" * 1000] * 4, "z" * 1000),
            (["z" * 1001] * 4, None),
        ],
        ids=lambda one: f"{one!r:.40}",
    )
    def test_a_note_is_what_most_state_alike_if_it_may_be_shown(self, plain, notes, shown):
        def differ(_, replies):
            return {
                name: opened_as(replies[name], plain, name, **{NOTE: note})
                for name, note in zip(NAMES, notes, strict=True)
            }

        released, _ = played(plain, sum=differ)
        assert (released.opened, released.note) == (tuple(NAMES), shown)

    @pytest.mark.parametrize(
        "changes",
        [
            {"epsilon": "none"},
            {"epsilon": None},
            {"epsilon": -5.0},
            {"epsilon": True},
            {"epsilon": 10**400},
            {"next_range": 0},
            {"metric_value": [1]},
            {"signal_to_noise": "1"},
            {"signal_to_noise": -0.5},
            {"signal_to_noise": 10**400},
            {"figures": [0.5]},
            {"figures": {"lost": "0.5"}},
            {"figures": {"lost": -0.5}},
            {"figures": {"lost": 10**400}},
            {"figures": {"lost" * 21: 0.5}},
            {"note": 7},
            {"next_base": 7},
            {"contributors": 5},
            {"contributors": []},
            {"contributors": ["client-0"]},
            {"extra": 1},
        ],
    )
    def test_what_is_not_well_formed_counts_as_nothing(self, plain, changes):
        def garble(_, replies):
            return {
                **replies,
                "client-3": opened_as(replies["client-3"], plain, "client-3", **changes),
            }

        assert played(plain, sum=garble)[0].opened == ("client-0", "client-1", "client-2")

    def test_a_statement_of_another_client_counts_for_neither(self, plain):
        def swap(_, replies):
            return {**replies, "client-3": replies["client-0"]}

        assert played(plain, sum=swap)[0].opened == ("client-0", "client-1", "client-2")

    def test_fewer_than_the_minimum(self, plain):
        with pytest.raises(AwayError, match=r"opened by 2 client\(s\)"):
            played(plain, sum=without("client-1", "client-3"))

    def test_two_camps(self, plain):
        def split(_, replies):
            return {
                name: opened_as(reply, plain, name, **{NEXT_BASE: str(index % 2) * 64})
                for index, (name, reply) in enumerate(replies.items())
            }

        with pytest.raises(AwayError, match="came to the same adapter"):
            played(plain, sum=split)

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [
            ("SpoiledSumError: not that of its contributions", SpoiledSumError),
            ("MessageError: no such thing", MessageError),
            ("EncryptionError: no", EncryptionError),
            ("ValueError: of its own", EncryptionError),
        ],
    )
    def test_a_sum_that_clients_refuse(self, plain, reason, kind):
        def refuse(messages, replies):
            return {
                name: refusal(plain.runs[name].node.identity, message, reason)
                for name, message in messages.items()
            }

        with pytest.raises(kind) as caught:
            played(plain, sum=refuse)
        assert type(caught.value) is kind

    def test_what_two_of_four_refuse_is_not_believed(self, plain):
        def refuse(messages, replies):
            words = "SpoiledSumError: says who"
            return {
                **replies,
                **{
                    name: refusal(plain.runs[name].node.identity, messages[name], words)
                    for name in NAMES[:2]
                },
            }

        with pytest.raises(AwayError) as caught:
            played(plain, sum=refuse)
        assert caught.value.missing == (), "all had agreed, so that all must record its end"

    def test_one_that_refuses_what_the_others_opened_stops_nobody(self, plain):
        def refuse(messages, replies):
            identity = plain.runs["client-2"].node.identity
            mine = refusal(identity, messages["client-2"], "SpoiledSumError: says who")
            return {**replies, "client-2": mine}

        assert played(plain, sum=refuse)[0].opened == ("client-0", "client-1", "client-3")


class TestGivingUp:
    def give_up(self, clients, **instead):
        carried = Carried(clients, **instead)
        abandon(
            clients.summing,
            carried,
            NAMES,
            round_number=1,
            reason=Reason.AWAY,
            missing=["client-3"],
        )
        return carried

    def test_all_record_it(self, encrypted):
        assert self.give_up(encrypted).asked == [(ABANDON, NAMES)]
        assert [run.progress.round for run in encrypted.runs.values()] == [1, 1, 1, 1]

    def test_who_is_missing_is_not_waited_for(self, encrypted):
        self.give_up(encrypted, abandon=without("client-3"))

    def test_nobody_says_so_for_another(self, encrypted):
        def swap(_, replies):
            return {**replies, "client-1": replies["client-0"]}

        with pytest.raises(EncryptionError, match="'client-1'.*sent by another"):
            self.give_up(encrypted, abandon=swap)

    def test_one_that_died_meanwhile_is_not_waited_for(self, encrypted):
        """A sum is opened only by who is there and holds the key; that one holds none any more."""
        self.give_up(encrypted, abandon=without("client-1"))
        assert [run.progress.round for run in encrypted.runs.values()] == [1, 1, 1, 1]

    def test_nor_is_one_that_was_restarted(self, encrypted):
        def restarted(messages, replies):
            identity = encrypted.runs["client-1"].node.identity
            mine = refusal(identity, messages["client-1"], f"MessageError: {NO_RUN}")
            return {**replies, "client-1": mine}

        self.give_up(encrypted, abandon=restarted)

    @pytest.mark.parametrize("reason", ["EncryptionError: disk full", "MessageError: no run"])
    def test_one_that_does_not_say_so_keeps_it_open(self, encrypted, reason):
        def change(messages, replies):
            identity = encrypted.runs["client-1"].node.identity
            mine = refusal(identity, messages["client-1"], reason)
            return {**replies, "client-1": mine}

        with pytest.raises(EncryptionError, match=f"'client-1'.*{reason}"):
            self.give_up(encrypted, abandon=change)

    def test_and_so_does_a_refusal_of_something_else(self, encrypted):
        """It says nothing of this round."""

        def change(messages, replies):
            identity = encrypted.runs["client-1"].node.identity
            mine = refusal(identity, encrypted.abandon(2), f"MessageError: {NO_RUN}")
            return {**replies, "client-1": mine}

        with pytest.raises(EncryptionError, match="'client-1'.*another message"):
            self.give_up(encrypted, abandon=change)


def test_the_updates_are_the_only_thing_that_a_round_brings(plain):
    """What comes back from `train` is an update or the fixed words; nothing else is looked at."""
    seen = []

    def watch(_, replies):
        seen.extend(statement_of(reply).kind for reply in replies.values())
        return replies

    played(plain, train=watch)
    assert seen == [UPDATE] * 4


@pytest.mark.parametrize("reply", [b"", b"garbage", b"PRIVFED\x05", bytes(500)])
@pytest.mark.parametrize("kind", [TRAIN, LISTING, SUM])
def test_a_client_that_answers_with_anything_at_all_drops_out_alone(encrypted, kind, reply):
    """Of four, three are enough; but who sent an update must answer about the list."""

    def garble(_, replies):
        return {**replies, "client-2": reply}

    if kind == LISTING:
        with pytest.raises(AwayError) as caught:
            played(encrypted, listing=garble)
        assert caught.value.missing == ("client-2",)
        return
    released, _ = played(encrypted, **{kind: garble})
    assert ("client-2" in released.contributors) is (kind == SUM)
    assert ("client-2" in released.opened) is (kind == TRAIN)


def test_nor_does_it_keep_a_round_from_being_given_up_by_name(encrypted):
    carried = Carried(encrypted, abandon=lambda _, replies: {**replies, "client-2": b"garbage"})
    with pytest.raises(EncryptionError, match="'client-2' does not say that it gave up round 1"):
        abandon(encrypted.summing, carried, NAMES, round_number=1, reason=Reason.AWAY, missing=[])
