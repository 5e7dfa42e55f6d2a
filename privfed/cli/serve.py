"""`privfed serve`: the hub of a run between machines. It loads no model and holds no text."""

import contextlib
import json
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from privfed.engines.machines.sockets import OWN
from privfed.errors import ConfigError, RunFolderError, TooFewClientsError

if TYPE_CHECKING:
    from privfed.agreement import Proposal
    from privfed.cli.display import JsonLines, RoundTable
    from privfed.engines.machines.hub import Hub
    from privfed.identity.keys import Identity
    from privfed.identity.roster import Roster

serve_app = typer.Typer(
    no_args_is_help=True,
    help="Be the hub of a run: pass messages between organisations and add what they encrypt.",
)
_console = Console()

PublicFile = Annotated[Path, typer.Argument(help="The public file of the run, run.toml.")]
IdentityFile = Annotated[
    Path, typer.Option("--identity", help="Private identity file of the aggregator.")
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Where nodes reach the hub (default: the port of [hub] address, on all interfaces).",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run (default: runs/NAME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a line for each thing.")]
_LEAST_FREE: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """What the hub is given.

    Attributes:
        hub: the tables [hub] and [parties] of the public file.
        proposal: what all are given.
        identity: of the aggregator.
        roster: who is enrolled.
        transport: file with the key of the hub's certificate.
        listen: host and port.
        folder: of the run.
    """

    hub: dict[str, Any]
    proposal: "Proposal"
    identity: "Identity"
    roster: "Roster"
    transport: Path
    listen: tuple[str, int]
    folder: Path


def _read(path: Path, identity: Path, listen: str | None, out: Path | None) -> _Served:
    from privfed.cli.hub_file import hub_of, read_agreement
    from privfed.cli.roster import authority_key
    from privfed.engines.machines.hub import require_aggregator
    from privfed.identity.keys import Identity
    from privfed.identity.roster import Roster
    from privfed.identity.transport import require_certificate_of
    from privfed.protocol.links import parse_address

    hub = hub_of(path)
    proposal = read_agreement(path.parent / "agreement.json")
    own = Identity.load(identity)
    roster = Roster.load(hub["roster"], authority=authority_key(hub["authority"]))
    require_aggregator(roster, own)
    if proposal.settings.get("authority") != hub["authority"]:
        raise ConfigError(
            f"agreement.json was made for a roster of the authority "
            f"{proposal.settings.get('authority')!r}, {path} names {hub['authority']!r}"
        )
    require_certificate_of(_content(hub["certificate"]), own.party.transport_key, datetime.now(UTC))
    _, port = parse_address(hub["address"])
    return _Served(
        hub=hub,
        proposal=proposal,
        identity=own,
        roster=roster,
        transport=identity.with_name(f"{identity.name}.transport"),
        listen=parse_address(listen) if listen else ("0.0.0.0", port),
        folder=out or Path("runs") / path.stem,
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} must be readable, but: {error.strerror}") from error


@serve_app.command()
def check(
    config: PublicFile, identity: IdentityFile, listen: Listen = None, out: Out = None
) -> None:
    """Say whether the hub could run: keys, certificate, port, disk. Nothing is sent."""
    served = _read(config, identity, listen, out)
    _say(f"agreement: SHA-256 {served.proposal.digest()}")
    _say(f"roster:    {served.roster.federation}, SHA-256 {served.roster.digest().hex()}")
    _say(f"clients:   {', '.join(served.proposal.names)}; {served.proposal.rounds} rounds")
    _say(f"custody:   {served.proposal.settings['encryption'].get('custody', 'shared_key')}")
    for name in served.proposal.names:
        _require_transport(served.roster, name)
    _content(served.transport)  # whether it can be read
    host, port = served.listen
    with contextlib.closing(_bound(host, port)):
        _say(f"listen:    {host}:{port} is free; nodes reach it as {served.hub['address']}")
    existing = next(p for p in (served.folder, *served.folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    _say(f"disk:      {free / 1e9:.1f} GB free at {existing}")
    if free < _LEAST_FREE:
        raise ConfigError(f"at least {_LEAST_FREE / 1e9:.0f} GB must be free at {existing}")


def _require_transport(roster: "Roster", name: str) -> None:
    if not roster.party(name).transport_key:
        raise ConfigError(
            f"{name!r} was enrolled without a transport key; it makes a new identity with "
            "`privfed roster identity`, and the roster is signed anew"
        )


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(
            f"the hub must be able to listen at {host}:{port}, but: {error.strerror}; end what "
            "listens there, or choose another port (--listen)"
        ) from error


@serve_app.command()
def run(
    config: PublicFile,
    identity: IdentityFile,
    listen: Listen = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, after whatever stopped.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="CLIENT", help="Begin or go on without this client."),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="With --resume: play no more rounds, and end the run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run all rounds. Everything that is needed is started here, and ended with it."""
    from privfed.cli.display import JsonLines, RoundTable
    from privfed.cli.ending import tell
    from privfed.errors import PrivfedError
    from privfed.storage.run_folder import only_one_in

    served = _read(config, identity, listen, out)
    _require_new(served.folder, resume=resume)
    table = (
        JsonLines(sys.stdout) if as_json else RoundTable(_console, served.proposal.metric, logs={})
    )
    with (
        only_one_in(served.folder),
        table,
        _hub(served, table, resume=resume, without=without or ()) as hub,
    ):
        try:
            hub.wait(lambda names: table.note(f"waiting for {', '.join(names)}"))
            hub.begin()
            record = hub.run.record
            table.on_start(
                record.run, served.proposal.rounds, hub.run.members, record.baseline, record.rounds
            )
            if not finish:
                hub.play()
            report = hub.finish()
        except KeyboardInterrupt as error:
            error.args = (f"stopped; `{_again()}` goes on",)
            raise
        except PrivfedError:
            tell(f"the run stopped; `{_again()}` goes on once the reason is mended:")
            raise
    for line in (report.headline, f"report: {served.folder / 'report.html'}"):
        table.note(line)
    if report.not_closed:
        names = ", ".join(one.id for one in report.not_closed)
        raise TooFewClientsError(
            f"no statement of {names} came, so that the report has no bound for the federation; "
            f"once they run again, `{_again('--finish')}` asks them",
            [one.id for one in report.not_closed],
        )


@contextlib.contextmanager
def _hub(
    served: _Served, table: "RoundTable | JsonLines", *, resume: bool, without: Sequence[str]
) -> Iterator["Hub"]:
    """The hub, with the process that carries its messages."""
    from privfed.engines.machines.carried import Carried, CarriedLink
    from privfed.engines.machines.carrier import Carrier
    from privfed.engines.machines.hub import REACHED, Hub
    from privfed.identity.transport import as_pem
    from privfed.parties.aggregator.kept_run import ReachedFile
    from privfed.parties.aggregator.openers import Link
    from privfed.parties.aggregator.run import Following
    from privfed.protocol.links import AddressLink

    def following(_: Hub) -> Following:
        return Following(
            keep=ReachedFile(served.folder / REACHED).save,
            on_refused=lambda name, error: table.note(f"{name}: {error}"),
            on_round=table.on_round,
            on_abandoned=table.on_abandoned,
            patience_s=served.hub["patience_s"],
        )

    host, port = served.listen
    _bound(host, port).close()
    address, holder = served.hub["key_holder"], _holder_without_a_port(served)
    names = [*served.proposal.names, *holder]
    with tempfile.TemporaryDirectory(prefix=f"{OWN}hub-") as place:
        folder = Path(place)
        carrier = Carrier(
            "privfed.engines.flower.link",
            {
                "host": host,
                "port": port,
                "certificate": str(served.hub["certificate"]),
                "key": str(served.transport),
                "socket": str(folder / "link.sock"),
                "database": str(folder / "link.db"),
                "nodes": {n: as_pem(served.roster.party(n).transport_key).decode() for n in names},
            },
            folder,
            table.note,
        )
        carrier.start()
        carried = Carried(folder / "link.sock", served.hub["timeout_s"])

        def connect(_: str) -> Link:
            if address is not None:
                return AddressLink(address)
            return CarriedLink(carried=carried, name=holder[0])

        try:
            yield Hub(
                identity=served.identity,
                roster=served.roster,
                proposal=served.proposal,
                carried=carried,
                folder=served.folder,
                following=following,
                connect=connect if _has_holder(served.proposal) else None,
                resume=resume,
                without=without,
                besides=holder,
            )
        finally:
            carrier.stop()


def _has_holder(proposal: "Proposal") -> bool:
    from privfed.settings.encryption import Custody

    return proposal.summation.custody is Custody.KEY_HOLDER


def _holder_without_a_port(served: _Served) -> list[str]:
    """Name of the key holder, where the run has one that is reached like a node."""
    from privfed.identity.keys import Role

    if not _has_holder(served.proposal) or served.hub["key_holder"] is not None:
        return []
    holders = served.roster.of_role(Role.KEY_HOLDER)
    if not holders:
        raise ConfigError("custody key_holder needs a key holder in the roster, it names none")
    _require_transport(served.roster, holders[0].name)
    return [holders[0].name]


def _require_new(folder: Path, *, resume: bool) -> None:
    from privfed.engines.machines.hub import REACHED

    begun = (folder / REACHED).exists()
    if begun and not resume:
        raise RunFolderError(f"a run lies in {folder}: go on with it (--resume), or choose another")
    if resume and not begun:
        raise RunFolderError(f"there is no run to go on with in {folder}")


@serve_app.command()
def status(config: PublicFile, out: Out = None, as_json: AsJson = False) -> None:
    """Say how far the run in --out has come, by what the hub kept of it."""
    from privfed.engines.machines.hub import REACHED
    from privfed.parties.aggregator.kept_run import ReachedFile
    from privfed.reports.round_record import rounded_up

    folder = out or Path("runs") / config.stem
    reached = ReachedFile(folder / REACHED).load()
    if reached is None:
        raise RunFolderError(f"no run has begun in {folder}")
    record = reached.record
    last = record.rounds[-1] if record.rounds else None
    if as_json:
        print(json.dumps({"run": record.run, "over": record.over, "last": last and asdict(last)}))
        return
    planned = record.settings["settings"]["rounds"]
    _say(f"run {record.run}: {record.over} of {planned} rounds are over")
    if last is not None:
        _say(
            f"{last.metric} {last.value:.4g}; largest epsilon "
            f"{rounded_up(max(last.epsilon.values()))}; {len(last.clients)} took part"
        )
    age = time.time() - (folder / REACHED).stat().st_mtime
    _say(f"last change {age:.0f} s ago")


def _again(*more: str) -> str:
    words = [word for word in sys.argv[1:] if word not in ("--resume", *more)]
    return shlex.join(["privfed", *words, "--resume", *more])


def _say(line: str) -> None:
    _console.print(line, highlight=False, markup=False, soft_wrap=True)
