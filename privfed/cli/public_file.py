"""The public file of a run between machines, `run.toml`: the same at every party.

It says what all agree on and nothing of anybody's records: of the table [data] only what is public
is in it. Beside it lie the files that are the same at every party too: the roster, the hub's
certificate, `start.safetensors` and `agreement.json`, which `privfed agreement` makes.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from privfed.agreement import Declaration, Proposal
from privfed.cli.hub_file import read_agreement
from privfed.cli.run_file import others_of, size_source, task_of
from privfed.cli.run_file_bases import bases_of
from privfed.cli.run_file_data import loader
from privfed.cli.run_file_settings import privacy_of, seed_of
from privfed.cli.run_file_sizes import declared_sizes
from privfed.cli.toml_section import Section, parsed
from privfed.data.records import Record
from privfed.errors import ConfigError
from privfed.identity.enrolment import Enrolment
from privfed.models.classification import Classification
from privfed.models.tasks import Task
from privfed.parties.client.setup import prepare
from privfed.run_settings import FederationSettings
from privfed.settings.encryption import BFV, Custody
from privfed.settings.privacy import OwnPrivacy
from privfed.storage.durable import write_durably
from privfed.storage.run_folder import START, differences

AGREEMENT: Final = "agreement.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRun:
    """What the file says.

    Attributes:
        settings: with the declarations of all clients, and nobody's records.
        folder: of the file.
    """

    settings: FederationSettings
    folder: Path

    @property
    def start(self) -> Path:
        """The file with the initial adapter."""
        return self.folder / START

    @property
    def agreement(self) -> Path:
        """The file with what all are given."""
        return self.folder / AGREEMENT

    def require_agreed(self) -> Proposal:
        """What all are given; the file with it must say what this file says.

        Raises:
            ConfigError: naming what differs.
        """
        if not self.start.is_file():
            raise ConfigError(
                f"{self.start} must lie beside the public file, the same bytes at every party; ask "
                "whoever wrote the public file"
            )
        mine, given = self.settings.proposal(), read_agreement(self.agreement)
        differing = differences(given.to_json(), mine.to_json())
        if differing:
            raise ConfigError(
                f"{self.agreement} and the public file must say the same, but "
                f"{'; '.join(differing)}; ask whoever sent them for the pair that belongs together"
            )
        return given


def load_public_run(path: Path) -> PublicRun:
    """Read the public file.

    Raises:
        ConfigError: for a key or value that cannot be used.
        DataError: if the held-out text cannot be used.
    """
    root = parsed(path)
    task, bases = task_of(root, path.parent), bases_of(root, path.parent)
    privacy, own = privacy_of(root)
    data = root.section("data")
    sizes, dataset = declared_sizes(data), data.take("dataset", str)
    strange = sorted(set(own).difference(sizes))
    if strange:
        raise ConfigError(f"[privacy.clients] names {strange}, which [data.public_sizes] does not")
    clients = [
        Declaration(
            id=name,
            public_size=size,
            dataset=dataset,
            budget=own.get(name, OwnPrivacy()).budget,
            steps_per_round=own.get(name, OwnPrivacy()).steps_per_round,
        )
        for name, size in sizes.items()
    ]
    held_out, source = _held_out(data, task, path.parent)
    start = path.parent / START
    settings = FederationSettings(
        model=task,
        bases=bases.places,
        clients=bases.declared(clients),
        privacy=privacy,
        held_out=held_out,
        held_out_source=source,
        public_size_source=size_source(clients),
        seed=seed_of(root),
        enrolment=_parties(root.section("parties"), path.parent),
        start=start if start.is_file() else None,
        **others_of(root, path),
    )
    root.section("hub")  # which `hub_of` reads
    root.end()
    _require_custody(settings, parsed(path).section("encryption", {}))
    return PublicRun(settings=settings, folder=path.parent)


def _held_out(data: Section, task: Task, folder: Path) -> tuple[tuple[Record, ...], str]:
    labels = task.labels if isinstance(task, Classification) else None
    source, load = data.take("held_out_source", str), loader(data, labels, folder)
    data.end()
    table = load(source)
    return table.records(range(len(table.texts)), labels), source


def _parties(section: Section, folder: Path) -> Enrolment:
    """The roster and its authority: by its key, not by a file, so that the agreement pins it."""
    roster, authority = section.take("roster", str), section.take("authority", str)
    section.end()
    if re.fullmatch("[0-9a-f]{64}", authority) is None:
        raise ConfigError(
            "[parties] authority must be the public key of who signed the roster, 64 hex digits "
            f"(`privfed roster identity` prints it), got {authority!r:.80}"
        )
    return Enrolment(roster=folder / roster, authority=authority, identities=folder)


def _require_custody(settings: FederationSettings, section: Section) -> None:
    """Between machines it is no matter of a default who can decrypt.

    Raises:
        ConfigError: if nothing is encrypted, or nobody said who holds the key.
    """
    if not isinstance(settings.encryption, BFV):
        raise ConfigError(
            "between machines updates are summed under [encryption] kind 'bfv': in clear nothing "
            "is hidden from the hub, and 'ckks' hides nothing from a hub that deviates"
        )
    if section.has("key_holder"):
        raise ConfigError("where the key holder listens stands in [hub] key_holder")
    if not section.has("custody"):
        raise ConfigError(
            'between machines [encryption] custody has no default: say "shared_key" (every '
            'client can decrypt) or "key_holder" (a party of its own can)'
        )


SHARED_KEY_ACCEPTED: Final = "any client together with the hub opens every update"
"""What whoever takes part in a run with a shared key must say."""


def require_accepted(custody: Custody | None, accept: str | None) -> None:
    """Refuse to take part where who could open what was not accepted in words.

    Raises:
        ConfigError: with the words.
    """
    if custody is Custody.SHARED_KEY and accept != SHARED_KEY_ACCEPTED:
        raise ConfigError(
            "this run has custody shared_key: every client holds the key, and any one of them that "
            "colludes with the hub opens your updates (epsilon protects your records all the "
            f'same). To take part say so in your file: accept = "{SHARED_KEY_ACCEPTED}"'
        )


def make_public_files(path: Path) -> list[str]:
    """Make `start.safetensors` and `agreement.json` beside the public file, or compare them.

    Returns:
        What to tell whoever made them.

    Raises:
        ConfigError: if what is there belongs to another public file.
        PrivfedError: if the model cannot be built.
    """
    public = load_public_run(path)
    told = []
    if not public.start.exists():
        brought = prepare(replace(public.settings, start=None), [], {}, start=None)
        write_durably(public.start, brought.start)
        told.append(f"made {public.start}, the initial adapter")
        public = load_public_run(path)
    proposal = public.settings.proposal()
    if not public.agreement.exists():
        content = json.dumps(proposal.to_json(), indent=2, allow_nan=False) + "\n"
        write_durably(public.agreement, content.encode())
        told.append(f"made {public.agreement}, what all agree on")
    public.require_agreed()
    told.append(f"agreement: SHA-256 {proposal.digest()}")
    told.append("send these two, the public file, the roster, the hub's certificate and the")
    told.append("held-out text to every organisation, and compare the agreement over the phone")
    return told
