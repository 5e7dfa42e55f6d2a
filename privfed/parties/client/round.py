"""How a client follows a run: from an opened sum to the next adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.ranges import next_range, range_warning
from privfed.methods.averaging import weighted_mean
from privfed.methods.tail_averaging import TailAveraging
from privfed.models.vector import vector_digest
from privfed.protocol.ciphers import Strategy
from privfed.settings.encryption import FixedPoint, Summation


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a client has come in a run.

    Attributes:
        round: the last round that is over, whether complete or given up; 0 before the first.
        state: the global adapter, shape (params,).
        base: its SHA-256 (hex).
        average: of the adapters of past rounds, shape (params,); None where none is kept.
        averaged: how many rounds are in the average.
        public_range: to which updates of the next round are clipped.
    """

    round: int
    state: NDArray[np.float32]
    base: str
    average: NDArray[np.float32] | None
    averaged: int
    public_range: float

    @property
    def released(self) -> NDArray[np.float32]:
        """What the run leaves if it ends here, shape (params,)."""
        return self.state if self.average is None else self.average


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What came of an opened sum.

    Attributes:
        progress: after the round.
        figure: of the adapter that the run leaves, on held-out text.
        note: what the released mean shows to be wrong with the public range; None if nothing is.
    """

    progress: Progress
    figure: float
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How every client moves on after a round; all come to the same.

    Attributes:
        strategy: from the mean update to the next adapter.
        averaging: of past adapters into the one that the run leaves; None leaves the newest.
        summation: how updates are summed.
        weights: of every client in the mean.
        largest_range: the public range from the settings.
        evaluate: the figure of an adapter, shape (params,), on held-out text.
    """

    strategy: Strategy
    averaging: TailAveraging | None
    summation: Summation
    weights: Mapping[str, float]
    largest_range: float
    evaluate: Callable[[NDArray[np.float32]], float]

    def after(
        self,
        progress: Progress,
        number: int,
        total: NDArray[np.float64],
        contributors: Sequence[str],
    ) -> Moved:
        """Move on by the sum of weighted updates, shape (params,), of a round."""
        mean = weighted_mean(total, self.weights, contributors)
        state = self.strategy.next_state(progress.state, mean)
        average, averaged = progress.average, progress.averaged
        if self.averaging is not None and self.averaging.counts(number):
            before = state if average is None else average
            average, averaged = self.averaging.with_next(before, averaged, state), averaged + 1
        moved = Progress(
            round=number,
            state=state,
            base=vector_digest(state),
            average=average,
            averaged=averaged,
            public_range=self._range_after(mean, len(contributors)),
        )
        return Moved(
            progress=moved,
            figure=self.evaluate(moved.released),
            note=self._note(mean, contributors, progress.public_range),
        )

    def _range_after(self, mean: NDArray[np.float64], clients: int) -> float:
        if not self.summation.follow_released:
            return self.largest_range
        return next_range(mean, clients, self.largest_range)

    def _note(
        self, mean: NDArray[np.float64], contributors: Sequence[str], public_range: float
    ) -> str | None:
        return range_warning(
            mean,
            weights=[self.weights[client] for client in contributors],
            public_range=public_range,
            bits=self.summation.bits if isinstance(self.summation, FixedPoint) else None,
            deviations=None,
        )
