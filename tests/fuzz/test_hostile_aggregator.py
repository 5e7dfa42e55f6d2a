"""A deviating aggregator: whatever it signs, a client's program answers, and spends nothing more.

Before every message of a real run each client is sent many that were made from it: values, keys,
rounds, runs and blobs changed and signed anew with the aggregator's own key, or bytes damaged.
"""

import random
from dataclasses import replace

import pytest

from privfed import BFV, Custody, Plain
from privfed.engines.simulation import Simulation
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import ABSENT, REFUSAL, SUM
from privfed.storage.run_folder import RunFolder
from tests.fuzz.byte_mutators import flip
from tests.fuzz.envelopes import Draft, signed, stated

VALUES = [None, True, -1, 0, 1, 2**63, 0.5, 1e308, "", "x" * 300, "00" * 32, [], {}, [[]], {"a": 1}]
"""What stands in the place of a value; none is one that a message of these runs states there."""
KINDS = ("hello", "start", "state", "fetch-state", "finish", "train", "sum", "strange")
MUTANTS = 12


class Hostile:
    """Sends mutants before every message, and notes what came back."""

    def __init__(self, running, seed):
        self._running, self._random = running, random.Random(seed)
        self._honest = running.aggregator.presence.beginning.exchange
        self.replies = {}

    def exchange(self, messages):
        for name, message in messages.items():
            kind = stated(message, "kind")
            if kind == SUM and isinstance(self._running.settings.encryption, Plain):
                continue  # in clear, the clients believe the sum that they are told
            for mutant in (self._mutant(message) for _ in range(MUTANTS)):
                if mutant != message:
                    reply = self._running.clients[name].handle(mutant)
                    self.replies.setdefault(kind, []).append((name, reply))
        return self._honest(messages)

    def _mutant(self, message):
        choose = self._random
        if choose.random() < 0.25:
            return self._damaged(message)
        draft = Draft.of(message)
        value, manifest = draft.value, draft.value["manifest"]
        key, kind = choose.choice(sorted(manifest)), value["kind"]
        what = choose.choice(["value", "value", "drop", "add", "round", "run", "blob", "kind"])
        if what == "drop":
            del manifest[key]
        elif what in ("value", "add"):
            manifest["further" if what == "add" else key] = choose.choice(VALUES)
        elif what == "round":
            # Rounds ahead may be skipped, which costs nobody anything: others must be refused.
            ahead, now = kind in ("train", "start", "abandon"), value["round"]
            value["round"] = choose.choice([99, 2**40] if ahead else [now + 1, now + 7, 2**40])
        elif what == "run":
            value["run"] = choose.choice(["", "another", "0" * 32])
        elif what == "kind":
            value["kind"] = choose.choice([one for one in KINDS if one != kind])
        else:
            self._change_blobs(draft.blobs)
        return signed(draft.to_bytes(), self._running.parties.aggregator.sign)

    def _change_blobs(self, blobs):
        choose = self._random
        if not blobs or choose.random() < 0.3:
            blobs.append(("further", b"bytes"))
        else:
            name, content = blobs.pop(choose.randrange(len(blobs)))
            blobs += [(name, self._damaged(content))] if choose.random() < 0.5 else []
        blobs.sort()

    def _damaged(self, content):
        cut = self._random.random() < 0.3
        if cut:
            return content[: self._random.randrange(len(content) + 1)]
        return flip(content, self._random, None)


@pytest.mark.parametrize("encryption", [Plain(), BFV(), BFV(custody=Custody.KEY_HOLDER)], ids=str)
def test_nothing_that_an_aggregator_signs_breaks_a_client(make_federation, tmp_path, encryption):
    """It answers all of it, in fixed words; the run ends as if nothing else had been said."""
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    federation = make_federation(encryption=encryption)
    running = Simulation.prepared(federation, federation.clients, folder, None, ())
    try:
        running.aggregator = running.new_aggregator()
        hostile = Hostile(running, seed=encryption.bits)
        presence = running.aggregator.presence
        presence.beginning = replace(presence.beginning, exchange=hostile.exchange)
        running.aggregator.begin()
        while running.record.over < 3:
            running.aggregator.play_round()
    finally:
        running.close()
        folder.release()
    assert [row.clients for row in running.record.rounds] == [tuple(running.clients)] * 3
    for name, program in running.clients.items():
        reserved = program.node.ledger.events(running.record.run)
        assert sum(event.steps for event in reserved) == 3 * 2, f"{name} trained for a mutant"
    assert {"hello", "start", "train"} <= set(hostile.replies)
    refused = 0
    for replies in hostile.replies.values():
        for name, reply in replies:
            statement = Envelope.from_bytes(reply).statement
            assert statement.sender == name
            refused += statement.kind in (REFUSAL, ABSENT)
    total = sum(map(len, hostile.replies.values()))
    assert refused > 0.9 * total, "a mutant that is no message of the protocol is refused"
