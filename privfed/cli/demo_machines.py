"""A hub and three organisations as processes and folders of their own, on this one machine.

Every step is a command that an operator would type; this module types them. Nothing is shared but
what is copied from folder to folder, as by mail, and what passes over TLS on 127.0.0.1.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from privfed.data import packaged
from privfed.data.partition import iid
from privfed.data.records import hold_out
from privfed.errors import ConfigError, UnforeseenError

SEED: Final = 2026
_SIZES: Final = {"north": 560, "south": 600, "west": 580}
"""Public size of each organisation to which the articles are dealt."""
_PUBLIC: Final = ("run.toml", "news.roster", "hub.crt", "held-out.jsonl")
_MADE: Final = ("start.safetensors", "agreement.json")
_ACCEPTED: Final = "any client together with the hub opens every update"
_WAIT_S: Final = 600.0

_RUN_TOML: Final = """title = "MiniLM on BBC news topics, three organisations"
seed = {seed}

[model]
task = "classification"
base = {base}
labels = {labels}
max_length = 48
logit_scale = 8.0

[data]
dataset = "bbc-news"
held_out_source = "held-out.jsonl"
text = "text"
label = "topic"

[data.public_sizes]
{sizes}

[privacy]
epsilon = 2.0
delta = 1e-4
neighbouring = "add_remove"
record = "one news article"
expected_batch_size = 128
steps_per_round = 3

[adapter]
kind = "lora"
rank = {rank}
target_modules = ["query", "value"]
layers = [4, 5]

[training]
learning_rate = 4.0

[encryption]
kind = "bfv"
custody = "shared_key"

[method]
kind = "ffa-lora"

[federation]
rounds = 3
min_clients = 3

[parties]
roster = "news.roster"
authority = "{authority}"

[hub]
address = "127.0.0.1:{port}"
certificate = "hub.crt"
"""

_NODE_TOML: Final = """name = "{name}"
run = "run.toml"
agreement = "{agreement}"
accept = "{accept}"
dataset = "bbc-news"
epsilon = 2.0
delta = 1e-4
state = "state"
anchors = "anchors"
share_ledger = true

[data]
source = "articles.jsonl"
text = "text"
label = "topic"

[computation]
cache_frozen_layers = true
"""


def play(folder: Path, say: Callable[[str], None], *, rank: int = 2) -> None:
    """Enrol everybody, agree, and run: the whole of it.

    Args:
        folder: new; each party has a folder of its own below it.
        say: told each command, and what the hub prints.
        rank: of LoRA.

    Raises:
        ConfigError: if the folder is there already.
        UnforeseenError: if a command fails.
    """
    if folder.exists():
        raise ConfigError(f"{folder} must not be there yet; choose another folder")
    parties = {name: folder / name for name in ("ministry", "hub", *_SIZES)}
    for place in parties.values():
        place.mkdir(parents=True)
    labels = _deal(parties)
    _enrol(parties, say)
    agreement = _agree(parties, labels, rank, say)
    for name in _SIZES:
        text = _NODE_TOML.format(name=name, agreement=agreement, accept=_ACCEPTED)
        (parties[name] / f"{name}.toml").write_text(text)
    _run_all(parties, say)
    for name in ("hub", *_SIZES):
        results = parties[name] / ("runs/run" if name == "hub" else f"results-{name}")
        command = ["report", str(results)]
        if name == "hub":
            command += ["--authority", _authority(parties)]
        _typed(parties[name], command, say)
        say(f"{name}: {results / 'report.html'}")


def _deal(parties: Mapping[str, Path]) -> tuple[str, ...]:
    """Give every organisation its articles, and everybody those that are held out."""
    texts, topics = packaged.bbc_news()
    kept, held = hold_out(texts, 0.2, "bbc-news")

    def write(path: Path, rows: Sequence[int]) -> None:
        lines = (json.dumps({"text": texts[row], "topic": topics[row]}) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))

    parts = iid(len(kept), len(_SIZES), SEED)
    for name, places in zip(_SIZES, parts.values(), strict=True):
        write(parties[name] / "articles.jsonl", [kept[place] for place in places])
    write(parties["ministry"] / "held-out.jsonl", held)
    return tuple(sorted(set(topics)))


def _enrol(parties: Mapping[str, Path], say: Callable[[str], None]) -> None:
    """Make everybody's keys, each in its own folder, and have them signed."""
    ministry = parties["ministry"]
    new = ["roster", "identity"]
    for name in _SIZES:
        made = [*new, name, "--role", "client", "--out", f"{name}.identity"]
        _typed(parties[name], made, say)
    hub = [*new, "hub", "--role", "aggregator", "--host", "127.0.0.1", "--out", "hub.identity"]
    _typed(parties["hub"], hub, say)
    _typed(ministry, [*new, "ministry", "--role", "authority", "--out", "ministry.identity"], say)
    files = [f"{name}.identity.party.json" for name in ("hub", *_SIZES)]
    for name, file in zip(("hub", *_SIZES), files, strict=True):
        shutil.copy(parties[name] / file, ministry)
    shutil.copy(parties["hub"] / "hub.identity.crt", ministry / "hub.crt")
    sign = ["roster", "sign", *files, "--federation", "news", "--authority", "ministry.identity"]
    _typed(ministry, [*sign, "--out", "news.roster"], say)


def _authority(parties: Mapping[str, Path]) -> str:
    """The public key of who signed the roster, as everybody learns it by another way."""
    file = parties["ministry"] / "ministry.identity.party.json"
    return str(json.loads(file.read_text())["signing_key"])


def _agree(
    parties: Mapping[str, Path],
    labels: Sequence[str],
    rank: int,
    say: Callable[[str], None],
) -> str:
    """Write the public file, make what belongs to it, and hand all of it to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    ministry = parties["ministry"]
    text = _RUN_TOML.format(
        seed=SEED,
        rank=rank,
        base=json.dumps(packaged.minilm_folder()),
        labels=json.dumps(list(labels)),
        sizes="\n".join(f"{name} = {size}" for name, size in _SIZES.items()),
        authority=_authority(parties),
        port=port,
    )
    (ministry / "run.toml").write_text(text)
    told = _typed(ministry, ["agreement", "run.toml"], say)
    for name in ("hub", *_SIZES):
        for file in (*_PUBLIC, *_MADE):
            if not (parties[name] / file).exists():
                shutil.copy(ministry / file, parties[name])
    return next(line.split()[-1] for line in told.splitlines() if line.startswith("agreement:"))


def _run_all(parties: Mapping[str, Path], say: Callable[[str], None]) -> None:
    """The hub and the three nodes, at once; all are ended by their processes, whatever happens."""
    commands = {name: ["node", "run", f"{name}.toml"] for name in _SIZES}
    commands["hub"] = ["serve", "run", "run.toml", "--identity", "hub.identity"]
    commands["hub"] += ["--listen", _listen(parties["hub"])]
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, command in commands.items():
            say(f"{name}$ privfed {' '.join(command)}")
            with (parties[name] / "printed.txt").open("w") as output:
                running[name] = subprocess.Popen(
                    [sys.executable, "-m", "privfed", *command],
                    cwd=parties[name],
                    env=_environment(),
                    stdout=subprocess.PIPE if name == "hub" else output,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
        for line in running["hub"].stdout or ():
            say(line.rstrip())
        deadline = time.monotonic() + _WAIT_S
        for name, process in running.items():
            if process.wait(max(1.0, deadline - time.monotonic())) != 0:
                printed_by = "" if name == "hub" else (parties[name] / "printed.txt").read_text()
                raise UnforeseenError(
                    f"{name} ended with status {process.returncode}\n{printed_by}"
                )
        for name in _SIZES:
            say(f"--- {name} printed")
            say((parties[name] / "printed.txt").read_text().rstrip())
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
                process.wait(30)


def _listen(hub: Path) -> str:
    lines = (hub / "run.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("address"))


def _environment() -> dict[str, str]:
    """Of every process: several share the cores of one machine, with a thread each."""
    shared = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **shared}


def _typed(place: Path, command: Sequence[str], say: Callable[[str], None]) -> str:
    """Run one command in the folder of a party; returns what it printed."""
    say(f"{place.name}$ privfed {' '.join(command)}")
    done = subprocess.run(
        [sys.executable, "-m", "privfed", *command],
        cwd=place,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UnforeseenError(f"{place.name}$ privfed {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
