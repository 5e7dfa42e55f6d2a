"""An epoch begins with what this client stated last, with a key of its own, from its adapter."""

import hashlib
from dataclasses import replace

import pytest

from privfed import SGD, Plain, QuantileClipping
from privfed.canonical import canonical_json
from privfed.errors import FileError
from privfed.identity.keys import Identity, Role
from privfed.methods.method import vector_digest
from privfed.parties.client.kept_run import RunFiles
from privfed.parties.client.starting import begun
from privfed.parties.client.upload import new_key
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    ABANDON,
    EPOCH,
    EPSILON,
    FACTS,
    LEDGER,
    LEFT_OUT,
    MAKE_KEY,
    METRIC_VALUE,
    MISSING,
    NEXT_BASE,
    NEXT_RANGE,
    NO_RUN,
    NONCE,
    READY,
    REASON,
    RELEASED,
    SHARED_KEY,
    STANDING,
    START,
    STARTED,
    SUM,
    ready_of,
)
from privfed.protocol.signing import signed_message
from privfed.reports.round_record import Reason
from tests.unit.privfed.parties.apart import INITIAL, SIGMAS, evaluate

ME = "client-1"


def said(apart, message, name=ME):
    return apart.ask(name, message).statement


class Stopped(Exception):
    """An aggregator is stopped while a message is on its way."""


def stop_when(apart, kind, delivered):
    """Have the aggregator stop at a kind of message, which only these clients get."""
    real = apart.exchange

    def exchange(messages):
        if statement_of(next(iter(messages.values()))).kind == kind:
            real({name: one for name, one in messages.items() if name in delivered})
            raise Stopped
        return real(messages)

    return exchange


@pytest.fixture
def one_ahead(apart):
    """A run in which only `client-1` opened round 2, and the adapter after round 1."""
    run = apart.aggregator()
    run.begin()
    run.play_round()
    base = run.reached.base
    run.presence.beginning = replace(run.presence.beginning, exchange=stop_when(apart, SUM, {ME}))
    with pytest.raises(Stopped):
        run.play_round()
    assert apart.programs[ME].membership.progress.round == 2
    assert apart.programs["client-0"].membership.progress.round == 1
    return run.record.run, base


class TestANewRun:
    def test_all_begin_alike(self, apart):
        ready = apart.ready()
        start = apart.start(ready, apart.key(ready))
        told = [said(apart, start, name) for name in apart.names]
        assert {one.kind for one in told} == {STARTED}
        assert {one.run for one in told} == {apart.epoch(ready)[:32]}
        assert all(one.manifest == told[0].manifest for one in told)
        manifest = told[0].manifest
        assert manifest[EPOCH] == apart.epoch(ready) == apart.programs[ME].membership.epoch
        assert manifest[NEXT_BASE] == manifest[RELEASED] == vector_digest(INITIAL)
        assert manifest[METRIC_VALUE] == evaluate(INITIAL)
        starting = apart.programs[ME].membership.starting
        assert manifest[NEXT_RANGE] == starting.largest_range
        assert manifest["agreement"] == starting.agreement.digest()

    def test_all_hold_the_same_key(self, apart):
        apart.begun()
        keys = [apart.programs[name].membership.run.upload.key for name in apart.names]
        assert keys[0]["key_id"]
        assert all(key == keys[0] for key in keys)

    def test_in_clear_there_is_no_key(self, make_apart):
        apart = make_apart(encryption=Plain())
        ready = apart.ready()
        assert said(apart, apart.start(ready)).kind == STARTED
        assert apart.programs[ME].membership.run.upload.key == {}
        message = apart.make_key(apart.ready())
        assert "the clients of this run hold no key" in apart.reason("client-0", message)


class TestItsOwnStatement:
    def refused(self, apart, ready, key=None, name=ME):
        start = apart.start(ready, key)
        reason = "MessageError: an epoch must begin with what this client stated last"
        assert apart.reason(name, start) == reason
        assert apart.programs[name].membership.name is None

    def test_an_older_one_is_refused(self, apart):
        ready = apart.ready()
        key = apart.key(ready)
        apart.ready([ME])
        self.refused(apart, ready, key)

    def test_so_is_a_start_before_the_first(self, apart):
        ready = apart.ready()
        start = apart.start(ready, apart.key(ready))
        apart.restart(ME)
        assert apart.reason(ME, start) == f"MessageError: {NO_RUN}"
        assert apart.programs[ME].membership.name is None

    def test_one_statement_begins_one_epoch(self, apart):
        """Another that begins with it would have the key of the first."""
        ready = apart.ready()
        key = apart.key(ready)
        assert said(apart, apart.start(ready, key)).kind == STARTED
        run = apart.programs[ME].membership.name
        others = [
            apart.start(ready, key, left_out=[], base="ab" * 32),
            apart.start(ready, key, run=run, base=vector_digest(INITIAL), number=1),
            apart.make_key(ready),
        ]
        for message in others:
            assert apart.reason(ME, message) == f"MessageError: {NO_RUN}"

    def test_the_same_message_again_gets_the_same_reply(self, apart):
        ready = apart.ready()
        start = apart.start(ready, apart.key(ready))
        first = apart.programs[ME].handle(start)
        run = apart.programs[ME].membership.run
        assert apart.programs[ME].handle(start) == first
        assert apart.programs[ME].membership.run is run, "nothing began anew"
        apart.restart(ME)
        assert apart.reason(ME, start) == f"MessageError: {NO_RUN}"

    def test_so_is_one_without_it(self, apart):
        apart.ready([ME])
        others = [name for name in apart.names if name != ME]
        ready = apart.ready(others)
        start = apart.start(ready, apart.key(ready, left_out=[ME]), left_out=[ME])
        assert "what this client stated last" in apart.reason(ME, start)
        assert said(apart, start, "client-2").kind == STARTED, "nobody else minds"

    def test_so_are_other_facts_under_its_number(self, apart):
        ready = apart.ready()
        (mine,) = apart.read({ME: ready[ME]})
        forged = {
            NONCE: mine.nonce,
            FACTS: replace(mine.facts, noise_multiplier=2.0).to_json(),
            STANDING: None,
            LEDGER: mine.anchor.to_json(),
            EPSILON: mine.epsilon,
        }
        ready[ME] = apart.message(READY, sender=ME, stated=forged)
        key = apart.key(ready)
        self.refused(apart, ready, key)

    def test_a_key_is_made_for_no_older_one_either(self, apart):
        ready = apart.ready()
        apart.ready(["client-0"])
        reason = apart.reason("client-0", apart.make_key(ready))
        assert "what this client stated last" in reason


class TestWhoseMessageItIs:
    @pytest.mark.parametrize("kind", [MAKE_KEY, START])
    def test_that_of_a_client_or_a_stranger_is_refused(self, apart, kind):
        ready = apart.ready()
        make = apart.make_key if kind == MAKE_KEY else apart.start
        stated = statement_of(make(ready))
        for sender, key in (
            ("client-2", None),
            ("hub", Identity.generate("hub", Role.AGGREGATOR)),
        ):
            message = apart.message(
                kind,
                run=stated.run,
                sender=sender,
                key=key,
                stated={k: v for k, v in stated.manifest.items() if k in (LEFT_OUT, NEXT_BASE)},
                blobs={f"ready/{name}": one for name, one in ready.items()},
            )
            reason = apart.reason("client-0", message)
            assert "has the role" in reason or "must carry its signature" in reason

    @pytest.mark.parametrize("left_out", [None, "client-3", [7], {"client-3": 1}])
    def test_who_is_left_out_must_be_a_list_of_names(self, apart, left_out):
        ready = apart.ready()
        message = apart.message(
            START,
            run=apart.epoch(ready)[:32],
            stated={LEFT_OUT: left_out, NEXT_BASE: ""},
            blobs={f"ready/{name}": one for name, one in ready.items()} | {SHARED_KEY: b""},
        )
        assert "must be a list of names" in apart.reason(ME, message)

    @pytest.mark.parametrize("about", [{"more": 1}, {NEXT_BASE: ""}])
    def test_no_more_is_stated_than_is_read(self, apart, about):
        message = apart.make_key(apart.ready(), **about)
        assert "must state ['left_out'] in its 'make-key'" in apart.reason("client-0", message)

    @pytest.mark.parametrize("about", [{"number": 1}, {"base": vector_digest(INITIAL)}], ids=str)
    def test_a_new_run_begins_before_its_first_round(self, apart, about):
        ready = apart.ready()
        start = apart.start(ready, apart.key(ready), **about)
        assert "a new run begins before its first round" in apart.reason(ME, start)
        assert apart.programs[ME].membership.name is None
        assert apart.files[ME].kept() is None

    @pytest.mark.parametrize(
        ("kind", "blob"), [(START, "more"), (START, "unready/x"), (MAKE_KEY, SHARED_KEY)]
    )
    def test_no_more_is_handed_out_than_is_read(self, apart, kind, blob):
        ready = apart.ready()
        stated = {LEFT_OUT: []} if kind == MAKE_KEY else {LEFT_OUT: [], NEXT_BASE: ""}
        blobs = {ready_of(name): one for name, one in ready.items()}
        if kind == START:
            blobs[SHARED_KEY] = apart.key(ready)
        message = apart.message(
            kind, run=apart.epoch(ready)[:32], stated=stated, blobs={**blobs, blob: b"?"}
        )
        assert "'hub' must send the blobs" in apart.reason("client-0", message)

    def test_in_clear_no_key_is_handed_out(self, make_apart):
        apart = make_apart(encryption=Plain())
        ready = apart.ready()
        assert "in its 'start'" in apart.reason(ME, apart.start(ready, b"a key"))

    def test_one_of_another_proposal(self, apart):
        ready = apart.ready()
        message = apart.start(ready, proposal="00" * 32)
        assert apart.proposal in apart.reason(ME, message)


class TestMakingTheKey:
    def test_only_the_first_by_name_of_those_ready(self, apart):
        ready = apart.ready(apart.names[1:])
        message = apart.make_key(ready, left_out=["client-0"])
        assert "the key is made by 'client-1'" in apart.reason("client-2", message)
        assert said(apart, message, "client-1").kind == SHARED_KEY

    def test_each_epoch_has_another(self, apart):
        names = set()
        for _ in range(2):
            ready = apart.ready()
            names.add(statement_of(apart.key(ready)).manifest["key_id"])
        assert len(names) == 2

    def test_without_one_nobody_begins(self, apart):
        ready = apart.ready()
        assert apart.reason(ME, apart.start(ready, b"")).startswith("MessageError: ")
        apart.key(ready)
        made = apart.reason("client-0", apart.start(ready, b""))
        assert "must be the key that this client made" in made
        for name in ("client-0", ME):
            assert "'hub' must send the blobs" in apart.reason(name, apart.start(ready))
            assert apart.programs[name].membership.name is None

    def test_its_maker_takes_no_other(self, apart):
        ready = apart.ready()
        other, _ = apart.key(ready), apart.key(ready)
        start = apart.start(ready, other)
        assert "must be the key that this client made" in apart.reason("client-0", start)
        assert apart.programs["client-0"].membership.name is None

    def test_nor_does_anybody_take_that_of_another_client(self, apart):
        """`client-2` makes one for this very epoch."""
        ready = apart.ready()
        message = apart.make_key(ready)
        begins = begun(Envelope.from_bytes(message), (), apart.settings, apart.roster, None)
        terms = begins.terms.of_epoch(begins.epoch)
        _, forged = new_key(begins.scheme, apart.identities["client-2"], apart.roster, terms)
        reason = apart.reason(ME, apart.start(ready, forged))
        assert "keys of this run are made by 'client-0'" in reason

    def test_that_of_an_older_epoch_is_refused(self, apart):
        """Also where every statement but the number is the same."""
        run, start = apart.begun()
        old = bytes(Envelope.from_bytes(start).blobs[SHARED_KEY])
        ready = apart.ready(run=run)
        replay = apart.start(ready, old, run=run, base=vector_digest(INITIAL))
        assert "states epoch = " in apart.reason(ME, replay)
        assert apart.reason("client-0", replay).startswith("MessageError: ")
        assert apart.standing(ME, run).epoch == run_epoch(start, apart)


def run_epoch(start, apart):
    blobs = Envelope.from_bytes(start).blobs
    ready = {name: one for name, one in blobs.items() if name.startswith("ready/")}
    return apart.epoch(ready)


class TestWhereItGoesOn:
    def go_on(self, apart, run, number, base, names=None):
        ready = apart.ready(names, run, number)
        key = apart.key(ready, run=run, number=number)
        return apart.start(ready, key, run=run, number=number, base=base)

    def test_from_the_adapter_that_it_holds(self, apart):
        run, _ = apart.begun()
        before = apart.programs[ME].membership.epoch
        told = said(apart, self.go_on(apart, run, 0, vector_digest(INITIAL)))
        assert (told.kind, told.round, told.run) == (STARTED, 0, run)
        assert told.manifest[METRIC_VALUE] is None, "it was stated when the run began"
        assert told.manifest[EPOCH] == apart.programs[ME].membership.epoch != before

    def test_not_from_another(self, apart):
        run, _ = apart.begun()
        reason = apart.reason(ME, self.go_on(apart, run, 0, vector_digest(INITIAL + 1)))
        assert "the others have come to the end of round 0 with another adapter" in reason
        assert "this client is at round 0, and must be given it first" in reason

    def test_rounds_that_were_given_up_in_between_are_skipped(self, apart):
        run, _ = apart.begun()
        told = said(apart, self.go_on(apart, run, 2, vector_digest(INITIAL)))
        assert (told.kind, told.round) == (STARTED, 2)
        assert apart.programs[ME].membership.progress.round == 2
        assert apart.standing(ME, run).round == 2

    @pytest.mark.parametrize(("number", "allowed"), [(3, True), (4, False), (9, False)])
    def test_never_beyond_the_planned_rounds(self, apart, number, allowed):
        """Three are planned."""
        run, _ = apart.begun()
        message = self.go_on(apart, run, number, vector_digest(INITIAL))
        assert (said(apart, message).kind == STARTED) is allowed
        assert apart.programs[ME].membership.progress.round == (3 if allowed else 0)

    @pytest.mark.parametrize("restarted", [False, True])
    def test_who_opened_one_round_more_goes_back_by_one(self, apart, one_ahead, restarted):
        run, base = one_ahead
        if restarted:
            apart.restart(ME)
        assert apart.standing(ME, run).round == 2
        told = said(apart, self.go_on(apart, run, 1, base))
        assert (told.kind, told.round) == (STARTED, 1)
        assert told.manifest[NEXT_BASE] == base
        progress = apart.programs[ME].membership.progress
        assert (progress.round, progress.base) == (1, base)

    def test_where_it_went_back_to_is_kept(self, apart, one_ahead):
        run, base = one_ahead
        ahead = apart.programs[ME].membership.progress
        assert said(apart, self.go_on(apart, run, 1, base)).kind == STARTED
        folder = apart.settings.state / "clients" / ME / "topics" / "runs" / run
        kept = sorted(path.name for path in folder.glob("round-*"))
        assert kept[-1] == "round-00001.safetensors"
        apart.restart(ME)
        progress = apart.programs[ME].membership.progress
        assert (progress.round, progress.base) == (1, base)
        assert progress.base != ahead.base
        assert apart.standing(ME, run, 1).round == 1

    def test_and_not_by_two(self, apart, one_ahead):
        run, _ = one_ahead
        message = self.go_on(apart, run, 0, vector_digest(INITIAL))
        assert "this client is at round 2" in apart.reason(ME, message)

    def test_nor_by_one_twice(self, apart, one_ahead):
        run, base = one_ahead
        assert said(apart, self.go_on(apart, run, 1, base)).kind == STARTED
        message = self.go_on(apart, run, 0, vector_digest(INITIAL))
        assert "this client is at round 1" in apart.reason(ME, message)

    def test_a_complete_round_is_not_begun_again_under_the_adapter_that_it_led_to(
        self, apart, one_ahead
    ):
        """Else what was committed for it would move the adapter twice."""
        run, base = one_ahead
        message = self.go_on(apart, run, 0, base)
        assert "this client is at round 1" in apart.reason("client-0", message)

    def test_rounds_that_were_given_up_may_be_begun_again(self, apart, one_ahead):
        """An aggregator that was put back may not know that they were."""
        run, base = one_ahead
        apart.memories["client-0"].resume(run).close(1, {"reason": "x", "missing": []})
        told = said(apart, self.go_on(apart, run, 0, base), "client-0")
        assert (told.kind, told.round, told.manifest[NEXT_BASE]) == (STARTED, 0, base)
        membership = apart.programs["client-0"].membership
        assert (membership.progress.round, membership.progress.base) == (0, base)
        apart.restart("client-0")
        again = apart.programs["client-0"].membership.progress
        assert (again.round, again.base) == (0, base)

    def test_who_went_back_does_not_give_up_a_complete_round(self, apart, one_ahead):
        run, base = one_ahead
        assert said(apart, self.go_on(apart, run, 1, base)).kind == STARTED
        membership = apart.programs[ME].membership
        terms = replace(membership.starting.terms.of_run(), round=1)
        about = {REASON: Reason.TOO_FEW, MISSING: ["client-3"]}
        message = signed_message(apart.identities["hub"], terms, ABANDON, manifest=about)
        assert "round 1 is over here" in apart.reason(ME, message)
        assert membership.run.upload.opened.why_closed(1) is None

    def test_the_round_is_then_played_again_with_the_same_clients(self, apart, one_ahead):
        run, base = one_ahead
        opened = apart.programs[ME].membership.run.upload.opened.contributors_of(2)
        message = self.go_on(apart, run, 1, base)
        assert {said(apart, message, name).kind for name in apart.names} == {STARTED}
        assert opened == tuple(apart.names)
        assert apart.standing(ME, run, 1).agreed == opened


class TestWhoWasLeftOut:
    def test_does_not_come_back(self, apart):
        run, _ = apart.begun()
        base = vector_digest(INITIAL)
        apart.left_out("client-3")
        for restarted in (False, True):
            if restarted:
                apart.restart(ME)
            ready = apart.ready(run=run)
            back = apart.start(ready, b"", run=run, base=base)
            assert "who was left out of a run does not come back" in apart.reason(ME, back)

    def test_nor_who_never_was_in_it(self, apart):
        run, _ = apart.begun(apart.names[:3], left_out=["client-3"])
        ready = apart.ready(apart.names[:3], run)
        stated = {
            NONCE: "0b" * 16,
            FACTS: apart.facts["client-3"].to_json(),
            STANDING: None,
            LEDGER: {"length": 3, "head": "1e" * 32},
            EPSILON: 0.5,
        }
        ready["client-3"] = apart.message(READY, run=run, sender="client-3", stated=stated)
        start = apart.start(ready, b"", run=run, base=vector_digest(INITIAL))
        assert "must bring to a run what they brought when it began" in apart.reason(ME, start)


class TestWhatNoClientBrings:
    """It is refused before anything of the run is kept."""

    def refused(self, apart, named, **facts):
        ready = apart.ready()
        (theirs,) = apart.read({"client-3": ready["client-3"]})
        stated = {
            NONCE: theirs.nonce,
            FACTS: replace(theirs.facts, **facts).to_json(),
            STANDING: None,
            LEDGER: theirs.anchor.to_json(),
            EPSILON: theirs.epsilon,
        }
        ready["client-3"] = apart.message(READY, sender="client-3", stated=stated)
        digests = sorted(
            hashlib.sha256(statement_of(one).to_bytes()).hexdigest() for one in ready.values()
        )
        run = hashlib.sha256(canonical_json(digests)).hexdigest()[:32]
        for message, name in (
            (apart.make_key(ready, run=run), "client-0"),
            (apart.start(ready, b"", run=run), ME),
        ):
            assert named in apart.reason(name, message)
            assert apart.programs[name].membership.name is None
            assert apart.files[name].kept() is None
        assert not list(apart.settings.anchors.rglob(f"*{run}*"))
        assert apart.begun()

    @pytest.mark.parametrize("sigma", [1e308, 20.0000001])
    def test_noise_above_the_expected_batch_size(self, apart, sigma):
        assert apart.settings.privacy.expected_batch_size == 20
        named = "the noise multiplier of 'client-3' must be at most expected_batch_size = 20"
        self.refused(apart, named, noise_multiplier=sigma)

    @pytest.mark.parametrize("size", [(1 << 53) + 1, 10**400], ids=["one more", "no double"])
    def test_more_records_than_a_double_can_count(self, apart, size):
        client = {**apart.facts["client-3"].client, "public_size": size}
        self.refused(apart, "its public size as a number", client=client)


def test_what_cannot_be_kept_is_not_begun(apart, monkeypatch):
    ready = apart.ready()
    start = apart.start(ready, apart.key(ready))

    def full(*_):
        raise FileError("/srv/ward 7 must be writable")

    monkeypatch.setattr(RunFiles, "begin", full)
    assert apart.reason(ME, start) == "FileError: see the client's log"
    assert apart.programs[ME].membership.name is None


class TestTheNoiseOfAStep:
    """Public, for methods that mind it: sigma C / B of each client, from what it stated."""

    def step_noise(self, apart):
        apart.begun()
        return apart.programs[ME].membership.run._transition.step_noise

    def plain(self, apart, **privacy):
        settings = apart.settings
        apart.settings = replace(
            settings,
            privacy=replace(settings.privacy, **privacy),
            training=replace(settings.training, optimizer=SGD()),
        )
        apart.proposal = apart.settings.proposal().digest()
        for name in apart.names:
            apart.restart(name)

    def test_where_an_update_is_their_plain_sum(self, apart):
        self.plain(apart, clipping_norm=0.5, expected_batch_size=10)
        assert self.step_noise(apart) == {name: SIGMAS[name] * 0.05 for name in apart.names}

    def test_not_with_momentum(self, apart):
        self.plain(apart)
        training = replace(apart.settings.training, optimizer=SGD(momentum=0.5))
        apart.settings = replace(apart.settings, training=training)
        apart.proposal = apart.settings.proposal().digest()
        for name in apart.names:
            apart.restart(name)
        assert self.step_noise(apart) is None

    def test_nor_where_the_clipping_norm_moves(self, apart):
        self.plain(apart, clipping=QuantileClipping(count_noise=9.0))
        assert self.step_noise(apart) is None
