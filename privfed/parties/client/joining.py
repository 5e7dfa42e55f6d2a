"""Everything that is checked and built before the first coin is drawn and any budget is spent."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accountants import (
    Anchor,
    AnchorFolder,
    Ledger,
    NoisedCount,
    ScheduleFilter,
    epsilon,
)
from accountants.ledger.identity import NOT_PRIVATE
from privfed.agreement import budget_of, sample_rate_of, steps_of
from privfed.data.public_size import NoisySize
from privfed.data.records import RecordGroup
from privfed.errors import ConfigError, DataError
from privfed.identity.keys import Identity
from privfed.methods.method import Method
from privfed.models.tasks import Batch
from privfed.parties.client.client import Client
from privfed.parties.client.node import ClientNode
from privfed.parties.client.public_size import public_size
from privfed.planning.calibration import releases_of_run
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
