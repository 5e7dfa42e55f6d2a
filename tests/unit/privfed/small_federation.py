"""A federation of a few clients for tests: real keys, real messages, as small as can be."""

import functools
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accountants import Anchor
from privfed.custody import bfv
from privfed.custody.key_exchange import receive_secret, share_secret
from privfed.custody.keys import SharedSecret, shared_context
from privfed.custody.native import software
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption import frames
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.parameters import BFVParameters, derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import ClientsOpen, HolderOpens, Opening
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.parties.key_holder.serving import answer
from privfed.protocol.envelopes import Envelope, envelope_bytes, write_envelope
from privfed.protocol.kinds import CONTRIBUTIONS, LEDGER, UPDATE
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """Everybody's secret keys, and the roster."""

    clients: Mapping[str, Identity]
    aggregator: Identity
    key_holder: Identity
    roster: Roster


@functools.cache
def enrolled(num_clients: int) -> Enrolled:
    """Clients c1, c2, ... and the two servers."""
    names = [f"c{number}" for number in range(1, num_clients + 1)]
    clients = {name: Identity.generate(name, Role.CLIENT) for name in names}
    aggregator = Identity.generate("aggregator", Role.AGGREGATOR)
    key_holder = Identity.generate("key_holder", Role.KEY_HOLDER)
    everybody = [*clients.values(), aggregator, key_holder]
    authority = Identity.generate("authority", Role.AUTHORITY)
    roster = Roster.signed("test", [identity.party for identity in everybody], authority)
    return Enrolled(clients=clients, aggregator=aggregator, key_holder=key_holder, roster=roster)


def anchor(length: int) -> Anchor:
    """Of a ledger with that many entries."""
    return Anchor(length=length, head=hashlib.sha256(b"ledger").hexdigest())


def updates(parameters: BFVParameters, names: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """Integers of each client; the first and the last are at one end of the range for all."""
    random = np.random.default_rng(seed)
    largest = parameters.max_magnitude
    rows = {}
    for name in names:
        rows[name] = random.integers(-largest, largest + 1, parameters.num_params)
        rows[name][0], rows[name][-1] = largest, -largest
    return rows


class SmallFederation:
    """One run: its ciphers and the aggregator's side; `custody` None is without encryption."""

    def __init__(
        self,
        custody: Custody | None,
        results: Path,
        *,
        num_clients: int = 3,
        bits: int = 8,
        num_params: int = 9,
        min_clients: int = 3,
    ) -> None:
        self.parties = enrolled(num_clients)
        self.roster = self.parties.roster
        self.custody = custody
        self.parameters = derive(
            num_clients=num_clients,
            bits=bits,
            num_params=num_params,
            custody=custody or Custody.SHARED_KEY,
        )
        self.min_clients = min_clients
        self.results = results
        self.manifest: dict[str, Any] = {
            "encryption": self.parameters.to_json(),
            "roster": self.roster.digest().hex(),
        }
        if custody is Custody.KEY_HOLDER:
            self.start_holder()
            make = functools.partial(RoundKeyCipher, self.parameters)
            self.ciphers: dict[str, Any] = {
                name: make(identity, self.roster, min_clients)
                for name, identity in self.parties.clients.items()
            }
        elif custody is Custody.SHARED_KEY:
            self._share_key()
            self.custodian: Any = ClientsOpen()
        else:
            cipher = PlainCipher(num_params, num_clients, self.roster, min_clients)
            self.ciphers = dict.fromkeys(self.parties.clients, cipher)
            self.custodian = ClientsOpen()

    @property
    def names(self) -> list[str]:
        return sorted(self.parties.clients)

    def start_holder(self) -> None:
        """Start the key holder, or start it again: all that it had in memory is gone."""
        self.holder = KeyHolder(
            self.parties.key_holder, self.roster, self.results, self.min_clients
        )
        self.custodian = HolderOpens(self, self.parties.aggregator, self.roster)

    def ask(self, message: bytes) -> bytes:
        """The link to the key holder."""
        return answer(self.holder, self.parties.key_holder, message)

    def _share_key(self) -> None:
        terms = Terms(run="run", round=0, manifest=self.manifest)
        context, shape = shared_context(self.parameters), frames.ciphertext_shape(self.parameters)
        made = SharedSecret.generate(context, shape)
        self.key_message = share_secret(made, self.parties.clients["c1"], self.roster, terms)
        self.secrets = {"c1": made}
        for name in self.names[1:]:
            self.secrets[name] = receive_secret(
                self.key_message,
                self.parties.clients[name],
                self.roster,
                terms,
                maker="c1",
                context=context,
                shape=shape,
            )
        self.ciphers = {name: self.shared_cipher(name) for name in self.names}
        self.manifest = {**self.manifest, "key_id": made.key_id, "software": software()}

    def shared_cipher(self, name: str) -> SharedKeyCipher:
        """A cipher that remembers no earlier round."""
        return SharedKeyCipher(self.parameters, self.secrets[name], self.roster, self.min_clients)

    def terms(self, round: int = 1) -> Terms:
        """What all agree on before the round."""
        return Terms(run="run", round=round, manifest={**self.manifest, "base": f"b{round}"})

    def begin(self, round: int = 1) -> Opening:
        """Open a round, and hand every client its key."""
        opening: Opening = self.custodian.begin(self.terms(round))
        if opening.key is not None:
            for name in self.names:
                assert self.ciphers[name].accept_key(opening.unkeyed, opening.key) == opening.terms
        return opening

    def upload(
        self, terms: Terms, name: str, numbers: Any, signer: Identity | None = None
    ) -> bytes:
        """One client's message; `signer` is another identity that signs in its name."""
        sink = io.BytesIO()
        write_envelope(
            sink,
            (signer or self.parties.clients[name]).sign,
            run=terms.run,
            round=terms.round,
            sender=name,
            kind=UPDATE,
            manifest={**terms.manifest, LEDGER: anchor(terms.round + 1).to_json()},
            blobs=self.ciphers[name].encrypt(terms, numbers),
        )
        return sink.getvalue()

    def uploads(self, terms: Terms, values: Mapping[str, Any]) -> dict[str, bytes]:
        """The messages of all clients."""
        return {name: self.upload(terms, name, numbers) for name, numbers in values.items()}

    def new_adder(self) -> Any:
        if self.custody is None:
            return PlainAdder(self.parameters.num_params, self.parameters.max_magnitude)
        return CiphertextAdder(self.parameters)

    def total(
        self, terms: Terms, uploads: Mapping[str, bytes], min_clients: int | None = None
    ) -> bytes:
        """The sum as the aggregator makes it."""
        aggregator = Aggregator(
            identity=self.parties.aggregator,
            roster=self.roster,
            terms=terms,
            cohort=self.names,
            anchors={name: anchor(terms.round) for name in self.names},
            adder=self.new_adder(),
            min_clients=min_clients or self.min_clients,
        )
        for message in uploads.values():
            aggregator.receive(message)
        return aggregator.total()

    def changed(
        self, terms: Terms, total: bytes, *, blobs: Any = None, listed: Any = None
    ) -> bytes:
        """The sum as a deviating aggregator sends it: blobs or list of contributions replaced."""
        envelope = Envelope.from_bytes(total)
        if listed is None:
            listed = envelope.statement.manifest[CONTRIBUTIONS]
        return self.signed(
            terms,
            "sum",
            manifest={CONTRIBUTIONS: listed},
            blobs=dict(envelope.blobs) if blobs is None else blobs,
        )

    def signed(self, terms: Terms, kind: str, signer: Identity | None = None, **more: Any) -> bytes:
        """Any message, by the aggregator unless said otherwise."""
        who = signer or self.parties.aggregator
        return envelope_bytes(who.sign, terms, sender=who.party.name, kind=kind, **more)

    def answers(
        self, terms: Terms, challenge: bytes, uploads: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The contributors' answers to the key holder's challenge."""
        return {
            name: self.ciphers[name].answer(terms, challenge, sent)
            for name, sent in uploads.items()
        }

    def close(self, terms: Terms, total: bytes, uploads: Mapping[str, bytes]) -> bytes:
        """The message that ends the round."""
        closed: bytes = self.custodian.close(
            terms, total, lambda challenge: self.answers(terms, challenge, uploads)
        )
        return closed

    def play(self, values: Mapping[str, Any], round: int = 1) -> dict[str, Any]:
        """A whole round; what every client opens."""
        opening = self.begin(round)
        uploads = self.uploads(opening.terms, values)
        closed = self.close(opening.terms, self.total(opening.terms, uploads), uploads)
        return {name: self.ciphers[name].open(opening.terms, closed) for name in self.names}


def blobs_of(message: bytes) -> dict[str, Any]:
    """The blobs of a message."""
    return dict(Envelope.from_bytes(message).blobs)


def contribution_of(message: bytes) -> list[Any]:
    """The list of contributions of a sum."""
    listed: list[Any] = Envelope.from_bytes(message).statement.manifest[CONTRIBUTIONS]
    return listed


def count_decryptions(monkeypatch: Any) -> list[int]:
    """From now on, one entry for every call of `decrypt_full`."""
    calls: list[int] = []
    genuine = bfv.decrypt_full

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return genuine(*arguments)

    monkeypatch.setattr(bfv, "decrypt_full", counted)
    return calls
