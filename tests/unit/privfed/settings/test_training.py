"""How the local optimiser moves: rates of every round, and every field by its name."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed import SGD, PrivacyConfig, TrainingConfig
from privfed.errors import ConfigError
from privfed.settings.privacy import FlatClipping
from privfed.settings.training import AdamW
from tests.unit.privfed.wrong_values import NO_COUNT, NO_NUMBER, NOT_POSITIVE


class TestTrainingConfig:
    def test_nothing_in_it_is_part_of_the_guarantee(self):
        shared = {f.name for f in fields(TrainingConfig)} & {f.name for f in fields(PrivacyConfig)}
        assert not shared

    def test_a_constant_rate(self):
        training = TrainingConfig(learning_rate=0.5)
        assert [training.learning_rate_of(number, 3) for number in (1, 2, 3)] == [0.5] * 3

    def test_a_rate_that_falls_linearly(self):
        training = TrainingConfig(learning_rate=1.0, final_learning_rate=0.5)
        rates = [training.learning_rate_of(number, 5) for number in range(1, 6)]
        assert rates == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5])

    def test_one_round_has_the_first_rate(self):
        assert (
            TrainingConfig(learning_rate=1.0, final_learning_rate=0.5).learning_rate_of(1, 1) == 1
        )

    @given(
        first=st.floats(1e-6, 1e3),
        last=st.floats(1e-6, 1e3),
        rounds=st.integers(1, 50),
        data=st.data(),
    )
    def test_every_rate_lies_between_the_two(self, first, last, rounds, data):
        """The public range of an update is derived from the larger of the two."""
        number = data.draw(st.integers(1, rounds))
        rate = TrainingConfig(learning_rate=first, final_learning_rate=last).learning_rate_of(
            number, rounds
        )
        low, high = sorted((first, last))
        assert low * (1 - 1e-12) <= rate <= high * (1 + 1e-12)

    @pytest.mark.parametrize("name", ["learning_rate", "final_learning_rate"])
    @pytest.mark.parametrize("value", [*NOT_POSITIVE, 1e-300, 1.1e6, 1e300])
    def test_rates(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} "):
            TrainingConfig(**{"learning_rate": 1.0, name: value})

    def test_a_rate_out_of_range_says_why(self):
        with pytest.raises(ConfigError, match=r"in \[1e-30, 1e\+06\], got 10000000.0: .*float32"):
            TrainingConfig(learning_rate=1e7)

    @pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, float("nan"), *NO_NUMBER])
    def test_momentum(self, value):
        with pytest.raises(ConfigError, match="momentum"):
            SGD(momentum=value)

    @pytest.mark.parametrize("value", ["sgd", SGD, None, FlatClipping()])
    def test_optimizer(self, value):
        with pytest.raises(ConfigError, match="^optimizer must be SGD or AdamW, got"):
            TrainingConfig(learning_rate=1.0, optimizer=value)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("beta1", [1.0, -0.1, "0.9", None]),
            ("beta2", [1.0, -0.1, "0.9", None]),
            ("epsilon", [0, "1e-8", None, 1e-300, 1e300]),
            ("weight_decay", [-0.1, "0", None, True, 1e4]),
        ],
    )
    def test_adamw(self, name, values):
        for value in values:
            with pytest.raises(ConfigError, match=f"^{name} must be"):
                AdamW(**{name: value})

    @pytest.mark.parametrize("value", NO_COUNT)
    def test_physical_batch_size(self, value):
        with pytest.raises(ConfigError, match="physical_batch_size"):
            TrainingConfig(learning_rate=1.0, physical_batch_size=value)


class TestLargestMove:
    """What the public range of an update is derived from."""

    def test_without_momentum_steps_add_up(self):
        assert SGD().largest_move(3, 0.5) == 1.5

    def test_momentum_by_hand(self):
        """A gradient that stays: at momentum 0.75 every step ends four times as long, at most."""
        assert SGD(momentum=0.75).largest_move(3, 0.5) == pytest.approx(6.0)

    @given(momentum=st.floats(0, 0.95), steps=st.integers(1, 40))
    def test_no_sequence_of_gradients_moves_farther(self, momentum, steps):
        velocity = moved = 0.0
        for _ in range(steps):
            velocity = momentum * velocity + 0.5
            moved += velocity
        assert moved <= SGD(momentum=momentum).largest_move(steps, 0.5) * (1 + 1e-12)

    def test_adam_moves_by_the_rate_in_every_step(self):
        """Whatever the gradient is."""
        assert AdamW().largest_move(3, 0.5) == AdamW().largest_move(3, 7e5) == 3.0
