import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.challenges import EQUATIONS, Challenge, add_up
from privfed.encryption.noise import COEFF_MODULUS
from privfed.errors import MessageError

Q = COEFF_MODULUS
SEED = bytes(range(32))
COUNT = 3


def message(seed: int, count: int = COUNT) -> list[np.ndarray]:
    """c0 and c1 of one client."""
    random = np.random.default_rng(seed)
    return [random.integers(0, Q, (count, 4096), dtype=np.uint64) for _ in range(2)]


def summed(messages) -> list[np.ndarray]:
    """Sums modulo q, in whole numbers."""
    return [
        (sum(part.astype(object) for part in parts) % Q).astype(np.uint64)
        for parts in zip(*messages, strict=True)
    ]


CLIENTS = [message(seed) for seed in (1, 2, 3)]
TOTAL = summed(CLIENTS)
FORM = Challenge(SEED, COUNT)
ANSWERS = [FORM.answer([client]) for client in CLIENTS]


def passes(polynomials) -> bool:
    return add_up(ANSWERS, FORM.answer([polynomials]))


def changed(*steps) -> list[np.ndarray]:
    """The true sum with (polynomial, row, column, shift) applied modulo q."""
    parts = [part.copy() for part in TOTAL]
    for polynomial, row, column, shift in steps:
        parts[polynomial][row, column] = (int(parts[polynomial][row, column]) + shift) % Q
    return parts


def test_an_answer_by_hand():
    """sum_r a_j[r] <b_j, r-th polynomial> mod q, r running over c0 and c1 of each ciphertext."""
    size = EQUATIONS * (4096 + 2 * 2)
    stream = hashlib.shake_256(b"privfed challenge 1\n" + SEED).digest(16 * size)
    draws = [int.from_bytes(stream[16 * i : 16 * i + 16], "little") % Q for i in range(size)]
    b, a = draws[: EQUATIONS * 4096], draws[EQUATIONS * 4096 :]
    c0, c1 = message(5, count=2)
    polynomials = [c0[0], c1[0], c0[1], c1[1]]
    expected = tuple(
        sum(
            a[EQUATIONS * r + j]
            * sum(int(x) * y for x, y in zip(each, b[j::EQUATIONS], strict=True))
            for r, each in enumerate(polynomials)
        )
        % Q
        for j in range(EQUATIONS)
    )  # fmt: skip
    assert Challenge(SEED, 2).answer([[c0, c1]]) == expected


def test_answers_of_the_contributors_add_up_to_that_of_their_sum():
    assert passes(TOTAL)
    assert not add_up(ANSWERS[:2], FORM.answer([TOTAL]))
    assert not add_up([*ANSWERS, ANSWERS[0]], FORM.answer([TOTAL]))
    assert add_up(ANSWERS[:2], FORM.answer([summed(CLIENTS[:2])]))


@given(seed=st.integers(0, 2**32), clients=st.integers(1, 6), challenge=st.binary(
    min_size=32, max_size=32))  # fmt: skip
def test_true_sums_pass_every_challenge(seed, clients, challenge):
    form = Challenge(challenge, 1)
    messages = [message(seed + number, count=1) for number in range(clients)]
    answers = [form.answer([each]) for each in messages]
    assert add_up(answers, form.answer([summed(messages)]))
    assert all(0 <= value < Q for answer in answers for value in answer)


@pytest.mark.parametrize("at_once", [1, 2, 5, 16, 20])
def test_the_size_of_batches_does_not_change_the_answer(at_once):
    sent = message(7, count=20)
    form = Challenge(SEED, 20)
    parts = ([part[start : start + at_once] for part in sent] for start in range(0, 20, at_once))
    assert form.answer(parts) == form.answer([sent])


@given(
    polynomial=st.integers(0, 1),
    row=st.integers(0, COUNT - 1),
    column=st.integers(0, 4095),
    shift=st.integers(1, Q - 1),
)
def test_a_sum_that_is_changed_in_one_residue_fails(polynomial, row, column, shift):
    assert not passes(changed((polynomial, row, column, shift)))


@pytest.mark.parametrize("equation", range(EQUATIONS))
def test_each_equation_alone_finds_a_change(equation):
    """Two equations are there to make the chance small, not to share the work."""
    for step in [(0, 0, 0, 1), (1, 0, 0, 1), (0, 2, 4095, Q - 1), (1, 1, 2048, Q // 2)]:
        answer = FORM.answer([changed(step)])
        assert answer[equation] != FORM.answer([TOTAL])[equation]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((0, 0, 0), (0, 0, 1)),
        ((0, 0, 9), (0, 1, 9)),
        ((0, 0, 9), (1, 0, 9)),
        ((0, 0, 9), (1, 1, 9)),
        ((0, 1, 9), (1, 0, 9)),
        ((0, 2, 4095), (1, 0, 0)),
    ],
)
def test_changes_that_would_cancel_in_a_plain_sum_fail(one, two):
    assert not passes(changed((*one, 1), (*two, Q - 1)))
    assert not passes(changed((*one, 1), (*two, 1)))


def test_swapped_ciphertexts_or_polynomials_fail():
    c0, c1 = TOTAL
    order = [1, 0, 2]
    assert not passes([c1, c0])
    assert not passes([c0[order], c1[order]])
    assert not passes([c0[order], c1])
    assert not passes([c0[::-1], c1[::-1]])
    assert not passes([np.roll(c0, 1, axis=1), np.roll(c1, 1, axis=1)])


def test_sums_that_an_active_aggregator_would_like_to_have_decrypted_fail():
    """One client's own ciphertext, a client twice, the key itself (0, q / t), nothing, a double."""
    zero = [np.zeros_like(part) for part in TOTAL]
    extraction = [zero[0], zero[1].copy()]
    extraction[1][:, 0] = Q // 68623891046401
    for wrong in (
        CLIENTS[0],
        summed([*CLIENTS, CLIENTS[0]]),
        summed(CLIENTS[:2]),
        summed([TOTAL, TOTAL]),
        extraction,
        summed([TOTAL, extraction]),
        zero,
    ):
        assert not passes(wrong)


def test_answers_to_another_challenge_do_not_help():
    other = Challenge(bytes(32), COUNT)
    assert not add_up(ANSWERS, other.answer([TOTAL]))
    assert not add_up([*ANSWERS[:2], other.answer([CLIENTS[2]])], FORM.answer([TOTAL]))


def test_a_false_contributor_can_make_a_wrong_sum_pass():
    """What the docstring says it does not stop."""
    wrong = FORM.answer([changed((0, 0, 0, 1))])
    honest = ANSWERS[:2]
    false = [
        (value - sum(answer[equation] for answer in honest)) % Q
        for equation, value in enumerate(wrong)
    ]
    assert add_up([*honest, false], wrong)


def test_adding_up_by_hand():
    assert add_up([(1, 2), (3, 4)], (4, 6))
    assert add_up([(Q - 1, 5), (1, 0)], (0, 5))
    assert add_up([[1, 2]], [1, 2])
    assert not add_up([(1, 2), (3, 4)], (4, 7))
    assert not add_up([(1, 2), (3, 4)], (5, 6))
    assert not add_up([(1, 2)], (2, 1))
    assert not add_up([(1, 2)], (1, 2 + Q))
    assert not add_up([(1, 2)], (1,))
    assert not add_up([(1, 2)], (1, 2, 0))


@pytest.mark.parametrize("answer", [(), (1,), (1, 2, 0)])
def test_an_answer_with_more_or_fewer_numbers_is_refused(answer):
    with pytest.raises(MessageError, match="2 numbers"):
        add_up([(1, 2), answer], (1, 2))


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_challenge_of_another_length_is_refused(seed):
    with pytest.raises(MessageError, match="32 bytes"):
        Challenge(seed, 1)


def test_more_or_fewer_ciphertexts_are_refused():
    c0, c1 = TOTAL
    for batches in ([], [[c0[:2], c1[:2]]]):
        with pytest.raises(MessageError, match="for 3 ciphertexts"):
            FORM.answer(batches)
    for batches in ([message(0, count=4)], [[c0, c1], [c0[:1], c1[:1]]]):
        with pytest.raises(MessageError, match="3 ciphertexts only"):
            FORM.answer(batches)


def test_more_or_fewer_polynomials_are_refused():
    c0, c1 = TOTAL
    for polynomials in ([], [c0], [c0, c1, c1], [c0, c1[:2]]):
        with pytest.raises(MessageError, match="2 polynomials"):
            FORM.answer([polynomials])
    assert Challenge(SEED, COUNT, num_polynomials=1).answer([[c0]]) != FORM.answer([[c0, c1]])


def test_what_is_no_residue_is_refused():
    c0, c1 = TOTAL
    too_large = c0.copy()
    too_large[2, 4095] = Q
    for wrong in (too_large, c0[:, :4095], c0.astype(np.int64), c0[0], c0[:0]):
        with pytest.raises(MessageError, match="residue"):
            FORM.answer([[wrong, c1]])
