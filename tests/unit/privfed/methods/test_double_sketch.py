"""The mean of the clients' products comes of one sum of sketches, and what is lost is reported."""

import hashlib
import json

import numpy as np
import pytest

from accountants import PoissonGaussian
from privfed import DoubleSketch, FedAdam, FedAvg, FedAvgM, MixedRanks, TailAveraging
from privfed.errors import ConfigError
from privfed.methods import sketches
from privfed.methods.double_sketch import COLUMNS, CUT, LOST, RESIDUAL, ROWS, TRUNCATED
from privfed.methods.factors import pairs_of
from privfed.methods.method import DELTA, GlobalState, Round, Trained
from privfed.protocol.layout import Layout
from tests.unit.privfed.methods import vectors
from tests.unit.privfed.methods.test_fixed_order import rational

WEIGHTS = {"north": 1.0, "south": 0.5, "west": 0.125}
WHO = list(WEIGHTS)
LAYOUT = Layout(
    (
        ("head.weight", (4,)),
        ("q.lora_A.default.weight", (2, 31)),
        ("q.lora_B.default.weight", (22, 2)),
        ("v.lora_A.default.weight", (3, 19)),
        ("v.lora_B.default.weight", (28, 3)),
    )
)
PAIRS = pairs_of(LAYOUT, "double-sketch")
ENOUGH = 10
"""One above 3 clients of rank 3."""


def round_(number):
    return Round(
        number=number,
        steps=dict.fromkeys(WEIGHTS, 3),
        learning_rate=0.5,
        weights=WEIGHTS,
        layout=LAYOUT,
    )


def adapter(seed, b=1.0):
    values = np.random.default_rng(seed).normal(size=LAYOUT.length)
    for pair in PAIRS:
        of_b, of_a = pair.read(values)
        pair.write(values, b * of_b, of_a)
    return values.astype(np.float32)


def deltas(size=0.3):
    return {
        name: size * np.random.default_rng(seed).normal(size=LAYOUT.length)
        for seed, name in enumerate(WEIGHTS, start=50)
    }


def summed(method, state, moved, number=1, who=WHO):
    """The sums that clients give which moved so."""
    sums = {}
    for name in who:
        mine = Trained(received=state, delta=moved[name], kept=None)
        for key, vector in method.local(mine, name, round_(number)).items():
            sums[key] = sums.get(key, 0.0) + WEIGHTS[name] * vector
    return sums


def means(start, moved, pair, who=WHO):
    """sum_i p_i B_i A_i, as no client sends it."""
    share = sum(WEIGHTS[name] for name in who)
    factors = {name: pair.read(start.astype(np.float64) + moved[name]) for name in who}
    return sum(WEIGHTS[name] / share * b @ a for name, (b, a) in factors.items())


def products(method, state, sums, who, number=1):
    """Of each module what `products` gives of several at once."""
    for pairs, *arrays in method.products(state, sums, who, round_(number)):
        yield from zip(pairs, *arrays, strict=True)


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("b", [0.0, 1.0])
@pytest.mark.parametrize("who", [WHO, WHO[1:]])
def test_the_product_is_the_mean_of_the_clients_products(who, b):
    """Before it is cut to the rank; FedAvg of the same updates comes to something else."""
    start, moved, method = adapter(1, b), deltas(), DoubleSketch(width=ENOUGH)
    state = method.begin(start)
    found = list(products(method, state, summed(method, state, moved, who=who), who))
    after = FedAvg().next(state, summed(FedAvg(), state, moved, who=who), who, round_(1)).adapter
    assert [pair for pair, *_ in found] == list(PAIRS)
    for pair, left, right, residual in found:
        expected = means(start, moved, pair, who)
        assert error(left @ right, expected) < 1e-10
        assert residual < 1e-10
        of_b, of_a = pair.read(after)
        assert error(of_b @ of_a, expected) > 1e-2


@pytest.mark.parametrize("number", [1, 2])
def test_the_factors_are_those_of_the_largest_singular_values(number):
    """Of equal size, as sqrt(S) in both makes them; the share that was cut is in the memory."""
    start, moved, method = adapter(2), deltas(), DoubleSketch(width=ENOUGH)
    state = method.begin(start)
    after = method.next(state, summed(method, state, moved, number), WHO, round_(number))
    for position, pair in enumerate(PAIRS):
        left, values, right = np.linalg.svd(means(start, moved, pair))
        rank, (b, a) = pair.rank, pair.read(after.adapter)
        expected = left[:, :rank] * values[:rank] @ right[:rank]
        assert error(b @ a, expected) < 1e-6
        np.testing.assert_allclose(b.T @ b, np.diag(values[:rank]), atol=1e-5)
        np.testing.assert_allclose(a @ a.T, np.diag(values[:rank]), atol=1e-5)
        share = values[rank:].sum() / values.sum()
        assert after.memory[TRUNCATED][position] == pytest.approx(share, rel=1e-5)
        assert share > 0.02
        assert after.memory[RESIDUAL][position] < 1e-10


def test_the_bits_are_these():
    """Found on x86-64; another processor that adds or rounds otherwise shows here."""
    method, state = (
        DoubleSketch(width=4),
        GlobalState(adapter=rational(1, LAYOUT.length)[0].astype("<f4")),
    )
    sums = {one.name: rational(one.length, 1)[:, 0] for one in method.uploads(round_(3))}
    digest = hashlib.sha256()
    for _, left, right, residual in products(method, state, sums, WHO, number=3):
        for values in (left, right, np.array(residual)):
            digest.update(values.astype("<f8").tobytes())
    digest.update(method.next(state, sums, WHO, round_(3)).digest().encode())
    assert digest.hexdigest() == "cde6a380be921d6ef2ea959ae7ef1906aadb4cf9f33fad70b95881bfe440fc9d"


def test_what_is_no_factor_is_averaged():
    start, moved, method = adapter(3), deltas(), DoubleSketch(width=4, server_learning_rate=0.5)
    state = method.begin(start)
    after = method.next(state, summed(method, state, moved), WHO, round_(1))
    mean = sum(WEIGHTS[name] * moved[name][:4] for name in WHO) / 1.625
    np.testing.assert_allclose(after.adapter[:4] - start[:4], 0.5 * mean, rtol=1e-5)


def test_the_step_of_the_server_is_a_step_of_the_product():
    """Half way from B A to the mean of the products."""
    start, moved = adapter(4), deltas()
    method = DoubleSketch(width=ENOUGH + 2, server_learning_rate=0.5)
    state = method.begin(start)
    for pair, left, right, _ in products(method, state, summed(method, state, moved), WHO):
        b, a = pair.read(start)
        assert error(left @ right, (b @ a + means(start, moved, pair)) / 2) < 1e-10


def test_a_narrow_sketch_says_how_much_of_the_step_it_lacks():
    """What it says is what it lacks, but for a factor that random signs leave open."""
    start, moved, method = adapter(5), deltas(), DoubleSketch(width=3)
    state = method.begin(start)
    sums = summed(method, state, moved)
    found = list(products(method, state, sums, WHO))
    memory = method.next(state, sums, WHO, round_(1)).memory
    for position, (pair, left, right, residual) in enumerate(found):
        b, a = pair.read(start)
        expected = means(start, moved, pair)
        lacks = np.linalg.norm(left @ right - expected) / np.linalg.norm(expected - b @ a)
        assert lacks > 0.1
        assert 0.5 < residual / lacks < 2
        assert memory[RESIDUAL][position] == pytest.approx(residual, rel=1e-6)


def test_the_figures_of_a_round_are_those_of_the_module_that_lost_most():
    """From the state alone, also where another method is around."""
    memory = {
        RESIDUAL: np.array([0.125, 0.5], np.float32),
        TRUNCATED: np.array([0.75, 0.25], np.float32),
    }
    state = GlobalState(adapter=adapter(1), memory=memory)
    expected = {LOST: 0.5, CUT: 0.75}
    assert DoubleSketch(width=4).figures(state) == expected
    assert MixedRanks(of=DoubleSketch(width=4), ranks={"north": 1}).figures(state) == expected
    assert FedAvg().figures(state) == {}


def test_a_product_that_is_zero_leaves_rows_that_can_learn():
    """All updates rounded to zero in the first round, where B = 0: A would be lost for good."""
    start, method = adapter(6, b=0.0), DoubleSketch(width=4)
    state = method.begin(start)
    sums = summed(method, state, {name: np.zeros(LAYOUT.length) for name in WHO})
    after = method.next(state, sums, WHO, round_(1))
    for pair in PAIRS:
        b, a = pair.read(after.adapter)
        assert (b == 0).all()
        inside = np.linalg.svd(pair.read(start)[1], full_matrices=False)[2]
        np.testing.assert_allclose(a @ a.T, np.eye(pair.rank), atol=1e-6)
        np.testing.assert_allclose(a @ inside.T @ inside, a, atol=1e-6)
    assert [after.memory[name].tolist() for name in (RESIDUAL, TRUNCATED)] == [[0, 0], [0, 0]]


def test_a_product_of_smaller_rank_leaves_rows_that_can_learn():
    """Rank 1 of 3: B has one column that is not zeros, A one more row of that size, two of one."""
    random = np.random.default_rng(11)
    a, left, right = (random.normal(size=shape) for shape in ((3, 19), (28, 1), (1, 19)))
    wide = (np.repeat([[1, 0, 0, 0]], 28, axis=0) * left, np.pad(right, ((0, 3), (0, 0))))
    found = sketches.balanced_factors(*(one[None] for one in (*wide, a)))
    b, new_a, cut = (one[0] for one in found)
    size = np.linalg.norm(left) * np.linalg.norm(right)
    np.testing.assert_allclose(b @ new_a, left @ right, atol=1e-12)
    np.testing.assert_allclose(b.T @ b, np.diag([size, 0, 0]), atol=1e-10)
    np.testing.assert_allclose(new_a @ new_a.T, np.diag([size, 1, 1]), atol=1e-10)
    assert cut < 1e-15


def test_what_is_sent():
    """Two modules of 22 + 28 outputs and 31 + 19 inputs; width 4 has 9 rows."""
    uploads = {one.name: one for one in DoubleSketch(width=4).uploads(round_(1))}
    assert {name: one.length for name, one in uploads.items()} == {
        DELTA: 4,
        COLUMNS: 4 * (22 + 28),
        ROWS: 9 * (31 + 19),
    }
    assert {one.scale for one in uploads.values()} == {1.0}
    state = DoubleSketch(width=4).begin(adapter(7))
    sent = summed(DoubleSketch(width=4), state, deltas(), who=["north"])
    assert {name: len(vector) for name, vector in sent.items()} == {
        name: one.length for name, one in uploads.items()
    }


def test_an_adapter_of_factors_alone_sends_no_update():
    layout = Layout(LAYOUT.parameters[1:3])
    alone = Round(number=1, steps=1, learning_rate=1.0, weights=WEIGHTS, layout=layout)
    method = DoubleSketch(width=2)
    assert [one.name for one in method.uploads(alone)] == [COLUMNS, ROWS]
    state = method.begin(adapter(8)[4 : 4 + layout.length])
    mine = Trained(received=state, delta=np.full(layout.length, 0.01), kept=None)
    sent = method.local(mine, "north", alone)
    assert list(sent) == [COLUMNS, ROWS]
    assert len(method.next(state, sent, ["north"], alone).adapter) == layout.length


@pytest.mark.parametrize("b", [0.0, 0.3, 3.0])
def test_an_entry_of_a_sketch_has_at_most_the_noise_of_one_of_an_update(b):
    """And not much less where rows of B, and columns of A, are of one length."""
    layout = Layout((("q.lora_A.default.weight", (4, 300)), ("q.lora_B.default.weight", (500, 4))))
    wide = Round(number=1, steps=1, learning_rate=1.0, weights=WEIGHTS, layout=layout)
    (pair,), method, random = pairs_of(layout, "x"), DoubleSketch(width=6), np.random.default_rng(9)
    start = np.sign(random.normal(size=layout.length))
    of_b, of_a = pair.read(start)
    pair.write(start, b * of_b, of_a)
    noise = 1e-3 * random.normal(size=layout.length)
    mine = Trained(received=method.begin(start.astype(np.float32)), delta=noise, kept=None)
    for vector in method.local(mine, "north", wide).values():
        assert 0.6 < np.sqrt(np.mean(np.square(vector))) / 1e-3 < 1.05


def test_signs_are_public_even_and_of_the_round_and_the_module():
    q, v = PAIRS
    omega, psi = sketches.signs(q, 30, 1)
    assert (omega.shape, psi.shape) == ((31, 30), (61, 22))
    assert set(omega.ravel()) == set(psi.ravel()) == {-1.0, 1.0}
    assert abs(omega.mean()) < 0.1
    assert np.array_equal(omega, sketches.signs(q, 30, 1)[0])
    others = [sketches.signs(q, 30, 2)[0], sketches.signs(v, 30, 1)[0]]
    for other in (*others, psi):
        rows, columns = (min(pair) for pair in zip(omega.shape, other.shape, strict=True))
        alike = np.mean(omega[:rows, :columns] == other[:rows, :columns])
        assert 0.4 < alike < 0.6


def test_the_first_signs_by_hand():
    """SHAKE-256 of ["privfed signs 1",5,"q.lora_A.default.weight","omega"] begins so."""
    text = b'["privfed signs 1",5,"q.lora_A.default.weight","omega"]'
    (first, *_) = hashlib.shake_256(text).digest(1)
    expected = [-1.0 if first >> (7 - k) & 1 else 1.0 for k in range(8)]
    omega, _ = sketches.signs(PAIRS[0], 4, 5)
    assert omega.ravel()[:8].tolist() == expected


def test_it_costs_what_the_private_steps_cost():
    steps = PoissonGaussian(noise_multiplier=1.5, sample_rate=0.25, steps=3)
    assert DoubleSketch(width=4).releases(steps) == FedAvg().releases(steps) == (steps,)


def test_it_trains_all_and_describes_itself():
    assert DoubleSketch(width=4).trains(round_(1), "north").all()
    assert json.loads(json.dumps(DoubleSketch(width=4).describe())) == {
        "method": "double-sketch",
        "weighting": "uniform",
        "server_learning_rate": 1.0,
        "upload_share": 1.0,
        "width": 4,
    }


class TestWhatIsRefused:
    @pytest.mark.parametrize("width", [0, 2.5, True])
    def test_no_count(self, width):
        with pytest.raises(ConfigError, match="width must be a whole number"):
            DoubleSketch(width=width)

    def test_an_adapter_that_is_no_lora(self):
        with pytest.raises(ConfigError, match="double-sketch needs an adapter with both factors"):
            DoubleSketch(width=4).trains(vectors.round_of(1, WEIGHTS, length=7), "north")

    def test_a_width_below_the_largest_rank(self):
        with pytest.raises(ConfigError, match="got 2 for rank 3"):
            DoubleSketch(width=2).trains(round_(1), "north")
        DoubleSketch(width=3).trains(round_(1), "north")

    def test_what_would_add_up_factors_of_several_rounds(self):
        for around in (
            lambda of: TailAveraging(of=of),
            lambda of: FedAvgM(of=of),
            lambda of: FedAdam(of=of, learning_rate=1.0),
        ):
            with pytest.raises(ConfigError, match="cannot be around DoubleSketch, which writes"):
                around(DoubleSketch(width=4))
