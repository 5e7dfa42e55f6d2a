"""What is known to go wrong with settings like these, in sentences: what holds, and what to do."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from accountants import NoisedCount
from privfed.agreement import budget_of, range_from_public_settings
from privfed.encryption.fixedpoint import step
from privfed.encryption.ranges import CUT_OFF
from privfed.methods.scaffold import Scaffold
from privfed.methods.wrapped import Wrapped
from privfed.planning.answer import Answer
from privfed.planning.signal import signal_of, step_noise
from privfed.settings.encryption import FixedPoint

_MANY_TIMES: Final = 2.0
"""Noise over that of the middle client, from which on one client drowns what others send."""
_HARDLY: Final = 10.0
_MOST_NAMED: Final = 3


def cautions_of(answer: Answer) -> tuple[str, ...]:
    """All that apply, the gravest first."""
    guarantees = (_few_clients, _left_out, _delta, _epsilon)
    usefulness = (_noisy, _small, _signal, _steps_too_wide, _cut_off, _scaffold)
    return tuple(sentence for rule in (*guarantees, *usefulness) for sentence in rule(answer))


def _few_clients(answer: Answer) -> Iterator[str]:
    if len(answer.clients) < answer.min_clients:
        yield (
            f"{len(answer.clients)} client(s) are too few: a run needs at least "
            f"{answer.min_clients}, or who contributes could subtract itself and see the others."
        )


def _left_out(answer: Answer) -> Iterator[str]:
    batch = answer.expected_batch_size
    small = [name for name, size in answer.left_out.items() if size < batch]
    if small:
        yield (
            f"{_named(small)} must be left out: a run refuses a public size below the expected "
            f"batch of {batch:,}. Lower the batch, or leave them out with --minimum {batch}."
        )


def _delta(answer: Answer) -> Iterator[str]:
    for client in answer.clients:
        delta = budget_of(client, answer.privacy).delta
        if delta >= 1 / client.size:
            yield (
                f"delta {delta:g} of {client.id} is not below 1 / public size = "
                f"{1 / client.size:.2g}: it allows that one whole record is disclosed. Take a "
                "smaller delta."
            )
            return


def _epsilon(answer: Answer) -> Iterator[str]:
    weak = [c for c in answer.clients if budget_of(c, answer.privacy).epsilon > _HARDLY]
    if weak:
        largest = max(budget_of(client, answer.privacy).epsilon for client in weak)
        yield (
            f"epsilon {largest:g} is hardly a guarantee: whoever looks may grow e^{largest:g} "
            "times surer that a record was there. Aim at 10 or less."
        )


def _noisy(answer: Answer) -> Iterator[str]:
    noise = answer.noise_multipliers
    middle = statistics.median(noise.values())
    loud = [name for name, one in noise.items() if one > _MANY_TIMES * middle]
    if loud:
        most = max(noise[name] for name in loud) / middle
        yield (
            f"{_named(loud)} add(s) up to {most:.1f} times the noise of the middle client to the "
            "mean of all, having fewer records, a smaller budget or a longer history. Leave them "
            "out with --minimum, or lower the batch."
        )


def _small(answer: Answer) -> Iterator[str]:
    smallest = min(answer.clients, key=lambda client: client.size)
    typical = statistics.median(client.size for client in answer.clients)
    if smallest.size * 4 < typical and answer.expected_batch_size > smallest.size / 2:
        yield (
            f"{smallest.id} with {smallest.size:,} records holds the batch of all down; half of "
            f"the clients have {typical:,.0f} or more. See what --minimum changes."
        )


def _signal(answer: Answer) -> Iterator[str]:
    signal = signal_of(answer)
    if signal is not None and signal.best_ratio is not None and signal.best_ratio < 1:
        yield (
            f"noise is {1 / signal.best_ratio:.2g} times as long as the longest update can be: "
            "such rounds move by little but noise. Take larger batches, fewer rounds, fewer "
            "trained parameters, more clients or more epsilon."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """How the public range fits the noise that clients send.

    Attributes:
        encryption: bits, and whether later rounds follow what was released.
        public_range: values are clipped to it.
        least: deviation of the noise in an entry of the quietest client.
        most: of the loudest.
    """

    encryption: FixedPoint
    public_range: float
    least: float
    most: float


def _fit(answer: Answer) -> _Fit | None:
    """None where noise is not known, or values are not rounded."""
    encryption, training = answer.encryption, answer.training
    per_step = step_noise(answer.privacy, training, answer.noise_multipliers)
    if per_step is None or not isinstance(encryption, FixedPoint):
        return None
    steps, sizes = answer.steps(), {client.id: client.size for client in answer.clients}
    weights = answer.method.weights(sizes, steps)
    rate = training.learning_rate_of(1, answer.rounds)
    sent = [weights[c] * rate * math.sqrt(steps[c]) * one for c, one in per_step.items()]
    derived = range_from_public_settings(
        answer.privacy, training, answer.noise_multipliers, steps, weights, answer.min_clients
    )
    return _Fit(
        encryption=encryption,
        public_range=encryption.public_range or derived,
        least=min(sent),
        most=max(sent),
    )


def _steps_too_wide(answer: Answer) -> Iterator[str]:
    fit = _fit(answer)
    if fit is None or fit.encryption.follow_released:
        return
    unit = step(fit.public_range, fit.encryption.bits)
    if unit > fit.least:
        yield (
            f"the public range +-{fit.public_range:.3g} in {fit.encryption.bits} bits has steps of "
            f"{unit:.2g}, more than the noise {fit.least:.2g} of a client in an entry: rounding "
            "drowns updates. Set follow_released, more bits, or a narrower public_range."
        )


def _cut_off(answer: Answer) -> Iterator[str]:
    fit = _fit(answer)
    if fit is not None and fit.most > CUT_OFF * fit.public_range:
        yield (
            f"the public range +-{fit.public_range:.3g} cuts off a part of what clients send, "
            f"whose noise alone is {fit.most:.2g} in an entry. Set a wider public_range, or leave "
            "it out."
        )


def _scaffold(answer: Answer) -> Iterator[str]:
    inside = answer.method.innermost if isinstance(answer.method, Wrapped) else answer.method
    if isinstance(inside, Scaffold) and set(answer.steps().values()) == {1}:
        yield (
            "SCAFFOLD with one step in a round is FedAvg: its variates correct a drift between "
            "steps. Take more steps_per_round, or fedavg."
        )


def _named(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def not_counted(answer: Answer) -> str:
    """What was released before, as far as the plan knows."""
    sizes = sum(isinstance(e, NoisedCount) for past in answer.histories.values() for e in past)
    counted = [name for name, past in answer.histories.items() if past]
    if not counted:
        return (
            "No ledger was found or read: what earlier runs released of the same data counts "
            "against the same epsilon, and leaves less."
        )
    release = ", the release of their sizes included" if sizes else ""
    return (
        f"What was released before is counted for {_named(counted)}{release}; for the others "
        "nothing was found."
    )
