"""A deviating aggregator: whatever it signs, a client's program answers, and spends nothing more.

Before every message of a real run each client is sent many that were made from it: values, keys,
rounds, runs and blobs changed and signed anew with the aggregator's own key, or bytes damaged.
"""

import random
from dataclasses import replace

import pytest

from privfed import BFV, Custody, Plain
from privfed.engines.simulation import Simulation
from privfed.protocol.envelopes import Envelope, envelope_bytes, statement_of
from privfed.protocol.kinds import ABSENT, REFUSAL, SUM
from privfed.protocol.terms import Terms
from privfed.storage.run_folder import RunFolder

VALUES = [None, True, -1, 0, 1, 2**63, 0.5, 1e308, "", "x" * 300, "00" * 32, [], {}, [[]], {"a": 1}]
"""What stands in the place of a value; none is one that a message of these runs states there."""
MUTANTS = 12


class Hostile:
    """Sends mutants before every message, and notes what came back."""

    def __init__(self, running, seed):
        self._running, self._random = running, random.Random(seed)
        self._honest = running.aggregator.presence.beginning.exchange
        self.replies = {}

    def exchange(self, messages):
        for name, message in messages.items():
            kind = statement_of(message).kind
            if kind == SUM and isinstance(self._running.settings.encryption, Plain):
                continue  # in clear, the clients believe the sum that they are told
            for _ in range(MUTANTS):
                mutant = self._mutant(message)
                if mutant == message:
                    continue
                reply = self._running.clients[name].handle(mutant)
                self.replies.setdefault(kind, []).append((name, reply))
        return self._honest(messages)

    def _mutant(self, message):
        choose = self._random
        if choose.random() < 0.25:
            return self._damaged(message)
        envelope = Envelope.from_bytes(message)
        statement, manifest = envelope.statement, dict(envelope.statement.manifest)
        run, number, kind = statement.run, statement.round, statement.kind
        blobs = {name: bytes(blob) for name, blob in envelope.blobs.items()}
        what = choose.choice(["value", "value", "drop", "add", "round", "run", "blob", "kind"])
        if what == "value":
            manifest[choose.choice(sorted(manifest))] = choose.choice(VALUES)
        elif what == "drop":
            del manifest[choose.choice(sorted(manifest))]
        elif what == "add":
            manifest["further"] = choose.choice(VALUES)
        elif what == "round":
            # Rounds ahead may be skipped, which costs nobody anything: others must be refused.
            ahead = kind in ("train", "start", "abandon")
            number = choose.choice([99, 2**40] if ahead else [number + 1, number + 7, 2**40])
        elif what == "run":
            run = choose.choice(["", "another", "0" * 32])
        elif what == "kind":
            kinds = ["hello", "start", "state", "fetch-state", "finish", "train", "sum", "strange"]
            kind = choose.choice([one for one in kinds if one != kind])
        else:
            self._change_blobs(blobs)
        return envelope_bytes(
            self._running.parties.aggregator.sign,
            Terms(run=run, round=number, manifest=manifest),
            sender=statement.sender,
            kind=kind,
            blobs=blobs,
        )

    def _change_blobs(self, blobs):
        choose = self._random
        if not blobs or choose.random() < 0.3:
            blobs["further"] = b"bytes"
            return
        name = choose.choice(sorted(blobs))
        if choose.random() < 0.5:
            del blobs[name]
        else:
            blobs[name] = self._damaged(blobs[name])

    def _damaged(self, content):
        choose, changed = self._random, bytearray(content)
        if choose.random() < 0.3 or not changed:
            return bytes(changed[: choose.randrange(len(changed) + 1)])
        at = choose.randrange(len(changed))
        changed[at] ^= 1 << choose.randrange(8)
        return bytes(changed)


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
