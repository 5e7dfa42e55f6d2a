"""How the model is computed: every field by its name, and what cannot go together."""

import pytest

from privfed.errors import ConfigError
from privfed.settings.computation import Checkpointing, Computation, GradientMethod, Precision
from tests.unit.privfed.wrong_values import NO_COUNT


class TestComputation:
    @pytest.mark.parametrize("value", ["yes", 1, None])
    def test_compile(self, value):
        with pytest.raises(ConfigError, match="^compile must be bool, got"):
            Computation(compile=value)

    @pytest.mark.parametrize("value", NO_COUNT)
    def test_stacked_clients(self, value):
        with pytest.raises(ConfigError, match="^stacked_clients must be"):
            Computation(stacked_clients=value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("precision", "bf16"),
            ("precision", Checkpointing.NONE),
            ("checkpointing", "reentrant"),
            ("checkpointing", True),
            ("gradients", "opacus_hooks"),
            ("gradients", None),
        ],
    )
    def test_a_name_in_the_place_of_a_choice_is_refused_with_the_choices(self, name, value):
        with pytest.raises(ConfigError, match=rf"^{name} must be one of \['\w+', .*, got"):
            Computation(**{name: value})

    @pytest.mark.parametrize("changes", [{"compile": True}, {"stacked_clients": 2}])
    def test_hooks_are_neither_compiled_nor_stacked(self, changes):
        Computation(gradients=GradientMethod.OPACUS_HOOKS)
        with pytest.raises(ConfigError, match="take expanded leaves"):
            Computation(gradients=GradientMethod.OPACUS_HOOKS, **changes)

    def test_non_reentrant_checkpointing_goes_with_everything(self):
        Computation(
            precision=Precision.BF16,
            checkpointing=Checkpointing.NON_REENTRANT,
            compile=True,
            stacked_clients=5,
            cache_frozen_layers=True,
        )


def test_reentrant_checkpointing_is_refused():
    with pytest.raises(ConfigError, match="take 'non_reentrant'"):
        Computation(cache_frozen_layers=True, checkpointing=Checkpointing.REENTRANT)


def test_reentrant_checkpointing_is_not_compiled():
    with pytest.raises(ConfigError, match="reentrant checkpointing cannot be compiled"):
        Computation(compile=True, checkpointing=Checkpointing.REENTRANT)
