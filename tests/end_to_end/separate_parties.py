"""Every party of a small federation as a process of its own; any of them may be killed.

Started by `test_separate_processes.py` and `test_killed_parties.py`. Clients are forked from one
process that has imported everything (`nursery`), so that a restart costs a second; the aggregator
starts by itself and imports neither torch nor TenSEAL. A party kills itself (SIGKILL) at the points
that `NAME.die.json` lists, each once: [kind of message, round, "before" | "within" | "after"].
"""

import contextlib
import json
import os
import random
import select
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.protocol import streams
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import RESULT, SUM, TRAIN
from privfed.settings.encryption import Custody

CLIENTS = {
    "east": (24, 21, 4.0, 1e-3),
    "north": (29, 26, 5.0, 2e-3),
    "south": (22, 31, 4.5, 5e-4),
    "west": (27, 23, 6.0, 4e-4),
}
"""True number of records, public size, epsilon and delta: no number is that of two clients."""
STEPS, MIN_CLIENTS = 2, 3


class Known:
    """What a party knows and the aggregator must not, written down for the test to search for."""

    def __init__(self, folder, name):
        self._path, self._known = folder / f"{name}.known.json", {}

    def note(self, what, content):
        self._known[what] = bytes(content).hex()
        self._path.write_text(json.dumps(self._known))

    def note_keys(self, kind, shape_of):
        """Of every key that this process makes or is handed."""
        for made in ("generate", "from_bytes"):
            if hasattr(kind, made):
                self._watch(kind, made, shape_of)

    def _watch(self, kind, made, shape_of):
        real = getattr(kind, made).__func__

        def noted(cls, *arguments):
            key = real(cls, *arguments)
            self.note("secret key", native_bytes(key, shape_of(*arguments)))
            if hasattr(key, "tag_key"):
                self.note("tag key", key.tag_key)
            return key

        setattr(kind, made, classmethod(noted))


def native_bytes(key, shape):
    """Four residues of a secret key, as SEAL holds them in memory."""
    from privfed.custody.native import ScratchFile, uncompressed

    with ScratchFile() as scratch:
        key.native()[1].save(scratch.path)
        return uncompressed(scratch.read(), shape.single_bytes)[-3000:-2968]


class Deaths:
    """The points at which a party kills itself, each once."""

    def __init__(self, folder, name):
        self._path = folder / f"{name}.die.json"

    def at(self, kind, number, when):
        points = json.loads(self._path.read_text()) if self._path.exists() else []
        if [kind, number, when] in points:
            points.remove([kind, number, when])
            self._path.write_text(json.dumps(points))
            os.kill(os.getpid(), signal.SIGKILL)


def roster_of(folder):
    authority = bytes.fromhex((folder / "authority.hex").read_text())
    return Roster.load(folder / "roster.json", authority=authority)


def settings_of(folder, name=None):
    """What one client, or nobody, was given: its own folders, and everybody's declarations."""
    from accountants import Budget, Neighbouring
    from privfed import BFV, Classification, FedAvg, LoRA, PrivacyConfig, TrainingConfig
    from privfed.agreement import Declaration
    from privfed.identity.enrolment import Enrolment
    from privfed.methods.tail_averaging import TailAveraging
    from privfed.run_settings import FederationSettings

    plan = json.loads((folder / "plan.json").read_text())
    own = folder / (name or "nobody")
    return FederationSettings(
        model=Classification(base=plan["bert"], labels=("a", "b"), max_length=8),
        clients=[
            Declaration(
                id=client,
                public_size=size,
                dataset=f"wards of {client}",
                budget=Budget(epsilon=epsilon, delta=delta),
            )
            for client, (_, size, epsilon, delta) in CLIENTS.items()
            if client in plan["clients"]
        ],
        adapter=LoRA(rank=1, target_modules=("query",)),
        privacy=PrivacyConfig(
            budget=Budget(epsilon=3.0, delta=1e-4),
            neighbouring=Neighbouring.ADD_REMOVE,
            record="one made-up sentence",
            expected_batch_size=10,
            clipping_norm=0.75,
            steps_per_round=STEPS,
        ),
        training=TrainingConfig(learning_rate=0.1, physical_batch_size=12),
        encryption=BFV(custody=Custody(plan["custody"]), follow_released=True),
        method=TailAveraging(of=FedAvg(), first_round=2),
        rounds=plan["rounds"],
        min_clients=MIN_CLIENTS,
        held_out=_records(5, seed=3),
        state_folder=own / "state",
        anchor_folder=own / "anchors",
        start=folder / "start.safetensors",
        enrolment=Enrolment(
            roster=folder / "roster.json",
            authority=(folder / "authority.hex").read_text(),
            identities=folder,
        ),
    )


def _records(count, *, seed, first="river"):
    from privfed import Record

    words = ("river", "stone", "market", "window", "garden", "engine")
    choose = random.Random(seed)
    return tuple(
        Record(" ".join([first, *choose.choices(words, k=3)]), choose.randrange(2))
        for _ in range(count)
    )


def marker(name):
    """With what every text of a client begins."""
    return f"ward-{name}-{len(name) * 7919}"


def program_of(folder, name, settings, files):
    """A client, prepared: from its own text, ledger, keys and folders."""
    from privfed import Client
    from privfed.parties.client.memories import Memories
    from privfed.parties.client.own_report import OwnReport
    from privfed.parties.client.program import Outside, Program
    from privfed.parties.client.setup import Known, prepare
    from privfed.parties.client.starting import facts_in

    roster = roster_of(folder)
    (declared,) = [one for one in settings.clients if one.id == name]
    count = CLIENTS[name][0]
    client = Client(
        id=name,
        public_size=declared.public_size,
        dataset=declared.dataset,
        budget=declared.budget,
        steps_per_round=declared.steps_per_round,
        records=_records(count, seed=len(name) * 100 + count, first=marker(name)),
    )
    memories, kept = Memories(settings.anchors, name), files.kept()
    known = None
    if kept is not None:
        memories.resume(kept.run)
        known = Known(anchors={}, facts=facts_in(kept.start, roster, settings.proposal()))
    identity = Identity.load(folder / f"{name}.identity")
    brought = prepare(settings, [client], {name: identity}, start=settings.start, known=known)

    own = OwnReport(
        baseline=brought.evaluate(brought.initial),
        notes=brought.notes,
        size_source=brought.size_source,
        share_ledger=name != "north",
    )

    def closing(program, terms, told):
        """What the client says, and for the test what came of the run."""
        (folder / f"{name}.ended.json").write_text(
            json.dumps({"base": program.membership.progress.base})
        )
        return own(program, terms, told)

    return Program(
        node=brought.nodes[name],
        facts=brought.facts[name],
        settings=settings,
        proposal=settings.proposal().digest(),
        roster=roster,
        initial=brought.initial,
        outside=Outside(store=files, memory=memories, evaluate=brought.evaluate, closing=closing),
    )


def play_client(folder, name):
    """Answer whoever connects to this client's socket."""
    from privfed.custody.keys import SharedSecret
    from privfed.parties.client.kept_run import RunFiles
    from privfed.parties.client.node import ClientNode
    from privfed.parties.client.program import after_the_end
    from privfed.storage.state_folder import client_folder

    deaths, path = Deaths(folder, name), folder / f"{name}.sock"
    settings, roster = settings_of(folder, name), roster_of(folder)
    files = RunFiles(client_folder(settings.state, name, f"wards of {name}"))
    proposal = settings.proposal().digest()
    program, known = None, Known(folder, name)
    identity = Identity.load(folder / f"{name}.identity")
    known.note(f"text of {name}", marker(name).encode())
    known.note_keys(SharedSecret, lambda *arguments: arguments[-1])
    real = ClientNode.update

    def update(self, plan, state, start):
        deaths.at("train", plan.round, "within")
        return real(self, plan, state, start)

    ClientNode.update = update
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError):
                while (message := streams.receive(stream)) is not None:
                    kind, number = statement_of(message).kind, statement_of(message).round
                    deaths.at(kind, number, "before")
                    reply = after_the_end(message, files, identity, roster, proposal)
                    if reply is None:
                        program = program or program_of(folder, name, settings, files)
                        reply = program.handle(message)
                    note_progress(known, name, program, kind, number)
                    deaths.at(kind, number, "after")
                    streams.send(stream, reply)


def note_progress(known, name, program, kind, number):
    """The numbers that a client committed, and the adapters that it came to."""
    if program is None:
        return
    if kind == TRAIN:
        outgoing = program.node.ledger.outgoing(program.membership.name, number)
        if outgoing is not None:
            known.note(f"update of {name} in round {number}", outgoing[40:88])
    if kind in (SUM, RESULT) and program.membership.progress.round == number:
        progress = program.membership.progress
        known.note(f"adapter after round {number}", progress.state.adapter[:12].tobytes())
        memory = progress.state.memory
        if memory and memory["tail.counted"][0] > 1:  # the average of one adapter is that adapter
            known.note(f"left after round {number}", memory["tail.average"][:12].tobytes())


class Sockets:
    """The aggregator's way to the clients: a socket for each; who does not answer is not there."""

    def __init__(self, folder, deaths, timeout_s):
        self._folder, self._deaths, self._timeout_s = folder, deaths, timeout_s
        self._streams = {}

    def exchange(self, messages):
        kinds = {statement_of(m).kind for m in messages.values()}
        (number,) = {statement_of(m).round for m in messages.values()} or {0}
        for kind in kinds:
            self._deaths.at(kind, number, "before")
        asked = [name for name, message in messages.items() if self._sent(name, message)]
        replies = {}
        for name in asked:
            with contextlib.suppress(Exception):
                reply = streams.receive(self._streams[name])
                if reply is not None:
                    replies[name] = reply
            if name not in replies:
                self._streams.pop(name).close()
        for kind in kinds:
            self._deaths.at(kind, number, "after")
        return replies

    def _sent(self, name, message):
        for _ in range(2):  # a connection to a client that died since fails once
            try:
                if name not in self._streams:
                    connection = socket.socket(socket.AF_UNIX)
                    connection.settimeout(self._timeout_s)
                    connection.connect(str(self._folder / f"{name}.sock"))
                    self._streams[name] = connection.makefile("rwb")
                streams.send(self._streams[name], message)
            except OSError:
                with contextlib.suppress(OSError):
                    self._streams.pop(name, connection).close()
            else:
                return True
        return False


def play_aggregator(folder):
    """The whole run; an aggregator that is started again goes on."""
    from privfed.agreement import Proposal
    from privfed.errors import PrivfedError
    from privfed.parties.aggregator.kept_run import ReachedFile
    from privfed.parties.aggregator.run import AggregatorRun, Following
    from privfed.protocol.links import AddressLink
    from privfed.reports.assembling import assemble
    from privfed.reports.statement_folder import write_statements

    plan = json.loads((folder / "plan.json").read_text())
    deaths, file = Deaths(folder, "aggregator"), ReachedFile(folder / "hub/reached.json")
    proposal = Proposal.from_json(json.loads((folder / "proposal.json").read_text()))
    holder = Custody(plan["custody"]) is Custody.KEY_HOLDER
    run = AggregatorRun(
        identity=Identity.load(folder / "aggregator.identity"),
        roster=roster_of(folder),
        proposal=proposal,
        described=proposal.to_json(),
        connect=(lambda _: AddressLink(f"127.0.0.1:{plan['port']}")) if holder else None,
        exchange=Sockets(folder, deaths, 60.0).exchange,
        following=Following(keep=file.save, patience_s=plan["patience_s"]),
        reached=file.load(),
    )
    try:
        run.begin()
        while run.record.over < proposal.rounds:
            run.play_round()
            name, over = plan["without"]
            if run.record.over == over and name not in run.record.left_out:
                run = replace(run, reached=run.reached)  # as one that is started again
                run.begin({**run.record.left_out, name: over + 1})
        closed = run.finish()
    except PrivfedError as error:
        print(f"stopped {type(error).__name__}: {error}", flush=True)
        sys.exit(3)
    opened = run.reached.opened
    report = assemble(closed, opened, run.roster, run=run.record.run, clients=run.participants)
    write_statements(folder / "hub", report, closed, opened, run.roster)
    loaded = sorted(
        module
        for module in sys.modules
        if module.partition(".")[0] in ("torch", "tenseal", "opacus")
        or module.startswith(("privfed.custody", "privfed.models", "privfed.private_step"))
    )
    print("done", *loaded, flush=True)
    sys.stdin.read()


def play_holder(folder):
    """The real `privfed key-holder`, which may die at a message."""
    from privfed.cli import main as cli
    from privfed.custody.keys import RoundKey
    from privfed.encryption import frames
    from privfed.parties.key_holder import serving

    Known(folder, "holder").note_keys(RoundKey, frames.public_key_shape)
    deaths, real = Deaths(folder, "holder"), serving._answered

    def answered(holder, identity, message):
        kind, number = statement_of(message).kind, statement_of(message).round
        deaths.at(kind, number, "before")
        reply = real(holder, identity, message)
        deaths.at(kind, number, "after")
        return reply

    serving._answered = answered
    plan = json.loads((folder / "plan.json").read_text())
    sys.argv = ["privfed", "key-holder", "--identity", str(folder / "holder.identity")]
    sys.argv += ["--roster", str(folder / "roster.json")]
    sys.argv += ["--authority", (folder / "authority.hex").read_text()]
    sys.argv += ["--results", str(folder / "results"), "--listen", f"127.0.0.1:{plan['port']}"]
    cli.main()


def nursery(folder):
    """Fork a party for every name and folder that are read, with all imported.

    It ends when its input does.

    Args:
        folder: of the first of them, in which everything is imported.
    """
    import privfed.parties.client.program
    import privfed.parties.key_holder.serving  # noqa: F401
    from privfed.parties.client.setup import prepare

    prepare(settings_of(folder), [], {}, start=None)  # nobody's text; imports what is imported late
    children = set()
    asked = open(0, "rb", buffering=0)  # noqa: SIM115 - what waits in a buffer would not be selected
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([asked], [], [], 0.05)
        for child in list(children):
            if os.waitpid(child, os.WNOHANG)[0]:
                children.discard(child)
                print(f"ended {child}", flush=True)
        if not readable:
            continue
        line = asked.readline().decode().split()
        if not line:
            break
        name, folder = line[0], Path(line[1])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(0)
                (play_holder(folder) if name == "holder" else play_client(folder, name))
                code = 0
            except BaseException as error:  # noqa: BLE001 - the test reads what it was
                (folder / f"{name}.error").write_text(repr(error))
            finally:
                os._exit(code)
        children.add(child)
        print(f"began {child} {name}", flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def main():
    role, folder = sys.argv[1], Path(sys.argv[2])
    if role in CLIENTS:
        play_client(folder, role)
    {"nursery": nursery, "aggregator": play_aggregator}[role](folder)


if __name__ == "__main__":
    main()
