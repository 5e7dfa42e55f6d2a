"""Settings are checked when they are built, and cannot be changed afterwards."""

from dataclasses import FrozenInstanceError, fields

import pytest

from accountants import Budget, Neighbouring
from privfed import Client, PrivacyConfig, Record, RecordGroup
from privfed.errors import ConfigError, DataError
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)
from tests.unit.privfed.wrong_values import NO_COUNT, NO_FLOAT32, NO_NUMBER, NOT_POSITIVE


def privacy(**changes):
    settings = {
        "budget": Budget(epsilon=1.0, delta=1e-5),
        "neighbouring": Neighbouring.ADD_REMOVE,
        "record": "one note",
        "expected_batch_size": 8,
    }
    return PrivacyConfig(**{**settings, **changes})


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
