"""Settings are checked when they are built, and cannot be changed afterwards."""

from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import Budget, Neighbouring
from privfed import BFV, SGD, Client, Plain, PrivacyConfig, Record, RecordGroup, TrainingConfig
from privfed.checks import (
    require_count,
    require_items,
    require_methods,
    require_positive,
    require_type,
)
from privfed.errors import ConfigError, DataError
from privfed.settings.computation import Computation
from privfed.settings.encryption import Custody, FixedPoint, Summation
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)
from privfed.settings.training import AdamW

NO_NUMBER = [True, "1", [1.0], 1j]
NOT_POSITIVE = [0, 0.0, -1.0, float("nan"), float("inf"), -float("inf"), 10**400, *NO_NUMBER]
NO_COUNT = [0, -1, 1.0, 2.5, True, "3", None, float("nan")]
NO_FLOAT32 = [1e-300, 1e-40, 1e40, 1e300]


def privacy(**changes):
    settings = {
        "budget": Budget(epsilon=1.0, delta=1e-5),
        "neighbouring": Neighbouring.ADD_REMOVE,
        "record": "one note",
        "expected_batch_size": 8,
    }
    return PrivacyConfig(**{**settings, **changes})


class TestChecks:
    @pytest.mark.parametrize("value", [*NOT_POSITIVE, None])
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

    def test_a_count_has_a_limit(self):
        require_count(7, first=7)
        with pytest.raises(ConfigError, match="^first must be at most 7, got 8"):
            require_count(7, first=8)
        with pytest.raises(ConfigError, match="^first must be at most 9007199254740992"):
            require_count(first=2**53 + 1)

    def test_a_type_is_named_and_so_is_what_came(self):
        require_type(int | None, first=None)
        with pytest.raises(ConfigError, match="^first must be int or None, got 'x'"):
            require_type(int | None, first="x")
        with pytest.raises(
            ConfigError, match=r"must be FlatClipping, got the class FlatClipping; make an object"
        ):
            require_type(FlatClipping, clipping=FlatClipping)

    @pytest.mark.parametrize("value", ["ab", 3, None, iter("ab"), {"a"}])
    def test_items_stand_in_a_list(self, value):
        with pytest.raises(ConfigError, match="^first must be a list or tuple of str, got one"):
            require_items(str, first=value)

    def test_an_item_of_another_type_is_placed_and_not_shown(self):
        require_items(int, first=(1, 2))
        with pytest.raises(
            ConfigError, match="first must hold int only, got str at position 1"
        ) as it:
            require_items(int, first=[1, "private words"])
        assert "private" not in str(it.value)

    def test_methods_are_those_of_an_object(self):
        require_methods("strip", first="text")
        with pytest.raises(ConfigError, match="first must be an object with strip, got 3"):
            require_methods("strip", first=3)
        with pytest.raises(ConfigError, match=r"object with strip, got the class str; make an"):
            require_methods("strip", first=str)


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

    @pytest.mark.parametrize("value", [*NOT_POSITIVE, *NO_FLOAT32, None])
    def test_clipping_norm(self, value):
        with pytest.raises(ConfigError, match="clipping_norm"):
            privacy(clipping_norm=value)

    @pytest.mark.parametrize("value", [Neighbouring.REPLACE_ONE, "add_remove", None])
    def test_only_adding_or_removing_is_analysed(self, value):
        with pytest.raises(ConfigError, match="ADD_REMOVE"):
            privacy(neighbouring=value)

    @pytest.mark.parametrize("name", ["steps_per_round", "examples_per_record"])
    def test_a_million_is_the_most(self, name):
        privacy(**{name: 1_000_000})
        with pytest.raises(ConfigError, match=f"{name} must be at most 1000000"):
            privacy(**{name: 1_000_001})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("budget", (1.0, 1e-5)),
            ("budget", None),
            ("record", 3),
            ("record", None),
            ("clipping", "flat"),
            ("clipping", FlatClipping),
            ("clipping", None),
            ("secure_noise", "false"),
            ("secure_noise", 0),
        ],
    )
    def test_every_field_has_its_type(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} must be "):
            privacy(**{name: value})

    @pytest.mark.parametrize(
        "rule",
        [
            FlatClipping(),
            PerLayerClipping(),
            AutomaticClipping(),
            QuantileClipping(count_noise=5.0),
        ],
    )
    def test_every_clipping_is_taken(self, rule):
        assert privacy(clipping=rule).clipping is rule

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


class TestClipping:
    @pytest.mark.parametrize("value", [*NOT_POSITIVE, *NO_FLOAT32])
    def test_stability(self, value):
        with pytest.raises(ConfigError, match="^stability must be"):
            AutomaticClipping(stability=value)

    @pytest.mark.parametrize("name", ["count_noise", "learning_rate"])
    @pytest.mark.parametrize("value", [*NOT_POSITIVE, *NO_FLOAT32])
    def test_numbers_of_quantile_clipping(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} must be"):
            QuantileClipping(**{"count_noise": 5.0, name: value})

    @pytest.mark.parametrize("value", [0, 1, -0.5, float("nan"), *NO_NUMBER])
    def test_quantile(self, value):
        with pytest.raises(ConfigError, match="^quantile must be"):
            QuantileClipping(count_noise=5.0, quantile=value)


class TestComputation:
    @pytest.mark.parametrize("value", ["yes", 1, None])
    def test_compile(self, value):
        with pytest.raises(ConfigError, match="^compile must be bool, got"):
            Computation(compile=value)


class TestClient:
    def client(self, **changes):
        settings = {"id": "a", "records": (Record("x"),), "public_size": 10, "dataset": "d"}
        return Client(**{**settings, **changes})

    @pytest.mark.parametrize("name", ["id", "dataset", "description"])
    @pytest.mark.parametrize("value", [None, 3, b"a"])
    def test_names_are_text(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} must be str, got"):
            self.client(**{name: value})

    def test_a_budget_of_its_own(self):
        with pytest.raises(ConfigError, match="^budget must be Budget or None, got 4.0"):
            self.client(budget=4.0)

    def test_records_are_records_or_groups(self):
        group = RecordGroup((Record("x"), Record("y")))
        assert self.client(records=[Record("x"), group]).records[1] is group

    @pytest.mark.parametrize(
        "value", ["private words", Record("private words"), ["private words"], [("private", 0)]]
    )
    def test_other_records_are_refused_without_showing_them(self, value):
        with pytest.raises(ConfigError, match="^records of client 'a' must ") as caught:
            self.client(records=value)
        assert "private" not in str(caught.value)

    def test_no_records_at_all(self):
        with pytest.raises(DataError, match="holds no records"):
            self.client(records=())


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

    @pytest.mark.parametrize("value", [*NOT_POSITIVE, *NO_FLOAT32])
    def test_public_range(self, kind, value):
        with pytest.raises(ConfigError, match="public_range"):
            kind(public_range=value)

    @pytest.mark.parametrize("value", ["true", 1, None])
    def test_follow_released(self, kind, value):
        with pytest.raises(ConfigError, match="^follow_released must be bool, got"):
            kind(follow_released=value)


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
