"""Custody `key_holder`: a party of its own makes a key pair for every round and decrypts one sum.

It verifies the sum instead of believing the aggregator. A ciphertext under a public key can be
made by anybody, and a key holder that decrypts whatever it is given hands its secret key to who
asks for (0, floor(q/t)). So, in this order: the aggregator commits to a sum and a list of
contributions, each signed by an enrolled client for this round and key; only then a fresh random
challenge is drawn; each contributor answers, signed; the sum is decrypted if the answers add up. A
wrong sum of honest contributors' ciphertexts passes with a chance below 2^-116 (see `challenges`).

The key exists in memory only and is destroyed after its one decryption. The last result of every
run is kept on disk, signed and public: should the aggregator crash and ask again, it gets the same
result, and no round is ever decrypted twice.

A contributor that deviates alone cannot bring the key into the sum either: the decrypted sum must
carry the tags of `encryption.tags`, or nothing is shown. What this does not stop: a contributor on
the aggregator's side, who can answer falsely or, shown others' ciphertexts before it sends its own,
cancel them. `min_clients` counts enrolled identities.
"""

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.custody import bfv
from privfed.custody.keys import RoundKey
from privfed.custody.native import software
from privfed.custody.round_key import MOST_CHALLENGES, padded_params, public_tags, statement_digest
from privfed.encryption import packing, residues
from privfed.encryption.bitpacking import pack_rows
from privfed.encryption.challenges import CHALLENGE_BYTES, EQUATIONS, Challenge, add_up
from privfed.encryption.parameters import BFVParameters
from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.contributions import Contribution, require_contributions
from privfed.protocol.envelopes import Blob, Envelope
from privfed.protocol.kinds import (
    ANSWER,
    ANSWERS,
    CHALLENGE,
    CIPHERTEXTS,
    CONTRIBUTIONS,
    CONTRIBUTORS,
    ENCRYPTION,
    KEY_ID,
    OPEN_ROUND,
    PUBLIC_KEY,
    RESULT,
    ROSTER,
    ROUND_KEY,
    SEED,
    SOFTWARE,
    SUM,
    SUMS,
    VALUES,
)
from privfed.protocol.signing import (
    exact_values,
    require_signature,
    require_terms,
    require_values,
    signed_message,
    verified,
)
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from privfed.storage.durable import write_durably, writing

MIN_CLIENTS: Final = 3
_AT_ONCE: Final = 8
_MOST_ROUNDS: Final = 64


@dataclass(slots=True, kw_only=True)
class _Committed:
    """A sum that the aggregator committed to, and the challenge that was drawn for it."""

    contributors: list[str]
    polynomials: list[NDArray[np.uint64]]
    form: Challenge
    challenge: str


@dataclass(slots=True, kw_only=True)
class _Round:
    """The one round of a run that is open."""

    unkeyed: Terms
    terms: Terms
    parameters: BFVParameters
    key: RoundKey
    challenges: int = 0
    committed: _Committed | None = None


class KeyHolder:
    """Answers the aggregator's messages, one at a time. It trusts nothing but the roster.

    Args:
        identity: of the key holder.
        roster: who is enrolled.
        results: folder for the last result of each run; made if missing.
        min_clients: fewest contributors of a sum that is decrypted; at least 3.

    Raises:
        EncryptionError: if the identity is not the roster's key holder, or min_clients is too low.
    """

    def __init__(
        self, identity: Identity, roster: Roster, results: Path, min_clients: int = MIN_CLIENTS
    ) -> None:
        if roster.of_role(Role.KEY_HOLDER) != (identity.party,):
            raise EncryptionError(
                f"{identity.party.name!r} must be the one key holder of the roster, with these "
                "very keys, and is not"
            )
        if type(min_clients) is not int or min_clients < MIN_CLIENTS:
            raise EncryptionError(
                f"min_clients must be at least {MIN_CLIENTS}, got {min_clients!r}"
            )
        self._identity = identity
        self._roster = roster
        self._results = results
        self._min_clients = min_clients
        self._rounds: dict[str, _Round] = {}

    def receive(self, message: Blob) -> bytes:
        """Answer one message of the aggregator.

        Returns:
            For "open-round" the round's public key, or the result of a round that is over; for
            "sum" a challenge; for "answers" the result.

        Raises:
            MessageError: if it is malformed, not signed by who must sign, or of another round.
            EncryptionError: if the sum is not that of its contributions, or was decrypted before.
        """
        envelope = Envelope.from_bytes(message)
        statement = envelope.statement
        require_signature(statement, envelope.signature, self._roster, role=Role.AGGREGATOR)
        if statement.kind == OPEN_ROUND:
            return self._open(envelope)
        if statement.kind == SUM:
            return self._challenge(envelope, self._round_of(envelope))
        if statement.kind == ANSWERS:
            return self._result(envelope, self._round_of(envelope))
        raise MessageError(f"a key holder cannot answer a {statement.kind!r}")

    def close(self) -> None:
        """Destroy the keys of all rounds that are open; nothing of them can be decrypted then."""
        while self._rounds:
            self._rounds.popitem()[1].key.destroy()

    def _open(self, envelope: Envelope) -> bytes:
        statement = envelope.statement
        unkeyed = Terms(run=statement.run, round=statement.round, manifest=statement.manifest)
        exact_values(envelope, unkeyed, states=())
        parameters = self._parameters_of(unkeyed)
        finished = self._finished(unkeyed)
        if finished is not None:
            return finished
        open_round = self._rounds.get(unkeyed.run)
        if open_round is not None:
            if unkeyed.round < open_round.unkeyed.round:
                raise MessageError(f"round {unkeyed.round} of run {unkeyed.run!r} is over")
            self._rounds.pop(unkeyed.run).key.destroy()
        self._make_room()
        key = RoundKey.generate(parameters)
        named = {KEY_ID: key.key_id, SOFTWARE: software()}
        terms = Terms(run=unkeyed.run, round=unkeyed.round, manifest={**unkeyed.manifest, **named})
        self._rounds[unkeyed.run] = _Round(
            unkeyed=unkeyed, terms=terms, parameters=parameters, key=key
        )
        return signed_message(
            self._identity, terms, ROUND_KEY, blobs={PUBLIC_KEY: key.public_bytes()}
        )

    def _make_room(self) -> None:
        """Give up the round that was opened first, where very many runs have one open."""
        while len(self._rounds) >= _MOST_ROUNDS:
            self._rounds.pop(next(iter(self._rounds))).key.destroy()

    def _parameters_of(self, unkeyed: Terms) -> BFVParameters:
        if unkeyed.manifest.get(ROSTER) != self._roster.digest().hex():
            raise MessageError("the aggregator has another roster than the key holder")
        parameters = BFVParameters.from_json(unkeyed.manifest.get(ENCRYPTION))
        if parameters.custody is not Custody.KEY_HOLDER:
            raise MessageError(f"a key holder serves no {parameters.custody.value!r} parameters")
        if unkeyed.round < 1:
            raise MessageError(f"rounds are counted from 1, got {unkeyed.round}")
        return parameters

    def _round_of(self, envelope: Envelope) -> _Round:
        statement = envelope.statement
        found = self._rounds.get(statement.run)
        if found is None or found.unkeyed.round != statement.round:
            raise MessageError(
                f"round {statement.round} of run {statement.run!r} is not open here: it was never "
                "opened, or is over and its key destroyed"
            )
        return found

    def _challenge(self, envelope: Envelope, current: _Round) -> bytes:
        """Steps 1 and 2: the aggregator has committed; a challenge is drawn."""
        terms, parameters = current.terms, current.parameters
        contributions = self._contributions(envelope, current)
        if current.challenges == MOST_CHALLENGES:
            raise EncryptionError(
                f"after {MOST_CHALLENGES} sums nobody answered for, the round must be opened anew"
            )
        count, bits = parameters.num_ciphertexts, parameters.sum_bits
        rows = residues.rows_of(envelope.blobs[CIPHERTEXTS], count, bits)
        polynomials = residues.from_rows(rows, bits)
        current.challenges += 1
        seed = secrets.token_bytes(CHALLENGE_BYTES)
        names = [contribution.client for contribution in contributions]
        stated: dict[str, object] = {
            SEED: seed.hex(),
            SUM: statement_digest(envelope.statement),
            CONTRIBUTORS: names,
        }
        message = signed_message(self._identity, terms, CHALLENGE, manifest=stated)
        current.committed = _Committed(
            contributors=names,
            polynomials=polynomials,
            form=Challenge(seed, count),
            challenge=statement_digest(Envelope.from_bytes(message).statement),
        )
        return message

    def _contributions(self, envelope: Envelope, current: _Round) -> list[Contribution]:
        require_terms(envelope.statement, kind=SUM, terms=current.terms)
        stated = exact_values(envelope, current.terms, states={CONTRIBUTIONS}, blobs={CIPHERTEXTS})
        return require_contributions(
            stated[CONTRIBUTIONS],
            self._roster,
            current.terms,
            min_clients=self._min_clients,
            max_clients=current.parameters.num_clients,
        )

    def _result(self, envelope: Envelope, current: _Round) -> bytes:
        """Steps 3 and 4: all contributors have answered; decrypt once if their answers add up."""
        require_terms(envelope.statement, kind=ANSWERS, terms=current.terms)
        committed = current.committed
        if committed is None:
            raise MessageError("answers came before a sum was committed")
        exact_values(envelope, current.terms, states=(), blobs=committed.contributors)
        answers = [
            self._answer(name, envelope.blobs[name], current, committed)
            for name in committed.contributors
        ]
        current.committed = None
        if not add_up(answers, committed.form.answer([committed.polynomials])):
            raise EncryptionError(
                f"the sum is not that of the contributions of {committed.contributors}: the "
                "aggregator changed it, or one of these answered falsely; it is not decrypted"
            )
        return self._decrypt_once(current, committed)

    def _answer(
        self, name: str, message: Blob, current: _Round, committed: _Committed
    ) -> tuple[int, ...]:
        answer = verified(message, self._roster, role=Role.CLIENT, kind=ANSWER, terms=current.terms)
        values = exact_values(answer, current.terms, states={CHALLENGE, VALUES})
        if answer.statement.sender != name or values[CHALLENGE] != committed.challenge:
            raise MessageError(f"the answer for {name!r} is not its answer to this challenge")
        numbers = values[VALUES]
        if not isinstance(numbers, list) or len(numbers) != EQUATIONS:
            raise MessageError(f"the answer of {name!r} must have {EQUATIONS} values")
        if not all(isinstance(number, str) and number.isdecimal() for number in numbers):
            raise MessageError(f"the answer of {name!r} must be whole numbers")
        if any(len(number) > len(str(1 << 60)) for number in numbers):
            raise MessageError(f"the answer of {name!r} must be numbers below 2^60")
        return tuple(int(number) for number in numbers)

    def _decrypt_once(self, current: _Round, committed: _Committed) -> bytes:
        del self._rounds[current.unkeyed.run]
        try:
            sums = _decrypted(current, committed)
        finally:
            current.key.destroy()
        message = signed_message(
            self._identity,
            current.terms,
            RESULT,
            manifest={CONTRIBUTORS: committed.contributors},
            blobs={SUMS: _shifted(sums, current.parameters)},
        )
        self._keep(current.unkeyed.run, message)
        return message

    def _finished(self, unkeyed: Terms) -> bytes | None:
        """The result of this round if it is over; a round before the last is refused."""
        path = self._result_path(unkeyed.run)
        if not path.exists():
            return None
        message = path.read_bytes()
        last = Envelope.from_bytes(message).statement
        if unkeyed.round > last.round:
            return None
        if unkeyed.round < last.round:
            raise MessageError(f"round {unkeyed.round} of run {unkeyed.run!r} is over")
        after = (KEY_ID, SOFTWARE, CONTRIBUTORS)
        before = {key: value for key, value in last.manifest.items() if key not in after}
        try:
            require_values("the aggregator", unkeyed.manifest, before)
        except MessageError as error:
            raise EncryptionError(
                f"round {unkeyed.round} of run {unkeyed.run!r} was decrypted under other terms; a "
                f"round is decrypted once ({error})"
            ) from error
        return message

    def _keep(self, run: str, message: bytes) -> None:
        """Keep a result durably before it is sent."""
        with writing(self._results):
            self._results.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._result_path(run), message)

    def _result_path(self, run: str) -> Path:
        return self._results / f"{hashlib.sha256(run.encode()).hexdigest()}.result"


def _decrypted(current: _Round, committed: _Committed) -> NDArray[np.int64]:
    parameters, tags = current.parameters, public_tags(current.parameters, current.terms)
    c0, c1 = committed.polynomials
    parts = []
    for start in range(0, len(c0), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        parts.append(bfv.decrypt_full(current.key, c0[part], c1[part], parameters))
    slots = np.concatenate(parts)  # checked whole, so that the time to a refusal says nothing more
    tags.check(slots)
    return packing.without_padding(packing.unpack(slots, parameters), parameters)


def _shifted(sums: NDArray[np.int64], parameters: BFVParameters) -> bytes:
    """Sums as unsigned numbers, packed to the bit."""
    rows = np.zeros((1, padded_params(parameters)), dtype=np.uint64)
    rows[0, : len(sums)] = sums + (parameters.radix - 1) // 2
    return pack_rows(rows, parameters.value_bits).tobytes()
