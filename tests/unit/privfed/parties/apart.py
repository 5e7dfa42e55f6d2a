"""Clients whose programs run apart, each with its own disk, keys and ledger, and no model.

What a client trains is a vector that its name gives, so that whole runs are played in a second.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from accountants import AnchorFolder, Ledger, PoissonGaussian, ScheduleFilter, epsilon
from privfed import Plain
from privfed.agreement import budget_of, sample_rate_of, steps_of
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.run import AggregatorRun, Following
from privfed.parties.client.kept_run import RunFiles
from privfed.parties.client.memories import Memories
from privfed.parties.client.node import ClientNode
from privfed.parties.client.own_report import OwnReport
from privfed.parties.client.program import Outside, Program
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import DPSGDConfig
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    FINISH,
    GIVEN_UP,
    HELLO,
    LEFT_OUT,
    MAKE_KEY,
    NEXT_BASE,
    READY,
    REASON,
    REFUSAL,
    RELEASED,
    ROUNDS,
    SHARED_KEY,
    START,
    STARTED,
    ready_of,
)
from privfed.protocol.layout import Layout
from privfed.protocol.ready import Facts, Ready, epoch_of, terms_before
from privfed.protocol.signing import signed_message
from privfed.storage.state_folder import client_folder, ledger_path, local_logger

INITIAL = np.array([0.5, -0.25, 0.125, 0.75, -0.625], dtype=np.float32)
LAYOUT = Layout((("weight", (5,)),))
SIGMAS = {"client-0": 3.0, "client-1": 2.5, "client-2": 2.75, "client-3": 3.25}
EARLIER = {"client-0": 1, "client-1": 4, "client-2": 3, "client-3": 5}
"""Steps that each ledger counted before, in another run."""
SHARING = {"client-0", "client-2"}
"""Clients whose operators let the export of the ledger leave."""


class Apart:
    """An aggregator `hub`, the clients of a federation, and `other`, which nobody asked."""

    def __init__(self, settings):
        self.settings = settings
        self.names = [client.id for client in settings.clients]
        roles = dict.fromkeys([*self.names, "other"], Role.CLIENT) | {"hub": Role.AGGREGATOR}
        self.identities = {name: Identity.generate(name, role) for name, role in roles.items()}
        authority = Identity.generate("ministry", Role.AUTHORITY)
        parties = [identity.party for identity in self.identities.values()]
        self.roster = Roster.signed("wards", parties, authority)
        self.proposal = settings.proposal().digest()
        self.away, self.carried, self.hub = set(), [], None
        self.files, self.memories, self.facts, self.programs = {}, {}, {}, {}
        for name in self.names:
            self.restart(name)

    def restart(self, name, **facts):
        """A new program on the same disk."""
        if name in self.files:
            self.files[name].release()
        settings = self.settings
        (client,) = [one for one in settings.clients if one.id == name]
        node = self._node(client)
        if name not in self.facts:
            self.facts[name] = facts_of(client, settings.privacy, node)
        self.files[name] = RunFiles(client_folder(settings.state, name, client.dataset))
        self.memories[name] = Memories(settings.anchors, name)
        kept = self.files[name].kept()
        if kept is not None and not isinstance(settings.encryption, Plain):
            self.memories[name].resume(kept.run)
        own = OwnReport(
            baseline=evaluate(INITIAL),
            notes=(f"a note of {name}",),
            size_source=f"a source of {name}",
            share_ledger=name in SHARING,
        )
        self.programs[name] = Program(
            node=node,
            facts=replace(self.facts[name], **facts),
            settings=settings,
            proposal=self.proposal,
            roster=self.roster,
            initial=INITIAL,
            outside=Outside(
                store=self.files[name],
                memory=self.memories[name],
                evaluate=evaluate,
                closing=own,
            ),
        )
        return self.programs[name]

    def _node(self, client):
        settings, privacy = self.settings, self.settings.privacy
        path = ledger_path(settings.state, client.id, client.dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger.open_or_create(
            path,
            client=client.id,
            dataset=client.dataset,
            unit=privacy.record,
            neighbouring=privacy.neighbouring,
            anchors=AnchorFolder(settings.anchors),
        )
        sigma, rate = SIGMAS[client.id], sample_rate_of(client, privacy)
        event = PoissonGaussian(
            noise_multiplier=sigma,
            sample_rate=rate,
            steps=steps_of(client, privacy) * settings.rounds,
        )
        if not ledger.events():
            before = replace(event, steps=EARLIER[client.id])
            ledger.reserve("earlier", 1, [before], lambda *_: None)
        return ClientNode(
            id=client.id,
            identity=self.identities[client.id],
            model=SimpleNamespace(layout=LAYOUT),
            encoded=None,
            method=settings.method,
            config=DPSGDConfig(
                noise_multiplier=sigma,
                sample_rate=rate,
                clipping_norm=privacy.clipping_norm,
                expected_batch_size=privacy.expected_batch_size,
                steps=steps_of(client, privacy),
                learning_rate=settings.training.learning_rate,
            ),
            training=settings.training,
            secure_noise=True,
            rounds=settings.rounds,
            ledger=ledger,
            filter=ScheduleFilter(
                budget=budget_of(client, privacy),
                schedule=[event],
                neighbouring=privacy.neighbouring,
            ),
            randomness=settings.randomness,
            log=local_logger(settings.state, client.id, client.dataset),
            bound=AdaptiveBound.starting(privacy.clipping_norm),
        )

    def message(self, kind, *, run="", number=0, sender="hub", key=None, stated=None, blobs=None):
        """Signed by its sender, or with the `key` of another, and of this proposal."""
        terms = terms_before(self.roster, self.proposal, run, number)
        identity = key or self.identities[sender]
        return signed_message(identity, terms, kind, manifest=stated, blobs=blobs)

    def ask(self, name, message):
        """What a client says to a message."""
        return Envelope.from_bytes(self.programs[name].handle(message))

    def reason(self, name, message):
        """Why a client refuses a message."""
        said = self.ask(name, message).statement
        assert said.kind == REFUSAL, said.kind
        return said.manifest[REASON]

    def ready(self, names=None, run="", over=0):
        """What these clients, or all, say to a `hello` when so many rounds are over."""
        said = {}
        for name in names or self.names:
            said[name] = self.programs[name].handle(self.message(HELLO, run=run, number=over))
            assert Envelope.from_bytes(said[name]).statement.kind == READY
        return said

    def standing(self, name, run, over=0):
        """How far a client says it has come, and how far in the round after those over."""
        return self.read(self.ready([name], run, over), run, over)[0].standing

    def read(self, ready, run="", over=0):
        """What was stated."""
        terms = terms_before(self.roster, self.proposal, run, over)
        return [Ready.read(one, self.roster, terms) for one in ready.values()]

    def epoch(self, ready, run="", over=0):
        """The name of the epoch that these begin."""
        return epoch_of(self.read(ready, run, over))

    def make_key(self, ready, *, run="", left_out=(), number=0, **about):
        """The message that asks for a key; a new run is named by what is stated in it."""
        return self.message(
            MAKE_KEY,
            run=run or self.epoch(ready)[:32],
            number=number,
            stated={LEFT_OUT: list(left_out), **about},
            blobs={ready_of(name): one for name, one in ready.items()},
        )

    def start(self, ready, key=None, *, run="", left_out=(), number=0, base="", **about):
        """The message that begins an epoch."""
        blobs = {ready_of(name): one for name, one in ready.items()}
        if key is not None:
            blobs[SHARED_KEY] = key
        return self.message(
            START,
            run=run or self.epoch(ready)[:32],
            number=number,
            stated={LEFT_OUT: list(left_out), NEXT_BASE: base, **about},
            blobs=blobs,
        )

    def key(self, ready, **about):
        """What the first of them makes."""
        return self.programs[min(ready)].handle(self.make_key(ready, **about))

    def begun(self, names=None, *, left_out=()):
        """Begin a new run under encryption, at all of them: its name, and the message."""
        ready = self.ready(names)
        start = self.start(ready, self.key(ready, left_out=left_out), left_out=left_out)
        for name in ready:
            self.programs[name].handle(start)
            assert self.programs[name].membership.name == self.epoch(ready)[:32]
        return self.epoch(ready)[:32], start

    def left_out(self, *out):
        """Have the run go on without these, in a new epoch of the others."""
        here = [name for name in self.names if name not in out]
        membership = self.programs[here[0]].membership
        run, over, base = membership.name, membership.progress.round, membership.progress.base
        ready, about = self.ready(here, run, over), {"run": run, "number": over, "left_out": out}
        start = self.start(ready, self.key(ready, **about), base=base, **about)
        assert {self.ask(name, start).statement.kind for name in here} == {STARTED}

    def exchange(self, messages):
        """Carry messages, as an aggregator does; not to who is away."""
        self.carried += messages.items()
        here = {name: one for name, one in messages.items() if name not in self.away}
        return {name: self.programs[name].handle(message) for name, message in here.items()}

    def aggregator(self):
        """The program of `hub`."""
        proposal = self.settings.proposal()
        self.hub = AggregatorRun(
            identity=self.identities["hub"],
            roster=self.roster,
            proposal=proposal,
            described=proposal.to_json(),
            connect=None,
            exchange=self.exchange,
            following=Following(keep=lambda reached: reached),
        )
        return self.hub

    def finish(self, record, *, told=None, **changes):
        """The message at the end of the aggregator's run, of which something else may be told."""
        reached = self.hub.reached
        stated = {
            NEXT_BASE: reached.base,
            RELEASED: reached.released,
            ROUNDS: [row.to_json() for row in record.rounds],
            GIVEN_UP: [row.to_json() for row in record.abandoned],
            LEFT_OUT: dict(record.left_out),
            **(told or {}),
        }
        about = {"run": record.run, "number": record.over, "stated": stated, **changes}
        return self.message(FINISH, **about)


def facts_of(client, privacy, node):
    """What a client brings; no two bring the same of what may differ."""
    return Facts(
        client=client.describe(privacy),
        base_weights="ba" * 32,
        base_model="bf" * 32,
        layout="1a" * 32,
        num_params=len(INITIAL),
        num_values=len(INITIAL),
        start="57" * 32,
        tokenizer="70" * 32,
        noise_multiplier=node.config.noise_multiplier,
        epsilon_before=epsilon(
            node.ledger.events(), budget_of(client, privacy).delta, privacy.neighbouring
        ).upper,
    )


def evaluate(adapter):
    """A metric that tells adapters apart."""
    return float(adapter @ np.arange(1, len(adapter) + 1))


def update_of(name, round_number):
    """What a client trains in a round."""
    return (int(name[-1]) + 1) * np.array([1, -2, 3, 0, round_number]) / 256
