"""What the `ready` of all clients and the settings determine together, alike for all clients."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privfed.agreement import Agreement, Proposal, range_from_public_settings
from privfed.encryption.ranges import first_range
from privfed.encryption.schemes import Scheme
from privfed.errors import ConfigError, MessageError
from privfed.identity.keys import Role
from privfed.identity.roster import Roster
from privfed.planning.signal import step_noise
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import ready_of
from privfed.protocol.participation import Participation
from privfed.protocol.ready import Facts, Ready, epoch_of, other_bases, terms_before
from privfed.protocol.terms import RunTerms
from privfed.run_settings import FederationSettings
from privfed.settings.encryption import FixedPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """An epoch that is about to begin, as every client works it out.

    Attributes:
        run: identifier: the name of the run's first epoch, shortened.
        epoch: name of this epoch.
        ready: of those who are in it, by client.
        facts: of all who take part in the run, by client, in the order of the proposal.
        agreement: what all hold the same.
        scheme: how updates are summed.
        terms: what every message of the run states.
        participation: who trains in which round.
        largest_range: the public range from the settings.
        first_range: of the first round; below it where a followed range of few bits begins.
        maker: the client that makes the key of the epoch: the first of `ready` by name.
    """

    run: str
    epoch: str
    ready: Mapping[str, Ready]
    facts: Mapping[str, Facts]
    agreement: Agreement
    scheme: Scheme
    terms: RunTerms
    participation: Participation
    largest_range: float
    first_range: float
    maker: str


def begun(
    envelope: Envelope,
    left_out: Sequence[str],
    settings: FederationSettings,
    roster: Roster,
    known: Mapping[str, Facts] | None,
    since: Collection[str] = (),
) -> Starting:
    """Work out what the `ready` in a message begin.

    Args:
        envelope: of `make-key` or `start`, whose signature was checked.
        left_out: clients of the proposal that take no part, or no further part.
        settings: of this party.
        roster: who is enrolled.
        known: facts of all clients of a run that goes on; None for a new one.
        since: who was left out after a message that began a run, where that is read again.

    Raises:
        MessageError: if a `ready` is none, differs from what it must be, or too few take part.
        ConfigError: if no parameters of the encryption fit.
    """
    proposal, run = settings.proposal(), envelope.statement.run
    ready = _ready(envelope, roster, proposal, new=known is None)
    epoch = epoch_of(ready.values())
    if known is None and run != run_of(epoch):
        raise MessageError("a new run must have the name that the statements in it give")
    stated = {name: one.facts for name, one in ready.items()}
    everybody = stated if known is None else known
    facts = _taking_part({**everybody, **stated}, proposal, [*left_out, *since])
    if known is not None and any(known.get(name) != one for name, one in stated.items()):
        raise MessageError("clients must bring to a run what they brought when it began")
    if not set(ready).difference(since) <= set(facts) or len(ready) < proposal.min_clients:
        raise MessageError(
            f"at least {proposal.min_clients} clients that take part must be ready, and no other: "
            f"{sorted(ready)!r:.200} are"
        )
    agreement = _agreement(settings, proposal, facts)
    sent = next(iter(facts.values())).num_values
    scheme = Scheme(summation=settings.encryption, num_clients=len(facts), num_params=sent)
    enrolled = [party.name for party in roster.of_role(Role.CLIENT)]
    terms = RunTerms(
        run=run,
        agreement=agreement.digest(),
        encryption=scheme.to_json(),
        roster=roster.digest().hex(),
        left_out=tuple(name for name in enrolled if name not in facts),
    )
    # who leaves a run does not change its range
    noise_multipliers = {name: one.noise_multiplier for name, one in everybody.items()}
    _require_usable(noise_multipliers, agreement.weights, settings.privacy.expected_batch_size)
    weights = _weights(settings, everybody)
    largest = settings.encryption.public_range or range_from_public_settings(
        settings.privacy,
        settings.training,
        noise_multipliers,
        settings.steps,
        weights,
        proposal.min_clients,
    )
    return Starting(
        run=run,
        epoch=epoch,
        ready=ready,
        facts=facts,
        agreement=agreement,
        scheme=scheme,
        terms=terms,
        participation=proposal.participation,
        largest_range=largest,
        first_range=_first_range(settings, noise_multipliers, weights, largest),
        maker=min(ready),
    )


def _first_range(
    settings: FederationSettings,
    noise_multipliers: Mapping[str, float],
    weights: Mapping[str, float],
    largest: float,
) -> float:
    """Narrower than the largest where the range follows, by no hand, in so few bits."""
    summation, training = settings.encryption, settings.training
    per_step = step_noise(settings.privacy, training, noise_multipliers)
    by_hand = summation.public_range is not None
    if not summation.follow_released or by_hand or per_step is None:
        return largest
    if not isinstance(summation, FixedPoint):
        return largest
    rate = training.learning_rate_of(1, settings.rounds)
    noise = {name: rate * math.sqrt(settings.steps[name]) * one for name, one in per_step.items()}
    return first_range(weights, noise, bits=summation.bits, largest=largest)


def _require_usable(
    noise_multipliers: Mapping[str, float], weights: Mapping[str, float], expected_batch_size: int
) -> None:
    """Refuse noise that no client calibrates to, and weights that say nothing.

    The largest noise decides the range of all: too much of it, and nothing of an update is left.
    """
    for name, sigma in noise_multipliers.items():
        if not 0 < sigma <= expected_batch_size:
            raise MessageError(
                f"the noise multiplier of {name!r} must be at most expected_batch_size = "
                f"{expected_batch_size}, got {sigma:.6g}"
            )
    for name, weight in weights.items():
        if not 0 < weight <= 1:
            raise MessageError(f"the weight of {name!r} must be above 0, got {weight!r}")


def facts_in(start: bytes, roster: Roster, proposal: Proposal) -> dict[str, Facts]:
    """What all clients brought to a run, in the order of the proposal, from what began it.

    Raises:
        MessageError: if it is another message.
    """
    ready = _ready(Envelope.from_bytes(start), roster, proposal, new=True)
    order = dict.fromkeys((*proposal.names, *ready))
    return {name: ready[name].facts for name in order if name in ready}


def run_of(epoch: str) -> str:
    """Identifier of the run that begins with this epoch."""
    return epoch[:32]


def _ready(
    envelope: Envelope, roster: Roster, proposal: Proposal, *, new: bool
) -> dict[str, Ready]:
    run = "" if new else envelope.statement.run
    over = 0 if new else envelope.statement.round
    terms, found = terms_before(roster, proposal.digest(), run, over), {}
    for name, blob in envelope.blobs.items():
        if name.startswith(ready_of("")):
            one = Ready.read(blob, roster, terms)
            if ready_of(one.client) != name:
                raise MessageError(f"{name!r:.100} is the statement of {one.client!r}")
            found[one.client] = one
    return found


def _taking_part(
    facts: Mapping[str, Facts], proposal: Proposal, left_out: Sequence[str]
) -> dict[str, Facts]:
    """Of all but those left out, in the order of the proposal, each as it was declared."""
    asked = {client["id"]: client for client in proposal.clients}
    if not set(left_out) <= set(asked) or len(set(left_out)) != len(left_out):
        raise MessageError("who is left out must be among those that were asked, each once")
    if strangers := sorted(set(facts).difference(asked)):
        raise MessageError(f"nobody asked {strangers!r:.200} to take part")
    part = {name: facts[name] for name in asked if name in facts and name not in left_out}
    if missing := sorted(set(asked).difference(part, left_out)):
        raise MessageError(f"{missing!r:.200} must be ready, or left out")
    for name, one in part.items():
        _require_declared(one.client, asked[name])
    firsts: dict[str | None, Facts] = {}
    for name, one in part.items():
        on_it, of_all = firsts.setdefault(one.declared_base, one), next(iter(part.values()))
        for first, wanted in ((on_it, on_it.common), (of_all, of_all.common_to_all)):
            differs = [key for key, value in wanted.items() if one.common[key] != value]
            if differs:
                raise MessageError(f"{name!r} has another {differs} than {first.client['id']!r}")
    return part


def _require_declared(stated: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """A size that was declared stands; one that is released is known only now."""
    released = not isinstance(asked["public_size"], int)
    wanted = {**asked, "public_size": stated["public_size"]} if released else asked
    if dict(stated) != dict(wanted):
        raise MessageError(f"{asked['id']!r} is another client than all were told")


def _agreement(
    settings: FederationSettings, proposal: Proposal, facts: Mapping[str, Facts]
) -> Agreement:
    """Of those who take part: weights and keys are theirs alone."""
    if not facts:
        raise ConfigError("a run needs clients that take part")
    first = next(iter(facts.values()))
    return Agreement(
        settings=proposal.settings,
        clients=tuple(one.client for one in facts.values()),
        weights=_weights(settings, facts),
        base_model=first.base_model,
        layout=first.layout,
        num_params=first.num_params,
        start=first.start,
        tokenizer=first.tokenizer,
        min_clients=settings.min_clients,
        other_bases=other_bases(facts),
    )


def _weights(settings: FederationSettings, facts: Mapping[str, Facts]) -> dict[str, float]:
    sizes = {name: one.client["public_size"] for name, one in facts.items()}
    return settings.method.weights(sizes, settings.steps)
