"""The command line. Heavy libraries are imported only by the commands that need them."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from accountants.stopping import stopped_by_signals
from privfed import __version__
from privfed.cli.ending import Program, failures_kept, tell
from privfed.cli.node import node_app
from privfed.cli.plan import plan
from privfed.cli.roster import roster_app
from privfed.cli.serve import serve_app
from privfed.errors import ConfigError

if TYPE_CHECKING:
    from privfed.federation import Federation
    from privfed.identity.keys import Identity
    from privfed.parties.key_holder.key_holder import KeyHolder

app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune language models across organisations that may not share their text: "
    "DP-SGD adapters, encrypted sums, a privacy budget for every client.",
)
app.add_typer(roster_app, name="roster")
app.add_typer(node_app, name="node")
app.add_typer(serve_app, name="serve")
app.command()(plan)
_console = Console()

Out = Annotated[
    Path | None, typer.Option("--out", help="Run folder; must be new or empty unless resuming.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last complete round of the run in --out.")
]
Anchors = Annotated[
    Path | None,
    typer.Option(
        "--anchors",
        help="Where the last anchor of every ledger is kept; outside of state and run folders "
        "(default: $PRIVFED_ANCHORS, or below the user's data folder).",
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        metavar="CLIENT",
        help="Go on without this client, for good (with --resume; may be repeated).",
    ),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Where clients keep their ledgers (default: user state folder)."),
]

HolderIdentity = Annotated[
    Path, typer.Option("--identity", help="Private identity file of the key holder.")
]
SignedRoster = Annotated[Path, typer.Option("--roster", help="Signed roster of the federation.")]
AuthorityKey = Annotated[
    str,
    typer.Option(
        "--authority",
        help="Public file of the authority that signed the roster, or its public key as 64 "
        "hex digits; not from whoever sent the roster.",
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        "--results",
        help="Folder for the last result of each run, so that no round is decrypted twice "
        "(default: in the user state folder).",
    ),
]
MinClients = Annotated[
    int,
    typer.Option(
        "--min-clients",
        help="Fewest contributions of a sum that is decrypted, whatever the aggregator asks.",
    ),
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Where to listen; without it, messages come on standard input.",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"privfed {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def demo(
    out: Out = None,
    resume: Resume = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="A causal language model on chat messages.")
    ] = False,
    machines: Annotated[
        bool,
        typer.Option(
            "--machines",
            help="A hub and three organisations as processes of their own, over TLS on this "
            "machine.",
        ),
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Sum without encryption, for comparison.")
    ] = False,
) -> None:
    """Run the main job on real text: MiniLM on BBC news (or SmolLM2 on chat messages)."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with _nothing_spent_yet():
        _hide_loading_bars()
        from privfed.cli import demo

        folder = out or demo.new_folder("machines" if machines else "chat" if chat else "news")
        if machines:
            from privfed.cli import demo_machines

            demo_machines.play(folder, _say)
            return
        build = demo.chat_messages if chat else demo.bbc_topics
        federation = build(folder, encrypted=not plain, resume=resume)
    _run(federation, folder, resume=resume)


@app.command()
def run(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="TOML file; see docs/run.toml for an example.")],
    out: Out = None,
    resume: Resume = False,
    state: State = None,
    anchors: Anchors = None,
    without: Without = None,
) -> None:
    """Run the federation that CONFIG describes."""
    context.find_root().obj = state
    if not config.is_file():
        raise ConfigError(f"the configuration {config} does not exist")
    with _nothing_spent_yet():
        _hide_loading_bars()
        from privfed.cli.run_file import load_federation

        folder = out or Path("runs") / config.stem
        federation = replace(load_federation(config, state), anchor_folder=anchors)
    _run(federation, folder, resume=resume, without=without or ())


@app.command()
def agreement(
    config: Annotated[Path, typer.Argument(help="The public file of a run between machines.")],
) -> None:
    """Make the public files of a run between machines, once for all: CONFIG says what it is.

    Beside CONFIG: `start.safetensors`, the initial adapter, and `agreement.json`, what all agree
    on. Where they are already there, they are compared with CONFIG. Its digest is what the
    organisations compare over the phone.
    """
    with _nothing_spent_yet():
        _hide_loading_bars()
        from privfed.cli.public_file import make_public_files

        for line in make_public_files(config):
            _say(line)


@app.command(name="start-from-sparse")
def start_from_sparse(
    folder: Annotated[Path, typer.Argument(help="Folder `adapter` of a run with a sparse update.")],
    config: Annotated[
        Path, typer.Argument(help="Run configuration with LoRA, which names a file as `start`.")
    ],
) -> None:
    """Begin LoRA where a sparse update ended (SLoRA): write the file that CONFIG names as `start`.

    It is computed from what the first run released, so it spends nothing. `privfed run CONFIG`
    then begins there.
    """
    with _nothing_spent_yet():
        _hide_loading_bars()
        from privfed.cli.run_file import start_from_sparse as written

        file, left_out = written(config, folder)
        _say(f"{file}: LoRA as the sparse update, of whose norm the rank leaves out {left_out:.3g}")


@app.command(name="key-holder")
def key_holder(
    identity: HolderIdentity,
    roster: SignedRoster,
    authority: AuthorityKey,
    results: Results = None,
    min_clients: MinClients = 3,
    listen: Listen = None,
    hub: Annotated[
        str | None,
        typer.Option(
            "--hub",
            metavar="HOST:PORT",
            help="Connect to the hub of a run between machines, like a node, and open no port.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="With --hub: the hub's certificate.")
    ] = None,
) -> None:
    """Hold the key of a federation: a new one each round, and one verified sum decrypted with it.

    It runs until it is stopped. `privfed run` starts one by itself where the configuration names
    no address. With --hub it reads IDENTITY.transport beside the identity file.
    """
    from privfed.cli.roster import authority_key
    from privfed.identity.keys import Identity
    from privfed.identity.roster import Roster
    from privfed.parties.key_holder.key_holder import KeyHolder
    from privfed.parties.key_holder.serving import logged_in, only_holder_of, serve
    from privfed.storage.state_folder import default_state_folder, results_folder

    own = Identity.load(identity)
    enrolled = Roster.load(roster, authority=authority_key(authority))
    folder = results or results_folder(default_state_folder())
    with only_holder_of(folder), logged_in(folder):
        holder = KeyHolder(own, enrolled, folder, min_clients)
        try:
            if hub is not None:
                _connected(holder, own, hub, certificate, identity)
            elif listen is None:
                serve(holder, own, sys.stdin.buffer, sys.stdout.buffer)
            else:
                _listen(holder, own, listen)
        finally:
            holder.close()


def _connected(
    holder: "KeyHolder", own: "Identity", hub: str, certificate: Path | None, identity: Path
) -> None:
    """Answer what a process that carries messages brings from the hub, until stopped."""
    from privfed.cli.node import with_pump
    from privfed.engines.machines import sockets
    from privfed.parties.key_holder.serving import answer

    if certificate is None:
        raise ConfigError("--hub needs the hub's certificate (--certificate)")
    key = identity.with_name(f"{identity.name}.transport")
    with with_pump(hub, certificate, key, _say) as path, sockets.listening(path) as server:
        sockets.answer_all(server, lambda message: answer(holder, own, message), lambda: False)


def _listen(holder: "KeyHolder", own: "Identity", address: str) -> None:
    from privfed.parties.key_holder.serving import serve_address
    from privfed.protocol.links import parse_address

    host, port = parse_address(address)
    try:
        server = serve_address(holder, own, host, port)
    except OSError as error:
        raise ConfigError(
            f"the key holder must be able to listen at {address}, but: {error}; choose another "
            "address, or end what listens there"
        ) from error
    with server:
        chosen = server.server_address[1]
        Console(stderr=True).print(
            f"key holder {own.party.name} listens on {host}:{chosen}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        server.serve_forever()


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    anchors: Anchors = None,
    authority: Annotated[
        str | None,
        typer.Option(help="Key (hex) of who signed the roster, for a report from statements."),
    ] = None,
) -> None:
    """Recompute every epsilon from the ledger exports in FOLDER and render the report again.

    Files of different moments are refused; so is a report that is older than a ledger of this
    machine. Of a report that was put together from what clients sign, signatures are checked.
    """
    from accountants import AnchorFolder
    from privfed.reports.budget import COMPLETE, RUNNING, Scope
    from privfed.reports.round_record import rounded_up
    from privfed.storage.state_folder import default_anchor_folder
    from privfed.verification import verify_and_render

    verified, notes = verify_and_render(
        folder, AnchorFolder(anchors or default_anchor_folder()), authority=authority
    )
    from_statements = verified.scope is Scope.FEDERATION
    if verified.status != COMPLETE or from_statements:
        _say(verified.headline)
    for client in verified.clients:
        line = (
            f"{client.id}: epsilon {rounded_up(client.epsilon_spent)} of "
            f"{client.epsilon_budget:g} at delta {client.delta:g}, {client.steps} steps"
        )
        if verified.status == RUNNING:
            line += f"; {rounded_up(client.epsilon_if_begun)} with the next round"
        _say(line)
    for note in [*(f"{one.id}: no bound is stated" for one in verified.not_closed), *notes]:
        _say(note)
    checked = _CHECKED_STATEMENTS if from_statements else _CHECKED_LEDGERS
    _say(f"{checked} Report: {folder / 'report.html'}")


_CHECKED_LEDGERS = (
    "Checked against the ledger exports: epsilon, sigma, q, steps and attack bounds of every "
    "client, and the headline; budgets, sizes and what was planned, against run.json; that all "
    "files are of one moment; the ledgers themselves, but for those named above. Not checked: "
    "other text and numbers."
)
_CHECKED_STATEMENTS = (
    "Checked: the signature of every statement against the roster; that the report is what they "
    "come to; epsilon and attack bounds of every client against the releases that it states, and "
    "where it gave the export of its ledger, all its numbers against that. Not checked: other text "
    "and numbers that all clients state alike."
)


def _say(line: str) -> None:
    _console.print(line, highlight=False, markup=False, soft_wrap=True)


def _hide_loading_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextlib.contextmanager
def _nothing_spent_yet() -> Iterator[None]:
    """Tell who stops the program meanwhile that no budget was touched."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = ("stopped before a round began, so nothing was spent",)
        raise


def _run(
    federation: "Federation", folder: Path, *, resume: bool, without: Sequence[str] = ()
) -> None:
    from privfed.cli.display import RoundTable
    from privfed.storage.state_folder import log_path

    logs = {
        client.id: log_path(federation.state, client.id, client.dataset)
        for client in federation.clients
    }
    with RoundTable(_console, federation.model.metric, logs) as table:
        try:
            result = federation.run(folder, resume=resume, without=without, callbacks=[table])
        except KeyboardInterrupt as error:
            told = str(error) or table.stopped()
            error.args = (f"{told}; `{_again(folder)}` goes on" if folder.is_dir() else told,)
            raise
    _console.print(
        f"adapter: {result.adapter}\nreport:  {result.folder / 'report.html'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _again(folder: Path) -> str:
    """The command that goes on with a run which this process began."""
    words = ["privfed", *sys.argv[1:]]
    if "--out" not in " ".join(words):
        words += ["--out", str(folder)]
    if "--resume" not in words:
        words += ["--resume"]
    return shlex.join(words)


def main() -> None:
    """Entry point: whatever ends the program is one line, not a traceback."""
    from accountants.errors import AccountingError
    from privfed.errors import PrivfedError

    with stopped_by_signals(), failures_kept():
        try:
            app()
        except (PrivfedError, AccountingError) as error:
            tell(f"{type(error).__name__}: {error}")
            sys.exit(1)
