"""The noise that each client's budget asks for: a run calibrates it, and a plan foretells it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from accountants import BudgetExceededError, Event, epsilon, noise_multiplier_of
from privfed.agreement import Declaration, budget_of, private_steps_of, steps_of
from privfed.methods.method import Method
from privfed.settings.privacy import PrivacyConfig

_SMALLEST_SHARE: Final = 0.01
"""A run that could spend less than this share of a budget would drown in noise: refused."""

_LESS: Final = (
    "plan fewer rounds or steps_per_round, agree on a larger budget, or leave the client out"
)


def releases_of_run(
    client: Declaration,
    method: Method,
    privacy: PrivacyConfig,
    rounds: int,
    noise_multiplier: float,
) -> list[Event]:
    """What a client releases in a whole run."""
    steps = private_steps_of(client, privacy, noise_multiplier)
    return [replace(event, steps=event.steps * rounds) for event in method.releases(steps)]


def calibrate(
    clients: Sequence[Declaration],
    histories: Mapping[str, Iterable[Event]],
    method: Method,
    privacy: PrivacyConfig,
    rounds: Mapping[str, int],
) -> dict[str, float]:
    """Noise multiplier of every client, so that all rounds in which it trains fit its budget.

    Args:
        clients: with their sizes as numbers.
        histories: what the ledgers of these clients count as released.
        method: what a round releases.
        privacy: of all.
        rounds: in how many each client trains.

    Raises:
        ConfigError: if a public size is smaller than the expected batch.
        accountants.BudgetExceededError: if a budget is too small for the plan.
    """
    noise_multipliers = {}
    for client in clients:
        budget, history = budget_of(client, privacy), tuple(histories[client.id])
        spent = epsilon(history, budget.delta, privacy.neighbouring).upper
        if spent > (1 - _SMALLEST_SHARE) * budget.epsilon:
            raise BudgetExceededError(
                f"the budget of client {client.id!r} is used up: epsilon {spent:.6g} of "
                f"{budget.epsilon:g} at delta {budget.delta:g} is spent on data set "
                f"{client.dataset!r}; agree on a larger budget, or train on other data",
                epsilon=spent,
                allowed=budget.epsilon,
            )
        must_fit = _must_fit(client, privacy, rounds[client.id], spent)
        plan = partial(releases_of_run, client, method, privacy, rounds[client.id])
        try:
            sigma = noise_multiplier_of(plan, budget, history, neighbouring=privacy.neighbouring)
        except BudgetExceededError as error:
            raise BudgetExceededError(
                f"{must_fit}, and does not with any noise; {_LESS}",
                epsilon=error.epsilon,
                allowed=error.allowed,
            ) from error
        if sigma > privacy.expected_batch_size:
            raise BudgetExceededError(
                f"{must_fit} with a noise multiplier of at most "
                f"expected_batch_size = {privacy.expected_batch_size}, and needs {sigma:.4g}: one "
                f"coordinate's noise would exceed the whole clipped sum; {_LESS}",
                epsilon=spent,
                allowed=budget.epsilon,
            )
        noise_multipliers[client.id] = sigma
    return noise_multipliers


def _must_fit(client: Declaration, privacy: PrivacyConfig, rounds: int, spent: float) -> str:
    budget = budget_of(client, privacy)
    return (
        f"the plan, {rounds} rounds of {steps_of(client, privacy)} steps, must fit the budget of "
        f"client {client.id!r} (epsilon {budget.epsilon:g} at delta {budget.delta:g}, of which "
        f"{spent:.6g} is spent on data set {client.dataset!r})"
    )
