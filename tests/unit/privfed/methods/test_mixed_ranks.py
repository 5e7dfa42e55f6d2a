"""Clients of several ranks: what each trains, and that the mean of their products is exact."""

import numpy as np
import pytest

from privfed import FedAvg, FedAvgM, FedDPA, MixedRanks, RoLoRA, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, Round, Trained
from privfed.protocol.layout import Layout

RANK, WIDTH, HEIGHT = 8, 11, 9
A, B, HEAD = "q.lora_A.default.weight", "q.lora_B.default.weight", "head.weight"
LAYOUT = Layout(((HEAD, (3,)), (A, (RANK, WIDTH)), (B, (HEIGHT, RANK))))
WEIGHTS = {"two": 1.0, "four": 0.5, "eight": 0.125}
RANKS = {"two": 2, "four": 4}


def round_(number):
    return Round(
        number=number,
        steps=dict.fromkeys(WEIGHTS, 3),
        learning_rate=0.5,
        weights=WEIGHTS,
        layout=LAYOUT,
    )


def factors(adapter):
    _, a, b = np.split(np.asarray(adapter, dtype=np.float64), [3, 3 + RANK * WIDTH])
    return a.reshape(RANK, WIDTH), b.reshape(HEIGHT, RANK)


def adapter(seed):
    return np.random.default_rng(seed).normal(size=LAYOUT.length).astype(np.float32)


def played(method, number):
    """The global adapter after a round, and the mean of what the products of clients moved by."""
    state = method.begin(adapter(3))
    sums, moves, total = 0.0, 0.0, sum(WEIGHTS.values())
    for seed, (name, weight) in enumerate(WEIGHTS.items(), start=20):
        start = method.start(state, None, name, round_(number))
        moving = method.trains(round_(number), name)
        delta = np.where(moving, np.random.default_rng(seed).normal(size=LAYOUT.length), 0.0)
        trained = Trained(received=state, delta=delta, kept=None)
        sums = sums + weight * method.local(trained, name, round_(number))[DELTA]
        (a, b), (a_now, b_now) = factors(start), factors(start + delta)
        assert np.linalg.matrix_rank(b_now @ a_now) == RANKS.get(name, RANK)
        moves = moves + weight / total * (b_now @ a_now - b @ a)
    after = method.next(state, {DELTA: sums}, sorted(WEIGHTS), round_(number)).adapter
    return after, moves


@pytest.mark.parametrize("number", [1, 2])
def test_the_product_moves_by_the_mean_of_the_clients_own(number):
    """Exactly where one factor moves; with both at once the mean of products is something else."""
    (a, b), scale = factors(adapter(3)), 1.0
    after, moves = played(MixedRanks(of=RoLoRA(), ranks=RANKS), number)
    a_now, b_now = factors(after)
    scale = np.abs(moves).max()
    np.testing.assert_allclose(b_now @ a_now - b @ a, moves, atol=1e-5 * scale)
    after, moves = played(MixedRanks(of=FedAvg(), ranks=RANKS), number)
    a_now, b_now = factors(after)
    assert np.abs(b_now @ a_now - b @ a - moves).max() > 0.1 * scale


@pytest.mark.parametrize(("client", "rank"), [("two", 2), ("four", 4), ("eight", 8)])
def test_a_client_has_its_first_ranks_and_the_head(client, rank):
    method = MixedRanks(of=FedAvg(), ranks=RANKS)
    state = method.begin(adapter(4))
    start, moving = method.start(state, None, client, round_(1)), method.trains(round_(1), client)
    (a, b), (a_all, b_all) = factors(start), factors(adapter(4))
    assert np.array_equal(a[:rank], a_all[:rank])
    assert np.array_equal(b[:, :rank], b_all[:, :rank])
    assert not a[rank:].any()
    assert not b[:, rank:].any()
    assert np.array_equal(start[:3], adapter(4)[:3])
    a_moves, b_moves = factors(moving)
    assert a_moves.sum(axis=1).tolist() == [WIDTH] * rank + [0] * (RANK - rank)
    assert b_moves.sum(axis=0).tolist() == [HEIGHT] * rank + [0] * (RANK - rank)
    assert moving[:3].all()


def test_all_uploads_have_one_length():
    (sent,) = MixedRanks(of=FedAvg(), ranks=RANKS).uploads(round_(1))
    assert sent.length == LAYOUT.length


class TestWhatIsRefused:
    def test_a_rank_of_nobody(self):
        training, steps = TrainingConfig(learning_rate=1.0), dict.fromkeys(WEIGHTS, 2)
        method = MixedRanks(of=FedAvg(), ranks={**RANKS, "nobody": 3})
        with pytest.raises(ConfigError, match=r"\['nobody'\] are not"):
            method.check(training, steps, 3)
        MixedRanks(of=FedAvg(), ranks=RANKS).check(training, steps, 3)

    def test_what_the_method_inside_refuses(self):
        with pytest.raises(ConfigError, match="rounds must be at least 2"):
            MixedRanks(of=RoLoRA(), ranks=RANKS).check(
                TrainingConfig(learning_rate=1.0), dict.fromkeys(WEIGHTS, 2), 1
            )

    def test_weights_do_not_ask_who_has_a_rank(self):
        """A client works out its own with its size alone, and a run may go on without one."""
        method = MixedRanks(of=FedAvg(), ranks=RANKS)
        assert method.weights({"eight": 10}, {"eight": 2}) == {"eight": 1.0}

    def test_no_ranks(self):
        with pytest.raises(ConfigError, match="at least one client"):
            MixedRanks(of=FedAvg(), ranks={})

    @pytest.mark.parametrize("rank", [0, -1, 2.0, True])
    def test_what_is_no_rank(self, rank):
        with pytest.raises(ConfigError, match="the rank of two"):
            MixedRanks(of=FedAvg(), ranks={"two": rank})

    def test_as_many_ranks_as_there_are(self):
        with pytest.raises(ConfigError, match="is 8"):
            MixedRanks(of=FedAvg(), ranks={"two": 8}).trains(round_(1), "two")

    def test_a_local_adapter_whose_ranks_are_the_last(self):
        for inside in (FedDPA(personal_rank=1), FedAvgM(of=FedDPA(personal_rank=1))):
            with pytest.raises(ConfigError, match="the last ranks"):
                MixedRanks(of=inside, ranks=RANKS)


def test_it_describes_itself():
    described = MixedRanks(of=RoLoRA(), ranks=RANKS).describe()
    assert described == {"method": "mixed-ranks", "ranks": RANKS, "of": RoLoRA().describe()}
