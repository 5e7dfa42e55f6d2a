"""How a client follows a run: from an opened sum to the next global state."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.ranges import loudest_over_mean, next_range, range_warning
from privfed.errors import ConfigError
from privfed.methods.averaging import weighted_mean
from privfed.methods.method import GlobalState, Method, Round, SentVector
from privfed.methods.signal_to_noise import signal_to_noise
from privfed.protocol.layout import Layout
from privfed.protocol.participation import Participation
from privfed.reports.round_record import are_figures
from privfed.settings.encryption import FixedPoint, Summation
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a client has come in a run.

    Attributes:
        round: the last round that is over, whether complete or given up; 0 before the first.
        state: the global state.
        base: its SHA-256 (hex).
        public_range: to which updates of the next round are clipped.
    """

    round: int
    state: GlobalState
    base: str
    public_range: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What came of an opened sum.

    Attributes:
        progress: after the round.
        metric_value: of the adapter that the run leaves, on held-out text.
        signal_to_noise: norm of the released mean update over that of its noise; None where that is
            not known.
        figures: what the method shows of the released state, by name.
        note: what the released mean shows to be wrong with the public range; None if nothing is.
    """

    progress: Progress
    metric_value: float
    signal_to_noise: float | None
    figures: Mapping[str, float]
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What every client does alike in a round.

    Attributes:
        method: what is sent, and what comes of the sum.
        training: from which the learning rate of a round is taken.
        steps: private steps of a round, of each client.
        participation: who trains in which round.
        summation: how updates are summed.
        weights: of every client in the mean.
        layout: of the adapter.
        step_noise: standard deviation of the noise in an entry of each client's gradients, where
            an update is their plain sum and the clipping norm is fixed; else None.
        largest_range: the public range from the settings.
        evaluate: the metric of an adapter, shape (params,), on held-out text.
    """

    method: Method
    training: TrainingConfig
    steps: Mapping[str, int]
    participation: Participation
    summation: Summation
    weights: Mapping[str, float]
    layout: Layout
    step_noise: Mapping[str, float] | None
    largest_range: float
    evaluate: Callable[[NDArray[np.float32]], float]

    def round(self, number: int) -> Round:
        """What is public of a round before it is played."""
        rate = self.training.learning_rate_of(number, self.participation.rounds)
        noise = None
        if self.step_noise is not None:
            noise = {
                client: rate * math.sqrt(self.steps[client]) * one
                for client, one in self.step_noise.items()
            }
        return Round(
            number=number,
            steps=self.steps,
            learning_rate=rate,
            weights=self.weights,
            layout=self.layout,
            noise=noise,
        )

    def uploads(self, number: int) -> tuple[SentVector, ...]:
        """What a client sends in a round."""
        return self.method.uploads(self.round(number))

    def after(
        self,
        progress: Progress,
        number: int,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
    ) -> Moved:
        """Move on by the sums of weighted vectors of a round, by the names of `uploads`."""
        round_ = self.round(number)
        state = self.method.next(progress.state, sums, contributors, round_)
        uploads = self.method.uploads(round_)
        means = [
            weighted_mean(sums[one.name] / one.scale, self.weights, contributors) for one in uploads
        ]
        mean = np.concatenate(means)  # in the units of the public range
        masks = [self.method.trains(round_, client) for client in contributors]
        trained = int(np.any(masks, axis=0).sum())
        filled = sum(one.filled or min(one.length, trained) for one in uploads)
        moved = Progress(
            round=number,
            state=state,
            base=state.digest(),
            public_range=self._range_after(mean, filled, round_, contributors),
        )
        return Moved(
            progress=moved,
            metric_value=self.evaluate(self.method.left(state)),
            signal_to_noise=signal_to_noise(
                self.method, progress.state, sums, contributors, round_
            ),
            figures=self._figures(state),
            note=self._note(mean, filled, contributors, progress.public_range),
        )

    def _figures(self, state: GlobalState) -> Mapping[str, float]:
        figures = self.method.figures(state)
        if not are_figures(figures):
            raise ConfigError(
                "the figures of a method must be few Python numbers, finite, from 0 on, by short "
                f"printable names, got {figures!r:.200}"
            )
        return figures

    @property
    def _bits(self) -> int | None:
        return self.summation.bits if isinstance(self.summation, FixedPoint) else None

    def _range_after(
        self, mean: NDArray[np.float64], filled: int, round_: Round, contributors: Sequence[str]
    ) -> float:
        if not self.summation.follow_released:
            return self.largest_range
        noise = round_.noise or {client: math.sqrt(steps) for client, steps in self.steps.items()}
        return next_range(
            mean,
            filled=filled,
            loudest=loudest_over_mean(self.weights, noise, contributors),
            bits=self._bits,
            largest=self.largest_range,
        )

    def _note(
        self,
        mean: NDArray[np.float64],
        filled: int,
        contributors: Sequence[str],
        public_range: float,
    ) -> str | None:
        return range_warning(
            mean,
            filled=filled,
            weights=[self.weights[client] for client in contributors],
            public_range=public_range,
            bits=self._bits,
            deviations=None,
        )
