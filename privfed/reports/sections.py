"""The sections of a budget report as records; their labels in prose are in `render.py`.

Every field is required, and filled but where it says None. The order of the fields is that of the
rows on the page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """The claim.

    Attributes:
        unit: what one record is, in the user's words.
        neighbouring: which data sets are to look alike.
        covers: which releases it bounds.
        adversary: against whom it holds.
        epsilon: of the report's clients together: the largest of theirs; while the run goes on,
            with one more round. None if a client did not close its part: then there is none.
        delta: the largest of theirs; None where epsilon is.
        reading: what (epsilon, delta) says of an attacker.
    """

    unit: str
    neighbouring: str
    covers: str
    adversary: str
    epsilon: float | None
    delta: float | None
    reading: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One row of who could see what.

    Attributes:
        observer: who looks.
        sees: what they see.
        protection: what protects a record.
    """

    observer: str
    sees: str
    protection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One row of what left the clients without noise.

    Attributes:
        what: it is.
        source: where it came from.
    """

    what: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """The private step.

    Attributes:
        mechanism: its name, and who adds the noise.
        clipping: how one record's gradients are bounded.
        clipping_norm: bound on the L2 norm of one record's gradient (C); > 0.
        expected_batch_size: public divisor of the noised sum (B), in records.
        steps_per_round: DP-SGD steps between two sums, of each client.
        sampler_accounted: that the accountant assumes.
        sampler_ran: that drew the batches.
        public_sizes: where they come from.
        noise_multipliers: where they come from and stand (sigma).
        num_params: trainable numbers, the length of an update.
    """

    mechanism: str
    clipping: str
    clipping_norm: float
    expected_batch_size: int
    steps_per_round: Mapping[str, int]
    sampler_accounted: str
    sampler_ran: str
    public_sizes: str
    noise_multipliers: str
    num_params: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """How epsilon was computed.

    Attributes:
        accountant: name and version.
        bound: what its two bounds are.
        neighbouring: relation of the ledgers.
        directions: of the relation that count.
        one_bound: that one function calibrates, admits and reports.
        stop_rule: what ends a client's part.
        theorem: why the rule may be applied as it is.
        counted: which releases are.
    """

    accountant: str
    bound: str
    neighbouring: str
    directions: str
    one_bound: str
    stop_rule: str
    theorem: str
    counted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What encryption cost in the last whole round; messages are counted whole.

    Attributes:
        upload_bytes: per parameter and client.
        download_bytes: per parameter and client.
        aggregator_seconds: to check and add, per client.
        opening_seconds: from the sum to what clients came to.
        key_holder_bytes: per parameter, to and from the key holder; None without one.
        key_bytes: to hand out the run's key, once; None where there is none.
    """

    upload_bytes: float
    download_bytes: float
    aggregator_seconds: float
    opening_seconds: float
    key_holder_bytes: float | None
    key_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """How updates were summed.

    Attributes:
        scheme: of the encryption, or that there is none.
        custody: who holds the secret key.
        consequence: what follows for who sees what.
        keys: how many, by whom and where; None without encryption.
        identities: whose signatures, and where their keys come from.
        correctness: how sure it is that sums decrypt right; None without encryption.
        setting: whether the parties ran in one process.
        bits_per_value: of one client's number, sign included; None for floats.
        public_range: updates are clipped to +-public_range, at the start of the run.
        follow_released: whether later rounds take it from the released mean of the round before.
        parameters: of the scheme, with name and software of the run's key.
        base_model: SHA-256 (hex) of all frozen parameters, at the first client.
        roster: SHA-256 (hex) of the signed list of parties.
        measured: cost; None before the first round.
    """

    scheme: str
    custody: str
    consequence: str
    keys: str | None
    identities: str
    correctness: str | None
    setting: str
    bits_per_value: int | None
    public_range: float
    follow_released: bool
    parameters: Mapping[str, Any]
    base_model: str
    roster: str
    measured: Measured | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomness:
    """Where randomness came from.

    Attributes:
        secret: whether nobody can repeat them.
        noise: source of the noise.
        rounding: source of the randomness that round updates to integers.
        batch_sampling: source of the batches.
        public_seed: fixes what is public: the split of the data, initial weights, frozen factors.
    """

    secret: bool
    noise: str
    rounding: str
    batch_sampling: str
    public_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What was trained, and how.

    Attributes:
        model: the task, as it describes itself.
        adapter: the trainable part, as it describes itself.
        method: what was trained, sent and kept, as it describes itself.
        adapter_left: which adapter the run leaves, and takes the held-out numbers of.
        optimizer: how the local optimiser moves.
        rounds: planned.
        participation: who trained in which round, by plan.
        participants: clients that the run began with, whether or not they stayed.
        weights: of each client in the mean; the largest is 1.
        held_out: what the held-out text is.
        other_bases: SHA-256 (hex) of the base model of each client that holds another one than
            `base_sha256` of the report says; None where there is none.
    """

    model: Mapping[str, Any]
    adapter: Mapping[str, Any]
    method: Mapping[str, Any]
    adapter_left: str
    optimizer: Mapping[str, Any]
    rounds: int
    participation: str
    participants: tuple[str, ...]
    weights: Mapping[str, float]
    held_out: str
    other_bases: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What some clients state otherwise than others, where they need not agree.

    Attributes:
        field: of the report, with the names of its sections before it, as "randomness.noise".
        value: that is stated, as text.
        clients: who states it.
    """

    field: str
    value: str
    clients: tuple[str, ...]
