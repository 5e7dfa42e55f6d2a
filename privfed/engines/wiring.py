"""How the updates of a run are summed: keys, ciphers and parameters, seen from all sides."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfed.custody.ckks import CKKSCipher
from privfed.custody.key_exchange import receive_secret, share_secret
from privfed.custody.keys import SharedSecret, shared_context
from privfed.custody.native import ckks_context, software
from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption import frames
from privfed.encryption.adding import BFVAdder
from privfed.encryption.ckks import CKKSParameters, FloatEncoding, ckks_shape, derive_ckks
from privfed.encryption.fixedpoint import FixedPointEncoding, max_magnitude
from privfed.encryption.noise import COEFF_MODULUS, Rule
from privfed.encryption.parameters import BFVParameters, derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.encryption.range_notes import range_warning
from privfed.errors import ConfigError, IdentityError
from privfed.identity.enrolment import Parties
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.openers import ClientsAgree, ClientsOpen, Custodian, HolderOpens
from privfed.parties.client.node import Codec
from privfed.protocol.ciphers import Adder, Cipher, Encoding
from privfed.protocol.kinds import (
    BASE,
    BASE_MODEL,
    ENCRYPTION,
    KEY_ID,
    LAYOUT,
    LEFT_OUT,
    PUBLIC_RANGE,
    ROSTER,
    SETTINGS,
    SOFTWARE,
)
from privfed.protocol.links import AddressLink, ProcessLink
from privfed.protocol.terms import RoundPlan, Terms
from privfed.settings.encryption import BFV, CKKS, Custody, FixedPoint, Plain, Summation
from privfed.storage.state_folder import opened_path, results_folder

_HEADROOM: Final = 1.5
_DEVIATIONS: Final = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What everybody knows of a run before its updates are summed.

    Attributes:
        run: identifier.
        num_params: length of an update.
        base_model: SHA-256 (hex) of the frozen parameters.
        layout: SHA-256 (hex) of names and shapes of the trainable ones.
        settings: SHA-256 (hex) of all public settings, as each party has them in its own
            configuration: nobody can be talked into other rates or weights than the rest.
        weights: public weight per client.
        min_clients: fewest contributions of a sum.
    """

    run: str
    num_params: int
    base_model: str
    layout: str
    settings: str
    weights: Mapping[str, float]
    min_clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumChannel:
    """How updates of one run are summed.

    Attributes:
        public: what everybody knows.
        summation: the settings.
        parties: who takes part, with their keys.
        ciphers: the clients' sides.
        custodian: the aggregator's side of the custody.
        parameters: of the encryption as JSON values.
        encryption: the same as a record; None without encryption.
        key: name of the run's key and the software that made it; empty if there is none, or if
            every round has its own.
        setup_bytes: bytes that handed out the run's key.
        link: to the key holder, or None.
        opened: what each client never forgets of the run; empty without encryption, where sums are
            in clear.
    """

    public: Public
    summation: Summation
    parties: Parties
    ciphers: Mapping[str, Cipher]
    custodian: Custodian
    parameters: Mapping[str, Any]
    encryption: BFVParameters | CKKSParameters | None
    key: Mapping[str, Any]
    setup_bytes: int = 0
    link: ProcessLink | AddressLink | None = None
    opened: Mapping[str, OpenedRounds] = field(default_factory=dict)

    @property
    def custody(self) -> str:
        """Who holds the secret key: "none", "shared_key" or "key_holder"."""
        return "none" if self.encryption is None else self.encryption.custody.value

    @property
    def rule(self) -> Rule | None:
        """How sure it is that sums are exact; None where they are approximate."""
        if isinstance(self.encryption, CKKSParameters):
            return None
        return Rule.CERTAIN if self.encryption is None else self.encryption.rule

    def terms(self, plan: RoundPlan, public_range: float) -> Terms:
        """What every message of a round must state, before it has a key of its own."""
        manifest = {
            **_run_manifest(self.public, self.parameters, self.parties),
            **self.key,
            BASE: plan.base_digest,
            PUBLIC_RANGE: public_range,
        }
        return Terms(run=plan.run, round=plan.round, manifest=manifest)

    def encoding(self, public_range: float) -> Encoding:
        """From real updates to the numbers that are summed."""
        if isinstance(self.summation, FixedPoint):
            return FixedPointEncoding(public_range=public_range, bits=self.summation.bits)
        return FloatEncoding(public_range=public_range)

    def new_adder(self) -> Adder:
        """The aggregator's side, for one round."""
        if self.encryption is not None:
            return BFVAdder(self.encryption)
        return PlainAdder(self.public.num_params, max_magnitude(_bits(self.summation)))

    def codec(self, client: str, encoding: Encoding) -> Codec:
        """How one client hides its update in one round."""
        return Codec(
            encoding=encoding, weight=self.public.weights[client], cipher=self.ciphers[client]
        )

    def sums_of(self, round_number: int) -> set[tuple[str, ...]]:
        """Contributors of the sums of this round that clients agreed to or opened before."""
        known = (memory.contributors_of(round_number) for memory in self.opened.values())
        return {contributors for contributors in known if contributors is not None}

    def mean_update(
        self, total: NDArray[np.float64], contributors: Sequence[str]
    ) -> NDArray[np.float64]:
        """Weighted mean of the contributors' updates from the sum of weighted updates."""
        weight = math.fsum(self.public.weights[client] for client in contributors)
        return np.asarray(total / weight)

    def next_range(self, mean: NDArray[np.float64], clients: int, largest: float) -> float:
        """The public range of the next round, from the mean that this round released.

        The noise of one client's update is sqrt(clients) times that of the mean. The range leaves
        room for its largest coordinate and for six standard deviations, and never grows beyond
        what the public settings give.

        Args:
            mean: released mean update, shape (params,).
            clients: how many contributed.
            largest: the range from public settings.
        """
        if not self.summation.follow_released:
            return largest
        peak = _HEADROOM * float(np.abs(mean).max())
        spread = _DEVIATIONS * float(np.sqrt(np.mean(np.square(mean))))
        narrowed = math.sqrt(clients) * max(peak, spread)
        return min(largest, narrowed) if narrowed > 0 else largest

    def range_warning(
        self, mean: NDArray[np.float64], contributors: Sequence[str], public_range: float
    ) -> str | None:
        """What is wrong with the public range, as the released mean shows; None if nothing is."""
        return range_warning(
            mean,
            weights=[self.public.weights[client] for client in contributors],
            public_range=public_range,
            bits=self.summation.bits if isinstance(self.summation, FixedPoint) else None,
            deviations=None,
        )

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

    def opened(self, public: Public) -> dict[str, OpenedRounds]:
        """What each client remembers of the run, or begins to remember.

        Raises:
            EncryptionError: if it cannot be written, or is missing in a resume.
        """
        names = list(public.weights)
        paths = {name: opened_path(self.anchors, public.run, name) for name in names}
        if self.resumed:
            return {name: OpenedRounds.resume(path) for name, path in paths.items()}
        return {name: OpenedRounds.create(path, names) for name, path in paths.items()}


def open_channel(
    public: Public, summation: Summation, parties: Parties, places: Places
) -> SumChannel:
    """Keys and parameters of the sum. Secret keys exist in memory only.

    Raises:
        ConfigError: if no parameters fit these clients and bits, or no key holder answers.
        EncryptionError: if the local TenSEAL is not the supported one, or a client cannot remember
            whose sums it opens.
    """
    if isinstance(summation, BFV):
        return _bfv(public, summation, parties, places)
    if isinstance(summation, CKKS):
        return _ckks(public, summation, parties, places)
    if isinstance(summation, Plain):
        return _plain(public, summation, parties)
    raise ConfigError(f"encryption must be BFV(), CKKS() or Plain(), got {summation!r}")


def _plain(public: Public, summation: Plain, parties: Parties) -> SumChannel:
    cipher = PlainCipher(public.num_params, len(public.weights), parties.roster, public.min_clients)
    return SumChannel(
        public=public,
        summation=summation,
        parties=parties,
        ciphers=dict.fromkeys(public.weights, cipher),
        custodian=ClientsOpen(),
        parameters={"scheme": "plain", "bits": summation.bits},
        encryption=None,
        key={},
    )


def _bfv(public: Public, summation: BFV, parties: Parties, places: Places) -> SumChannel:
    parameters = derive(
        num_clients=len(public.weights),
        bits=summation.bits,
        num_params=public.num_params,
        custody=summation.custody,
    )
    if summation.custody is Custody.KEY_HOLDER:
        return _held(public, summation, parties, parameters, places)
    context, shape = shared_context(parameters), frames.ciphertext_shape(parameters)
    cipher = partial(SharedKeyCipher, parameters)
    return _shared(public, summation, parties, places, parameters, context, shape, cipher)


def _ckks(public: Public, summation: CKKS, parties: Parties, places: Places) -> SumChannel:
    parameters = derive_ckks(num_clients=len(public.weights), num_params=public.num_params)
    context, shape = ckks_context(COEFF_MODULUS), ckks_shape(parameters)
    cipher = partial(CKKSCipher, parameters)
    return _shared(public, summation, parties, places, parameters, context, shape, cipher)


def _shared(
    public: Public,
    summation: Summation,
    parties: Parties,
    places: Places,
    parameters: BFVParameters | CKKSParameters,
    context: Any,
    shape: frames.Shape,
    cipher: Callable[[SharedSecret, Roster, int, OpenedRounds, Identity], Cipher],
) -> SumChannel:
    """Clients that share one key; `cipher` makes the side of one of them."""
    secrets, message = _shared_secrets(public, parties, parameters.to_json(), context, shape)
    opened = places.opened(public)
    roster, least = parties.roster, public.min_clients
    return SumChannel(
        public=public,
        summation=summation,
        parties=parties,
        ciphers={
            client: cipher(secret, roster, least, opened[client], parties.clients[client])
            for client, secret in secrets.items()
        },
        custodian=ClientsAgree(parties.aggregator, roster),
        parameters=parameters.to_json(),
        encryption=parameters,
        key={KEY_ID: secrets[parties.key_maker].key_id, SOFTWARE: software()},
        setup_bytes=len(message),
        opened=opened,
    )


def _shared_secrets(
    public: Public,
    parties: Parties,
    parameters: Mapping[str, Any],
    context: Any,
    shape: frames.Shape,
) -> tuple[dict[str, SharedSecret], bytes]:
    """One client makes the key and wraps it to the others; the message goes as if relayed."""
    maker = parties.key_maker
    manifest = _run_manifest(public, parameters, parties)
    terms = Terms(run=public.run, round=0, manifest=manifest)
    made = SharedSecret.generate(context, shape)
    message = share_secret(made, parties.clients[maker], parties.roster, terms)
    secrets = {maker: made}
    for client, identity in parties.clients.items():
        if client != maker:
            secrets[client] = receive_secret(
                message,
                identity,
                parties.roster,
                terms,
                maker=maker,
                context=context,
                shape=shape,
            )
    return secrets, message


def _held(
    public: Public, summation: BFV, parties: Parties, parameters: BFVParameters, places: Places
) -> SumChannel:
    opened = places.opened(public)
    roster, least = parties.roster, public.min_clients
    ciphers: dict[str, Cipher] = {
        client: RoundKeyCipher(parameters, identity, roster, least, opened[client])
        for client, identity in parties.clients.items()
    }
    link = _link(summation, parties, least, results_folder(places.state, public.run))
    return SumChannel(
        public=public,
        summation=summation,
        parties=parties,
        ciphers=ciphers,
        custodian=HolderOpens(link, parties.aggregator, roster),
        parameters=parameters.to_json(),
        encryption=parameters,
        key={},
        link=link,
        opened=opened,
    )


def _link(
    summation: BFV, parties: Parties, min_clients: int, results: Path
) -> ProcessLink | AddressLink:
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
        results=results,
        min_clients=min_clients,
    )


def _run_manifest(
    public: Public, parameters: Mapping[str, Any], parties: Parties
) -> dict[str, Any]:
    enrolled = parties.roster.of_role(Role.CLIENT)
    return {
        BASE_MODEL: public.base_model,
        LAYOUT: public.layout,
        SETTINGS: public.settings,
        ENCRYPTION: dict(parameters),
        ROSTER: parties.roster.digest().hex(),
        LEFT_OUT: [party.name for party in enrolled if party.name not in public.weights],
    }


def _bits(summation: Summation) -> int:
    if not isinstance(summation, FixedPoint):
        raise ConfigError(f"{type(summation).__name__} has no fixed-point bits")
    return summation.bits
