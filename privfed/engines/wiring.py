"""A simulation's sum, wired for all sides: the only place that knows every party's secrets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privfed.agreement import Agreement
from privfed.custody.opened_rounds import OpenedRounds
from privfed.encryption.schemes import Scheme
from privfed.errors import IdentityError
from privfed.identity.enrolment import Parties
from privfed.identity.keys import Role
from privfed.parties.aggregator.openers import ClientsAgree, ClientsOpen, HolderOpens
from privfed.parties.aggregator.summing import Summing
from privfed.parties.client.upload import Upload
from privfed.protocol.links import AddressLink, ProcessLink
from privfed.protocol.terms import RunTerms
from privfed.reports.run_facts import RunFacts
from privfed.settings.encryption import BFV, Custody, Summation
from privfed.storage.state_folder import opened_path, results_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How the updates of one run are summed, on all sides.

    Attributes:
        agreement: what all parties hold the same.
        scheme: how updates are summed.
        parties: who takes part, with their keys.
        uploads: the clients' sides.
        summing: the aggregator's side.
        link: to the key holder, or None.
    """

    agreement: Agreement
    scheme: Scheme
    parties: Parties
    uploads: Mapping[str, Upload]
    summing: Summing
    link: ProcessLink | AddressLink | None

    @property
    def facts(self) -> RunFacts:
        """What reports say of how updates were summed."""
        return RunFacts(
            agreement=self.agreement,
            scheme=self.scheme,
            roster=self.parties.roster.digest().hex(),
            simulated_keys=self.parties.simulated,
            key=self.summing.key,
            key_bytes=self.summing.key_bytes,
            in_one_process=True,
        )

    @property
    def opened(self) -> dict[str, OpenedRounds]:
        """What each client never forgets of the run; empty without encryption."""
        memories = {client: upload.opened for client, upload in self.uploads.items()}
        return {client: memory for client, memory in memories.items() if memory is not None}

    def sums_of(self, round_number: int) -> set[tuple[str, ...]]:
        """Contributors of the sums of this round that clients agreed to or opened before."""
        known = (memory.contributors_of(round_number) for memory in self.opened.values())
        return {contributors for contributors in known if contributors is not None}

    def close(self) -> None:
        """End the connection to the key holder, and its process if it was started here."""
        if self.link is not None:
            self.link.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where what outlives the run lies on this machine.

    Attributes:
        state: the state folder.
        anchors: the second place.
        resumed: whether the run goes on, so that clients remember its rounds.
    """

    state: Path
    anchors: Path
    resumed: bool

    def opened(self, run: str, client: str, clients: list[str]) -> OpenedRounds:
        """What a client remembers of the run, or begins to remember.

        Raises:
            EncryptionError: if it cannot be written, or is missing in a resume.
        """
        path = opened_path(self.anchors, run, client)
        return OpenedRounds.resume(path) if self.resumed else OpenedRounds.create(path, clients)


def wire(
    run: str, agreement: Agreement, summation: Summation, parties: Parties, places: Places
) -> Wiring:
    """Keys and parameters of the sum. Secret keys exist in memory only.

    Raises:
        ConfigError: if no parameters fit these clients and bits, or no key holder answers.
        EncryptionError: if the local TenSEAL is not the supported one, or a client cannot remember
            whose sums it opens.
    """
    clients = list(agreement.weights)
    scheme = Scheme(summation=summation, num_clients=len(clients), num_params=agreement.num_params)
    enrolled = [party.name for party in parties.roster.of_role(Role.CLIENT)]
    terms = RunTerms(
        run=run,
        agreement=agreement.digest(),
        encryption=scheme.to_json(),
        roster=parties.roster.digest().hex(),
        left_out=tuple(name for name in enrolled if name not in agreement.weights),
    )
    encrypted = scheme.parameters is not None
    uploads = {
        client: Upload(
            terms=terms,
            agreement=agreement,
            scheme=scheme,
            identity=parties.clients[client],
            roster=parties.roster,
            opened=places.opened(run, client, clients) if encrypted else None,
        )
        for client in clients
    }
    shared = scheme.custody == Custody.SHARED_KEY
    message = _share_key(uploads, parties.key_maker) if shared else b""
    link = _link(summation, parties, agreement.min_clients, places, run)
    return Wiring(
        agreement=agreement,
        scheme=scheme,
        parties=parties,
        uploads=uploads,
        summing=Summing(
            identity=parties.aggregator,
            roster=parties.roster,
            run_terms=terms,
            scheme=scheme,
            opener=_opener(scheme, parties, link),
            key=uploads[parties.key_maker].key,
            key_bytes=len(message),
            min_clients=agreement.min_clients,
        ),
        link=link,
    )


def _share_key(uploads: Mapping[str, Upload], maker: str) -> bytes:
    """One client makes the key and wraps it to the others; the message goes as if relayed."""
    message = uploads[maker].make_key()
    for client, upload in uploads.items():
        if client != maker:
            upload.take_key(message, maker)
    return message


def _opener(
    scheme: Scheme, parties: Parties, link: ProcessLink | AddressLink | None
) -> ClientsOpen | HolderOpens:
    if link is not None:
        return HolderOpens(link, parties.aggregator, parties.roster)
    if scheme.parameters is None:
        return ClientsOpen()
    return ClientsAgree(parties.aggregator, parties.roster)


def _link(
    summation: Summation, parties: Parties, min_clients: int, places: Places, run: str
) -> ProcessLink | AddressLink | None:
    if not isinstance(summation, BFV) or summation.custody is not Custody.KEY_HOLDER:
        return None
    if summation.key_holder is not None:
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
        results=results_folder(places.state, run),
        min_clients=min_clients,
    )
