"""A range that cuts off or drowns what clients send is seen in the released mean."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from privfed.encryption.fixedpoint import decode, encode, max_magnitude, step
from privfed.encryption.ranges import (
    loudest_over_mean,
    next_range,
    noise_of_update,
    range_warning,
)
from privfed.errors import ConfigError

PARAMS = 20_000
WEIGHTS = (1.0, 0.5, 0.8)
DEVIATIONS = (0.02, 0.03, 0.01)


def released(public_range, bits, weights=WEIGHTS, deviations=DEVIATIONS, common=0.0):
    """The mean that a round with this range releases."""
    random = np.random.default_rng(3)
    total = np.zeros(PARAMS)
    shared = common * random.normal(size=PARAMS)
    for weight, deviation in zip(weights, deviations, strict=True):
        update = weight * (shared + deviation * random.normal(size=PARAMS))
        numbers = encode(
            update, public_range=public_range, bits=bits, uniforms=random.random(PARAMS)
        )
        total += decode(numbers, public_range=public_range, bits=bits)
    return total / sum(weights)


def warning(public_range, bits=10, known=True, **settings):
    settings = {"weights": WEIGHTS, "deviations": DEVIATIONS, **settings}
    mean = released(public_range, bits, **settings)
    return range_warning(
        mean,
        filled=PARAMS,
        weights=settings["weights"],
        public_range=public_range,
        bits=bits,
        deviations=settings["deviations"] if known else None,
    )


def proposed(text):
    return float(re.search(r"public_range to ([0-9.e+-]+),", text).group(1))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("public_range", [0.1, 0.15, 0.3])
def test_a_range_that_fits_is_not_spoken_of(public_range, known):
    assert warning(public_range, known=known) is None


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("public_range", [0.001, 0.01, 0.02])
def test_a_range_that_cuts_off_is_named_until_the_proposed_one_fits(public_range, known):
    text = warning(public_range, known=known)
    assert text.startswith(f"the public range +-{public_range:.3g} cuts off")
    for _ in range(12):
        public_range = proposed(text)
        text = warning(public_range, known=known)
        if text is None:
            break
        assert "cuts off" in text
    assert text is None
    assert (0.05 if known else 0.04) < public_range < 0.5


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("public_range", [10.0, 40.0, 4000.0])
def test_a_range_that_drowns_is_named_until_the_proposed_one_fits(public_range, known):
    assert step(public_range, 10) > 0.016
    text = warning(public_range, known=known)
    assert "in 10 bits has steps of" in text
    for _ in range(12):
        assert proposed(text) < public_range
        public_range = proposed(text)
        text = warning(public_range, known=known)
        if text is None:
            break
    assert text is None
    assert step(public_range, 10) < 0.02


def test_more_bits_have_smaller_steps_and_floats_have_none():
    assert warning(20.0, bits=10) is not None
    assert warning(20.0, bits=16) is None
    mean = released(20.0, 10)
    settings = {
        "filled": PARAMS,
        "weights": WEIGHTS,
        "public_range": 20.0,
        "deviations": DEVIATIONS,
    }
    assert range_warning(mean, bits=None, **settings) is None
    assert range_warning(mean, bits=10, **settings) is not None


def test_what_all_clients_send_alike_is_not_taken_for_noise():
    """Sums of 40 equal updates are 40 times one of them, not sqrt(40) times."""
    crowd = {"weights": (1.0,) * 40, "deviations": (0.002,) * 40, "common": 0.02}
    assert warning(0.12, **crowd) is None
    assert "cuts off" in warning(0.03, **crowd)


def test_a_few_large_coordinates_are_seen():
    """The rest of the mean is quiet: no deviation shows it."""
    mean = np.full(PARAMS, 1e-4)
    mean[:100] = 0.5 * 3 / sum(WEIGHTS)
    settings = {
        "filled": PARAMS,
        "weights": WEIGHTS,
        "public_range": 0.5,
        "bits": 12,
        "deviations": (0.01,) * 3,
    }
    assert "cuts off" in range_warning(mean, **settings)
    mean[15:100] = 1e-4
    assert range_warning(mean, **settings) is None


def test_a_mean_of_nothing_is_not_spoken_of():
    settings = {"weights": WEIGHTS, "public_range": 0.5, "bits": 12, "deviations": None}
    assert range_warning(np.zeros(5), filled=5, **settings) is None


def test_weights_and_deviations_belong_together():
    with pytest.raises(ConfigError, match="3 weights need as many deviations, got 2"):
        range_warning(
            np.zeros(5), filled=5, weights=WEIGHTS, public_range=0.5, bits=12, deviations=(0.1, 0.2)
        )


ALIKE = {"weights": (1.0,) * 4, "deviations": (0.02,) * 4}


class TestFewBits:
    """With 4 bits M is 7, so that a range of 7 deviations has steps of one."""

    @pytest.mark.parametrize(
        ("public_range", "says"), [(0.04, "cuts off"), (0.105, None), (0.18, "drowns")]
    )
    def test_little_room_is_left_between_the_two(self, public_range, says):
        """2, 5.25 and 9 deviations; in 8 bits the widest of them is fine."""
        text = warning(public_range, bits=4, known=False, **ALIKE)
        assert text is None if says is None else says in text
        assert warning(0.18, bits=8, known=False, **ALIKE) is None

    @pytest.mark.parametrize("bits", [4, 5, 6, 7])
    @pytest.mark.parametrize("public_range", [0.001, 0.03, 0.3, 10.0, 4000.0])
    def test_the_proposed_range_fits(self, bits, public_range):
        """Whatever the range of a round, a few proposals later nothing is wrong."""
        for _ in range(16):
            text = warning(public_range, bits=bits, known=False, **ALIKE)
            if text is None:
                break
            public_range = proposed(text)
        assert text is None
        assert step(public_range, bits) < 0.022 < 0.4 * public_range

    @given(bits=st.integers(4, 12), steps=st.floats(0.05, 40.0), weight=st.floats(0.1, 1.0))
    @hypothesis_settings(max_examples=30)
    def test_rounding_that_adds_more_than_the_noise_is_always_spoken_of(self, bits, steps, weight):
        """As variances of the sum: one is p (1 - p) step^2 for a fraction p, the other DP's."""
        random, weights = np.random.default_rng(7), (1.0, weight, weight)
        public_range = steps * 0.02 * max_magnitude(bits)
        exact = [0.02 * each * random.normal(size=PARAMS) for each in weights]
        sent = [
            decode(
                encode(one, public_range=public_range, bits=bits, uniforms=random.random(PARAMS)),
                public_range=public_range,
                bits=bits,
            )
            for one in exact
        ]
        added = np.mean(np.square(sum(sent) - sum(exact)))
        text = range_warning(
            sum(sent) / sum(weights),
            filled=PARAMS,
            weights=weights,
            public_range=public_range,
            bits=bits,
            deviations=None,
        )
        if added > np.mean(np.square(sum(exact))):
            assert text is not None

    def test_what_no_range_of_so_few_bits_holds_asks_for_more(self):
        """Peaks of 40 deviations beside quiet entries: they are cut off, or the rest is drowned."""
        mean = np.random.default_rng(5).normal(size=PARAMS) * 0.02 / math.sqrt(3)
        mean[:15] = 0.8
        asked = {"filled": PARAMS, "weights": (1.0,) * 3, "deviations": None}
        text = range_warning(mean, public_range=1.0, bits=4, **asked)
        assert text.endswith("rounding drowns it; set more bits")
        assert range_warning(mean, public_range=1.0, bits=8, **asked) is None

    def test_entries_that_nobody_fills_are_not_taken_for_quiet_ones(self):
        """Three quarters of zeros halve the deviation that all entries together show."""
        mean = np.zeros(4 * PARAMS)
        mean[:PARAMS] = released(0.105, 4, **ALIKE)
        asked = {"weights": ALIKE["weights"], "public_range": 0.105, "bits": 4, "deviations": None}
        assert range_warning(mean, filled=PARAMS, **asked) is None
        assert "drowns" in range_warning(mean, filled=4 * PARAMS, **asked)


class TestTheNextRange:
    def asked(self, **changes):
        values = {"filled": 4, "loudest": 3.0, "bits": 12, "largest": 1000.0}
        return {**values, **changes}

    def test_by_hand(self):
        """Root mean square 2.5, so 7.5 in one client's update; six of it, and 1.5 x 3 x 4 is less.

        In 4 bits 0.75 x 7 = 5.25 of it. Peaks of 4 in the mean need 1.5 x 4 in any case.
        """
        mean = np.array([0.0, 3.0, -4.0, 0.0])
        assert next_range(mean, **self.asked()) == 45.0
        assert next_range(mean, **self.asked(bits=None)) == 45.0
        assert next_range(mean, **self.asked(bits=4)) == 39.375
        assert next_range(mean, **self.asked(bits=4, largest=20.0)) == 20.0

    def test_a_peak_that_all_send_stays_within(self):
        """Of 400 entries one is 16: the deviation is 2.4, and 5.25 of it would cut that off."""
        mean = np.zeros(400)
        mean[7] = 16.0
        assert next_range(mean, **self.asked(filled=400)) == 72.0
        assert next_range(mean, **self.asked(filled=400, bits=4)) == 24.0

    def test_entries_that_nobody_fills_do_not_count(self):
        mean = np.array([3.0, -4.0, 0.0, 0.0])
        found = next_range(mean, **self.asked(filled=2, bits=4))
        assert found == pytest.approx(5.25 * 3 * math.sqrt(12.5), rel=2**-11)

    def test_where_nothing_moved_it_stays(self):
        assert next_range(np.zeros(4), **self.asked()) == 1000.0

    @pytest.mark.parametrize("bits", [4, 6, 8])
    def test_following_it_fits_after_a_few_rounds(self, bits):
        """From a range 1000 times too wide, by the means that rounds release."""
        public_range = 120.0
        for _ in range(8):
            mean = released(public_range, bits, **ALIKE)
            public_range = next_range(mean, filled=PARAMS, loudest=2.0, bits=bits, largest=120.0)
        assert 0.09 < public_range < 0.2
        assert warning(public_range, bits=bits, known=False, **ALIKE) is None


def test_the_loudest_of_unequal_clients_by_hand():
    """3 and 4 have the norm 5, over the weights' sum 1.5: the mean has 10/3, the loudest 4.

    One that was not drawn may be louder, with 6.
    """
    weights, noise = {"a": 1.0, "b": 0.5, "c": 0.25}, {"a": 3.0, "b": 8.0, "c": 8.0}
    assert loudest_over_mean(weights, noise, ["a", "b"]) == pytest.approx(1.2)
    assert loudest_over_mean(weights, {**noise, "c": 24.0}, ["a", "b"]) == pytest.approx(1.8)
    alike = dict.fromkeys("abcdefghi", 1.0)
    assert loudest_over_mean(alike, alike, list(alike)) == pytest.approx(3.0)


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.0), (3, 0.0), (4, 0.9)])
def test_the_noise_of_an_update_is_that_of_its_steps(steps, momentum):
    """Golden: the optimiser of torch on noise alone."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    moved = torch.nn.Parameter(torch.zeros(200_000, dtype=torch.float64))
    optimizer = torch.optim.SGD([moved], lr=0.3, momentum=momentum)
    for _ in range(steps):
        noise = torch.randn(200_000, generator=generator, dtype=torch.float64)
        moved.grad = 1.7 * 0.5 * noise / 8
        optimizer.step()
    found = noise_of_update(
        noise_multiplier=1.7,
        clipping_norm=0.5,
        expected_batch_size=8,
        steps=steps,
        learning_rate=0.3,
        momentum=momentum,
    )
    assert float(moved.detach().std()) == pytest.approx(found, rel=0.01)
    if (steps, momentum) == (3, 0.0):
        assert found == pytest.approx(0.3 * 1.7 * 0.5 / 8 * math.sqrt(3))
