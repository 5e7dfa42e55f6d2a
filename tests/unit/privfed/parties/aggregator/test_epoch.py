"""What comes before the rounds: who is here, whether all hold the same, and with which key."""

import statistics
from dataclasses import replace

import pytest

from privfed.errors import (
    AwayError,
    ConfigError,
    EncryptionError,
    IdentityError,
    MessageError,
)
from privfed.parties.aggregator.epoch import reason_in
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    EPOCH,
    EPSILON,
    HELLO,
    LEFT_OUT,
    MAKE_KEY,
    METRIC_VALUE,
    NEXT_BASE,
    NEXT_RANGE,
    NONCE,
    RELEASED,
    SHARED_KEY,
    START,
    UPDATE,
    ready_of,
)
from privfed.protocol.ready import epoch_of, terms_before
from privfed.settings.encryption import Plain
from tests.unit.privfed.parties.aggregator.speakers import (
    AGREED,
    BASE,
    INITIAL,
    INITIAL_RANGE,
    INITIAL_RELEASED,
    KEY,
    RANGE_NOW,
    RELEASED_NOW,
    RUN,
    Speakers,
)


@pytest.fixture
def speakers():
    return Speakers()


def hello(speakers, run=""):
    return speakers.beginning.hello(speakers.names, run)


def start(speakers, *, run="", over=0, base="", left_out=()):
    """Begin with all who are ready."""
    asked = speakers.beginning.hello([n for n in speakers.names if n not in left_out], run)
    return speakers.beginning.start(asked, list(left_out), run=run, over=over, base=base)


def go_on(speakers):
    speakers.go_on(2)
    return start(speakers, run=RUN, over=2, base=BASE)


def states(speakers, name, **changes):
    """A change of what a client says that it began."""
    return lambda message, _: speakers.started(name, message, **changes)


class TestHello:
    def test_all_are_ready(self, speakers):
        asked = hello(speakers)
        assert speakers.asked == [(HELLO, ["c1", "c2", "c3", "c4", "c5"])]
        assert sorted(asked.ready) == sorted(asked.messages) == speakers.names
        assert asked.reasons == {}
        assert {n: one.anchor.length for n, one in asked.ready.items()} == speakers.lengths
        assert asked.ready["c2"].facts == speakers.facts["c2"]

    def test_it_names_the_run_that_goes_on(self, speakers):
        speakers.go_on(2)
        asked = hello(speakers, RUN)
        assert {statement_of(m).run for m in speakers.messages[0].values()} == {RUN}
        assert {one.standing.round for one in asked.ready.values()} == {2}

    def test_whatever_is_wrong_with_one_has_a_reason_and_stops_no_other(self, speakers):
        speakers.gone = {"c1"}
        speakers.instead = {
            (HELLO, "c2"): speakers.refuses("c2", "ConfigError: other settings"),
            (HELLO, "c3"): lambda *_: b"garbage",
            (HELLO, "c4"): lambda *_: speakers.ready("c5"),
        }
        asked = hello(speakers)
        assert list(asked.ready) == ["c5"]
        assert sorted(asked.reasons) == ["c1", "c2", "c3", "c4"]
        assert asked.reasons["c1"] == "MessageError: no answer came"
        assert asked.reasons["c2"] == "ConfigError: other settings"
        assert asked.reasons["c3"].startswith("MessageError: ")
        assert asked.reasons["c4"] == "MessageError: what came for 'c4' was sent by another"

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({NONCE: "7"}, "hex"),
            ({EPSILON: "none"}, "epsilon as a number"),
            ({EPSILON: -0.5}, "epsilon as a number"),
            ({EPSILON: 10**400}, "epsilon as a number"),
            ({"facts": {"client": "c3"}}, "must state"),
            ({"ledger": 7}, "states no anchor"),
            ({"standing": 7}, "must state"),
            ({"more": 7}, "more"),
        ],
    )
    def test_what_is_not_well_formed(self, speakers, changes, why):
        speakers.instead = {(HELLO, "c3"): lambda *_: speakers.ready("c3", **changes)}
        asked = hello(speakers)
        assert list(asked.reasons) == ["c3"]
        assert asked.reasons["c3"].startswith("MessageError: ")
        assert why in asked.reasons["c3"]
        assert sorted(asked.ready) == ["c1", "c2", "c4", "c5"]

    @pytest.mark.parametrize(
        "field", ["noise_multiplier", "epsilon_before", "num_params", "num_values"]
    )
    @pytest.mark.parametrize("number", [10**400, -1, True, None], ids=lambda one: f"{one!r:.9}")
    def test_numbers_of_facts_that_are_none(self, speakers, field, number):
        facts = {**speakers.facts["c3"].to_json(), field: number}
        speakers.instead = {(HELLO, "c3"): lambda *_: speakers.ready("c3", facts=facts)}
        assert list(hello(speakers).reasons) == ["c3"]

    def test_one_that_signs_with_the_key_of_another(self, speakers):
        """What it states names c3, and the signature is that of c5, or c5's in its own name."""
        mixed = {**speakers.facts["c3"].to_json()}
        speakers.instead = {(HELLO, "c3"): lambda *_: speakers.ready("c3", signer="c5")}
        assert "sent by another" in hello(speakers).reasons["c3"]
        speakers.instead = {(HELLO, "c3"): lambda *_: speakers.ready("c5", facts=mixed)}
        assert list(hello(speakers).reasons) == ["c3"]

    def test_a_reply_to_another_question(self, speakers):
        """A refusal of another message, a `ready` for another run, and another kind."""
        other = speakers.says("c2", terms_before(speakers.roster, "0" * 64), HELLO)
        speakers.instead = {
            (HELLO, "c1"): lambda *_: speakers.refuses("c1", "ConfigError: x")(other, None),
            (HELLO, "c2"): lambda *_: speakers.ready("c2", run=RUN),
            (HELLO, "c3"): lambda message, _: speakers.says(
                "c3", speakers.before(statement_of(message)), UPDATE
            ),
        }
        asked = hello(speakers)
        assert sorted(asked.ready) == ["c4", "c5"]
        assert "refused another message" in asked.reasons["c1"]
        assert "of run" in asked.reasons["c2"]
        assert UPDATE in asked.reasons["c3"]


class TestReasons:
    def test_they_are_short_and_ascii_and_sorted(self):
        shown = reason_in({"c2": "z" * 301, "c1": "naïve\x1b[2J\n"})
        assert shown == "c1: na\\xefve\\x1b[2J\\n; c2: " + "z" * 300
        assert shown.isascii()
        assert shown.isprintable()

    def test_nobody(self):
        assert reason_in({}) == ""


def declared_on(speakers, name, base, **facts):
    """Let a client say that its base model is another."""
    mine = speakers.facts[name]
    speakers.facts[name] = replace(mine, client={**mine.client, "base": base}, **facts)


class TestANewRun:
    def test_its_messages(self, speakers):
        epoch = start(speakers)
        everybody = speakers.names
        assert speakers.asked == [(HELLO, everybody), (MAKE_KEY, ["c1"]), (START, everybody)]
        ready = speakers.ready_in(speakers.messages[-1]["c4"])
        assert epoch.name == epoch_of(ready.values())
        assert epoch.run == epoch.name[:32]
        assert epoch.ready == ready
        assert (epoch.base, epoch.released) == (INITIAL, INITIAL_RELEASED)
        assert (epoch.public_range, epoch.metric_value) == (INITIAL_RANGE, 0.25 + 3 / 32)
        assert epoch.terms == speakers.run_terms(epoch.run, ())
        assert epoch.scheme == speakers.scheme(5)

    def test_the_key_is_that_of_the_first_by_name(self, speakers):
        epoch = start(speakers)
        made = Envelope.from_bytes(speakers.messages[-1]["c3"]).blobs[SHARED_KEY]
        assert statement_of(made).sender == "c1"
        assert (epoch.key, epoch.key_bytes) == (KEY, len(made))

    def test_all_ready_go_to_all_as_they_came(self, speakers):
        asked = hello(speakers)
        speakers.beginning.start(asked, [], run="", over=0, base="")
        for message in speakers.messages[-1].values():
            blobs = Envelope.from_bytes(message).blobs
            assert {n: bytes(blobs[ready_of(n)]) for n in speakers.names} == asked.messages

    def test_without_a_shared_key_nobody_makes_one(self):
        speakers = Speakers(summation=Plain(bits=9))
        epoch = start(speakers)
        assert speakers.kinds == [HELLO, START]
        assert (epoch.key, epoch.key_bytes) == ({}, 0)

    def test_who_was_declined_is_told_and_is_no_contributor(self, speakers):
        epoch = start(speakers, left_out=("c2",))
        assert statement_of(speakers.messages[-1]["c1"]).manifest[LEFT_OUT] == ["c2"]
        assert (epoch.terms.left_out, epoch.scheme.num_clients) == (("c2",), 4)
        assert sorted(epoch.ready) == ["c1", "c3", "c4", "c5"]

    def test_two_runs_have_two_names(self, speakers):
        assert start(speakers).run != start(speakers).run

    @pytest.mark.parametrize("field", ["base_model", "start", "tokenizer", "layout"])
    def test_who_holds_something_else_is_named_with_it(self, speakers, field):
        speakers.facts["c3"] = replace(speakers.facts["c3"], **{field: "ee" * 32})
        with pytest.raises(ConfigError, match=f"'c3' has another {field} than 'c1'"):
            start(speakers)
        assert speakers.kinds == [HELLO], "nobody made a key for it"

    @pytest.mark.parametrize("field", ["base_weights", "base_model", "tokenizer"])
    def test_who_says_that_its_base_is_another_may_hold_another(self, speakers, field):
        for name in ("c2", "c4"):
            declared_on(speakers, name, "small", **{field: "ee" * 32})
        assert sorted(start(speakers).ready) == speakers.names

    @pytest.mark.parametrize("field", ["base_weights", "base_model", "tokenizer"])
    def test_but_those_who_declare_one_base_hold_one(self, speakers, field):
        for name in ("c2", "c3"):
            declared_on(speakers, name, "small", base_model="ab" * 32)
        speakers.facts["c3"] = replace(speakers.facts["c3"], **{field: "ee" * 32})
        with pytest.raises(ConfigError, match=f"has another {field} than"):
            start(speakers)

    @pytest.mark.parametrize("field", ["layout", "start"])
    def test_nor_may_it_train_anything_else(self, speakers, field):
        declared_on(speakers, "c3", "small", **{field: "ee" * 32})
        with pytest.raises(ConfigError, match=f"'c3' has another {field} than 'c1'"):
            start(speakers)

    def test_the_first_by_name_is_named_where_it_is_the_odd_one(self, speakers):
        speakers.facts["c1"] = replace(speakers.facts["c1"], tokenizer="ee" * 32, num_params=8)
        with pytest.raises(ConfigError, match="'c1' has another num_params, tokenizer than 'c2'"):
            start(speakers)

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [
            ("ConfigError: no", ConfigError),
            ("IdentityError: no", IdentityError),
            ("EncryptionError: no", EncryptionError),
            ("MessageError: no", MessageError),
            ("SpoiledSumError: no", EncryptionError),
            ("no kind at all", EncryptionError),
        ],
    )
    @pytest.mark.parametrize("message", [MAKE_KEY, START])
    def test_one_that_refuses_ends_it_with_its_reason(self, speakers, message, reason, kind):
        speakers.instead = {(message, "c1"): speakers.refuses("c1", reason)}
        with pytest.raises(kind, match=r"^c1: ") as caught:
            start(speakers)
        assert type(caught.value) is kind

    def test_its_reason_is_cut_and_ascii(self, speakers):
        reason = "EncryptionError: \x1b" + "z" * 400
        speakers.instead = {(START, "c4"): speakers.refuses("c4", reason)}
        with pytest.raises(EncryptionError) as caught:
            start(speakers)
        assert str(caught.value) == "c4: \\x1b" + "z" * 299

    @pytest.mark.parametrize(("message", "lost"), [(MAKE_KEY, "c1"), (START, "c1"), (START, "c4")])
    def test_one_that_dies_is_waited_for(self, speakers, message, lost):
        """All must begin; so whoever asked may ask again."""
        speakers.instead = {(message, lost): lambda *_: None}
        with pytest.raises(AwayError, match="no answer came") as caught:
            start(speakers)
        assert caught.value.missing == (lost,)

    @pytest.mark.parametrize("message", [MAKE_KEY, START])
    def test_and_so_is_one_that_was_restarted_since_it_was_ready(self, speakers, message):
        words = "MessageError: no run is open here"
        speakers.instead = {(message, "c1"): speakers.refuses("c1", words)}
        with pytest.raises(AwayError, match="no run is open here") as caught:
            start(speakers)
        assert caught.value.missing == ("c1",)

    def test_whoever_begins_something_else_ends_it(self, speakers):
        speakers.instead = {(START, "c5"): states(speakers, "c5", **{NEXT_BASE: "ee" * 32})}
        with pytest.raises(EncryptionError, match="5 clients must begin with the same"):
            start(speakers)

    @pytest.mark.parametrize("wrong", [0, -0.25, "wide", None, True])
    def test_a_range_that_is_none_whoever_agrees_on_it(self, speakers, wrong):
        for name in speakers.names:
            speakers.instead[START, name] = states(speakers, name, **{NEXT_RANGE: wrong})
        with pytest.raises(MessageError, match="'c1' began something else"):
            start(speakers)

    def test_a_maker_that_sends_something_else(self, speakers):
        speakers.instead = {(MAKE_KEY, "c1"): lambda *_: speakers.ready("c1")}
        with pytest.raises(MessageError, match="'c1' must make a key"):
            start(speakers)
        speakers.instead = {
            (MAKE_KEY, "c1"): lambda message, _: speakers.answer("c2", message),
        }
        with pytest.raises(MessageError, match="'c1' was sent by another"):
            start(speakers)

    @pytest.mark.parametrize(
        "metric_value", [None, "0.5", True, 10**400], ids=lambda one: f"{one!r:.9}"
    )
    def test_the_metric_of_the_initial_adapter_is_a_number(self, speakers, metric_value):
        speakers.instead = {(START, "c2"): states(speakers, "c2", **{METRIC_VALUE: metric_value})}
        with pytest.raises(MessageError, match="metric of the initial adapter"):
            start(speakers)

    def test_the_middle_metric_counts_whatever_one_says(self, speakers):
        speakers.instead = {(START, "c1"): states(speakers, "c1", **{METRIC_VALUE: 1e6})}
        honest = [0.25 + index / 32 for index in (2, 3, 4, 5)]
        assert (
            start(speakers).metric_value == statistics.median_low([*honest, 1e6]) == 0.25 + 4 / 32
        )


class TestARunThatGoesOn:
    def test_it_keeps_its_name_and_has_a_new_epoch(self, speakers):
        epoch = go_on(speakers)
        assert (epoch.run, epoch.base, epoch.released) == (RUN, BASE, RELEASED_NOW)
        assert epoch.name[:32] != RUN
        assert (epoch.public_range, epoch.metric_value) == (RANGE_NOW, None)
        told = statement_of(speakers.messages[-1]["c1"])
        assert (told.run, told.round, told.manifest[NEXT_BASE]) == (RUN, 2, BASE)
        assert go_on(speakers).name != epoch.name, "every `ready` has a fresh number"

    @pytest.mark.parametrize("lost", ["c1", "c4"])
    def test_one_that_dies_before_it_began_is_not_in_it(self, speakers, lost):
        """Also the one that made the key: its message is there already."""
        speakers.instead = {(START, lost): lambda *_: None}
        assert sorted(go_on(speakers).ready) == [n for n in speakers.names if n != lost]

    def test_the_maker_is_waited_for_until_it_has_made_it(self, speakers):
        speakers.instead = {(MAKE_KEY, "c1"): lambda *_: None}
        with pytest.raises(AwayError) as caught:
            go_on(speakers)
        assert caught.value.missing == ("c1",)
        speakers.asked.clear()
        asked = speakers.beginning.hello(["c2", "c3", "c4", "c5"], RUN)
        speakers.beginning.start(asked, [], run=RUN, over=2, base=BASE)
        assert speakers.asked[1] == (MAKE_KEY, ["c2"]), "then another makes it"

    def test_the_next_is_asked_where_one_refuses_to_make_the_key(self, speakers):
        for name in ("c1", "c2"):
            speakers.instead[MAKE_KEY, name] = speakers.refuses(name, "EncryptionError: no")
        assert sorted(go_on(speakers).ready) == ["c3", "c4", "c5"]
        assert [names for kind, names in speakers.asked if kind == MAKE_KEY] == [
            *(["c1"], ["c2"], ["c3"]),
        ]
        assert [names for kind, names in speakers.asked if kind == START] == [["c3", "c4", "c5"]]

    def test_unless_too_few_are_left(self, speakers):
        for name in ("c1", "c2", "c3"):
            speakers.instead[MAKE_KEY, name] = speakers.refuses(name, "EncryptionError: no")
        with pytest.raises(EncryptionError, match="c3: no"):
            go_on(speakers)
        assert START not in speakers.kinds

    @pytest.mark.parametrize(
        "changes",
        [
            {EPOCH: "ee" * 32},
            {NEXT_BASE: "ee" * 32},
            {RELEASED: "ee" * 32},
            {NEXT_RANGE: RANGE_NOW / 2},
            {NEXT_RANGE: 0},
            {NEXT_RANGE: 10**400},
            {NEXT_RANGE: "wide"},
            {"agreement": "ee" * 32},
            {"more": 7},
        ],
    )
    def test_who_states_something_else_is_not_in_it(self, speakers, changes):
        speakers.instead = {(START, "c1"): states(speakers, "c1", **changes)}
        epoch = go_on(speakers)
        assert sorted(epoch.ready) == ["c2", "c3", "c4", "c5"]
        assert (epoch.base, epoch.released, epoch.public_range) == (BASE, RELEASED_NOW, RANGE_NOW)
        assert epoch.terms.agreement == AGREED

    def test_nor_who_lets_another_say_it(self, speakers):
        speakers.instead = {(START, "c2"): lambda message, _: speakers.started("c3", message)}
        assert sorted(go_on(speakers).ready) == ["c1", "c3", "c4", "c5"]

    def test_a_minority_that_lies_alike(self, speakers):
        for name in ("c1", "c2"):
            speakers.instead[START, name] = states(speakers, name, **{NEXT_BASE: "ee" * 32})
        assert sorted(go_on(speakers).ready) == ["c3", "c4", "c5"]

    def test_a_tie_begins_nothing(self):
        speakers = Speakers(6)
        for name in ("c1", "c2", "c3"):
            speakers.instead[START, name] = states(speakers, name, **{RELEASED: "ee" * 32})
        with pytest.raises(EncryptionError, match=r"3 clients must begin.*'c1', 'c2', 'c3'\] did"):
            go_on(speakers)

    def test_a_majority_of_another_adapter_is_not_followed(self, speakers):
        for name in ("c1", "c2", "c3"):
            speakers.instead[START, name] = states(speakers, name, **{NEXT_BASE: "ee" * 32})
        with pytest.raises(MessageError, match="the adapter that the run has come to"):
            go_on(speakers)

    def test_fewer_than_the_minimum(self, speakers):
        for name in ("c1", "c3", "c4"):
            speakers.instead[START, name] = lambda *_: None
        with pytest.raises(AwayError, match="c1: no answer came"):
            go_on(speakers)
