"""A range that cuts off or drowns what clients send is seen in the released mean."""

import math
import re

import numpy as np
import pytest

from privfed.encryption.fixedpoint import decode, encode, step
from privfed.encryption.ranges import noise_of_update, range_warning
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
    settings = {"weights": WEIGHTS, "public_range": 20.0, "deviations": DEVIATIONS}
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
    settings = {"weights": WEIGHTS, "public_range": 0.5, "bits": 12, "deviations": (0.01,) * 3}
    assert "cuts off" in range_warning(mean, **settings)
    mean[15:100] = 1e-4
    assert range_warning(mean, **settings) is None


def test_a_mean_of_nothing_is_not_spoken_of():
    settings = {"weights": WEIGHTS, "public_range": 0.5, "bits": 12, "deviations": None}
    assert range_warning(np.zeros(5), **settings) is None


def test_weights_and_deviations_belong_together():
    with pytest.raises(ConfigError, match="3 weights need as many deviations, got 2"):
        range_warning(
            np.zeros(5), weights=WEIGHTS, public_range=0.5, bits=12, deviations=(0.1, 0.2)
        )


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
