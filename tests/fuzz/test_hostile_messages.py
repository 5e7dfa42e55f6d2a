"""Hostile messages against everything in the encrypted aggregation that reads bytes from outside.

A message that its claimed sender did not sign, or that differs from the round's terms or from the
documented structure, must be refused, with a documented error, in time, without a word on standard
output, and without harm to the state. `mutators` says what is sent, and how it is made from the
valid messages of `worlds`, `judge` what may be accepted, and `player` plays it.

All that were ever found are in `corpus.json`; what Hypothesis finds is printed as such an entry.
It draws the same messages every time; `FUZZ_MESSAGES=10000` has it draw more, and others.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from privfed.errors import EncryptionError, MessageError
from privfed.identity import roster
from privfed.protocol.terms import Terms
from tests.fuzz.player import TARGETS, DefectError, Player
from tests.fuzz.recipes import recipes
from tests.fuzz.worlds import HolderRound, World

USUAL = 400
MESSAGES = int(os.environ.get("FUZZ_MESSAGES", USUAL))
COSTLY = {"key_holder/opened", "key_holder/committed", "key_holder/finished"}
COSTLY |= {"serving.answer/committed"}
"""Targets whose state takes a whole round to make anew; they get fewer messages."""
MOST_GROWTH = 200 << 20
CORPUS = json.loads(Path(__file__).with_name("corpus.json").read_text())
NO_CHANGE_IS_HARMLESS = {
    "aggregator/ckks", "client/accept_key", "client/answer", "client/answer/own update",
    "client/open", "identity", "key_holder/finished", "key_holder/huge", "open/ckks",
    "open/shared", "open/shared/later", "party", "roster", "wrapped",
}  # fmt: skip
"""Targets where (almost) every change must be refused."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="weighs memory with /proc")


@pytest.fixture(scope="module")
def player(tmp_path_factory):
    return Player(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("case", CORPUS, ids=[case["name"] for case in CORPUS])
def test_every_case_of_the_corpus_has_its_outcome(case, player):
    outcome = player.play(case)
    assert case["expect"] in (outcome, "either")


@pytest.mark.parametrize("name", TARGETS)
def test_no_message_does_harm(name, player):
    target, before = player.target(name), resident_bytes()
    valid = {"target": name, "base": target.valid, "steps": [], "signer": "kept"}
    assert player.play(valid) == "accepted"
    counts = player.counts[name] = Counter()

    @settings(
        max_examples=MESSAGES * 2 // 3 if name in COSTLY else MESSAGES,
        derandomize=MESSAGES == USUAL,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=recipes(name, target, sorted(player.world.messages)))
    def plays(recipe):
        # Some recipes, whatever is drawn, are followed by a look at the state.
        player.play(recipe, check=zlib.crc32(json.dumps(recipe).encode()) % 20 == 0)

    plays()
    assert resident_bytes() - before < MOST_GROWTH
    assert counts["refused"] >= 100
    assert counts["accepted"] >= 5
    assert counts["state checked"] >= 3
    assert counts["accepted changed"] >= 1 or name in NO_CHANGE_IS_HARMLESS


def test_without_signatures_the_judge_reports_forgeries(player, monkeypatch):
    """The fuzzer can fail: this is what it says of code that believes every signature."""
    monkeypatch.setattr(roster, "_verifies", lambda key, message, signature: True)
    forged = []
    for case in CORPUS:
        if case["signer"] != "sender" or "after" in case:
            try:
                player.play(case)
            except DefectError as defect:
                forged += [case["target"].split("/")[0]] * ("forged" in str(defect))
    assert len(forged) >= 10
    assert set(forged) >= {"aggregator", "client", "key_holder", "link", "open", "roster"}


def test_a_native_crash_leaves_its_recipe(tmp_path):
    recipe = {"target": "envelope", "base": "shared/sum", "signer": "kept"}
    recipe["steps"] = [{"do": "crash"}]
    code = f"from tests.fuzz.player import Player; Player({str(tmp_path)!r}).play({recipe!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe


def test_a_key_holder_does_not_grow_with_every_run_that_is_opened(tmp_path):
    """Key pairs of 250 KB each were kept for all of them, without a limit."""
    made = HolderRound(World(tmp_path))
    for number in range(300):
        terms = Terms(run=f"run {number}", round=1, manifest=made.agreed.manifest)
        with contextlib.suppress(MessageError, EncryptionError):
            made.holder.receive(made.world.by("server", "open-round", terms))
        if number == 50:
            before = resident_bytes()
    assert resident_bytes() - before < 20 << 20


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
