"""A small run whose clients each keep it for themselves: any may die at a message and come back."""

from dataclasses import replace

from privfed import Plain
from privfed.identity.enrolment import open_parties
from privfed.parties.aggregator.run import AggregatorRun, Following
from privfed.parties.client.kept_run import RunFiles
from privfed.parties.client.memories import Memories
from privfed.parties.client.program import Outside, Program
from privfed.parties.client.setup import prepare
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import CLOSED, TRAIN
from privfed.protocol.signing import signed_message

BEFORE, WITHIN, AFTER = "before", "within", "after"
"""A client dies before a message reaches it, with a round reserved, or before its reply leaves."""


class Separate:
    """Real clients in this process, which share nothing but their model.

    `dies` says at which kind of message, and of which round, a client dies and when; it stays down
    until `start`. `instead[kind, name]` turns a message and the reply to it into what is said.
    """

    def __init__(self, federation, folder, *, patience_s=0.0, clock=None, **following):
        self.names = [client.id for client in federation.clients]
        self.federation, self.folder, self.clock = federation, folder, clock
        self.parties = open_parties(self.names, federation.state, None, key_holder=False)
        self.brought = prepare(federation, federation.clients, self.parties.clients, start=None)
        self.settings = replace(federation, clients=self.brought.clients)
        self.stores, self.programs, self.down = {}, {}, set()
        self.asked, self.messages, self.dies, self.instead, self.kept = [], [], {}, {}, []
        for name in self.names:
            self.start(name)
        self.aggregator = AggregatorRun(
            identity=self.parties.aggregator,
            roster=self.parties.roster,
            proposal=federation.proposal(),
            described=federation.describe(),
            connect=None,
            exchange=self.exchange,
            following=Following(**{"keep": self.keep, "patience_s": patience_s, **following}),
        )

    def start(self, name):
        """Start a client, or start it again: what it had in memory is gone."""
        if name in self.stores:
            self.stores[name].release()
        self.stores[name] = store = RunFiles(self.folder / name)
        memory, kept = Memories(self.settings.anchors, name), store.kept()
        if kept is not None and not isinstance(self.federation.encryption, Plain):
            memory.resume(kept.run)
        self.programs[name] = Program(
            node=self.brought.nodes[name],
            facts=self.brought.facts[name],
            settings=self.settings,
            proposal=self.settings.proposal().digest(),
            roster=self.parties.roster,
            initial=self.brought.initial,
            outside=Outside(
                store=store, memory=memory, evaluate=lambda _: 0.625, closing=_says_closed
            ),
        )
        self.down.discard(name)

    def close(self):
        for store in self.stores.values():
            store.release()

    def keep(self, reached):
        self.kept.append(reached)
        return reached

    @property
    def record(self):
        return self.aggregator.record

    @property
    def kinds(self):
        """Of the messages that were sent so far."""
        return [kind for kind, _ in self.asked]

    def to(self, kind):
        """To whom each message of this kind went."""
        return [names for one, names in self.asked if one == kind]

    def reserved(self, name):
        """Rounds that a client's ledger counts, in order."""
        entries = self.brought.ledgers[name].export()["entries"]
        return [entry["body"]["round"] for entry in entries if entry["kind"] == "reserve"]

    def base(self, name):
        """Digest of the adapter that a client holds."""
        return self.programs[name].membership.progress.base

    def exchange(self, messages):
        (kind,) = {statement_of(message).kind for message in messages.values()}
        self.asked.append((kind, list(messages)))
        self.messages.append(dict(messages))
        replies = {}
        for name, message in messages.items():
            if name not in self.down:
                reply = self._reply(name, kind, message)
                change = self.instead.get((kind, name))
                reply = reply if change is None else change(message, reply)
                if reply is not None:
                    replies[name] = reply
        return replies

    def _reply(self, name, kind, message):
        when = self.dies.pop((kind, statement_of(message).round, name), None)
        if when is None:
            return self.programs[name].handle(message)
        self.down.add(name)
        if when == WITHIN:
            assert kind == TRAIN
            self.programs[name].membership.run.begin(message)
        elif when == AFTER:
            self.programs[name].handle(message)
        return None


def _says_closed(program, terms, told):
    """In few words, what a client says at the end; its report is the matter of other tests."""
    return signed_message(program.node.identity, terms, CLOSED)
