"""The public range that updates are clipped to: the next one, and whether it fits.

Every value that is sent is clipped to the range and rounded to a step of it. A range that is too
small cuts values off; one that is too wide makes the step larger than the values, and rounding adds
more noise than the clients did. Neither changes a guarantee, both waste the budget. With few bits
little room is left between the two. The released mean is public, and so is the noise that clients
add: what is worked out from them tells nothing new.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.fixedpoint import max_magnitude, step
from privfed.errors import ConfigError

RANGE: Final = "the public range"
"""How every warning begins."""

CUT_OFF: Final = 0.4
"""Deviation over range from which on more than 1 % of normal values lie beyond the range."""
_AT_THE_END: Final = 0.95
"""Share of the largest possible sum from which on a coordinate counts as cut off by all clients."""
_FEW: Final = 1e-3
"""Share of coordinates that may be cut off by all clients."""
_DEVIATIONS: Final = 6.0
_HEADROOM: Final = 1.5
_FINE: Final = 0.75
"""Step over deviation at which rounding adds no more than a tenth to the variance: 0.75^2 / 6."""
_SIGNIFICANT_BITS: Final = 12


def next_range(
    mean: NDArray[np.float64], *, filled: int, loudest: float, bits: int | None, largest: float
) -> float:
    """The public range of the next round, from the mean that this round released.

    The noise of one client's update is that of the mean times `loudest`. The range leaves room for
    its largest coordinate and for six standard deviations, less where the step would then be
    too wide, and never grows beyond what the public settings give. It is rounded up to 12
    significant bits, so that clients whose processors add in another order come to the same.

    Args:
        mean: released mean update, shape (params,).
        filled: how many of its coordinates clients may fill; the others are zero.
        loudest: as `loudest_over_mean` has it.
        bits: of one quantised value; None for floats, which have no step.
        largest: the range from public settings.
    """
    peak = _HEADROOM * float(np.abs(mean).max())
    deviation = loudest * math.sqrt(float(np.square(mean).sum()) / filled)
    narrowed = max(loudest * peak, _DEVIATIONS * deviation)
    if bits is not None:
        narrowed = max(peak, min(narrowed, _FINE * max_magnitude(bits) * deviation))
    return min(largest, _rounded_up(narrowed)) if narrowed > 0 else largest


def first_range(
    weights: Mapping[str, float], noise: Mapping[str, float], *, bits: int, largest: float
) -> float:
    """The public range of the first round, where later ones follow what is released.

    The range from public settings leaves room for the largest move there could be. In few bits its
    steps are then wider than all that clients send. So it is no wider than rounding allows for,
    beside the noise of the loudest update: what lies beyond it is cut off for one round, and the
    next range has grown by then.

    Args:
        weights: of every client.
        noise: standard deviation in an entry of their updates before their weights.
        bits: of one quantised value.
        largest: the range from public settings.
    """
    loudest = max(weight * noise[client] for client, weight in weights.items())
    return min(largest, _rounded_up(_FINE * max_magnitude(bits) * loudest))


def loudest_over_mean(
    weights: Mapping[str, float], noise: Mapping[str, float], contributors: Sequence[str]
) -> float:
    """Deviation of the noise in the loudest weighted update over that in the mean of a round.

    For clients alike, of weight 1, that is the square root of the number of contributors.

    Args:
        weights: of every client: the loudest may train in the next round, and not in this one.
        noise: of their updates before their weights, in any unit.
        contributors: whose updates are in the mean.
    """
    weighted = {client: weight * noise[client] for client, weight in weights.items()}
    together = math.hypot(*(weighted[client] for client in contributors))
    return max(weighted.values()) * math.fsum(weights[one] for one in contributors) / together


def _rounded_up(value: float) -> float:
    digits, exponent = math.frexp(value)
    return math.ldexp(
        math.ceil(math.ldexp(digits, _SIGNIFICANT_BITS)), exponent - _SIGNIFICANT_BITS
    )


def range_warning(
    mean: NDArray[np.floating],
    *,
    filled: int,
    weights: Sequence[float],
    public_range: float,
    bits: int | None,
    deviations: Sequence[float] | None,
) -> str | None:
    """What is wrong with the public range, with the range to choose; None if nothing is.

    Args:
        mean: released mean update of a round, shape (params,).
        filled: how many of its coordinates clients may fill; the others are zero.
        weights: of the contributors in the mean.
        public_range: of the round; each contributor's weighted update was clipped to it.
        bits: of one quantised value; None for floats, which have no step.
        deviations: of the noise in one coordinate of each contributor's update, before its weight,
            in the order of `weights`; see `noise_of_update`. None where it is not known: what the
            mean shows is then taken for noise.
    """
    if deviations is not None and len(deviations) != len(weights):
        raise ConfigError(f"{len(weights)} weights need as many deviations, got {len(deviations)}")
    sums = np.abs(np.asarray(mean, dtype=np.float64)) * math.fsum(weights)
    smallest, largest = _sent(float(np.square(sums).sum()) / filled, weights, deviations)
    common = float(sums.max(initial=0.0)) / len(weights)
    fitting = _DEVIATIONS * largest + common
    if bits is not None:
        fitting = min(fitting, _FINE * max_magnitude(bits) * smallest)
    at_the_end = np.count_nonzero(sums >= _AT_THE_END * len(weights) * public_range)
    if at_the_end > _FEW * filled or largest > CUT_OFF * public_range:
        return (
            f"{RANGE} +-{public_range:.3g} cuts off a part of what clients send (its "
            f"deviation is at least {largest:.2g} a coordinate); set public_range to "
            f"{max(fitting, 2 * public_range):.2g}, or leave it out and set follow_released"
        )
    if bits is not None and 0 < smallest < step(public_range, bits):
        unit = step(public_range, bits)
        # Rounding alone shows peaks of up to a step: only what is beyond was surely sent.
        fits = fitting >= max(common - unit, largest / CUT_OFF)
        advice = f"public_range to {fitting:.2g}, or follow_released" if fits else "more bits"
        return (
            f"{RANGE} +-{public_range:.3g} in {bits} bits has steps of {unit:.2g}, more than the "
            f"deviation {smallest:.2g} of what a client sends in a coordinate: rounding drowns it; "
            f"set {advice}"
        )
    return None


def noise_of_update(
    *,
    noise_multiplier: float,
    clipping_norm: float,
    expected_batch_size: int,
    steps: int,
    learning_rate: float,
    momentum: float = 0.0,
) -> float:
    """Standard deviation of the noise in one coordinate of a client's update, by SGD.

    Args:
        noise_multiplier: sigma.
        clipping_norm: C.
        expected_batch_size: B.
        steps: in the round.
        learning_rate: of the round.
        momentum: within the round, in [0, 1): the noise of a step moves all steps after it, too.
    """
    moves = [math.fsum(momentum**later for later in range(left + 1)) for left in range(steps)]
    one = noise_multiplier * clipping_norm / expected_batch_size
    return learning_rate * one * math.sqrt(math.fsum(move**2 for move in moves))


def _sent(
    square: float, weights: Sequence[float], deviations: Sequence[float] | None
) -> tuple[float, float]:
    """Deviation in a coordinate of what the quietest and the loudest contributor sent.

    Args:
        square: mean square of a coordinate of their sum.
        weights: theirs.
        deviations: of the noise of each; None if not known.
    """
    if deviations is None:
        alike = math.sqrt(square / len(weights))
        return alike, alike
    noise = [weight * deviation for weight, deviation in zip(weights, deviations, strict=True)]
    left = square - math.fsum(one**2 for one in noise)
    common = math.sqrt(max(0.0, left)) / len(weights)  # what all of them sent alike
    return math.hypot(min(noise), common), math.hypot(max(noise), common)
