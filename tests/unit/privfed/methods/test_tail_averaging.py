"""The average of released adapters is the weighted mean that the settings say."""

import json

import numpy as np
import pytest

from accountants import PoissonGaussian
from privfed import SGD, FedAvg, FedProx, FFALoRA, Scaffold, TailAveraging, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, Trained
from tests.unit.privfed.methods.vectors import round_of

WEIGHTS = {"a": 1.0, "b": 0.5, "c": 0.25}
TRAINING = TrainingConfig(learning_rate=0.125, optimizer=SGD())


def round_(number):
    return round_of(number, WEIGHTS, length=2)


def play(method, moves):
    """Global states after rounds whose summed updates are `moves`, all three clients in each."""
    states = [method.begin(np.array([2.0, -1.0], np.float32))]
    for number, move in enumerate(moves, start=1):
        sums = {DELTA: np.array(move)}
        states.append(method.next(states[-1], sums, ["a", "b", "c"], round_(number)))
    return states


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.2])
def test_it_is_the_mean_with_weights_that_decay_with_age(decay):
    moves = np.random.default_rng(0).normal(size=(7, 2))
    states = play(TailAveraging(of=FedAvg(), decay=decay), moves)
    adapters = np.array([state.adapter for state in states[1:]])
    weights = decay ** np.arange(6, -1, -1.0)
    left = TailAveraging(of=FedAvg(), decay=decay).left(states[-1])
    np.testing.assert_allclose(left, weights @ adapters / weights.sum(), rtol=1e-5, atol=1e-6)
    assert left.dtype == np.float32


def test_before_its_first_round_the_newest_is_left_and_that_round_is_taken_whole():
    method = TailAveraging(of=FedAvg(), first_round=3, decay=0.5)
    states = play(method, [[1.75, 3.5], [-3.5, 1.75], [7.0, 7.0], [1.75, 0.0]])
    assert not states[2].memory
    assert method.left(states[2]) is states[2].adapter
    assert method.left(states[3]).tolist() == states[3].adapter.tolist()
    expected = (0.5 * states[3].adapter + states[4].adapter) / 1.5
    np.testing.assert_allclose(method.left(states[4]), expected, rtol=1e-6)


def test_training_goes_on_as_without():
    moves = np.random.default_rng(1).normal(size=(5, 2))
    alone, averaged = play(FedAvg(), moves), play(TailAveraging(of=FedAvg()), moves)
    for one, other in zip(alone, averaged, strict=True):
        assert one.adapter.tobytes() == other.adapter.tobytes()


@pytest.mark.parametrize("of", [FedAvg(), FFALoRA(), FedProx(mu=0.5), Scaffold()])
def test_all_else_is_as_of_the_method_itself(of):
    method, received = TailAveraging(of=of), play(of, [[1.75, 3.5]])[-1]
    averaged = play(TailAveraging(of=of), [[1.75, 3.5]])[-1]
    trained = Trained(received=received, delta=np.array([0.5, -0.25]), kept=None)
    mine = of.local(trained, "b", round_(2))
    kept = of.keeps(trained, mine, "b", round_(2))
    other = Trained(received=averaged, delta=trained.delta, kept=None)
    vectors = method.local(other, "b", round_(2))
    also_kept = method.keeps(other, vectors, "b", round_(2))
    assert vectors[DELTA].tolist() == mine[DELTA].tolist()
    for name in kept or {}:
        assert also_kept[name].tolist() == kept[name].tolist()
    plain, wrapped = (
        one.correction(state, kept, "b", round_(2))
        for one, state in ((of, received), (method, averaged))
    )
    assert repr(plain) == repr(wrapped)
    sizes = {"a": 8, "b": 4, "c": 2}
    assert (method.freezes_a, method.weights(sizes, {})) == (of.freezes_a, of.weights(sizes, {}))
    assert method.uploads(round_(2)) == of.uploads(round_(2))
    assert np.array_equal(method.trains(round_(2), "b"), of.trains(round_(2), "b"))
    steps = PoissonGaussian(noise_multiplier=1.5, sample_rate=0.25, steps=3)
    assert method.releases(steps) == of.releases(steps)


def test_it_describes_itself_and_what_it_averages():
    described = TailAveraging(of=FFALoRA(weighting="public_size"), first_round=2).describe()
    assert json.loads(json.dumps(described)) == {
        "method": "tail-averaging",
        "first_round": 2,
        "decay": 1.0,
        "of": FFALoRA(weighting="public_size").describe(),
    }


class TestWhatIsRefused:
    @pytest.mark.parametrize("values", [{"decay": 0.0}, {"decay": 1.1}, {"first_round": 0}])
    def test_values_out_of_range_are_named(self, values):
        with pytest.raises(ConfigError, match=next(iter(values))):
            TailAveraging(of=FedAvg(), **values)

    def test_something_else_than_a_method(self):
        with pytest.raises(ConfigError, match="of"):
            TailAveraging(of="fedavg")

    def test_an_average_of_averages(self):
        """The inner one would do nothing."""
        with pytest.raises(ConfigError, match="TailAveraging cannot be inside TailAveraging"):
            TailAveraging(of=TailAveraging(of=FedAvg()))

    def test_an_average_that_would_begin_after_the_last_round(self):
        with pytest.raises(ConfigError, match="averaging begins in round 4, but rounds is 3"):
            TailAveraging(of=FedAvg(), first_round=4).check(TRAINING, {"a": 2}, 3)
        TailAveraging(of=FedAvg(), first_round=3).check(TRAINING, {"a": 2}, 3)

    def test_what_the_method_refuses(self):
        momentum = TrainingConfig(learning_rate=0.125, optimizer=SGD(momentum=0.5))
        with pytest.raises(ConfigError, match="without momentum"):
            TailAveraging(of=Scaffold()).check(momentum, {"a": 2}, 3)


def test_it_says_which_adapter_is_left():
    even, decaying = (
        TailAveraging(of=FedAvg(), first_round=2),
        TailAveraging(of=FedAvg(), decay=0.5),
    )
    assert "from round 2 on, evenly: " in even.which_is_left()
    assert "each weighs 0.5 of the next" in decaying.which_is_left()
