"""The average of released adapters is the weighted mean that the settings say."""

import numpy as np
import pytest

from privfed import TailAveraging
from privfed.errors import ConfigError


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.2])
def test_it_is_the_mean_with_weights_that_decay_with_age(decay):
    states = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    rule = TailAveraging(decay=decay)
    average = states[0]
    for counted, state in enumerate(states):
        average = rule.with_next(average, counted, state)
    weights = decay ** np.arange(6, -1, -1.0)
    np.testing.assert_allclose(average, weights @ states / weights.sum(), rtol=1e-5, atol=1e-6)
    assert average.dtype == np.float32


def test_the_first_round_that_counts_is_taken_whole():
    before, state = np.zeros(3, np.float32), np.ones(3, np.float32)
    np.testing.assert_array_equal(TailAveraging(decay=0.5).with_next(before, 0, state), state)


def test_rounds_before_the_first_do_not_count():
    rule = TailAveraging(first_round=3)
    assert [number for number in range(1, 6) if rule.counts(number)] == [3, 4, 5]


@pytest.mark.parametrize("values", [{"decay": 0.0}, {"decay": 1.1}, {"first_round": 0}])
def test_values_out_of_range_are_named(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        TailAveraging(**values)
