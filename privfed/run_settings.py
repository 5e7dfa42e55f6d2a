"""The settings of a federation, and what of them is public."""

import copy
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from accountants import PoissonGaussian
from privfed.agreement import Declaration, Proposal, steps_of
from privfed.checks import MOST, require_count, require_items, require_methods, require_type
from privfed.data.records import Record
from privfed.encryption.parameters import MAX_CLIENTS
from privfed.errors import ConfigError, DataError
from privfed.identity.enrolment import Enrolment
from privfed.identity.names import check_name
from privfed.methods.method import FUNCTIONS, Method
from privfed.models.adapters import Adapter
from privfed.models.classification import Classification
from privfed.models.tasks import Task
from privfed.private_step.randomness import Randomness, SystemRandomness
from privfed.settings.computation import Computation
from privfed.settings.encryption import BFV, Custody, Summation, summation_to_json
from privfed.settings.privacy import Clipping, PrivacyConfig
from privfed.settings.training import Optimizer, TrainingConfig
from privfed.storage.state_folder import default_anchor_folder, default_state_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationSettings:
    """All that decides what a federation does.

    Attributes:
        model: the task: base model, and one loss per record.
        clients: who is asked to take part, with what data sets and budgets.
        bases: Hugging Face names or folders of further base models, by the public names under which
            clients declare them; they need a task that is trained alike on all of them. Like that
            of `model`, where one lies is each party's own affair.
        adapter: the part that is trained.
        privacy: what is guaranteed to each record.
        training: how the local optimiser moves.
        computation: how the model is computed; speed and memory.
        encryption: how updates are summed; BFV with a shared key by default.
        method: what is trained, sent and kept in a round, and what comes of the sums.
        rounds: how many.
        clients_per_round: how many train in a round, drawn in public before the run; None is all.
            All follow every round; a client's noise is that of the rounds in which it trains.
        held_out: public text for the metric of each round.
        seed: public; fixes initial weights and frozen factors, never noise or batches.
        start: public file with the initial adapter and its frozen factors, `start.safetensors` of
            a run folder; None draws them from the seed, which gives other bits on other processors.
        title: what is trained on what, for the report.
        min_clients: fewest contributions that are summed, >= 3.
        device: "cpu", "cuda", ...; None takes CUDA where there is one.
        state_folder: where ledgers live; None takes the user's state folder.
        anchor_folder: the second place, which must not be restored together with the state folder
            or a run folder: clients remember there how far ledgers had come and whose sums they
            opened. None takes the user's.
        randomness: where clients draw from; anything but SystemRandomness is reported as not
            private.
        enrolment: files with the parties' keys and the signed roster; None makes keys for a
            simulation, in the state folder.
        fresh_ledgers: whether the caller chose a state folder that ignores earlier runs; the
            report then says so.
        held_out_source: what the held-out text is, for the report.
        public_size_source: where the public sizes come from, for the report.
    """

    model: Task
    clients: Sequence[Declaration]
    adapter: Adapter
    privacy: PrivacyConfig
    training: TrainingConfig
    method: Method
    rounds: int
    held_out: Sequence[Record] = field(repr=False)
    encryption: Summation = field(default_factory=BFV)
    bases: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    start: Path | None = None
    title: str = "federated fine-tuning"
    min_clients: int = 3
    clients_per_round: int | None = None
    device: str | None = None
    state_folder: Path | None = None
    anchor_folder: Path | None = None
    randomness: Randomness = field(default_factory=SystemRandomness)
    enrolment: Enrolment | None = None
    computation: Computation = field(default_factory=Computation)
    fresh_ledgers: bool = False
    held_out_source: str = "given by the caller"
    public_size_source: str = "declared by each client before training"

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        self._check_types()
        require_count(MOST, rounds=self.rounds)
        self._check_method()
        self._check_participation()
        if self.bases or self.has_several_bases:
            self._check_bases()
        if not self.title.strip():
            raise ConfigError("title must say what is trained on what, for the report")
        if not self.held_out:
            raise DataError("held_out must hold at least one record to evaluate on")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be a whole number in [0, 2^63), got {self.seed!r}")
        encryption = self.encryption
        if isinstance(encryption, BFV) and encryption.key_holder and self.enrolment is None:
            raise ConfigError(
                "a key holder at an address has keys of its own, so that key_holder needs a roster "
                "and identities ([parties]); leave key_holder out to start one here"
            )
        if not self.held_out_source.strip() or not self.public_size_source.strip():
            raise ConfigError("held_out_source and public_size_source must say what they are")

    def _check_method(self) -> None:
        steps = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.5, steps=2)
        released = tuple(self.method.releases(steps))
        if released[:1] != (steps,):
            raise ConfigError(
                f"what a method releases must begin with the private steps {steps}, got {released}"
            )
        self.method.check(self.training, self.steps, self.rounds)
        if getattr(self.method, "needs_lora", False):
            self._require_lora()

    def _check_bases(self) -> None:
        for name in self.bases:
            check_name(name, "a base model")
        declared = {client.base for client in self.clients if client.base is not None}
        unknown = sorted(declared.difference(self.bases))
        if unknown:
            raise ConfigError(
                f"clients declare the base models {unknown}, bases must say where each lies; it "
                f"names {sorted(self.bases)}"
            )
        if unused := sorted(set(self.bases).difference(declared)):
            raise ConfigError(
                f"bases must be base models that clients declare, none declares {unused}: give "
                "base= to whoever holds one, or leave it out of bases"
            )
        if not isinstance(self.model, Classification) or not self.model.anchor_texts:
            raise ConfigError(
                "on different base models, clients train what reads a text by its likeness to "
                "public sentences: the model must be a Classification with anchor_texts. Take "
                "that, or one base model for all (leave out base of the clients)"
            )
        if self.computation.processes > 1:
            raise ConfigError(
                "processes that share a batch hold one base model; where clients hold different "
                "ones take processes = 1"
            )

    def _require_lora(self) -> None:
        adapter = self.adapter.describe()
        is_dora = bool(adapter.get("dora") or adapter.get("use_dora"))
        if adapter.get("adapter") != "lora" or is_dora:
            inside = getattr(self.method, "innermost", self.method)
            needing = inside if getattr(inside, "needs_lora", False) else self.method
            raise ConfigError(
                f"{needing.describe()['method']} counts on the product of LoRA's factors, which"
                f" the adapter {'dora' if is_dora else adapter.get('adapter')!r} has not; take LoRA"
                " with it, or one of fedavg, fedprox, fednova and scaffold"
            )

    def _check_participation(self) -> None:
        per_round, most = self.clients_per_round, len(self.clients)
        if per_round is None:
            return
        if type(per_round) is not int or not self.min_clients <= per_round <= most:
            raise ConfigError(
                f"clients_per_round must be a whole number from min_clients = {self.min_clients} "
                f"to the number of clients, {most}, got {per_round!r}"
            )
        if per_round * self.rounds < most:
            raise ConfigError(
                f"{self.rounds} rounds of clients_per_round = {per_round} leave some of {most} "
                "clients out of every round; plan more rounds, or more clients in each"
            )

    def _check_types(self) -> None:
        require_methods(
            *("build", "initialise", "tokenizer", "collate", "losses", "describe"), model=self.model
        )
        require_methods("attach", "describe", adapter=self.adapter)
        require_methods(*FUNCTIONS, method=self.method)
        require_methods("stream", randomness=self.randomness)
        require_items(Declaration, clients=self.clients)
        require_items(Record, held_out=self.held_out)
        require_type(PrivacyConfig, privacy=self.privacy)
        require_type(TrainingConfig, training=self.training)
        require_type(Computation, computation=self.computation)
        require_type(Summation, encryption=self.encryption)
        require_type(Enrolment | None, enrolment=self.enrolment)
        require_type(dict, bases=self.bases)
        require_type(Path | None, state_folder=self.state_folder)
        require_type(Path | None, start=self.start)
        require_type(Path | None, anchor_folder=self.anchor_folder)
        require_type(str | None, device=self.device)
        require_type(bool, fresh_ledgers=self.fresh_ledgers)
        require_type(
            str,
            title=self.title,
            held_out_source=self.held_out_source,
            public_size_source=self.public_size_source,
        )

    def describe(self) -> dict[str, Any]:
        """All public settings as JSON values; a resumed run must have the same."""
        bases = {"bases": dict(self.bases)} if self.bases else {}
        return {
            "model": self.model.describe(),
            **bases,
            "metric": self.model.metric,
            "adapter": self.adapter.describe(),
            "method": self.method.describe(),
            "privacy": _privacy_settings(self.privacy),
            "training": training_settings(self.training),
            "computation": asdict(self.computation),
            "encryption": summation_to_json(self.encryption),
            "authority": "this simulation" if self.enrolment is None else self.enrolment.authority,
            "rounds": self.rounds,
            "min_clients": self.min_clients,
            "clients_per_round": self.clients_per_round,
            "seed": self.seed,
            "secret_randomness": self.secret_randomness,
            "fresh_ledgers": self.fresh_ledgers,
            "title": self.title,
            "held_out_sha256": _digest(self.held_out),
            "clients": [client.describe(self.privacy) for client in self.clients],
        }

    def proposed(self) -> dict[str, Any]:
        """What all parties must have chosen alike; nothing of it is a path, a device or a speed."""
        values = self.describe()
        for own in ("computation", "fresh_ledgers", "secret_randomness", "seed", "clients"):
            del values[own]
        files = {"start": self.start, "roster": self.enrolment and self.enrolment.roster}
        values["files"] = {name: path and file_digest(path) for name, path in files.items()}
        # paths, perhaps; the digests of their parameters name the models
        values["model"].pop("base", None)
        values.pop("bases", None)
        del values["training"]["physical_batch_size"]
        return values

    def proposal(self) -> Proposal:
        """What all parties are given before a run."""
        described = tuple(client.describe(self.privacy) for client in self.clients)
        return Proposal(settings=self.proposed(), clients=described)

    def of_clients(self, clients: Sequence[Declaration], public_size_source: str) -> Self:
        """The same once sizes are known, without clients that turned out too small.

        What was settled when the federation was built is not settled again.
        """
        known = copy.copy(self)
        object.__setattr__(known, "clients", tuple(clients))
        object.__setattr__(known, "public_size_source", public_size_source)
        return known

    def task_on(self, base: str | None) -> Task:
        """The task on one of `bases`; None is the base model of `model`."""
        if base is None or not isinstance(self.model, Classification):
            return self.model
        return replace(self.model, base=self.bases[base])

    @property
    def has_several_bases(self) -> bool:
        """Whether a client declares a base model of its own."""
        return any(client.base is not None for client in self.clients)

    @property
    def steps(self) -> dict[str, int]:
        """Private steps of a round, of each client that is asked."""
        return {client.id: steps_of(client, self.privacy) for client in self.clients}

    @property
    def secret_randomness(self) -> bool:
        """Whether nobody can repeat the clients' randomness; no other class is believed."""
        return type(self.randomness) is SystemRandomness

    @property
    def has_key_holder(self) -> bool:
        """Whether a party of its own makes the keys and decrypts."""
        return self.encryption.custody is Custody.KEY_HOLDER

    @property
    def shares_key(self) -> bool:
        """Whether the clients hold one key together."""
        return self.encryption.custody is Custody.SHARED_KEY

    @property
    def state(self) -> Path:
        """Where ledgers and keys live."""
        return self.state_folder or default_state_folder()

    @property
    def anchors(self) -> Path:
        """The second place: what must survive that state folder or run folder are put back."""
        return self.anchor_folder or default_anchor_folder()


def training_settings(training: TrainingConfig) -> dict[str, Any]:
    """How the local optimiser moves, as JSON values."""
    return {**asdict(training), "optimizer": _with_kind(training.optimizer)}


def _privacy_settings(privacy: PrivacyConfig) -> dict[str, Any]:
    """Budgets stand with each client; the rest as JSON values."""
    values = asdict(privacy)
    del values["budget"]
    return {
        **values,
        "neighbouring": privacy.neighbouring.value,
        "clipping": _with_kind(privacy.clipping),
    }


def _with_kind(choice: Clipping | Optimizer) -> dict[str, Any]:
    """Its fields, and its class: two kinds may have the same fields, or none."""
    return {"kind": type(choice).__name__, **asdict(choice)}


def file_digest(path: Path) -> str | None:
    """SHA-256 (hex) of a file that all parties have; None where it is still to be made."""
    if not path.is_file():
        return None
    status = path.stat()
    return _digest_of_file(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=16)
def _digest_of_file(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(records: Sequence[Record]) -> str:
    """SHA-256 of texts and labels, in their order."""
    values = [[record.text, str(record.label)] for record in records]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def check_clients(clients: Sequence[Declaration], privacy: PrivacyConfig, min_clients: int) -> None:
    """Refuse a federation that cannot start, as far as declared numbers tell."""
    ids = [client.id for client in clients]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"client ids must differ, got {ids}")
    if type(min_clients) is not int or min_clients < 3:
        raise ConfigError(
            f"min_clients must be at least 3, got {min_clients!r}: of two, each can subtract "
            "itself and see the other"
        )
    if len(clients) > MAX_CLIENTS:
        raise ConfigError(
            f"at most {MAX_CLIENTS} clients can take part in a federation, got {len(clients)}"
        )
    if len(clients) < min_clients:
        raise ConfigError(f"{len(clients)} client(s) are fewer than min_clients = {min_clients}")
    check_sizes(clients, privacy)


def check_sizes(clients: Sequence[Declaration], privacy: PrivacyConfig) -> None:
    """Refuse a client that would take part in every step with more than all of its records.

    A size that is still to be released is checked once it is a number.
    """
    for client in clients:
        size = client.public_size
        if isinstance(size, int) and size < privacy.expected_batch_size:
            raise ConfigError(
                f"the public size {size} of client {client.id!r} is smaller than "
                f"expected_batch_size = {privacy.expected_batch_size}; lower expected_batch_size "
                f"to at most {size}, or leave the client out"
            )


def weight_notes(weights: Mapping[str, float], steps: Mapping[str, int]) -> tuple[str, ...]:
    """A warning for the report where one client's weight leaves it little cover in the sum.

    An update grows with its steps, and a weight scales it with its noise. So a client that
    outweighs all others together stands out in every sum: encryption hides little of it, epsilon
    holds as before.

    Args:
        weights: of each client.
        steps: private steps of a round, of these and perhaps of others.
    """
    shares = {client: weight * steps[client] for client, weight in weights.items()}
    heaviest = max(shares, key=lambda client: shares[client])
    others = sum(share for client, share in shares.items() if client != heaviest)
    if shares[heaviest] <= others:
        return ()
    note = (
        f"client {heaviest!r} weighs more than all others together, each counted with its steps: "
        "sums show mostly its update, so that encryption hides little of it. Uniform weights and "
        "equal steps do not have this; epsilon does not depend on it"
    )
    warnings.warn(note, UserWarning, stacklevel=2)
    return (note,)
