"""One sum of a round, for ever, in both custodies: also if all but the second place is put back.

The attacks have everything that an aggregator can have: it may forget, restart everybody, put back
the key holder's results, and ask again. The difference of two sums would be what one client sent.
"""

import shutil

import numpy as np
import pytest

from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.errors import AwayError, EncryptionError, MessageError
from privfed.parties.aggregator.openers import ClientsAgree
from privfed.protocol.envelopes import Envelope
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, count_decryptions, updates

ALL = ["c1", "c2", "c3", "c4"]
THREE = ["c1", "c2", "c3"]
WHY = {"reason": "fixed", "missing": []}


class Run:
    """Four clients, each with a memory of its own, as on machines of their own."""

    def __init__(self, custody, folder, left_out=()):
        self.folder = folder
        self.federation = SmallFederation(custody, folder / "results", num_clients=4)
        if left_out:
            self.federation.manifest["left_out"] = list(left_out)
        self.values = updates(self.federation.parameters, ALL)
        for name in ALL:
            OpenedRounds.create(self.memory(name), ALL)
        self.restart()

    def memory(self, name):
        return self.folder / "anchors" / f"{name}.jsonl"

    def close(self, number, names=ALL):
        for name in names:
            OpenedRounds.resume(self.memory(name)).close(number, WHY)

    def restart(self, *, put_back=False):
        """New processes; with `put_back` the key holder's results are those of the beginning."""
        federation = self.federation
        if put_back:
            shutil.rmtree(federation.results, ignore_errors=True)
        for name, identity in federation.parties.clients.items():
            common = (federation.roster, federation.min_clients)
            memory = OpenedRounds.resume(self.memory(name))
            if federation.custody is Custody.KEY_HOLDER:
                own = (federation.parameters, identity, *common, memory)
                federation.ciphers[name] = RoundKeyCipher(*own)
            else:
                own = (federation.parameters, federation.secrets[name], *common, memory, identity)
                federation.ciphers[name] = SharedKeyCipher(*own)
        if federation.custody is Custody.KEY_HOLDER:
            federation.start_holder()
        else:
            aggregator = federation.parties.aggregator
            federation.custodian = ClientsAgree(aggregator, federation.roster)

    def play(self, names, number=1):
        """A round of these contributors, up to the message that ends it; who fails is away."""
        federation = self.federation
        opening = federation.begin(number)
        if opening.result is not None:
            return opening.terms, opening.result
        sent = {name: federation.upload(opening.terms, name, self.values[name]) for name in names}

        def ask(question):
            answers = {}
            for name in names:
                try:
                    answers[name] = federation.ciphers[name].answer(
                        opening.terms, question, sent[name]
                    )
                except (EncryptionError, MessageError) as error:
                    self.refusals[name] = str(error)
            return answers

        self.refusals = {}
        total = federation.total(opening.terms, sent)
        return opening.terms, federation.custodian.close(opening.terms, total, ask)


@pytest.fixture(params=list(Custody))
def run(request, tmp_path):
    return Run(request.param, tmp_path)


@pytest.mark.parametrize(("first", "second"), [(THREE, ALL), (ALL, THREE)])
@pytest.mark.parametrize("later", [False, True])
def test_no_second_sum_after_everything_else_is_put_back(run, monkeypatch, first, second, later):
    terms, end = run.play(first)
    assert run.federation.ciphers["c4"].open(terms, end).contributors == tuple(first)
    if later:
        run.play(ALL, number=2)
    run.restart(put_back=True)
    decryptions = count_decryptions(monkeypatch)
    with pytest.raises(AwayError) as caught:
        run.play(second)
    contributed = set(first) & set(second)
    assert contributed <= set(caught.value.missing)
    assert all("would show by its difference" in run.refusals[name] for name in contributed)
    assert decryptions == [], "the key holder was not even helped to decrypt it"


def test_the_same_sum_is_opened_again_after_everything_else_is_put_back(run):
    """Else a crash could cost a round that everybody has committed."""
    for _ in range(2):
        terms, end = run.play(THREE)
        opened = run.federation.ciphers["c1"].open(terms, end)
        assert np.array_equal(opened.values, sum(run.values[name] for name in THREE))
        run.restart(put_back=True)


def test_clients_believe_one_result_of_a_round(tmp_path):
    """Of a key holder that deviates, and whose second result has other contributors."""
    run = Run(Custody.KEY_HOLDER, tmp_path)
    terms, end = run.play(THREE)
    holder = run.federation.parties.key_holder
    other = run.federation.signed(
        terms,
        "result",
        holder,
        manifest={"contributors": ALL},
        blobs=dict(Envelope.from_bytes(end).blobs),
    )
    bystander = run.federation.ciphers["c4"]
    assert bystander.open(terms, end).contributors == tuple(THREE)
    for restarted in (False, True):
        if restarted:
            run.restart()
            bystander = run.federation.ciphers["c4"]
        with pytest.raises(EncryptionError, match="would show by its difference"):
            bystander.open(terms, other)
        assert bystander.open(terms, end).contributors == tuple(THREE)


def test_what_was_agreed_to_is_on_the_disk_before_the_answer_is_given(run):
    class Full(OpenedRounds):
        def require(self, *arguments):
            raise EncryptionError("no space left")

    cipher = run.federation.ciphers["c2"]
    memory = Full(run.memory("c2"))
    if run.federation.custody is Custody.KEY_HOLDER:
        cipher._opened = memory
    else:
        cipher._sums._opened = memory
    with pytest.raises(AwayError) as caught:
        run.play(ALL)
    assert caught.value.missing == ("c2",)
    assert run.refusals == {"c2": "no space left"}


class TestAClosedRound:
    def test_nobody_encrypts_answers_or_opens_in_it(self, run):
        federation = run.federation
        terms, end = run.play(ALL)
        sent = federation.upload(terms, "c1", run.values["c1"])
        run.close(1)
        for restarted in (False, True):
            if restarted:
                run.restart()
            with pytest.raises(EncryptionError, match="round 1 was given up and is closed"):
                federation.upload(terms, "c1", run.values["c1"])
            with pytest.raises(EncryptionError, match="round 1 was given up and is closed"):
                federation.ciphers["c1"].open(terms, end)
        assert sent

    def test_its_closing_stops_answers_that_were_not_given_yet(self, run):
        """Three closed it; the fourth, which stayed away, cannot get it opened alone."""
        federation = run.federation
        opening = federation.begin()
        sent = {name: federation.upload(opening.terms, name, run.values[name]) for name in ALL}
        run.close(1, THREE)
        refused = {}

        def ask(question):
            answers = {}
            for name in ALL:
                try:
                    answers[name] = federation.ciphers[name].answer(
                        opening.terms, question, sent[name]
                    )
                except EncryptionError as error:
                    refused[name] = str(error)
            return answers

        with pytest.raises(AwayError) as caught:
            federation.custodian.close(opening.terms, federation.total(opening.terms, sent), ask)
        assert list(caught.value.missing) == sorted(refused) == THREE
        assert all("round 1 was given up" in reason for reason in refused.values())

    def test_the_next_round_goes_on(self, run):
        run.play(ALL)
        run.close(1)
        terms, end = run.play(ALL, number=2)
        assert run.federation.ciphers["c1"].open(terms, end).contributors == tuple(ALL)


class TestWhoIsLeftOut:
    """The roster still lists c4; the terms of the run leave it out."""

    @pytest.fixture(params=list(Custody))
    def run(self, request, tmp_path):
        return Run(request.param, tmp_path, left_out=["c4"])

    def test_the_others_go_on(self, run):
        terms, end = run.play(THREE)
        assert run.federation.ciphers["c1"].open(terms, end).contributors == tuple(THREE)

    def test_its_contribution_is_refused_by_everybody(self, run):
        """Though it is enrolled, signs the right terms, and the aggregator is on its side."""
        federation = run.federation
        opening = federation.begin()
        sent = federation.uploads(opening.terms, run.values)
        total = federation.total(opening.terms, sent)
        if federation.custody is Custody.KEY_HOLDER:
            with pytest.raises(MessageError, match=r"must take part .*\['c4'\] were left out"):
                federation.holder.receive(total)
            challenge = federation.signed(
                opening.terms,
                "challenge",
                federation.parties.key_holder,
                manifest={"seed": "00" * 32, "sum": "", "contributors": ALL},
            )
            with pytest.raises(MessageError, match="contributors must be different enrolled"):
                federation.ciphers["c1"].answer(opening.terms, challenge, sent["c1"])
        else:
            with pytest.raises(AwayError):
                run.play(ALL)
            assert sorted(run.refusals) == ALL
            assert all("were left out" in reason for reason in run.refusals.values())

    @pytest.mark.parametrize("names", [5, "c4", ["c4", 5], {"c4": 1}, None])
    def test_terms_that_name_nobody_properly_are_refused(self, tmp_path, names):
        run = Run(Custody.KEY_HOLDER, tmp_path / "other")
        run.federation.manifest["left_out"] = names
        with pytest.raises(EncryptionError, match="refuses: MessageError: .*a list of names"):
            run.play(ALL)
