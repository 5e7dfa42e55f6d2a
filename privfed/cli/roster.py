"""`privfed roster`: make identities, sign the roster of a federation, look at one.

What travels: every party sends its `.party.json` to the authority and reads its fingerprint to it
over another channel; the authority sends back the roster, and its own public key over another
channel. Private identity files never leave the machine they were made on.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from privfed.identity.keys import Party
    from privfed.identity.roster import Roster

PUBLIC_SUFFIX: Final = ".party.json"
RoleName = Literal["client", "aggregator", "key_holder", "authority"]
"""`Role` as text, so that asking for help does not import it."""

_MAX_PARTY_FILE_BYTES = 1 << 16

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
) -> None:
    """Make the keys of a party: a private file, and a public one beside it."""
    from privfed.errors import IdentityError
    from privfed.identity.keys import Identity, Role
    from privfed.storage.private_files import write_new

    public = out.with_name(out.name + PUBLIC_SUFFIX)
    if public.exists() or public.is_symlink():
        raise IdentityError(f"{str(public)!r} must not exist yet, it does; choose another --out")
    made = Identity.generate(name, Role(role))
    made.save(out)
    try:
        write_new(public, made.party.to_bytes(), mode=0o644)
    except BaseException:
        # A private file without its public one would be of no use.
        out.unlink()
        raise
    _say(f"private: {out}\n  Keep it on this machine and show it to nobody.")
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
    authority: Annotated[
        str,
        typer.Option(
            "--authority",
            help="Public file of the authority, or its public key as 64 hex digits; not from "
            "whoever sent the roster.",
        ),
    ],
) -> None:
    """Verify ROSTER against the authority's public key, and print who is enrolled."""
    from privfed.identity.roster import Roster

    _print_roster(Roster.load(roster, authority=authority_key(authority)))
    _say("The signature is the authority's.")


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
    if is_identity_file(content):
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


def _say(text: str) -> None:
    typer.echo(text)
