"""Who takes part, with which keys: read from files, or made for a simulation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from privfed.errors import IdentityError, MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster
from privfed.storage.state_folder import identity_path, make_private_folder

AGGREGATOR: Final = "aggregator"
KEY_HOLDER: Final = "key_holder"
_AUTHORITY: Final = "authority"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """Files with keys of parties, as `privfed roster` makes them.

    Attributes:
        roster: the signed list of parties.
        authority: public key (hex) of who signed it, learnt another way than from the roster.
        identities: folder with the secret identities of the parties that run here, as
            `NAME.identity`.
    """

    roster: Path
    authority: str
    identities: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Everybody's public keys, and the secret ones of those who run here.

    Attributes:
        roster: the signed list.
        roster_file: where it lies.
        clients: secret identities by client id.
        aggregator: its secret identity.
        key_holder_file: secret identity of the key holder, for its own process; None if it runs
            elsewhere or is not needed.
        simulated: whether all keys were made here, for this run.
    """

    roster: Roster
    roster_file: Path
    clients: Mapping[str, Identity]
    aggregator: Identity
    key_holder_file: Path | None
    simulated: bool

    @property
    def key_maker(self) -> str:
        """The client that makes the shared key: the first by name."""
        return min(self.clients)


def open_parties(
    clients: Sequence[str], state: Path, enrolment: Enrolment | None, *, key_holder: bool
) -> Parties:
    """Identities and roster of a run.

    Args:
        clients: their ids.
        state: folder for identities that a simulation makes.
        enrolment: where keys and roster lie; None makes them.
        key_holder: whether the run has one.

    Raises:
        IdentityError: if somebody is not enrolled, or has other keys than the roster says.
        MessageError: if the roster is not what its authority signed.
    """
    if enrolment is None:
        return _simulated(clients, state, key_holder=key_holder)
    roster = Roster.load(enrolment.roster, authority=_hex_key(enrolment.authority))
    folder = enrolment.identities
    identities = {name: _enrolled(roster, folder, name, Role.CLIENT) for name in clients}
    (aggregator,) = roster.of_role(Role.AGGREGATOR) or (None,)
    if aggregator is None:
        raise IdentityError("the roster must name an aggregator, it names none")
    holder_file = None
    if key_holder:
        holders = roster.of_role(Role.KEY_HOLDER)
        if not holders:
            raise IdentityError(
                "the roster must name a key holder for custody key_holder, it names none; sign one "
                "that does, or use custody shared_key"
            )
        holder_file = folder / f"{holders[0].name}.identity"
    return Parties(
        roster=roster,
        roster_file=enrolment.roster,
        clients=identities,
        aggregator=_enrolled(roster, folder, aggregator.name, Role.AGGREGATOR),
        key_holder_file=holder_file,
        simulated=False,
    )


def _enrolled(roster: Roster, folder: Path, name: str, role: Role) -> Identity:
    party = roster.party(name)
    if party.role is not role:
        raise IdentityError(
            f"{name!r} must be enrolled as {role}, the roster has it as {party.role}; check the "
            "names of the clients"
        )
    identity = Identity.load(folder / f"{name}.identity")
    if party != identity.party:
        raise IdentityError(
            f"{name!r} must have the keys that the roster names, {folder / name}.identity holds "
            "others; enrol it anew, or take the file that belongs to this roster"
        )
    return identity


def _hex_key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise IdentityError(
            "[parties] authority must be 64 hexadecimal digits, the public key that `privfed "
            "roster sign` prints; a fingerprint or a file name is not enough"
        ) from error


def _simulated(clients: Sequence[str], state: Path, *, key_holder: bool) -> Parties:
    """Identities kept in the state folder, under an authority of its own."""
    folder = identity_path(state, _AUTHORITY).parent
    make_private_folder(folder)
    own = {name: _kept(state, name, Role.CLIENT) for name in clients}
    aggregator = _kept(state, AGGREGATOR, Role.AGGREGATOR)
    others: list[Party] = [aggregator.party]
    if key_holder:
        others.append(_kept(state, KEY_HOLDER, Role.KEY_HOLDER).party)
    authority = _kept(state, _AUTHORITY, Role.AUTHORITY)
    roster = Roster.signed(
        "simulation", [*(identity.party for identity in own.values()), *others], authority
    )
    roster_file = folder / f"roster-{roster.digest().hex()[:16]}.json"
    if not roster_file.exists():
        roster.save(roster_file)
    return Parties(
        roster=roster,
        roster_file=roster_file,
        clients=own,
        aggregator=aggregator,
        key_holder_file=identity_path(state, KEY_HOLDER) if key_holder else None,
        simulated=True,
    )


def _kept(state: Path, name: str, role: Role) -> Identity:
    path = identity_path(state, name)
    if path.exists():
        try:
            identity = Identity.load(path)
        except MessageError as error:
            raise MessageError(
                f"the simulation's file {path} must be usable, but: {error}; for new keys, "
                "move its folder away before the next run"
            ) from error
        if (identity.party.name, identity.party.role) == (name, role):
            return identity
        raise IdentityError(
            f"the simulation's file {path} must hold keys of {name!r} as {role}, it holds those of "
            f"{identity.party.name!r} as {identity.party.role}; choose another state folder"
        )
    identity = Identity.generate(name, role)
    identity.save(path)
    return identity
