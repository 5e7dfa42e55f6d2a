"""How far the mean update of a round stands out from the noise that clients put into it.

Both are public: the mean is released, and the noise follows from what clients state. A ratio near 1
says that the round moved by little but noise; then larger batches, more clients or more epsilon
help, and more rounds do not.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privfed.methods.averaging import noise_of_mean
from privfed.methods.method import DELTA, GlobalState, Method, Round, Trained


def signal_to_noise(
    method: Method,
    state: GlobalState,
    sums: Mapping[str, NDArray[np.float64]],
    contributors: Sequence[str],
    round_: Round,
) -> float | None:
    """L2 norm of the mean update over the root mean square norm of its noise; unitless.

    With m entries that each client moves and sends, independent noise in each, and its deviation s
    in the mean, noise has the norm s sqrt(m). The mean holds it too: signal of the norm S gives
    sqrt(1 + S^2 / (m s^2)) in expectation of the square. What rounding to few bits adds counts as
    signal.

    Args:
        method: that the round is of.
        state: before the round.
        sums: of the contributors' weighted vectors, by the names of `Method.uploads`.
        contributors: whose vectors are in the sums.
        round_: that was played.

    Returns:
        None where the noise of the mean update is not known: where `Round.noise` is not, there is
        none, updates are not what is sent, or a pull shrinks the noise of the earlier steps.
    """
    if not noise_of_mean(round_, contributors) or round_.noise is None or set(sums) != {DELTA}:
        return None
    correction = method.correction(state, None, contributors[0], round_)
    if correction is not None and correction.pull:
        return None
    parts = [
        round_.weights[client] * round_.noise[client] * _root_of_sent(method, state, client, round_)
        for client in contributors
    ]
    noise = math.hypot(*parts)
    return float(np.linalg.norm(sums[DELTA])) / noise if noise > 0 else None


def _root_of_sent(method: Method, state: GlobalState, client: str, round_: Round) -> float:
    """Of the number of entries that a client moves and sends."""
    ones = method.trains(round_, client).astype(np.float64)
    moved = Trained(received=state, delta=ones, kept=None)
    return float(np.linalg.norm(method.local(moved, client, round_)[DELTA]))
