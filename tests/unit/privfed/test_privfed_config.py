"""Settings are checked when they are built, and cannot be changed afterwards."""

from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import Budget, Neighbouring
from privfed import BFV, SGD, Plain, PrivacyConfig, TrainingConfig
from privfed.config import Custody, FixedPoint, Summation, require_count, require_positive
from privfed.errors import ConfigError

NOT_POSITIVE = [0, 0.0, -1.0, float("nan"), float("inf"), -float("inf")]
NO_COUNT = [0, -1, 1.0, 2.5, True, "3", None, float("nan")]


def privacy(**changes):
    settings = {
        "budget": Budget(epsilon=1.0, delta=1e-5),
        "neighbouring": Neighbouring.ADD_REMOVE,
        "record": "one note",
        "expected_batch_size": 8,
    }
    return PrivacyConfig(**{**settings, **changes})


class TestChecks:
    @pytest.mark.parametrize("value", NOT_POSITIVE)
    def test_a_number_must_be_finite_and_above_zero(self, value):
        with pytest.raises(ConfigError, match="^second must be a finite number above 0, got"):
            require_positive(first=1.0, second=value)

    @pytest.mark.parametrize("value", [1, 1e-300, 1e300])
    def test_any_finite_number_above_zero_passes(self, value):
        require_positive(first=value)

    @pytest.mark.parametrize("value", NO_COUNT)
    def test_a_count_must_be_a_whole_number_of_at_least_one(self, value):
        with pytest.raises(ConfigError, match="^second must be a whole number of at least 1, got"):
            require_count(first=1, second=value)


class TestPrivacyConfig:
    def test_what_a_guarantee_depends_on_has_no_default(self):
        optional = {
            "clipping_norm",
            "steps_per_round",
            "examples_per_record",
            "clipping",
            "secure_noise",
        }
        without = {field.name for field in fields(PrivacyConfig)} - optional
        assert without == {"budget", "neighbouring", "record", "expected_batch_size"}
        for name in without:
            settings = {f.name: getattr(privacy(), f.name) for f in fields(PrivacyConfig)}
            del settings[name]
            with pytest.raises(TypeError, match=name):
                PrivacyConfig(**settings)

    @pytest.mark.parametrize("name", ["expected_batch_size", "steps_per_round"])
    @pytest.mark.parametrize("value", NO_COUNT)
    def test_counts(self, name, value):
        with pytest.raises(ConfigError, match=name):
            privacy(**{name: value})

    @pytest.mark.parametrize("value", NOT_POSITIVE)
    def test_clipping_norm(self, value):
        with pytest.raises(ConfigError, match="clipping_norm"):
            privacy(clipping_norm=value)

    @pytest.mark.parametrize("value", [Neighbouring.REPLACE_ONE, "add_remove", None])
    def test_only_adding_or_removing_is_analysed(self, value):
        with pytest.raises(ConfigError, match="ADD_REMOVE"):
            privacy(neighbouring=value)

    @pytest.mark.parametrize("value", ["", "  ", "\n"])
    def test_a_record_must_be_said_in_words(self, value):
        with pytest.raises(ConfigError, match="what one record is"):
            privacy(record=value)

    def test_it_cannot_be_changed(self):
        with pytest.raises(FrozenInstanceError):
            privacy().clipping_norm = 100.0


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
    @pytest.mark.parametrize("value", NOT_POSITIVE)
    def test_rates(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} "):
            TrainingConfig(**{"learning_rate": 1.0, name: value})

    @pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, float("nan")])
    def test_momentum(self, value):
        with pytest.raises(ConfigError, match="momentum"):
            SGD(momentum=value)

    @pytest.mark.parametrize("value", NO_COUNT)
    def test_physical_batch_size(self, value):
        with pytest.raises(ConfigError, match="physical_batch_size"):
            TrainingConfig(learning_rate=1.0, physical_batch_size=value)


@pytest.mark.parametrize("kind", [FixedPoint, BFV, Plain])
class TestFixedPoint:
    def test_defaults(self, kind):
        assert (kind().bits, kind().public_range, kind().follow_released) == (12, None, False)

    def test_it_is_a_summation_and_cannot_be_changed(self, kind):
        assert isinstance(kind(), Summation)
        with pytest.raises(FrozenInstanceError):
            kind().bits = 8

    @pytest.mark.parametrize("bits", [7, 17, 0, -8, 12.0, True, "12", None])
    def test_bits(self, kind, bits):
        with pytest.raises(ConfigError, match=r"bits must be a whole number in \[8, 16\]"):
            kind(bits=bits)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_the_ends_of_the_range_are_accepted(self, kind, bits):
        assert kind(bits=bits).bits == bits

    @pytest.mark.parametrize("value", NOT_POSITIVE)
    def test_public_range(self, kind, value):
        with pytest.raises(ConfigError, match="public_range"):
            kind(public_range=value)


class TestBFV:
    def test_by_default_the_clients_share_the_key(self):
        assert (BFV().custody, BFV().key_holder) == (Custody.SHARED_KEY, None)

    @pytest.mark.parametrize("custody", list(Custody))
    def test_either_custody(self, custody):
        assert BFV(custody=custody).custody is custody

    @pytest.mark.parametrize("custody", ["key_holder", "shared_key", "threshold", None, 1])
    def test_a_custody_that_is_none_of_them(self, custody):
        with pytest.raises(
            ConfigError, match=r"custody must be one of \['shared_key', 'key_holder"
        ):
            BFV(custody=custody)

    def test_an_address_belongs_to_a_key_holder(self):
        BFV(custody=Custody.KEY_HOLDER, key_holder="localhost:1")
        with pytest.raises(ConfigError, match="custody KEY_HOLDER only"):
            BFV(key_holder="localhost:1")
        with pytest.raises(TypeError, match="key_holder"):
            Plain(key_holder="localhost:1")


@pytest.mark.parametrize("value", NOT_POSITIVE)
def test_any_summation_checks_its_range(value):
    with pytest.raises(ConfigError, match="public_range"):
        Summation(public_range=value)
