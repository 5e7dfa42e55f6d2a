"""The file of one organisation, `north.toml`: what it brings, and what it agreed to."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from privfed.agreement import Declaration, budget_of
from privfed.cli.hub_file import hub_of
from privfed.cli.public_file import PublicRun, load_public_run, require_accepted
from privfed.cli.run_file_bases import base_of
from privfed.cli.run_file_data import cutter, loader, record_key, records_of, without_held_out
from privfed.cli.run_file_settings import computation_of
from privfed.cli.toml_section import Section, parsed
from privfed.data.records import Record, RecordGroup, hold_out
from privfed.errors import ConfigError
from privfed.models.classification import Classification
from privfed.parties.client.client import Client
from privfed.run_settings import FederationSettings
from privfed.settings.privacy import PrivacyConfig
from privfed.storage.state_folder import client_folder, default_state_folder

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """What the file says, with the public file that it names.

    Attributes:
        name: of the organisation, as the roster has it.
        public: the run.
        settings: of this party.
        identity: file with its secret keys.
        transport: file with the key that its pump uses.
        agreement: digest (hex) that the operator confirmed; None if none was yet.
        hub: "host:port".
        certificate: file by which the hub's certificate is trusted.
        share_ledger: whether the export of its ledger may leave at the end.
        results: folder for report and adapter.
        pump: whether the process that carries messages is started here.
        socket: path at which the node listens for it; None chooses one.
        socket_group: group that may open it besides this user; None for nobody else.
        source: file with the organisation's text; None on the hub.
        client: what it brings.
    """

    name: str
    public: PublicRun
    settings: FederationSettings
    identity: Path
    transport: Path
    agreement: str | None
    hub: str
    certificate: Path
    share_ledger: bool
    results: Path
    pump: bool
    socket: Path | None
    socket_group: str | None
    source: Path | None
    client: Client

    def require_confirmed(self) -> None:
        """Refuse a run that the operator did not confirm.

        Raises:
            ConfigError: with the digest to compare.
        """
        digest = self.public.require_agreed().digest()
        if self.agreement is None:
            raise ConfigError(
                f"nobody confirmed this run: compare its agreement, SHA-256 {digest}, with who "
                f'wrote the public file (over the phone), and add agreement = "{digest}"'
            )
        if self.agreement != digest:
            raise ConfigError(
                f"the operator confirmed the agreement {self.agreement}, the public file and "
                f"{self.public.agreement.name} are {digest}: they were changed, or belong to "
                "another run"
            )


def load_node_file(path: Path) -> NodeFile:
    """Read the file of an organisation, the public file and its text.

    Raises:
        ConfigError: for a file, key or value that cannot be used.
        DataError: for data that cannot be used; no message quotes a text.
    """
    root, folder = parsed(path), path.parent
    name, run = root.take("name", str), folder / root.take("run", str)
    public, hub = load_public_run(run), hub_of(run)
    require_accepted(public.settings.encryption.custody, root.take("accept", str, None))
    declared = [one for one in public.settings.clients if one.id == name]
    if not declared:
        raise ConfigError(
            f"name must be that of a client of {run}, got {name!r}; it names "
            f"{[one.id for one in public.settings.clients]}"
        )
    _require_own_limits(root, declared[0], public.settings.privacy)
    identity = folder / root.take("identity", str, f"{name}.identity")
    settings = _own(root, folder, public.settings, declared[0])
    data = root.section("data")
    continues = data.take("continues", str, None)
    source = folder / data.look("source")
    (own,) = declared
    records, own_held_out = _records(data, folder, public.settings, own.dataset)
    client = Client(
        id=own.id,
        public_size=own.public_size,
        dataset=own.dataset,
        description=own.description,
        budget=own.budget,
        steps_per_round=own.steps_per_round,
        base=own.base,
        records=records,
        own_held_out=own_held_out,
        continues=continues,
    )
    found = NodeFile(
        name=name,
        public=public,
        settings=settings,
        identity=identity,
        transport=folder / root.take("transport", str, f"{identity.name}.transport"),
        agreement=root.take("agreement", str, None),
        hub=root.take("hub", str, str(hub["address"])),
        certificate=folder / root.take("certificate", str, str(hub["certificate"].resolve())),
        share_ledger=root.take("share_ledger", bool, False),
        results=folder / root.take("results", str, f"results-{name}"),
        pump=root.take("pump", bool, True),
        socket=folder / chosen if (chosen := root.take("socket", str, None)) else None,
        socket_group=root.take("socket_group", str, None),
        source=source if source.is_file() else None,
        client=client,
    )
    root.end()
    return found


def _require_own_limits(root: Section, declared: Declaration, privacy: PrivacyConfig) -> None:
    """Refuse a run that counts on another ledger, or to another budget, than this party set.

    The name of the data set says which ledger counts, and the public file is written by others.

    Raises:
        ConfigError: naming what differs.
    """
    dataset, budget = root.take("dataset", str), budget_of(declared, privacy)
    if dataset != declared.dataset:
        raise ConfigError(
            f"the public file calls this data set {declared.dataset!r} and your file {dataset!r}: "
            "under another name what earlier runs spent is not counted. Have the public file use "
            "the name under which your ledger counts"
        )
    for what, asked, most in (
        ("epsilon", budget.epsilon, root.take("epsilon", float)),
        ("delta", budget.delta, root.take("delta", float)),
    ):
        if not asked <= most:
            raise ConfigError(
                f"the public file gives {declared.id!r} a budget of {what} {asked:g}, your file "
                f"allows at most {most:g}"
            )


def place_of(path: Path) -> Path:
    """The folder in which a node keeps what outlives a run, without reading model or text."""
    root = parsed(path)
    name, state = root.take("name", str), root.take("state", str, None)
    public = parsed(path.parent / root.take("run", str))
    dataset = public.section("data").take("dataset", str)
    where = default_state_folder() if state is None else path.parent / state
    return client_folder(where, name, dataset)


def _own(
    root: Section, folder: Path, settings: FederationSettings, declared: Declaration
) -> FederationSettings:
    """The settings with what this party chooses alone."""
    base = root.take("base", str, None)
    batch = root.take("physical_batch_size", int, settings.training.physical_batch_size)
    state, anchors = root.take("state", str, None), root.take("anchors", str, None)
    found = replace(
        settings,
        device=root.take("device", str, None),
        state_folder=None if state is None else folder / state,
        anchor_folder=None if anchors is None else folder / anchors,
        computation=computation_of(root),
        training=replace(settings.training, physical_batch_size=batch),
    )
    if base is None:
        return found
    if declared.base is not None:
        return replace(found, bases={**found.bases, declared.base: base_of(base, folder)})
    return replace(found, model=replace(found.model, base=base_of(base, folder)))  # type: ignore[type-var]


def _records(
    section: Section, folder: Path, settings: FederationSettings, dataset: str
) -> tuple[tuple[Record | RecordGroup, ...], tuple[Record, ...]]:
    """The organisation's own text, and the part of it that it holds out for its own eyes.

    What is held out publicly is not trained on.
    """
    task = settings.model
    labels = task.labels if isinstance(task, Classification) else None
    load, source = loader(section, labels, folder), section.take("source", str)
    person = section.take("person", str, None)
    cut, share = cutter(section, task, person), section.take("own_held_out", float, 0.0)
    section.end()
    table = load(source, person=person)
    rows = range(len(table.texts))
    kept = without_held_out(table, rows, [record.text for record in settings.held_out])
    dropped, own = len(table.texts) - len(kept), []
    if share:
        places, held = hold_out([record_key(table, row) for row in kept], share, dataset)
        kept, own = [kept[place] for place in places], [kept[place] for place in held]
    level = logging.WARNING if table.missing or table.copies or dropped else logging.INFO
    _LOG.log(
        level,
        "%s: %d rows, of which %d lack a value, %d are copies, %d are held out publicly, %d for "
        "your own figures, and %d are trained on",
        source,
        table.missing + table.copies + len(table.texts),
        table.missing,
        table.copies,
        dropped,
        len(own),
        len(kept),
    )
    return records_of(table, kept, labels, cut), table.records(own, labels)
