"""From what is given of a plan to what is open: solved where that has one answer, else by a rule.

Two numbers have no one answer. Epsilon alone says neither how many rounds to take, nor how large a
batch is worth its seconds. The rules below choose them, and the answer says so in words.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from accountants import BudgetExceededError, certified
from accountants.calibration.room import Room
from privfed.agreement import Declaration, budget_of
from privfed.checks import MOST
from privfed.errors import ConfigError
from privfed.planning.answer import Answer, calibrated, most_rounds
from privfed.planning.calibration import releases_of_run
from privfed.planning.signal import signal_of
from privfed.settings.privacy import PrivacyConfig

if TYPE_CHECKING:
    from privfed.planning.plan import Plan

START: Final = 8
"""Rounds where nothing says how many."""

_ROUNDS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_STANDS_OUT: Final = 2.0
"""Longest update over noise; 2.5 in the demo on news."""
_WORTH: Final = 4 / 3
"""A batch twice as large costs twice the gradients, and has to lower the noise by this factor."""
_EPSILON_DIGITS: Final = 4


def answer_of(plan: "Plan") -> Answer:
    """See `Plan.answer`."""
    if not plan.declarations(1):
        raise ConfigError(
            f"minimum = {plan.minimum} leaves out every client; the largest public size is "
            f"{max(plan.sizes.values())}"
        )
    why: dict[str, str] = {}
    batch, rounds = plan.expected_batch_size, plan.rounds
    epsilon = plan.epsilon or _least_epsilon(plan)
    if batch is None and rounds is not None and plan.noise_multiplier is not None:
        batch = _largest_batch(plan, epsilon, rounds)
    elif batch is None:
        batch = _worthwhile_batch(plan, epsilon, rounds or START, why)
    if rounds is None and plan.noise_multiplier is not None:
        rounds = _most_rounds(plan, epsilon, batch)
    elif rounds is None:
        rounds = _rounds_by_rule(plan, epsilon, batch, why)
    return replace(_settled(plan, _taking(plan, batch), epsilon, batch, rounds), why=why)


def _taking(plan: "Plan", batch: int) -> tuple[Declaration, ...]:
    """Who can take part with this batch.

    Raises:
        ConfigError: if nobody can.
    """
    clients = plan.declarations(batch)
    if not clients:
        raise ConfigError(
            f"expected_batch_size = {batch} is larger than every public size, of which the largest "
            f"is {max(plan.sizes.values())}; each record joins a step with probability batch over "
            "size, so lower the batch to at most the size of the smallest client to keep"
        )
    return clients


def _settled(
    plan: "Plan", clients: tuple[Declaration, ...], epsilon: float, batch: int, rounds: int
) -> Answer:
    privacy = plan.privacy(batch, epsilon)
    per_round = min(plan.clients_per_round or len(clients), len(clients))
    times = dict.fromkeys((one.id for one in clients), most_rounds(rounds, per_round, clients))
    histories = {client.id: plan.histories.get(client.id, ()) for client in clients}
    here = {client.id for client in clients}
    answer = Answer(
        clients=clients,
        left_out={name: size for name, size in plan.sizes.items() if name not in here},
        privacy=privacy,
        rounds=rounds,
        rounds_of=times,
        noise_multipliers=calibrated(clients, histories, plan.method, privacy, times),
        histories=histories,
        method=plan.method,
        training=plan.training,
        encryption=plan.encryption,
        clients_per_round=plan.clients_per_round,
        parameters=plan.parameters,
        seconds_per_example=plan.seconds_per_example,
        examples_per_record=plan.examples_per_record,
        min_clients=plan.min_clients,
        why={},
    )
    plan.method.check(plan.training, answer.steps(), rounds)
    return answer


def _noise_of_smallest(plan: "Plan", epsilon: float, batch: int, rounds: int) -> float:
    """Noise multiplier of the client with the fewest records; infinite where none fits."""
    smallest = min(plan.declarations(batch), key=lambda client: client.size)
    try:
        found = _settled(replace(plan, clients_per_round=None), (smallest,), epsilon, batch, rounds)
    except BudgetExceededError:
        return math.inf
    return found.noise_multipliers[smallest.id]


def _worthwhile_batch(plan: "Plan", epsilon: float, rounds: int, why: dict[str, str]) -> int:
    """The smallest public size, halved as long as the noise of a step grows by less than a third.

    The noise of a step is sigma C / B; sigma is that of the smallest client.
    """
    size = min(client.size for client in plan.declarations(1))
    batch = _two_digits(size)
    noise = _noise_of_smallest(plan, epsilon, batch, rounds) / batch
    while (half := _two_digits(batch // 2)) >= 1:
        more = _noise_of_smallest(plan, epsilon, half, rounds) / half
        if not more < _WORTH * noise:
            break
        batch, noise = half, more
    why["expected_batch_size"] = (
        "the smallest public size, halved as long as that raises the noise of a step by less than "
        "a third: a smaller batch costs fewer gradients"
    )
    return batch


def _rounds_by_rule(plan: "Plan", epsilon: float, batch: int, why: dict[str, str]) -> int:
    """The most rounds in which the longest update stands out from the noise; else a start."""
    if plan.parameters is None:
        why["rounds"] = (
            "a start: epsilon alone does not say how many. With --parameters (how many numbers are "
            "trained) the plan compares signal and noise"
        )
        return START
    fitting = [rounds for rounds in _ROUNDS if _stands_out(plan, epsilon, batch, rounds)]
    if not fitting:
        why["rounds"] = (
            "one: even then the longest update that can be is not twice as long as its noise"
        )
        return 1
    why["rounds"] = (
        f"of {_ROUNDS[0]} to {_ROUNDS[-1]}, the most in which the longest update that can be is "
        "at least twice as long as the noise of the mean"
    )
    return fitting[-1]


def _stands_out(plan: "Plan", epsilon: float, batch: int, rounds: int) -> bool:
    """Whether the longest update stands out, if all clients had the noise of the smallest."""
    clients = plan.declarations(batch)
    smallest = min(clients, key=lambda client: client.size)
    alike = tuple(replace(smallest, id=client.id) for client in clients)
    try:
        signal = signal_of(_settled(plan, alike, epsilon, batch, rounds))
    except BudgetExceededError:
        return False
    return signal is None or signal.best_ratio is None or signal.best_ratio >= _STANDS_OUT


def _least_epsilon(plan: "Plan") -> float:
    """What the given noise, batch and rounds cost the client that they cost most; rounded up."""
    batch, rounds, noise = plan.expected_batch_size, plan.rounds, plan.noise_multiplier
    if batch is None or rounds is None or noise is None:
        raise ConfigError("without epsilon all else must be given")
    clients, privacy = _taking(plan, batch), plan.privacy(batch, 1.0)
    times = most_rounds(rounds, min(plan.clients_per_round or len(clients), len(clients)), clients)
    costs = []
    for client in clients:
        events = releases_of_run(client, plan.method, privacy, times, noise)
        history = plan.histories.get(client.id, ())
        bounds = certified.epsilon((*history, *events), plan.delta, privacy.neighbouring)
        costs.append(bounds.upper)
    largest = max(costs) * (1 + 1e-5)
    if not math.isfinite(largest):
        raise ConfigError(f"noise multiplier {noise:g} protects nothing; give more noise")
    digits = _EPSILON_DIGITS - 1 - math.floor(math.log10(largest))
    return math.ceil(largest * 10.0**digits) / 10.0**digits


def _most_rounds(plan: "Plan", epsilon: float, batch: int) -> int:
    """The most rounds in which no client needs more than the given noise."""
    clients, privacy = _taking(plan, batch), plan.privacy(batch, epsilon)
    per_round = min(plan.clients_per_round or len(clients), len(clients))

    def fits(client: Declaration, rounds: int) -> bool:
        return _keeps(plan, client, privacy, most_rounds(rounds, per_round, clients))

    return _largest_for_all(fits, clients, MOST, "not even one round fits", plan, epsilon)


def _largest_batch(plan: "Plan", epsilon: float, rounds: int) -> int:
    """The largest batch at which no client needs more than the given noise in these rounds."""
    clients = plan.declarations(1)
    per_round = min(plan.clients_per_round or len(clients), len(clients))
    times = most_rounds(rounds, per_round, clients)

    def fits(client: Declaration, batch: int) -> bool:
        return _keeps(plan, client, plan.privacy(batch, epsilon), times)

    smallest = min(client.size for client in clients)
    return _largest_for_all(fits, clients, smallest, "not even a batch of 1 fits", plan, epsilon)


def _keeps(plan: "Plan", client: Declaration, privacy: PrivacyConfig, rounds: int) -> bool:
    """Whether a client keeps its budget at the given noise."""
    noise = plan.noise_multiplier or 0.0
    room = Room.after(
        plan.histories.get(client.id, ()), budget_of(client, privacy), privacy.neighbouring, 1
    )
    events = releases_of_run(client, plan.method, privacy, rounds, noise)
    return room.spend(*events) <= room.target


def _largest_for_all(
    fits: Callable[[Declaration, int], bool],
    clients: tuple[Declaration, ...],
    most: int,
    otherwise: str,
    plan: "Plan",
    epsilon: float,
) -> int:
    """The largest number up to `most` that fits every client; what fits is not grown past it.

    Raises:
        BudgetExceededError: if not even 1 fits.
    """
    low, high = 1, 2
    for client in clients:
        if not fits(client, 1):
            raise BudgetExceededError(
                f"the target epsilon {epsilon:g} at delta {plan.delta:g} must leave room at noise "
                f"multiplier {plan.noise_multiplier:g}, and {otherwise} the budget of client "
                f"{client.id!r}; allow more noise or a larger epsilon",
                epsilon=0.0,
                allowed=epsilon,
            )
    while high <= most and all(fits(client, high) for client in clients):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if all(fits(client, middle) for client in clients):
            low = middle
        else:
            high = middle
    return low


def _two_digits(number: int) -> int:
    """A number cut to its first two digits, which a person can remember."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return number // unit * unit
