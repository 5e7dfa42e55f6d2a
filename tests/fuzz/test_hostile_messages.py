"""Hostile messages: all that were ever found, and 20,000 random ones. See `hostile_messages`."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

from privfed.errors import EncryptionError, MessageError
from privfed.protocol.terms import Terms
from tests.fuzz import hostile_messages as fuzz
from tests.fuzz.target import MOST_SECONDS
from tests.fuzz.worlds import HolderRound, World

MESSAGES = 20_000
MOST_GROWTH = 200 << 20
CORPUS = json.loads(fuzz.CORPUS.read_text())
NO_CHANGE_IS_HARMLESS = {
    "client/answer",
    "client/answer/own update",
    "identity",
    "key_holder/huge",
    "open/ckks",
    "open/shared",
    "open/shared/later",
    "party",
    "roster",
    "wrapped",
}
"""Targets where (almost) every change must be refused."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="weighs memory with /proc")


@pytest.fixture(scope="module")
def summary():
    """The corpus, then random messages of a fixed seed, in one process of their own."""
    return fuzz.run(messages=MESSAGES, seed=20261121, given=CORPUS)


def outcomes_of(summary):
    return dict(
        zip((case["name"] for case in CORPUS), summary["outcomes of the given"], strict=True)
    )


@pytest.mark.parametrize("case", CORPUS, ids=[case["name"] for case in CORPUS])
def test_every_case_of_the_corpus_has_its_outcome(case, summary):
    assert "crash" not in summary, summary
    outcome = outcomes_of(summary)[case["name"]]
    allowed = {"refused", "accepted"} if case["expect"] == "either" else {case["expect"]}
    assert outcome in allowed


def test_no_random_message_does_harm(summary):
    assert "crash" not in summary, summary
    assert summary["defects"] == []
    assert summary["messages"] == MESSAGES + len(CORPUS)
    assert summary["forgeries accepted"] == 0
    assert summary["slowest_s"] < MOST_SECONDS
    assert summary["memory growth"] < MOST_GROWTH


def test_every_target_refused_and_accepted_something(summary):
    targets = summary["targets"]
    assert len(targets) == 35
    for name, counts in targets.items():
        assert counts["refused"] >= 100, (name, counts)
        assert counts["accepted"] >= 5, (name, counts)
        assert counts["state checked"] >= 3, (name, counts)
        if name not in NO_CHANGE_IS_HARMLESS:
            assert counts["accepted changed"] >= 1, (name, counts)


def test_without_signatures_the_judge_reports_forgeries():
    """The fuzzer can fail: this is what it says of code that believes every signature."""
    unsigned = [case for case in CORPUS if case["signer"] != "sender" or "after" in case]
    broken = fuzz.run(given=unsigned, unverified=True)
    assert broken["forgeries accepted"] >= 10
    forged = {d["target"].split("/")[0] for d in broken["defects"] if "forged" in d["why"]}
    assert forged >= {"aggregator", "client", "key_holder", "link", "open", "roster"}


def test_a_native_crash_is_a_failure_that_names_its_recipe():
    recipe = {"target": "envelope", "base": "shared/sum", "signer": "kept"}
    summary = fuzz.run(given=[{**recipe, "steps": [{"do": "crash"}]}])
    assert '"crash"' in summary["crash"]["recipe"]
    assert "Segmentation fault" in summary["crash"]["trace"]


def test_a_key_holder_does_not_grow_with_every_run_that_is_opened(tmp_path):
    """Key pairs of 250 KB each were kept for all of them, without a limit."""
    made = HolderRound(World(tmp_path))
    for number in range(300):
        terms = Terms(run=f"run {number}", round=1, manifest=made.agreed.manifest)
        with contextlib.suppress(MessageError, EncryptionError):
            made.holder.receive(made.by_server(terms, "open-round"))
        if number == 50:
            before = resident_bytes()
    assert resident_bytes() - before < 20 << 20


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
