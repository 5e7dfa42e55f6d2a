"""A public random part of a vector, drawn anew for every round: the same for everybody."""

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json
from privfed.methods.method import Round


def thinned(mask: NDArray[np.bool_], share: float, round_: Round) -> NDArray[np.bool_]:
    """A share of the entries of a mask, rounded up.

    What is sent does not depend on anybody's data, so that sums of ciphertexts go on adding up.

    Args:
        mask: from which is drawn, shape (params,).
        share: in (0, 1].
        round_: that is played.

    Returns:
        Shape (params,).

    Reference:
        Konečný et al. 2016, arXiv:1610.05492, section 2 (random mask).
    """
    if share == 1:
        return mask
    among = np.flatnonzero(mask)
    chosen = _drawn(
        len(among), math.ceil(share * len(among)), round_.number, round_.layout.digest()
    )
    part = np.zeros_like(mask)
    part[among[chosen]] = True
    return part


@lru_cache(maxsize=4)
def _drawn(among: int, count: int, number: int, layout: str) -> NDArray[np.intp]:
    """Who has the smallest of 64 random bits each; drawn bits are the same on every machine."""
    seed = canonical_json(["privfed upload share 1", number, layout])
    bits = np.frombuffer(hashlib.shake_256(seed).digest(8 * among), dtype="<u8")
    return np.argsort(bits, kind="stable")[:count]
