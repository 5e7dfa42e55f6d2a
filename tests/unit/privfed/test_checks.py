"""Checks of settings name the field, say what came, and show nothing private."""

import pytest

from privfed.checks import (
    is_number,
    require_below_one,
    require_count,
    require_items,
    require_methods,
    require_positive,
    require_type,
    require_within,
)
from privfed.errors import ConfigError
from privfed.settings.privacy import FlatClipping
from tests.unit.privfed.wrong_values import NO_COUNT, NO_NUMBER, NOT_POSITIVE


@pytest.mark.parametrize("value", [*NOT_POSITIVE, None])
def test_a_number_must_be_finite_and_above_zero(value):
    with pytest.raises(ConfigError, match="^second must be a finite number above 0, got"):
        require_positive(first=1.0, second=value)


@pytest.mark.parametrize("value", [1, 1e-300, 1e300])
def test_any_finite_number_above_zero_passes(value):
    require_positive(first=value)


@pytest.mark.parametrize("value", NO_COUNT)
def test_a_count_must_be_a_whole_number_of_at_least_one(value):
    with pytest.raises(ConfigError, match="^second must be a whole number of at least 1, got"):
        require_count(first=1, second=value)


def test_a_count_has_a_limit():
    require_count(7, first=7)
    with pytest.raises(ConfigError, match="^first must be at most 7, got 8"):
        require_count(7, first=8)
    with pytest.raises(ConfigError, match="^first must be at most 9007199254740992"):
        require_count(first=2**53 + 1)


def test_a_type_is_named_and_so_is_what_came():
    require_type(int | None, first=None)
    with pytest.raises(ConfigError, match="^first must be int or None, got 'x'"):
        require_type(int | None, first="x")
    with pytest.raises(
        ConfigError, match=r"must be FlatClipping, got the class FlatClipping; make an object"
    ):
        require_type(FlatClipping, clipping=FlatClipping)


@pytest.mark.parametrize("value", ["ab", 3, None, iter("ab"), {"a"}])
def test_items_stand_in_a_list(value):
    with pytest.raises(ConfigError, match="^first must be a list or tuple of str, got one"):
        require_items(str, first=value)


def test_an_item_of_another_type_is_placed_and_not_shown():
    require_items(int, first=(1, 2))
    with pytest.raises(ConfigError, match="first must hold int only, got str at position 1") as it:
        require_items(int, first=[1, "private words"])
    assert "private" not in str(it.value)


def test_methods_are_those_of_an_object():
    require_methods("strip", first="text")
    with pytest.raises(ConfigError, match="first must be an object with strip, got 3"):
        require_methods("strip", first=3)
    with pytest.raises(ConfigError, match=r"object with strip, got the class str; make an"):
        require_methods("strip", first=str)


@pytest.mark.parametrize("value", [-0.1, 0.7001, float("nan"), float("inf"), *NO_NUMBER, None])
def test_a_number_in_a_range_with_its_ends(value):
    require_within(-0.05, 0.7, first=-0.05, second=0.7)
    with pytest.raises(ConfigError, match=r"^second must be a number in \[-0.05, 0.7\], got"):
        require_within(-0.05, 0.7, first=0, second=value)


@pytest.mark.parametrize("value", [-1e-9, 1.0, 1, 7, float("nan"), *NO_NUMBER, None])
def test_a_share_is_below_one(value):
    require_below_one(first=0, second=0.999)
    with pytest.raises(ConfigError, match=r"^second must be in \[0, 1\), got"):
        require_below_one(first=0.5, second=value)


def test_what_is_a_number():
    assert all(map(is_number, [0, -3, 2.5, float("nan")]))
    assert not any(map(is_number, [*NO_NUMBER, None]))


def test_a_long_value_is_not_shown_in_full():
    with pytest.raises(ConfigError) as caught:
        require_type(int, first="private words " * 1000)
    assert len(str(caught.value)) < 200
