"""Hostile messages against everything in the encrypted aggregation that reads bytes from outside.

A message that its claimed sender did not sign, or that differs from the round's terms or from the
documented structure, must be refused, with a documented error, in time, without a word on standard
output, and without harm to the state. `recipes` says what is sent, `mutators` how it is made from
the valid messages of `worlds`, `judge` what may be accepted, and `player` plays it.

Run as a script, it plays recipes in a process of its own, so that a native crash is a finding too:

    python tests/fuzz/hostile_messages.py --messages 20000 --seed 0

prints a JSON summary. `--defects FILE` writes what was found as recipes for `corpus.json`.
"""

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:  # As a script, it sees only its own folder.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.fuzz.player import Player
from tests.fuzz.recipes import recipes

CORPUS = Path(__file__).with_name("corpus.json")


def run(*, messages=0, seed=0, given=(), unverified=False, timeout_s=900):
    """Play recipes in a new process: those given, then `messages` random ones of a seed.

    Returns:
        The summary; under "crash" the last recipe and the traceback if the process died.
    """
    with tempfile.TemporaryDirectory(prefix="privfed-fuzz-") as folder:
        order = {"messages": messages, "seed": seed, "given": list(given), "unverified": unverified}
        Path(folder, "order.json").write_text(json.dumps(order))
        command = [sys.executable, "-W", "error", __file__, "--child", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, check=False, env=environment
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = "timeout"
        summary_at = Path(folder, "summary.json")
        if status == 0 and summary_at.exists():
            return json.loads(summary_at.read_text())
        last = Path(folder, "recipe")
        traces = [p.read_text(errors="replace") for p in Path(folder).glob("*.txt")]
        if status != "timeout":
            traces.append(done.stderr.decode(errors="replace"))
        recipe = last.read_bytes().rstrip(b"\0").decode() if last.exists() else ""
        return {"crash": {"status": status, "recipe": recipe, "trace": "\n".join(traces)[-6000:]}}


def child(folder):
    """In the new process: nothing may reach standard output or error once recipes are played."""
    order = json.loads(Path(folder, "order.json").read_text())
    with open(Path(folder, "crash.txt"), "w") as crash:
        faulthandler.enable(crash)
        notes = os.open(Path(folder, "recipe"), os.O_RDWR | os.O_CREAT)
        talk = os.open(Path(folder, "printed.txt"), os.O_RDWR | os.O_CREAT | os.O_APPEND)

        def note(recipe):
            text = json.dumps(recipe).encode()
            os.pwrite(notes, text.ljust(8192, b"\0"), 0)

        player = Player(folder, note, printed=lambda: os.fstat(talk).st_size)
        if order["unverified"]:
            _verify_nothing()
        kept = os.dup(2)
        os.dup2(talk, 1)
        os.dup2(talk, 2)
        _played(player, order)
        os.dup2(kept, 2)
        Path(folder, "summary.json").write_text(json.dumps(player.tally.to_json()))


def _played(player, order):
    for name, target in player.targets.items():
        result = target.feed(target.message(target.valid))
        if reason := target.judge(target.message(target.valid), result):
            raise AssertionError(f"the valid message of {name} is judged: {reason}")
        target.renew()
    outcomes = [player.play(recipe, check=True) for recipe in order["given"]]
    player.tally.outcomes = outcomes
    for recipe in recipes(order["messages"], order["seed"], player.targets, player.world):
        player.play(recipe)


def _verify_nothing():
    """The self-test: an aggregation that believes every signature."""
    from privfed.identity import roster

    roster._verifies = lambda key, message, signature: True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", action="store_true", help="play the corpus first")
    parser.add_argument("--defects", type=Path, help="where to write recipes of defects")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    given = json.loads(CORPUS.read_text()) if arguments.corpus else ()
    summary = run(messages=arguments.messages, seed=arguments.seed, given=given, timeout_s=7200)
    if arguments.defects:
        arguments.defects.write_text(json.dumps(summary.get("defects", []), indent=1))
    print(json.dumps(summary, indent=1))
    return 1 if "crash" in summary or summary["defects"] or summary["forgeries accepted"] else 0


if __name__ == "__main__":
    sys.exit(main())
