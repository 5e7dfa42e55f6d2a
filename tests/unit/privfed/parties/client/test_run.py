"""One client's program: which messages it answers, in which order, and what it says."""

from dataclasses import replace

import numpy as np
import pytest

from accountants import Ledger, LedgerError
from privfed.encryption.plain import PlainCipher
from privfed.errors import (
    ConfigError,
    DataError,
    EncryptionError,
    FileError,
    IdentityError,
    MessageError,
    PrivfedError,
    RunFolderError,
    SpoiledSumError,
)
from privfed.identity.keys import Identity, Role
from privfed.methods.method import vector_digest
from privfed.parties.client.node import ClientNode
from privfed.parties.client.run import shown
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import (
    ABANDONED,
    ABSENT,
    AGREED,
    LISTING,
    MISSING,
    NEXT_BASE,
    OPENED,
    REASON,
    REFUSAL,
    UPDATE,
)
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import Terms
from privfed.reports.round_record import Reason
from tests.unit.privfed.parties.small_run import Stop

SECRET = "patient Smith"


def kind(reply):
    return statement_of(reply).kind


def reserved(run):
    return len(run.node.ledger.events()) + (run.node.ledger.status(run.upload.run, 1) is not None)


class TestARound:
    def test_its_order(self, encrypted):
        ending, listing = encrypted.ending()
        assert kind(listing) == LISTING
        before = encrypted.one.progress
        reply = encrypted.one.handle(ending)
        assert kind(reply) == OPENED
        after = encrypted.one.progress
        assert (before.round, after.round) == (0, 1)
        assert not np.array_equal(before.state.adapter, after.state.adapter)
        stated = statement_of(reply).manifest[NEXT_BASE]
        assert stated == vector_digest(after.state.adapter) == after.base

    def test_all_clients_come_to_the_same(self, encrypted):
        ending, _ = encrypted.ending()
        replies = [statement_of(run.handle(ending)).manifest for run in encrypted.runs.values()]
        assert len({reply[NEXT_BASE] for reply in replies}) == 1
        assert len({run.progress.base for run in encrypted.runs.values()}) == 1
        assert len({reply["epsilon"] for reply in replies}) == 4, "each states its own"

    def test_a_sum_is_opened_once(self, encrypted):
        ending, _ = encrypted.ending()
        encrypted.one.handle(ending)
        state = encrypted.one.progress
        assert kind(encrypted.one.handle(ending)) == REFUSAL
        assert encrypted.one.progress is state

    def test_a_list_is_agreed_to_only_by_who_sent_an_update(self, encrypted):
        ending, listing = encrypted.ending()
        assert kind(encrypted.one.handle(listing)) == AGREED
        encrypted.one.handle(ending)
        assert kind(encrypted.one.handle(listing)) == ABSENT


class TestTrain:
    def test_the_reply_is_an_update(self, plain):
        assert kind(plain.one.handle(plain.train())) == UPDATE

    def test_sent_again_it_costs_nothing_more(self, plain):
        """As after a crash of the aggregator: the committed numbers are sent afresh."""
        plain.one.handle(plain.train())
        length = plain.one.node.ledger.anchor().length
        assert kind(plain.one.handle(plain.train())) == UPDATE
        assert plain.one.node.ledger.anchor().length == length

    @pytest.mark.parametrize("number", [0, 4, 9])
    def test_a_round_out_of_order_is_not_trained(self, plain, number):
        """Three are planned."""
        assert kind(plain.one.handle(plain.train(number))) == ABSENT
        assert reserved(plain.one) == 0

    def test_nor_one_from_another_adapter(self, plain):
        other = vector_digest(plain.one.progress.state.adapter + 1)
        assert kind(plain.one.handle(plain.train(base=other))) == ABSENT
        assert reserved(plain.one) == 0

    def test_nor_one_of_another_run_or_agreement(self, plain):
        right = plain.summing.terms(plain.plan(), plain.range)
        for wrong in (
            Terms(run="another", round=1, manifest=right.manifest),
            replace(right, manifest={**right.manifest, "agreement": "00" * 32}),
            replace(right, manifest={**right.manifest, "public_range": plain.range / 2}),
            replace(right, manifest={**right.manifest, "extra": 1}),
        ):
            assert kind(plain.one.handle(plain.train(terms=wrong))) == ABSENT
        assert reserved(plain.one) == 0

    def test_nor_one_that_a_stranger_or_a_client_asks_for(self, plain):
        stranger = Identity.generate("aggregator", Role.AGGREGATOR)
        for identity in (stranger, plain.runs["client-1"].node.identity):
            assert kind(plain.one.handle(plain.train(identity=identity))) == ABSENT
        assert reserved(plain.one) == 0

    def test_rounds_in_between_need_not_be_seen(self, plain):
        """They were given up, for the adapter is still the same."""
        assert kind(plain.one.handle(plain.train(2))) == UPDATE
        assert plain.one.progress.round == 1
        assert kind(plain.one.handle(plain.train(1))) == ABSENT, "there is no way back"

    def test_who_fails_says_nothing_of_why(self, plain, monkeypatch, tmp_path, capfd):
        def fail(self, plan, state, start):
            raise ValueError(SECRET)

        monkeypatch.setattr(ClientNode, "update", fail)
        reply = plain.one.handle(plain.train())
        assert kind(reply) == ABSENT
        assert SECRET.encode() not in reply
        assert set(statement_of(reply).manifest) == set(plain.summing.terms_of_run(1).manifest)
        assert SECRET in next(tmp_path.rglob("client-0/*/client.log")).read_text()
        assert SECRET not in "".join(capfd.readouterr())

    def test_a_budget_that_is_used_up_is_not_told_from_a_failure(self, plain, monkeypatch):
        def refuse(self, *arguments):
            raise PrivfedError("used up")

        monkeypatch.setattr(Ledger, "reserve", refuse)
        used_up = plain.one.handle(plain.train())
        other = replace_failing(plain, monkeypatch)
        assert statement_of(used_up).manifest == statement_of(other).manifest
        assert kind(used_up) == kind(other) == ABSENT


def replace_failing(plain, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(ClientNode, "update", lambda *_: 1 / 0)
    return plain.one.handle(plain.train())


class TestWhatItOpened:
    def test_a_metric_that_is_not_finite_is_stated_as_none(self, plain, monkeypatch):
        ending = ending_in_clear(plain)
        monkeypatch.setattr(
            plain.one, "_transition", replace(plain.one._transition, evaluate=diverged)
        )
        assert statement_of(plain.one.handle(ending)).manifest["metric_value"] is None

    def test_a_spoiled_sum_is_refused_in_fixed_words(self, plain, monkeypatch):
        """What it decrypts to, or how many values are out of range, is nobody's to know."""
        ending = ending_in_clear(plain)

        def refuse(*_):
            raise SpoiledSumError("4085 values do not")

        monkeypatch.setattr(PlainCipher, "open", refuse)
        reply = plain.one.handle(ending)
        assert kind(reply) == REFUSAL
        reason = statement_of(reply).manifest["reason"]
        assert reason == "SpoiledSumError: the sum is not that of its contributions"

    def test_who_cannot_say_so_has_not_moved(self, plain, monkeypatch):
        ending = ending_in_clear(plain)
        monkeypatch.setattr(ClientNode, "epsilon_spent", lambda _: 1 / 0)
        before = plain.one.progress
        assert kind(plain.one.handle(ending)) == ABSENT
        assert plain.one.progress is before


def diverged(adapter):
    return float("nan")


def ending_in_clear(plain):
    """The sum of round 1; without encryption nobody is asked before it."""
    carried = []

    def exchange(messages):
        carried.append(messages["client-0"])
        if len(carried) == 2:
            raise Stop
        return {name: plain.runs[name].handle(message) for name, message in messages.items()}

    with pytest.raises(Stop):
        replace(plain._round(1), exchange=exchange).play()
    return carried[-1]


class TestGivingUp:
    def test_the_round_is_over_for_ever(self, encrypted):
        ending, listing = encrypted.ending()
        state = encrypted.one.progress.state
        assert kind(encrypted.one.handle(encrypted.abandon())) == ABANDONED
        assert encrypted.one.progress.round == 1
        assert encrypted.one.progress.state is state
        assert encrypted.one.upload.opened.why_closed(1) == {
            "reason": Reason.TOO_FEW,
            "missing": ["client-3"],
        }
        assert kind(encrypted.one.handle(listing)) == ABSENT
        assert kind(encrypted.one.handle(ending)) == REFUSAL
        assert kind(encrypted.one.handle(encrypted.train(1))) == ABSENT

    @pytest.mark.parametrize("number", [0, 4])
    def test_only_one_that_was_planned_and_is_not_over(self, encrypted, number):
        assert kind(encrypted.one.handle(encrypted.abandon(number))) == REFUSAL
        assert encrypted.one.progress.round == 0

    def test_one_that_was_missed_before_it_is_no_hindrance(self, encrypted):
        assert kind(encrypted.one.handle(encrypted.abandon(2))) == ABANDONED
        assert encrypted.one.progress.round == 2
        assert kind(encrypted.one.handle(encrypted.train(2))) == ABSENT

    def test_who_had_opened_it_goes_back(self, encrypted):
        """Too few others had: all must hold the same adapter again."""
        ending, _ = encrypted.ending()
        state = encrypted.one.progress.state
        assert kind(encrypted.one.handle(ending)) == OPENED
        assert kind(encrypted.one.handle(encrypted.abandon())) == ABANDONED
        assert encrypted.one.progress.round == 1
        assert encrypted.one.progress.state is state
        assert encrypted.one.upload.opened.why_closed(1) is not None
        assert kind(encrypted.one.handle(encrypted.abandon())) == REFUSAL, "it is over"

    def test_but_not_further(self, encrypted):
        ending, _ = encrypted.ending()
        encrypted.one.handle(ending)
        encrypted.one.handle(encrypted.abandon(2))
        assert kind(encrypted.one.handle(encrypted.abandon(1))) == REFUSAL

    @pytest.mark.parametrize(
        "about",
        [
            {REASON: "because"},
            {REASON: {"x": "y"}},
            {MISSING: 7},
            {MISSING: ["../a path"]},
            {MISSING: [7]},
            {MISSING: ["client-1", "client-1"]},
            {MISSING: ["client-1", "client-0"]},
        ],
    )
    def test_only_known_words_are_kept(self, encrypted, about):
        reply = encrypted.one.handle(encrypted.abandon(1, **about))
        assert kind(reply) == REFUSAL
        assert encrypted.one.upload.opened.why_closed(1) is None

    def test_what_cannot_be_recorded_is_not_given_up(self, encrypted, tmp_path):
        path = next(tmp_path.rglob("opened/*/client-0.jsonl"))
        path.write_text("damaged")
        reply = encrypted.one.handle(encrypted.abandon())
        assert kind(reply) == REFUSAL
        assert str(tmp_path).encode() not in reply
        assert encrypted.one.progress.round == 0

    def test_a_reason_of_its_disk_names_no_path(self, encrypted, tmp_path):
        path = next(tmp_path.rglob("opened/*/client-0.jsonl"))
        path.unlink()
        reply = encrypted.one.handle(encrypted.abandon())
        assert statement_of(reply).manifest["reason"] == "EncryptionError: see the client's log"
        assert str(tmp_path).encode() not in reply


@pytest.mark.parametrize("message", [b"", b"PRIVFED\x05", bytes(200)])
def test_what_is_no_envelope_is_refused(plain, message):
    assert kind(plain.one.handle(message)) == REFUSAL


def test_what_a_client_cannot_answer_is_refused(plain):
    terms = plain.summing.terms_of_run(1)
    for other in (UPDATE, OPENED, "open-round", "x" * 300):
        reply = plain.one.handle(signed_message(plain.summing.identity, terms, other))
        assert kind(reply) == REFUSAL


class TestWhatIsShownOfAnError:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (MessageError("round 4 was never planned"), "MessageError: round 4 was never planned"),
            (ConfigError("no parameters fit"), "ConfigError: no parameters fit"),
            (EncryptionError("it is over"), "EncryptionError: it is over"),
            (IdentityError("no name"), "IdentityError: no name"),
        ],
    )
    def test_what_is_public_is_said(self, error, said):
        assert shown(error) == said

    @pytest.mark.parametrize(
        "kind", [LedgerError, DataError, FileError, RunFolderError, PrivfedError, ValueError]
    )
    def test_nothing_of_a_ledger_of_text_or_of_a_disk(self, kind):
        assert shown(kind(SECRET)) == f"{kind.__name__}: see the client's log"

    def test_nor_of_what_was_raised_from_another_error(self):
        error = EncryptionError(SECRET)
        error.__cause__ = OSError(SECRET)
        assert shown(error) == "EncryptionError: see the client's log"
