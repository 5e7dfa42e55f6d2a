"""Poisson sampling: every record joins a step independently, with the same public probability."""

import math

import numpy as np
from numpy.typing import NDArray

from privfed.client.randomness import RandomStream
from privfed.errors import ConfigError


def poisson_sample(stream: RandomStream, num_records: int, sample_rate: float) -> NDArray[np.int64]:
    """Indices of the records that join one step.

    A record joins if its 64-bit word lies below floor(q * 2^64), so the chance is at most q and
    the accountant's q is never below the truth. An empty draw is a valid draw.

    Args:
        stream: secret coins.
        num_records: the true number of records, >= 0.
        sample_rate: q, in (0, 1].

    Returns:
        Increasing indices, shape (drawn,).
    """
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate must be in (0, 1], got {sample_rate!r}")
    words = stream.words(num_records)
    if sample_rate == 1:
        return np.arange(num_records, dtype=np.int64)
    threshold = np.uint64(math.floor(sample_rate * 2.0**64))
    return np.flatnonzero(words < threshold).astype(np.int64)
