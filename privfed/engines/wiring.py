"""All parties of a simulation in one process: the only place that knows every party's secrets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from privfed.engines.play import Shared
from privfed.errors import IdentityError
from privfed.identity.enrolment import Parties
from privfed.parties.client.kept_run import KeptRun
from privfed.parties.client.memories import Memories
from privfed.parties.client.program import Outside, Program
from privfed.parties.client.round import Progress
from privfed.parties.client.setup import Prepared
from privfed.protocol.links import AddressLink, ProcessLink
from privfed.run_settings import FederationSettings
from privfed.settings.encryption import BFV
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import results_folder


@dataclass(slots=True, kw_only=True)
class SharedStore:
    """What the clients of a simulation keep of their run: all the same, in the run folder.

    How far they have come is the checkpoint of the run, which its driver writes.

    Attributes:
        folder: of the run.
        goes_on: the run, where it goes on.
        _begun: the message that began a new one.
    """

    folder: RunFolder
    goes_on: KeptRun | None
    _begun: bytes = field(default=b"", repr=False)

    def kept(self) -> KeptRun | None:
        """The run that goes on."""
        return self.goes_on

    def begin(self, run: str, start: bytes) -> None:
        """Keep the message that began the run, once for all."""
        del run
        if start is not self._begun:
            self.folder.keep_beginning(start)
            self._begun = start

    def leave_out(self, run: str, names: Sequence[str]) -> None:
        """The checkpoint of the run says it."""

    def save(self, run: str, progress: Progress) -> None:
        """The checkpoint of the run says it."""

    def close(self, run: str, proposal: str, message: bytes) -> None:
        """The run folder stays."""

    def played(self, proposal: str) -> bool:
        """A simulation may be played again and again: whoever runs it allows it."""
        del proposal
        return False

    def closed(self, run: str) -> bytes | None:
        """A simulation reads ledgers and asks nobody at its end."""
        del run
        return None


def programs(
    settings: FederationSettings, prepared: Prepared, parties: Parties, store: SharedStore
) -> dict[str, Program]:
    """Every client's program. What equal bytes determine is computed once for all on one base.

    Raises:
        EncryptionError: if what a client remembers of a run that goes on is missing or damaged.
    """
    once = {base: Shared() for base in prepared.models}
    bases = {client.id: client.base for client in prepared.clients}
    encrypted = settings.encryption.custody is not None
    proposal = settings.proposal().digest()
    made = {}
    for name, node in prepared.nodes.items():
        memories = Memories(settings.anchors, name)
        if store.goes_on is not None and encrypted:
            memories.resume(store.goes_on.run)
        made[name] = Program(
            node=node,
            facts=prepared.facts[name],
            settings=settings,
            proposal=proposal,
            roster=parties.roster,
            initial=prepared.initial,
            outside=Outside(
                store=store,
                memory=memories,
                evaluate=partial(prepared.evaluate, base=bases[name]),
                once=once[bases[name]],
            ),
        )
    return made


def open_link(
    settings: FederationSettings, parties: Parties, run: str
) -> ProcessLink | AddressLink:
    """A connection to the key holder, which is started here unless it has an address.

    Args:
        settings: of a run with a key holder.
        parties: who takes part.
        run: identifier.

    Raises:
        ConfigError, IdentityError: if it cannot be reached or started.
    """
    summation = settings.encryption
    if isinstance(summation, BFV) and summation.key_holder is not None:
        return AddressLink(summation.key_holder)
    if parties.key_holder_file is None or not parties.key_holder_file.is_file():
        raise IdentityError(
            "a key holder that is started here needs its identity file, there is none at "
            f"{parties.key_holder_file}; put it there, or name the address where it runs "
            "(key_holder)"
        )
    return ProcessLink(
        identity=parties.key_holder_file,
        roster=parties.roster_file,
        authority=parties.roster.authority.hex(),
        results=results_folder(settings.state, run),
        min_clients=settings.min_clients,
    )
