"""`privfed roster`: make identities and certificates, sign a federation's roster, look at one.

What travels: every party sends its `.party.json` to the authority and reads its fingerprint to it
over another channel; the authority sends back the roster, and its own public key over another
channel. An aggregator also hands its certificate to all. Private files never leave the machine they
were made on.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from privfed.identity.keys import Party
    from privfed.identity.roster import Roster

PUBLIC_SUFFIX: Final = ".party.json"
TRANSPORT_SUFFIX: Final = ".transport"
CERTIFICATE_SUFFIX: Final = ".crt"
RoleName = Literal["client", "aggregator", "key_holder", "authority"]
"""`Role` as text, so that asking for help does not import it."""

_MAX_PARTY_FILE_BYTES = 1 << 16
_DAYS = 730

AuthorityKey = Annotated[
    str,
    typer.Option(
        "--authority",
        help="Public file of the authority, or its public key as 64 hex digits; not from "
        "whoever sent the roster.",
    ),
]

roster_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Make identities and the signed roster that says who takes part, with which keys.",
)


@roster_app.command()
def identity(
    name: Annotated[str, typer.Argument(help="Name of the party, as all others will see it.")],
    role: Annotated[RoleName, typer.Option("--role", help="What it does.")],
    out: Annotated[Path, typer.Option("--out", help="New file for the private keys.")],
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="DNS name or IP address at which the others reach an aggregator; may come again. "
            "Makes its certificate.",
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option("--days", help=f"How long it is valid, {_DAYS} unless given."),
    ] = None,
) -> None:
    """Make the keys of a party: private files, and public ones beside them."""
    from privfed.identity.keys import Identity, Role
    from privfed.identity.transport import new_transport_key, self_signed_certificate
    from privfed.storage.private_files import write_new

    _require_aggregator(role, hosts, days)
    has_transport = Role(role) is not Role.AUTHORITY
    pem, transport_key = new_transport_key() if has_transport else (b"", b"")
    made = Identity.generate(name, Role(role), transport_key)
    beside = {}
    if has_transport:
        beside[TRANSPORT_SUFFIX] = pem, 0o600
    if hosts:
        valid = _DAYS if days is None else days
        certificate = self_signed_certificate(pem, name, hosts, valid, datetime.now(UTC))
        beside[CERTIFICATE_SUFFIX] = certificate, 0o644
    beside[PUBLIC_SUFFIX] = made.party.to_bytes(), 0o644
    paths = {suffix: _new_beside(out, suffix) for suffix in beside}
    # Some of these files would be of no use without the others.
    with ExitStack() as undo:
        made.save(out)
        undo.callback(out.unlink)
        for suffix, (content, mode) in beside.items():
            write_new(paths[suffix], content, mode=mode)
            undo.callback(paths[suffix].unlink)
        undo.pop_all()
    public = paths[PUBLIC_SUFFIX]
    _say(f"private: {out}\n  Keep it on this machine and show it to nobody.")
    if has_transport:
        _say(
            f"transport: {paths[TRANSPORT_SUFFIX]} "
            "(private too, for the process that carries bytes)"
        )
    if hosts:
        _say_certificate(paths[CERTIFICATE_SUFFIX])
    elif Role(role) is Role.AGGREGATOR:
        _say(f"No certificate yet: `privfed roster certificate {out} --host HOST` makes one.")
    if made.party.role is Role.AUTHORITY:
        _say(f"public:  {public}\n  Hand it to every party; they check rosters with it.")
        _say(f"public key: {made.party.signing_key.hex()}")
    else:
        _say(f"public:  {public}\n  Hand it to the authority, which signs the roster.")
    _say(f"fingerprint: {made.party.fingerprint}")
    _say("  Read it to them over another channel (phone, in person); it must be the same there.")


@roster_app.command()
def sign(
    parties: Annotated[list[Path], typer.Argument(help="Public files of all parties.")],
    federation: Annotated[str, typer.Option("--federation", help="Name of the federation.")],
    authority: Annotated[
        Path, typer.Option("--authority", help="Private identity file of the authority.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New file for the roster.")],
) -> None:
    """Sign a roster of PARTIES. Compare every fingerprint before you hand it out."""
    from privfed.errors import IdentityError
    from privfed.identity.keys import Identity
    from privfed.identity.roster import Roster

    if authority.name.endswith(PUBLIC_SUFFIX):
        raise IdentityError(
            f"--authority must be the private file of the authority, {str(authority)!r} is a "
            f"public one; leave off {PUBLIC_SUFFIX}"
        )
    signer = Identity.load(authority)
    roster = Roster.signed(federation, [_read_party(path) for path in parties], signer)
    roster.save(out)
    _print_roster(roster)
    _say(
        f"roster: {out}\n  Before you hand it out, let every party read its fingerprint to you.\n"
        f"authority's public key: {roster.authority.hex()}\n"
        "  Parties must get it over another channel than the roster."
    )


@roster_app.command()
def show(
    roster: Annotated[Path, typer.Argument(help="Roster file.")],
    authority: AuthorityKey,
) -> None:
    """Verify ROSTER against the authority's public key, and print who is enrolled."""
    from privfed.identity.roster import Roster

    verified = Roster.load(roster, authority=authority_key(authority))
    _print_roster(verified)
    _print_transport_keys(verified.parties)
    _say("The signature is the authority's.")


@roster_app.command()
def digest(
    roster: Annotated[Path, typer.Argument(help="Roster file.")],
    authority: AuthorityKey,
) -> None:
    """Verify ROSTER and print its digest, to be read over the phone: all parties have the same."""
    from privfed.identity.keys import Role
    from privfed.identity.names import grouped_hex
    from privfed.identity.roster import Roster

    verified = Roster.load(roster, authority=authority_key(authority))
    _say(f"federation: {verified.federation}")
    for role in (Role.CLIENT, Role.AGGREGATOR, Role.KEY_HOLDER):
        _say(f"{role}: {len(verified.of_role(role))}")
    _say(f"roster digest: {grouped_hex(verified.digest())}")
    _say("The signature is the authority's.")


@roster_app.command()
def certificate(
    identity: Annotated[Path, typer.Argument(help="Identity file of the aggregator.")],
    hosts: Annotated[
        list[str],
        typer.Option(
            "--host", help="DNS name or IP address at which the others reach it; may come again."
        ),
    ],
    days: Annotated[int, typer.Option("--days", help="How long it is valid.")] = _DAYS,
    out: Annotated[
        Path | None,
        typer.Option("--out", help=f"New file for it, IDENTITY{CERTIFICATE_SUFFIX} unless given."),
    ] = None,
) -> None:
    """Make a certificate of the aggregator's transport key: its first, or a new one in time.

    It is made from the transport and public files beside IDENTITY, which itself is not read.
    """
    from privfed.errors import IdentityError
    from privfed.identity.keys import Role
    from privfed.identity.transport import public_of, read_transport_key, self_signed_certificate
    from privfed.storage.private_files import write_new

    place = _new_beside(identity, CERTIFICATE_SUFFIX) if out is None else _not_there(out)
    party = _read_party(identity.with_name(identity.name + PUBLIC_SUFFIX))
    if party.role is not Role.AGGREGATOR:
        raise IdentityError(
            f"a certificate must be of an aggregator, {party.name!r} has the role {party.role}; "
            "give the identity file of the aggregator"
        )
    secret = identity.with_name(identity.name + TRANSPORT_SUFFIX)
    pem = read_transport_key(secret)
    if public_of(pem) != party.transport_key:
        raise IdentityError(
            f"{str(secret)!r} must hold the transport key of {party.name!r}, it holds another; "
            "take the file that was made with this identity"
        )
    content = self_signed_certificate(pem, party.name, hosts, days, datetime.now(UTC))
    write_new(place, content, mode=0o644)
    _say_certificate(place)


def _require_aggregator(role: str, hosts: list[str] | None, days: int | None) -> None:
    from privfed.errors import IdentityError

    if (hosts or days is not None) and role != "aggregator":
        raise IdentityError(
            f"--host and --days must come with --role aggregator, got {role}; leave them off, "
            "since only an aggregator has a certificate"
        )
    if days is not None and not hosts:
        raise IdentityError("--days must come with --host, it came alone; give the hosts too")


def _new_beside(identity: Path, suffix: str) -> Path:
    return _not_there(identity.with_name(identity.name + suffix))


def _not_there(path: Path) -> Path:
    from privfed.errors import IdentityError

    if path.exists() or path.is_symlink():
        raise IdentityError(f"{str(path)!r} must not exist yet, it does; choose another --out")
    return path


def authority_key(given: str) -> bytes:
    """The authority's public key, from 64 hex digits or from the path of its public file.

    Raises:
        IdentityError: if it is neither, or the file is another party's.
        MessageError: if the file is no party file.
    """
    from privfed.errors import IdentityError
    from privfed.identity.keys import Role

    if re.fullmatch(r"[0-9a-fA-F]{64}", given):
        return bytes.fromhex(given)
    party = _read_party(Path(given))
    if party.role is not Role.AUTHORITY:
        raise IdentityError(
            f"the public file must be the authority's, {given!r} is of {party.name!r} "
            f"with the role {party.role}; ask the authority for its own"
        )
    return party.signing_key


def _read_party(path: Path) -> "Party":
    from privfed.errors import IdentityError, MessageError
    from privfed.identity.keys import Party, is_identity_file

    try:
        with path.open("rb") as file:
            content = file.read(_MAX_PARTY_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"a party's public file must be readable, {str(path)!r} is not: {error}; check the path"
        ) from error
    if is_identity_file(content) or b"PRIVATE KEY-----" in content:
        raise IdentityError(
            f"a party's public file must end in {PUBLIC_SUFFIX}, {str(path)!r} holds private keys; "
            "if somebody sent it to you, that party must make a new identity"
        )
    try:
        return Party.from_bytes(content)
    except MessageError as error:
        raise MessageError(f"{path}: {error}") from error


def _print_roster(roster: "Roster") -> None:
    from privfed.identity.names import grouped_hex

    _say(f"federation: {roster.federation}")
    _print_parties(roster.parties)
    _say(f"roster digest: {grouped_hex(roster.digest())}")


def _print_parties(parties: Iterable["Party"]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("role", no_wrap=True)
    table.add_column("fingerprint", no_wrap=True)
    for party in parties:
        table.add_row(Text(party.name), Text(party.role.value), Text(party.fingerprint))
    Console().print(table)


def _print_transport_keys(parties: Iterable["Party"]) -> None:
    """As lines, since a table with two fingerprints in a row is wider than a terminal."""
    from privfed.identity.transport import transport_fingerprint

    for party in parties:
        shown = transport_fingerprint(party.transport_key) if party.transport_key else "none"
        _say(f"transport key of {party.name}: {shown}")


def _say_certificate(path: Path) -> None:
    _say(f"certificate: {path}\n  Hand it to every party; they connect to the aggregator with it.")


def _say(text: str) -> None:
    typer.echo(text)
