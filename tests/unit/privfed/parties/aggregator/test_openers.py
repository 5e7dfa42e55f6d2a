"""The aggregator and the key holder's answers: refused, forged, replayed or misplaced."""

import hashlib
from dataclasses import replace

import pytest

from privfed.errors import AwayError, EncryptionError, MessageError, SpoiledSumError
from privfed.identity.keys import Role
from privfed.parties.aggregator.openers import ClientsOpen, HolderOpens, Opening
from privfed.protocol.envelopes import Envelope, envelope_bytes
from privfed.protocol.signing import verified
from privfed.protocol.terms import Terms


def total_of(*names):
    """The message of a sum, as far as the aggregator's own reading of it goes."""
    terms = Terms(run="run-1", round=3, manifest={})
    listed = [{"client": name} for name in names]
    return envelope_bytes(
        lambda message: bytes(64),
        terms,
        sender="aggregator",
        kind="sum",
        manifest={"contributions": listed},
    )


TOTAL = total_of("a")
SAID = {
    "round-key": ({}, {"public_key": b"pk"}),
    "challenge": ({"seed": "00", "sum": "11", "contributors": ["a"]}, {}),
    "result": ({"contributors": ["a"]}, {"sums": b"5"}),
}
"""What the key holder states beyond terms that name the key already, and the blobs it sends."""


class Answers:
    """A link that has its answers ready: bytes, or a function of the question."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def ask(self, message):
        self.asked.append(message)
        answer = self.answers.pop(0)
        return answer(message) if callable(answer) else answer


@pytest.fixture
def custodian(company):
    def new(*answers):
        link = Answers(*answers)
        return HolderOpens(link, company.identities["aggregator"], company.roster), link

    return new


@pytest.fixture
def say(company, round_terms):
    """A message of the key holder, of this round unless told otherwise."""

    def say(kind, *, sender="key_holder", key=None, terms=round_terms, **content):
        manifest, blobs = SAID.get(kind, ({}, {}))
        content = {"manifest": manifest, "blobs": blobs, **content}
        return company.message(sender, kind, terms, key=key, **content)

    return say


@pytest.fixture
def refuse(company):
    """A refusal, as the key holder's server writes it."""

    def refuse(message, reason="MessageError: no", key=None):
        of = {"of": hashlib.sha256(message).hexdigest()}
        terms = Terms(run="", round=0, manifest=of)
        return company.message("key_holder", "refusal", terms, manifest={"reason": reason}, key=key)

    return refuse


@pytest.fixture
def say_answer(company, round_terms):
    """The answer of a client to the challenge that `say("challenge")` makes, each time the same."""

    def say_answer(client, asked, /, *, key=None, **changes):
        statement = Envelope.from_bytes(asked).statement
        stated = {"challenge": hashlib.sha256(statement.to_bytes()).hexdigest(), "values": ["1"]}
        manifest = {**stated, **changes}
        return company.message(client, "answer", round_terms, manifest=manifest, key=key)

    return say_answer


def damaged(message):
    return message[:-1] + bytes([message[-1] ^ 1])


def no_answers(challenge):
    raise AssertionError("nobody must be asked")


def test_clients_that_hold_the_key_open_the_sum_themselves(round_terms):
    custodian = ClientsOpen()
    assert custodian.begin(round_terms) == Opening(unkeyed=round_terms, terms=round_terms)
    assert custodian.close(round_terms, TOTAL, no_answers) is TOTAL
    assert custodian.bytes_asked == 0


def test_a_round_begins_with_the_name_of_its_key(company, round_terms, custodian):
    agreed = replace(round_terms, manifest={"base": "00"})
    stated = {"key_id": "k9", "software": "s"}
    key = company.message(
        "key_holder", "round-key", agreed, manifest=stated, blobs={"public_key": b"pk"}
    )
    holder, link = custodian(key)
    opening = holder.begin(agreed)
    named = replace(agreed, manifest={"base": "00", **stated})
    assert opening == Opening(unkeyed=agreed, terms=named, key=key)
    (asked,) = link.asked
    question = verified(
        asked, company.roster, role=Role.AGGREGATOR, kind="open-round", terms=agreed
    )
    assert question.statement.manifest == {"base": "00"}
    assert holder.bytes_asked == len(asked) + len(key)


def test_a_round_that_is_over_begins_with_its_result(round_terms, custodian, say):
    result = say("result", manifest={"contributors": ["a"]}, blobs={"sums": b"5"})
    opening = custodian(result)[0].begin(round_terms)
    assert opening == Opening(unkeyed=round_terms, terms=round_terms, result=result)


def test_a_round_is_closed_by_challenge_and_answers(
    company, round_terms, custodian, say, say_answer
):
    challenge, result = say("challenge"), say("result")
    holder, link = custodian(challenge, result)
    asked = []
    answers = {name: say_answer(name, challenge) for name in ("a", "b")}
    assert holder.close(round_terms, TOTAL, lambda c: asked.append(c) or answers) is result
    assert asked == [challenge]
    assert link.asked[0] is TOTAL
    handed = verified(
        link.asked[1], company.roster, role=Role.AGGREGATOR, kind="answers", terms=round_terms
    )
    handed_on = {name: bytes(blob) for name, blob in handed.blobs.items()}
    assert handed_on == {"a": answers["a"]}, "b contributed nothing: its answer is not asked for"
    sizes = [len(TOTAL), len(challenge), len(link.asked[1]), len(result)]
    assert holder.bytes_asked == sum(sizes)


def test_bytes_are_counted_for_one_round(round_terms, custodian, say, say_answer):
    replies = [say("round-key"), say("challenge"), say("result")]
    holder, link = custodian(*replies, *replies)
    sizes = []
    for _ in range(2):
        holder.begin(round_terms)
        holder.close(round_terms, TOTAL, lambda challenge: {"a": say_answer("a", challenge)})
        sizes.append(holder.bytes_asked)
    assert sizes[0] == sizes[1] == sum(map(len, link.asked[:3])) + sum(map(len, replies))


def test_who_sends_no_answer_of_its_own_is_named(company, round_terms, custodian, say, say_answer):
    """Before the key holder is told anything: the round can be given up, nobody opened it."""
    names = ["a", "b", "c"]
    challenge = say("challenge", manifest={"seed": "00", "sum": "11", "contributors": names})
    right = {name: say_answer(name, challenge) for name in names}
    cases = [
        ({}, ["b"]),
        ({"b": b"junk"}, ["b"]),
        ({"b": right["a"]}, ["b"]),
        ({"b": damaged(right["b"])}, ["b"]),
        ({"b": say_answer("b", challenge, challenge="00")}, ["b"]),
        ({"b": say_answer("b", challenge, more=1)}, ["b"]),
        ({"b": say_answer("b", challenge, key="c"), "c": challenge}, ["b", "c"]),
    ]
    for changed, missing in cases:
        holder, link = custodian(challenge)
        answers = {"a": right["a"], "c": right["c"], **changed}
        with pytest.raises(AwayError, match=f"{', '.join(missing)} did not") as caught:
            holder.close(round_terms, total_of(*names), lambda _, answers=answers: answers)
        assert list(caught.value.missing) == missing
        assert len(link.asked) == 1


@pytest.mark.parametrize("names", [["b"], ["a", "b"], [], "a", None, [["a"]]])
def test_a_challenge_for_other_contributors_is_refused(round_terms, custodian, say, names):
    """Else the key holder could have a client named as missing that was never asked."""
    stated = {"seed": "00", "sum": "11", "contributors": names}
    with pytest.raises(MessageError, match=r"must name the contributors \['a'\]"):
        custodian(say("challenge", manifest=stated))[0].close(round_terms, TOTAL, no_answers)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("EncryptionError: the sum is not that of the contributions", SpoiledSumError),
        ("SpoiledSumError: the decrypted sum must carry the tags", SpoiledSumError),
        ("MessageError: the answer of 'a' must have 4 values", SpoiledSumError),
        ("OSError: see the key holder's log", EncryptionError),
    ],
)
def test_a_refusal_of_the_answers_spoils_the_round_unless_the_holder_failed(
    round_terms, custodian, say, say_answer, refuse, reason, kind
):
    challenge = say("challenge")
    holder, _ = custodian(challenge, lambda message: refuse(message, reason))
    with pytest.raises(EncryptionError, match="the key holder refuses") as caught:
        holder.close(round_terms, TOTAL, lambda _: {"a": say_answer("a", challenge)})
    assert type(caught.value) is kind
    holder, _ = custodian(lambda message: refuse(message, reason))
    with pytest.raises(EncryptionError, match="the key holder refuses") as caught:
        holder.close(round_terms, TOTAL, no_answers)
    assert type(caught.value) is EncryptionError, "a sum that is not taken stays as it was"


def begin(holder, terms, answer):
    holder.begin(terms)


def close(holder, terms, answer):
    holder.close(terms, TOTAL, lambda challenge: {"a": answer("a", challenge)})


STEPS = {
    "begin": (begin, []),
    "challenge": (close, []),
    "result": (close, ["challenge"]),
}


@pytest.fixture(params=STEPS)
def step(request, custodian, round_terms, say, say_answer):
    """Play one step of the round with a bad answer at its end."""
    play, kinds = STEPS[request.param]

    def step(answer):
        play(custodian(*[say(kind) for kind in kinds], answer)[0], round_terms, say_answer)

    return step


def test_a_signed_refusal_ends_the_round_with_its_reason(step, refuse):
    with pytest.raises(EncryptionError, match="the key holder refuses: MessageError: too few"):
        step(lambda message: refuse(message, "MessageError: too few"))


def test_an_unsigned_refusal_is_none(step, refuse):
    with pytest.raises(MessageError, match="message of 'key_holder' must carry its signature"):
        step(lambda message: damaged(refuse(message)))


def test_a_refusal_by_another_party_is_none(step, refuse, company):
    with pytest.raises(MessageError, match="message of 'key_holder' must carry its signature"):
        step(lambda message: refuse(message, key="aggregator"))


def test_a_refusal_of_another_message_is_none(step, refuse):
    """An old refusal, replayed, must not end a round as if the key holder had."""
    with pytest.raises(MessageError, match="refused another message"):
        step(lambda message: refuse(message + b"x"))


@pytest.mark.parametrize("kind", ["round-key", "challenge", "result"])
def test_answers_by_others_are_refused(step, say, kind):
    for sender in ("aggregator", "a"):
        with pytest.raises(MessageError, match=f"enrolled as key_holder, '{sender}'"):
            step(say(kind, sender=sender))
        with pytest.raises(MessageError, match="message of 'key_holder' must carry"):
            step(say(kind, key=sender))
    with pytest.raises(MessageError, match="message of 'key_holder' must carry"):
        step(damaged(say(kind)))


@pytest.mark.parametrize("kind", ["round-key", "challenge", "result"])
def test_answers_of_other_rounds_are_refused(step, say, round_terms, kind):
    """Also signed by the key holder, but for another round, run or key."""
    others = [
        replace(round_terms, round=2),
        replace(round_terms, run="run-2"),
        replace(round_terms, manifest={**round_terms.manifest, "key_id": "k0"}),
        replace(round_terms, manifest={}),
    ]
    for terms in others:
        with pytest.raises(MessageError, match="'key_holder' s(ent|tates)"):
            step(say(kind, terms=terms))


@pytest.mark.parametrize(
    ("step", "kinds"),
    [
        ("begin", ["challenge", "open-round", "update"]),
        ("challenge", ["round-key", "result"]),
        ("result", ["round-key", "challenge"]),
    ],
    indirect=["step"],
)
def test_answers_to_other_questions_are_refused(step, say, kinds):
    for kind in kinds:
        with pytest.raises(MessageError, match=f"'key_holder' sent a '{kind}' of .* expected a"):
            step(say(kind))


@pytest.mark.parametrize("answer", [b"", b"no", bytes(200)])
def test_bytes_that_are_no_message_are_refused(step, answer):
    with pytest.raises(MessageError, match="envelope"):
        step(answer)


def test_nobody_is_asked_without_a_challenge(custodian, round_terms, refuse, say):
    for answer in (refuse, say("result"), damaged(say("challenge"))):
        with pytest.raises((EncryptionError, MessageError)):
            custodian(answer)[0].close(round_terms, TOTAL, no_answers)


def test_an_error_of_the_link_is_passed_on(custodian, round_terms):
    def broken(message):
        raise EncryptionError("gone")

    with pytest.raises(EncryptionError, match="gone"):
        custodian(broken)[0].begin(round_terms)


@pytest.mark.parametrize(
    ("step", "kind"), [("challenge", "challenge"), ("result", "result")], indirect=["step"]
)
def test_answers_that_say_more_or_less_are_refused(step, say, kind):
    manifest, blobs = SAID[kind]
    for changed in ({**manifest, "more": 1}, {}):
        with pytest.raises(MessageError, match="'key_holder' must state"):
            step(say(kind, manifest=changed))
    with pytest.raises(MessageError, match="'key_holder' must send the blobs"):
        step(say(kind, blobs={**blobs, "more": b""}))


def test_keys_that_come_with_more_or_less_are_refused(company, custodian):
    agreed = Terms(run="r", round=1, manifest={"base": "00"})
    named, blobs = {"key_id": "k9", "software": "s"}, {"public_key": b"pk"}
    for manifest in ({}, {"key_id": "k9"}, {**named, "more": 1}):
        key = company.message("key_holder", "round-key", agreed, manifest=manifest, blobs=blobs)
        with pytest.raises(MessageError, match="'key_holder' must state"):
            custodian(key)[0].begin(agreed)
    for other in ({}, {**blobs, "more": b""}):
        key = company.message("key_holder", "round-key", agreed, manifest=named, blobs=other)
        with pytest.raises(MessageError, match="'key_holder' must send the blobs"):
            custodian(key)[0].begin(agreed)
