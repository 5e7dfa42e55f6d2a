"""Poisson sampling: every record joins a step independently, with the same public probability."""

import math

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError
from privfed.private_step.randomness import RandomStream


def poisson_sample(stream: RandomStream, num_records: int, sample_rate: float) -> NDArray[np.int64]:
    """Indices of the records that join one step.

    A record joins if its 64-bit word lies below floor(q * 2^64), so the chance is at most q and
    the accountant's q is never below the truth. Of the words only the bytes that decide are drawn,
    about one per record: a million records take a millisecond. An empty draw is a valid draw.

    Args:
        stream: secret randomness.
        num_records: the true number of records, >= 0.
        sample_rate: q, in (0, 1].

    Returns:
        Increasing indices, shape (drawn,).
    """
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate must be in (0, 1], got {sample_rate!r}")
    undecided = np.arange(num_records, dtype=np.int64)
    if sample_rate == 1:
        return undecided
    joined = []
    for digit in math.floor(sample_rate * 2.0**64).to_bytes(8, "big"):
        drawn = np.frombuffer(stream.raw(len(undecided)), dtype=np.uint8)
        joined.append(undecided[drawn < digit])
        undecided = undecided[drawn == digit]
    return np.sort(np.concatenate(joined))
