"""Everything that is checked and built before the first coin is drawn and any budget is spent."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from accountants import (
    Anchor,
    AnchorFolder,
    BudgetExceededError,
    Event,
    Ledger,
    NoisedCount,
    ScheduleFilter,
    epsilon,
    noise_multiplier_of,
)
from accountants.ledger.identity import NOT_PRIVATE
from privfed.agreement import budget_of, private_steps_of, sample_rate_of, steps_of
from privfed.data.public_size import NoisySize
from privfed.data.records import RecordGroup
from privfed.errors import ConfigError, DataError
from privfed.identity.keys import Identity
from privfed.methods.method import Method
from privfed.models.tasks import Batch
from privfed.parties.client.client import Client
from privfed.parties.client.node import ClientNode
from privfed.parties.client.public_size import public_size
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import DPSGDConfig
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import Randomness
from privfed.private_step.trial import usable_records
from privfed.protocol.participation import Participation
from privfed.reports.round_record import rounded_up
from privfed.settings.privacy import PrivacyConfig
from privfed.settings.training import TrainingConfig
from privfed.storage.durable import writing
from privfed.storage.own_log import told_in
from privfed.storage.state_folder import (
    earlier_ledgers,
    ledger_path,
    local_logger,
    log_path,
    make_private_folder,
)

_LESS: Final = (
    "plan fewer rounds or steps_per_round, agree on a larger budget, or leave the client out"
)

_SMALLEST_SHARE: Final = 0.01
"""A run that could spend less than this share of a budget would drown in noise: refused."""


def require_single_examples(clients: Sequence[Client], privacy: PrivacyConfig) -> None:
    """Refuse records that are groups of examples, where nobody said how many are read of each.

    Raises:
        ConfigError: naming the client.
    """
    for client in clients:
        groups = any(isinstance(record, RecordGroup) for record in client.records)
        if groups and privacy.examples_per_record == 1:
            raise ConfigError(
                f"client {client.id!r} holds groups of examples; privacy needs examples_per_record "
                "to say how many of a group are read"
            )


def open_ledgers(
    clients: Sequence[Client],
    privacy: PrivacyConfig,
    state: Path,
    second_place: AnchorFolder,
    reached: Mapping[str, Anchor] | None,
    *,
    secret_randomness: bool,
) -> dict[str, Ledger]:
    """Every client's ledger, which continues all that is known of it.

    That is: what the second place keeps; the anchors that a run had reached (a resume); and what
    the client itself was shown before. Where one of the last two is known, a ledger must exist.

    What a run with repeatable randomness released is worth no epsilon. The unit of its ledger says
    so, and neither kind of run accepts a ledger of the other kind.
    """
    ledgers = {}
    for client in clients:
        known = [] if client.continues is None else [Anchor.parse(client.continues)]
        if reached is not None and client.id in reached:
            known.append(reached[client.id])
        use = Ledger.open if known else Ledger.open_or_create
        path = ledger_path(state, client.id, client.dataset)
        make_private_folder(path.parent)
        with writing(path):
            ledgers[client.id] = use(
                path,
                client=client.id,
                dataset=client.dataset,
                unit=privacy.record if secret_randomness else privacy.record + NOT_PRIVATE,
                neighbouring=privacy.neighbouring,
                anchors=second_place,
                earlier=earlier_ledgers(
                    state, client.id, assume_unit=privacy.examples_per_record == 1
                ),
            )
        for anchor in known:
            ledgers[client.id].verify(anchor)
    return ledgers


def with_public_sizes(
    clients: Sequence[Client],
    ledgers: Mapping[str, Ledger],
    privacy: PrivacyConfig,
    randomness: Randomness,
) -> list[Client]:
    """The clients with their sizes as numbers; a size that is to be released is released here."""
    return [
        replace(
            client,
            public_size=public_size(
                client.public_size,
                len(client.records),
                ledgers[client.id],
                budget_of(client, privacy),
                randomness,
            ),
        )
        for client in clients
    ]


def left_out_for_size(
    asked: Sequence[Client],
    sized: Sequence[Client],
    ledgers: Mapping[str, Ledger],
    privacy: PrivacyConfig,
) -> dict[str, str]:
    """Clients whose released size lies below the least that was asked, and a note on each.

    The note says what the release, with all before it, has cost: no table of the report does.
    """
    notes = {}
    for client, now in zip(asked, sized, strict=True):
        if isinstance(client.public_size, NoisySize) and now.size < client.public_size.minimum:
            history, delta = ledgers[client.id].events(), budget_of(client, privacy).delta
            spent = rounded_up(epsilon(history, delta, privacy.neighbouring).upper)
            notes[client.id] = (
                f"client {client.id!r} takes no part: its released size {now.size} lies below "
                f"{client.public_size.minimum}. Its ledger counts the release: epsilon spent on "
                f"its data set is at most {spent} at delta {delta:g}, which the epsilon of this "
                "report does not include"
            )
    return notes


def size_source(clients: Sequence[Client], ledgers: Mapping[str, Ledger], declared: str) -> str:
    """Where the public sizes come from, and what their releases cost, for the report."""
    released = [
        f"{client.id} (epsilon {_cost_of_size(ledgers[client.id])})"
        for client in clients
        if isinstance(client.public_size, NoisySize)
    ]
    if not released:
        return declared
    noised = (
        "released once for each data set with discrete Laplace noise, whose epsilon is added to "
        f"that of everything else: {', '.join(released)}. What is spent is stated for the size "
        "that came out; whatever had come out, it stays within the budget"
    )
    return noised if len(released) == len(clients) else f"{declared}; {noised}"


def _cost_of_size(ledger: Ledger) -> float:
    """Epsilon of the releases that the ledger counts; an earlier run may have asked for another."""
    return math.fsum(e.epsilon * e.steps for e in ledger.events() if isinstance(e, NoisedCount))


def releases_of_run(
    client: Client, method: Method, privacy: PrivacyConfig, rounds: int, noise_multiplier: float
) -> list[Event]:
    """What a client releases in a whole run."""
    steps = private_steps_of(client, privacy, noise_multiplier)
    return [replace(event, steps=event.steps * rounds) for event in method.releases(steps)]


def calibrate(
    clients: Sequence[Client],
    ledgers: Mapping[str, Ledger],
    method: Method,
    privacy: PrivacyConfig,
    rounds: Mapping[str, int],
) -> dict[str, float]:
    """Noise multiplier of every client, so that all rounds in which it trains fit its budget.

    Args:
        clients: with their sizes as numbers.
        ledgers: of these clients.
        method: what a round releases.
        privacy: of all.
        rounds: in how many each client trains.

    Raises:
        ConfigError: if a public size is smaller than the expected batch.
        accountants.BudgetExceededError: if a budget is too small for the plan.
    """
    noise_multipliers = {}
    for client in clients:
        budget, history = budget_of(client, privacy), ledgers[client.id].events()
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


def _must_fit(client: Client, privacy: PrivacyConfig, rounds: int, spent: float) -> str:
    budget = budget_of(client, privacy)
    return (
        f"the plan, {rounds} rounds of {steps_of(client, privacy)} steps, must fit the budget of "
        f"client {client.id!r} (epsilon {budget.epsilon:g} at delta {budget.delta:g}, of which "
        f"{spent:.6g} is spent on data set {client.dataset!r})"
    )


def delta_notes(clients: Sequence[Client], privacy: PrivacyConfig) -> list[str]:
    """Warnings for the report where delta is so large that it means little."""
    notes = []
    for client in clients:
        delta = budget_of(client, privacy).delta
        if delta >= 1 / client.size:
            notes.append(
                f"delta = {delta:g} of client {client.id!r} is not below 1 / public size = "
                f"{1 / client.size:.2g}: it allows that one whole record is disclosed"
            )
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return notes


def encoded_records(
    clients: Sequence[Client],
    models: Mapping[str, PrivateModel],
    privacy: PrivacyConfig,
    training: TrainingConfig,
    state: Path,
) -> dict[str, Batch]:
    """Every client's records as tensors; this comes before anything of them is released."""
    return {
        client.id: _encoded(client, models[client.id], privacy.examples_per_record, state, training)
        for client in clients
    }


def build_nodes(
    clients: Sequence[Client],
    encoded: Mapping[str, Batch],
    ledgers: Mapping[str, Ledger],
    noise_multipliers: Mapping[str, float],
    models: Mapping[str, PrivateModel],
    method: Method,
    *,
    identities: Mapping[str, Identity],
    participation: Participation,
    privacy: PrivacyConfig,
    training: TrainingConfig,
    randomness: Randomness,
    state: Path,
    own_texts: Mapping[str, Batch],
) -> list[ClientNode]:
    """The clients, ready to train."""
    return [
        ClientNode(
            id=client.id,
            identity=identities[client.id],
            model=models[client.id],
            encoded=encoded[client.id],
            method=method,
            config=DPSGDConfig(
                noise_multiplier=noise_multipliers[client.id],
                sample_rate=sample_rate_of(client, privacy),
                clipping_norm=privacy.clipping_norm,
                expected_batch_size=privacy.expected_batch_size,
                steps=steps_of(client, privacy),
                learning_rate=training.learning_rate,
                clipping=privacy.clipping,
                optimizer=training.optimizer,
                physical_batch_size=training.physical_batch_size,
            ),
            training=training,
            secure_noise=privacy.secure_noise,
            rounds=participation.rounds,
            ledger=ledgers[client.id],
            filter=ScheduleFilter(
                budget=budget_of(client, privacy),
                schedule=releases_of_run(
                    client,
                    method,
                    privacy,
                    participation.rounds_of(client.id),
                    noise_multipliers[client.id],
                ),
                neighbouring=privacy.neighbouring,
            ),
            randomness=randomness,
            log=local_logger(state, client.id, client.dataset),
            own_text=own_texts.get(client.id),
            bound=AdaptiveBound.starting(privacy.clipping_norm),
        )
        for client in clients
    ]


def _encoded(
    client: Client,
    model: PrivateModel,
    examples_per_record: int,
    state: Path,
    training: TrainingConfig,
) -> Batch:
    """A client's records as tensors, tried; why some cannot be used stays in the client's own log.

    Raises:
        DataError: naming the client and its log, and nothing that depends on a record.
    """
    size = training.physical_batch_size
    log = local_logger(state, client.id, client.dataset)
    left_out: Mapping[int, str] = {}
    prepared: Batch | None = None
    with told_in([log], "records cannot be prepared"):  # no logger writes meanwhile
        usable = usable_records(model, client.records, examples_per_record, size)
        left_out = usable.left_out
        prepared = model.with_frozen_states(usable.encoded, size)
    for position, why in left_out.items():
        log.warning("record %d %s", position, why)
    if left_out:
        log.warning("%d of %d records are left out", len(left_out), len(client.records))
    if prepared is None:
        raise DataError(
            f"the records of client {client.id!r} cannot be prepared for the model; the cause is "
            f"in its own log, {log_path(state, client.id, client.dataset)}"
        )
    return prepared
