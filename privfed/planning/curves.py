"""Two curves about one client: epsilon against rounds, and noise against the expected batch."""

from dataclasses import dataclass, replace

from accountants import BudgetExceededError
from privfed.agreement import budget_of
from privfed.errors import ConfigError
from privfed.planning.answer import Answer, calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPoint:
    """What one expected batch asks for.

    Attributes:
        expected_batch_size: B.
        noise_multiplier: sigma that the whole run needs; None if no noise fits the budget.
        noise_of_step: sigma C / B: deviation in an entry of a noised mean gradient; None likewise.
    """

    expected_batch_size: int
    noise_multiplier: float | None
    noise_of_step: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Curves of the client that needs the most noise.

    Attributes:
        client: its name.
        budget: its epsilon.
        rounds: in which it trains.
        expected_batch_size: of the plan.
        epsilon: (rounds, certified epsilon) at the noise of the plan, also beyond its last round.
        noise: at the rounds of the plan, for batches up to the client's public size.
    """

    client: str
    budget: float
    rounds: int
    expected_batch_size: int
    epsilon: tuple[tuple[int, float], ...]
    noise: tuple[BatchPoint, ...]


def curves_of(answer: Answer) -> Curves:
    """Both curves; all numbers are certified, as those of the plan."""
    client = answer.noisiest
    rounds, batch = answer.rounds_of[client.id], answer.expected_batch_size
    shown = sorted({max(1, round(rounds * eighth / 8)) for eighth in (1, 2, 3, 4, 6, 8, 10, 12)})
    batches = sorted({batch, *(max(1, client.size // 2**halvings) for halvings in range(6))})
    return Curves(
        client=client.id,
        budget=budget_of(client, answer.privacy).epsilon,
        rounds=rounds,
        expected_batch_size=batch,
        epsilon=tuple((count, answer.epsilon_after(client, count)) for count in (0, *shown)),
        noise=tuple(_point(answer, size) for size in batches),
    )


def _point(answer: Answer, batch: int) -> BatchPoint:
    privacy, client = replace(answer.privacy, expected_batch_size=batch), answer.noisiest
    try:
        found = calibrated((client,), answer.histories, answer.method, privacy, answer.rounds_of)[
            client.id
        ]
    except (BudgetExceededError, ConfigError):
        return BatchPoint(expected_batch_size=batch, noise_multiplier=None, noise_of_step=None)
    return BatchPoint(
        expected_batch_size=batch,
        noise_multiplier=found,
        noise_of_step=found * privacy.clipping_norm / batch,
    )
