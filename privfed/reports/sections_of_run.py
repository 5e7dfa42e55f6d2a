"""The sections of a budget report that settings, facts of the run and its record tell."""

from collections.abc import Sequence

from privfed.reports import encryption_statements, statements
from privfed.reports.round_record import RoundRecord
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.reports.sections import (
    Encryption,
    Guarantee,
    Measured,
    Mechanism,
    Published,
    Randomness,
    Training,
    View,
)
from privfed.run_settings import FederationSettings, training_settings
from privfed.settings.encryption import FixedPoint
from privfed.settings.privacy import PrivacyConfig


def guarantee(privacy: PrivacyConfig, largest: float, delta: float, reading: str) -> Guarantee:
    """The claim of a report.

    Args:
        privacy: what is guaranteed.
        largest: epsilon of the report's clients together.
        delta: the largest of theirs.
        reading: what both say of an attacker.
    """
    return Guarantee(
        unit=_unit(privacy),
        neighbouring="add or remove one record of one client",
        covers="every update that a client released, in all rounds and all runs that its "
        "ledger counts",
        adversary="anyone who sees those updates in clear, the aggregator and the holders "
        "of the key included",
        epsilon=largest,
        delta=delta,
        reading=reading,
    )


def _unit(privacy: PrivacyConfig) -> str:
    most = privacy.examples_per_record
    if most == 1:
        return f"one record: {privacy.record}"
    return (
        f"one record: {privacy.record}, with all its examples (at most {most} are read, and "
        "clipped as one). It comes or goes as a whole; one example more or less of a record that "
        "stays exchanges it for another, which moves a clipped sum by up to 2 C and is covered as "
        "two records, not as one"
    )


def mechanism(settings: FederationSettings, facts: RunFacts) -> Mechanism:
    """The private step."""
    privacy = settings.privacy
    return Mechanism(
        mechanism="DP-SGD: one gradient per record, Gaussian noise added by the client itself",
        clipping=statements.clipping(privacy.clipping),
        clipping_norm=privacy.clipping_norm,
        expected_batch_size=privacy.expected_batch_size,
        steps_per_round=settings.steps,
        sampler_accounted="Poisson with rate q = B / public size",
        sampler_ran="Poisson with rate q = B / public size; an empty draw is a step",
        public_sizes=f"{settings.public_size_source}; true numbers are treated as private",
        noise_multipliers="calibrated for each client to its budget, in section 2",
        num_params=facts.agreement.num_params,
    )


def encryption(facts: RunFacts, record: RunRecord) -> Encryption:
    """How updates were summed, and what that cost."""
    scheme, custody = facts.scheme, facts.scheme.custody
    summation, approximate = scheme.summation, scheme.exactness is None
    return Encryption(
        scheme=encryption_statements.scheme(custody=custody, approximate=approximate),
        custody=encryption_statements.who_holds_the_key(custody),
        consequence=encryption_statements.consequence(custody=custody, approximate=approximate),
        keys=encryption_statements.keys(custody),
        identities=encryption_statements.identities(simulated_keys=facts.simulated_keys),
        correctness=encryption_statements.correctness(
            custody=custody,
            exactness="approximate" if scheme.exactness is None else scheme.exactness.value,
            num_clients=len(facts.agreement.weights),
        ),
        setting=encryption_statements.setting(in_one_process=facts.in_one_process),
        bits_per_value=summation.bits if isinstance(summation, FixedPoint) else None,
        public_range=record.first_range,
        follow_released=summation.follow_released,
        parameters={**scheme.to_json(), **facts.key},
        base_model=facts.base_model,
        roster=facts.roster,
        measured=_measured(facts, record.rounds) if record.rounds else None,
    )


def _measured(facts: RunFacts, rounds: Sequence[RoundRecord]) -> Measured:
    """Bytes per parameter and seconds of the last whole round, whole messages counted."""
    last = next((row for row in reversed(rounds) if row.bytes_up), rounds[-1])
    contributors, clients = len(last.clients), len(last.clients) + len(last.absent)
    params = facts.agreement.num_params
    return Measured(
        upload_bytes=round(last.bytes_up / (contributors * params), 3),
        download_bytes=round(last.bytes_down / (clients * params), 3),
        aggregator_seconds=round(last.seconds_aggregator / contributors, 4),
        opening_seconds=last.seconds_opening,
        key_holder_bytes=round(last.bytes_holder / params, 3) if last.bytes_holder else None,
        key_bytes=facts.key_bytes or None,
    )


def training(settings: FederationSettings, facts: RunFacts, record: RunRecord) -> Training:
    """What was trained, and how; on the bases of all that the run began with."""
    moves = training_settings(settings.training)
    return Training(
        model=settings.model.describe(),
        adapter=settings.adapter.describe(),
        method=settings.method.describe(),
        adapter_left=settings.method.which_is_left(),
        optimizer={name: value for name, value in moves.items() if value is not None},
        rounds=settings.rounds,
        participation=statements.participation(settings.clients_per_round),
        participants=facts.participants,
        weights=dict(facts.agreement.weights),
        held_out=statements.held_out(
            settings.held_out_source, several_bases=bool(record.other_bases)
        ),
        other_bases=dict(record.other_bases) or None,
    )


def views(settings: FederationSettings, facts: RunFacts) -> tuple[View, ...]:
    """Who could see what, and what protects a record."""
    return encryption_statements.views(
        custody=facts.scheme.custody,
        approximate=facts.scheme.exactness is None,
        min_clients=settings.min_clients,
    )


def randomness(settings: FederationSettings) -> Randomness:
    """Where randomness came from."""
    return statements.randomness(
        secret=settings.secret_randomness,
        seed=settings.seed,
        secure_noise=settings.privacy.secure_noise,
    )


def published(settings: FederationSettings, facts: RunFacts) -> tuple[Published, ...]:
    """What left the clients without noise."""
    return statements.published(
        sizes=settings.public_size_source,
        held_out_source=settings.held_out_source,
        encrypted=facts.scheme.parameters is not None,
        in_one_process=facts.in_one_process,
    )


def not_covered(settings: FederationSettings) -> tuple[str, ...]:
    """What the numbers do not say."""
    return statements.not_covered(
        earlier_ignored=settings.fresh_ledgers,
        held_out_source=settings.held_out_source,
        secure_noise=settings.privacy.secure_noise,
    )
