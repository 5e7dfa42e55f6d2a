"""`privfed node`: one organisation's part in a run between machines."""

import contextlib
import getpass
import json
import logging
import os
import shlex
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from privfed.engines.machines.sockets import OWN
from privfed.errors import ConfigError

if TYPE_CHECKING:
    from privfed.cli.node_file import NodeFile
    from privfed.engines.machines.node import Node, Told
    from privfed.identity.roster import Roster
    from privfed.parties.client.node import ClientNode
    from privfed.parties.client.setup import Prepared

node_app = typer.Typer(
    no_args_is_help=True,
    help="Take part in a run with your organisation's text, which stays on this machine.",
)
_console = Console()

File = Annotated[Path, typer.Argument(help="Your organisation's file, such as north.toml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a line for each thing.")]
_LINE: Final = "{:>5}  {:>10}  {:>18}  {:>7}"
_LEAST_FREE: Final = 2 << 30
_HAPPENED: Final = {
    "began": "run {run}: a key of its own was made, and the run goes on",
    "closed": "the run is over; this node signed its report",
    "refused": "refused a message of the hub; the reason is in the client's log",
}
_LINGER_S: Final = 8.0
_CONNECT_S: Final = 10.0


@node_app.command()
def check(config: File) -> None:
    """Load text, model and ledger, and say what a run would cost and publish; spend nothing."""
    _quiet_loading()
    from privfed.cli.node_file import load_node_file
    from privfed.data.public_size import NoisySize
    from privfed.reports.round_record import rounded_up
    from privfed.reports.statements import published

    file = load_node_file(config)
    digest = file.public.require_agreed().digest()
    roster = _roster(file)
    _say(f"run:        {file.settings.title}; {file.settings.rounds} rounds")
    _say(f"agreement:  SHA-256 {digest}")
    _say(f"roster:     {roster.federation}, SHA-256 {roster.digest().hex()}")
    _say(f"custody:    {file.settings.encryption.custody}, bfv")
    _say(f"records:    {len(file.client.records)} that can be trained on, which stay here")
    if isinstance(file.client.public_size, NoisySize):
        _say("size:       will be released once, under noise that your ledger counts")
    else:
        _say(f"size:       {file.client.public_size} is published, whatever the true number")
        told = _would_cost(file, roster)
        facts = told.facts[file.name]
        budget = file.client.budget or file.settings.privacy.budget
        after = _after_all_rounds(file, told.nodes[file.name])
        _say(
            f"noise:      multiplier {facts.noise_multiplier:.4g}, clipping norm "
            f"{file.settings.privacy.clipping_norm:g}"
        )
        _say(
            f"epsilon:    {rounded_up(facts.epsilon_before)} before, at most "
            f"{rounded_up(after)} after all rounds, of {budget.epsilon:g} (delta {budget.delta:g})"
        )
        for note in told.notes:
            _say(f"note:       {note}")
    for row in published(
        sizes=file.settings.public_size_source,
        held_out_source=file.settings.held_out_source,
        encrypted=True,
        in_one_process=False,
    ):
        _say(f"published:  {row.what}")
    if file.share_ledger:
        _say("published:  at the end, the ledger with all runs on this data set (share_ledger)")
    state = file.settings.state.absolute()
    free = shutil.disk_usage(next(p for p in (state, *state.parents) if p.exists())).free
    _say(f"disk:       {free / 1e9:.1f} GB free at {state}")
    if free < _LEAST_FREE:
        raise ConfigError(f"at least {_LEAST_FREE / 1e9:.0f} GB must be free for {state}")
    _say(f"hub:        {_hub_answers(file)}")
    file.require_confirmed()
    _say("confirmed:  the agreement is the one in your file")


def _after_all_rounds(file: "NodeFile", node: "ClientNode") -> float:
    """Epsilon of the ledger once all planned rounds are in it."""
    from accountants import epsilon

    rounds = file.settings.proposal().participation.rounds_of(file.name)
    events = [*node.ledger.events(), *(node.releases() * rounds)]
    return epsilon(events, node.filter.budget.delta, node.filter.neighbouring).upper


def _would_cost(file: "NodeFile", roster: "Roster") -> "Prepared":
    node = _node(file, roster, lambda _: None)
    try:
        prepared = node.prepare()
    finally:
        node.files.release()
    if prepared is None:
        raise ConfigError("a run of these settings is over for this organisation; see its results")
    return prepared


def _hub_answers(file: "NodeFile") -> str:
    """Whether something with the hub's certificate answers at its address."""
    from privfed.protocol.links import parse_address

    host, port = parse_address(file.hub)
    context = ssl.create_default_context(cafile=str(file.certificate))
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return f"{file.hub} answers with the hub's certificate"
    except ssl.SSLCertVerificationError as error:
        return f"{file.hub} answers with another certificate: {error.verify_message}"
    except OSError as error:
        return f"{file.hub} does not answer yet: {error.strerror or error}"


@node_app.command()
def run(
    config: File,
    again: Annotated[
        bool,
        typer.Option("--again", help="Allow another run of the same settings after one is over."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take part until the run is over. Started again after whatever stopped it, it goes on."""
    _quiet_loading()
    from privfed.cli.node_file import load_node_file
    from privfed.engines.machines.sources import require_same_data_set

    file = load_node_file(config)
    file.require_confirmed()
    roster = _roster(file)
    if file.source is not None:
        require_same_data_set(file.settings.state, file.source, file.client.dataset)
    table = _Table(file, as_json=as_json)
    node = _node(file, roster, table)
    try:
        if again:
            node.files.allow_again(file.settings.proposal().digest())
        brought = node.prepare()
        if brought is None:
            table.note(f"the run is over; {file.results} holds what it left. The hub is told again")
        else:
            table.head(brought)
        with _places(file) as (place, socket_path):
            _take_part(file, node, table, place, socket_path)
    finally:
        node.files.release()
    table.note(f"report:  {file.results / 'report.html'}")
    table.note(f"adapter: {file.results / 'adapter'}")


def _take_part(
    file: "NodeFile", node: "Node", table: "_Table", place: Path, socket_path: Path
) -> None:
    """Answer until the run is over, with a process that carries messages beside this one."""
    from privfed.engines.machines.carrier import Carrier

    def said(line: str) -> None:
        if not node.is_over:  # after that the hub may be gone
            table.note(f"hub: {line}")

    settings = pump_settings(file.hub, file.certificate, file.transport, socket_path)
    carrier = Carrier("privfed.engines.flower.pump", settings, place, said)
    if file.pump:
        carrier.start()
    try:
        node.listen(socket_path, file.socket_group)
        time.sleep(_LINGER_S)  # the last reply is on its way
    finally:
        if file.pump:
            carrier.stop()


@contextlib.contextmanager
def with_pump(
    hub: str, certificate: Path, key: Path, said: Callable[[str], None]
) -> Iterator[Path]:
    """A process that carries messages between a hub and the socket whose path is given."""
    from privfed.engines.machines.carrier import Carrier

    with tempfile.TemporaryDirectory(prefix=f"{OWN}pump-") as name:
        place = Path(name)
        path = place / "node.sock"
        settings = pump_settings(hub, certificate, key, path)
        carrier = Carrier("privfed.engines.flower.pump", settings, place, said)
        carrier.start()
        try:
            yield path
        finally:
            carrier.stop()


def pump_settings(hub: str, certificate: Path, key: Path, socket_path: Path) -> dict[str, str]:
    """What the process that carries messages is told."""
    return {
        "hub": hub,
        "certificate": str(certificate.resolve()),
        "key": str(key.resolve()),
        "socket": str(socket_path),
    }


@contextlib.contextmanager
def _places(file: "NodeFile") -> Iterator[tuple[Path, Path]]:
    """A private folder for the carrier, and the path of the socket."""
    with tempfile.TemporaryDirectory(prefix=f"{OWN}node-") as place:
        yield Path(place), file.socket or Path(place) / "node.sock"


@node_app.command()
def pump(
    hub: Annotated[str, typer.Option("--hub", metavar="HOST:PORT", help="Address of the hub.")],
    certificate: Annotated[Path, typer.Option("--certificate", help="The hub's certificate.")],
    key: Annotated[Path, typer.Option("--key", help="Your transport key, NAME.transport.")],
    socket_path: Annotated[Path, typer.Option("--socket", help="Socket of the node.")],
) -> None:
    """Carry messages for a node that runs with `pump = false`, as another user or in a container.

    It holds neither text nor keys of the federation.
    """
    from privfed.engines.machines.carrier import Carrier

    with tempfile.TemporaryDirectory(prefix=f"{OWN}pump-") as place:
        carrier = Carrier(
            "privfed.engines.flower.pump",
            pump_settings(hub, certificate, key, socket_path),
            Path(place),
            _say,
        )
        carrier.start()
        try:
            threading.Event().wait()
        finally:
            carrier.stop()


@node_app.command()
def status(config: File, as_json: AsJson = False) -> None:
    """Say how far the node has come and what its ledger counts, whether or not it runs."""
    from privfed.cli.node_file import place_of
    from privfed.engines.machines.status import status_of

    found = status_of(place_of(config))
    if as_json:
        print(json.dumps(found))
        return
    if found is None:
        _say("this node has taken part in nothing yet")
        return
    alive = "running" if _is_alive(int(found["process"])) else "not running"
    age = time.time() - float(found["at"])
    _say(f"{alive}; last: {found['what']} (round {found['round']}, {age:.0f} s ago)")
    if found["epsilon"] is not None:
        from privfed.reports.round_record import rounded_up

        _say(f"epsilon of your ledger then: {rounded_up(found['epsilon'])}")


def _is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists() if sys.platform == "linux" else _answers(process)


def _answers(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@node_app.command(name="give-up")
def give_up(config: File) -> None:
    """Forget the run that is open here, which will not go on. What it released stays counted."""
    from privfed.cli.node_file import place_of
    from privfed.parties.client.kept_run import RunFiles

    files = RunFiles(place_of(config))
    try:
        kept = files.kept()
        if kept is None:
            _say("no run is open here")
            return
        files.give_up(kept.run)
        _say(f"run {kept.run} is given up; the ledger counts what it released")
    finally:
        files.release()


@node_app.command()
def unit(config: File) -> None:
    """Print a systemd unit that runs this node."""
    program = (shutil.which("privfed") or f"{sys.executable} -m privfed").replace("%", "%%")
    place = Path(str(config.resolve()).replace("%", "%%"))  # % begins a specifier of systemd
    print(
        f"""[Unit]
Description=privfed node of {place.stem}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={getpass.getuser()}
WorkingDirectory={place.parent}
ExecStart={program} node run {shlex.quote(str(place))}
Restart=on-failure
RestartSec=10
KillSignal=SIGINT
SuccessExitStatus=130 143
RestartPreventExitStatus=1
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target"""
    )


def _roster(file: "NodeFile") -> "Roster":
    from privfed.cli.roster import authority_key
    from privfed.identity.keys import Role
    from privfed.identity.roster import Roster
    from privfed.identity.transport import require_certificate_of

    enrolment = file.settings.enrolment
    if enrolment is None:
        raise ConfigError("the public file must name the roster, in [parties]")
    roster = Roster.load(enrolment.roster, authority=authority_key(enrolment.authority))
    (hub,) = roster.of_role(Role.AGGREGATOR) or (None,)
    if hub is None:
        raise ConfigError("the roster must name an aggregator, it names none")
    require_certificate_of(file.certificate.read_bytes(), hub.transport_key, datetime.now(UTC))
    return roster


def _node(file: "NodeFile", roster: "Roster", told: Any) -> "Node":
    from privfed.engines.machines.node import Node
    from privfed.identity.keys import Identity

    return Node(
        client=file.client,
        settings=file.settings,
        identity=Identity.load(file.identity),
        roster=roster,
        share_ledger=file.share_ledger,
        results=file.results,
        told=told,
    )


class _Table:
    """What the operator of a node sees of a run.

    Args:
        file: of the organisation.
        as_json: whether each thing is a JSON object on a line of its own.
    """

    def __init__(self, file: "NodeFile", *, as_json: bool) -> None:
        self._budget = (file.client.budget or file.settings.privacy.budget).epsilon
        self._metric = file.settings.model.metric
        self._name = file.name
        self._as_json = as_json

    def head(self, brought: "Prepared") -> None:
        """What the organisation brings, and the head of the table."""
        from privfed.reports.round_record import rounded_up

        facts = brought.facts[self._name]
        size, noise = facts.client["public_size"], facts.noise_multiplier
        if self._as_json:
            values = {"public_size": size, "noise_multiplier": noise}
            self._json("prepared", **values, epsilon_before=facts.epsilon_before)
            return
        _say(
            f"{self._name}: public size {size}, noise multiplier {noise:.4g}, epsilon "
            f"{rounded_up(facts.epsilon_before)} before"
        )
        _say(_LINE.format("round", self._metric, "epsilon of budget", "seconds"))

    def __call__(self, told: "Told") -> None:
        """One thing that happened."""
        from privfed.reports.round_record import rounded_up

        if self._as_json:
            self._json(**asdict(told))
        elif told.what == "round":
            metric = "-" if told.metric is None else f"{told.metric:.4g}"
            spent = "-" if told.epsilon is None else rounded_up(told.epsilon)
            budget = f"{spent} of {self._budget:g}"
            _say(_LINE.format(told.round, metric, budget, f"{told.seconds:.1f}"))
        else:
            _say(_HAPPENED[told.what].format(run=told.run, round=told.round))

    def note(self, line: str) -> None:
        """What happened besides."""
        if self._as_json:
            self._json("note", text=line)
        else:
            _say(line)

    def _json(self, what: str, **values: Any) -> None:
        print(json.dumps({"event": what, **values}), flush=True)


def _quiet_loading() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


def _say(line: str) -> None:
    _console.print(line, highlight=False, markup=False, soft_wrap=True)
