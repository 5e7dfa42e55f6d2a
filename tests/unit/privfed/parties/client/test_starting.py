"""What the statements of all clients begin together; any that does not fit is refused by name."""

import math
from dataclasses import replace

import numpy as np
import pytest

from privfed import BFV, NoisySize, Plain
from privfed.agreement import range_from_public_settings
from privfed.encryption.parameters import BFVParameters
from privfed.errors import MessageError
from privfed.identity.keys import Identity, Role
from privfed.parties.client.starting import begun, facts_in, run_of
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import EPSILON, FACTS, LEDGER, NONCE, READY, STANDING, ready_of
from privfed.settings.encryption import Custody
from tests.unit.privfed.parties.apart import INITIAL, SIGMAS


@pytest.fixture
def plain(make_apart):
    return make_apart(encryption=Plain())


def starting(apart, ready, *, left_out=(), known=None, **about):
    envelope = Envelope.from_bytes(apart.start(ready, left_out=left_out, **about))
    return begun(envelope, left_out, apart.settings, apart.roster, known)


def stated(apart, name, *, run="", key=None, of=None, **facts):
    """A `ready` that only a deviating client sends."""
    manifest = {
        NONCE: "0b" * 16,
        FACTS: replace(apart.facts[of or name], **facts).to_json(),
        STANDING: None,
        LEDGER: {"length": 3, "head": "1e" * 32},
        EPSILON: 0.5,
    }
    return apart.message(READY, run=run, sender=name, stated=manifest, key=key)


def refused(apart, ready, named, **about):
    with pytest.raises(MessageError, match=named):
        starting(apart, ready, **about)


class TestANewRun:
    def test_what_follows_from_four_statements(self, plain):
        ready = plain.ready()
        found = starting(plain, ready)
        assert found.epoch == plain.epoch(ready)
        assert found.run == found.epoch[:32] == run_of(found.epoch)
        assert list(found.facts) == plain.names
        assert found.facts == plain.facts
        assert found.maker == "client-0"
        assert found.terms.run == found.run
        assert found.terms.agreement == found.agreement.digest()
        assert found.terms.left_out == ("other",), "it is enrolled and was not asked"
        assert found.terms.roster == plain.roster.digest().hex()
        assert found.scheme.num_clients == 4

    def test_all_agree_on_what_all_stated(self, plain):
        agreement = starting(plain, plain.ready()).agreement
        sizes = {"client-0": 41, "client-1": 38, "client-2": 33, "client-3": 52}
        assert [client["public_size"] for client in agreement.clients] == list(sizes.values())
        assert agreement.weights == plain.settings.method.weights(sizes, plain.settings.steps)
        assert (agreement.base_model, agreement.layout) == ("bf" * 32, "1a" * 32)
        assert (agreement.start, agreement.tokenizer) == ("57" * 32, "70" * 32)
        assert (agreement.num_params, agreement.min_clients) == (len(INITIAL), 3)

    def test_the_order_of_the_statements_is_nothing(self, plain):
        ready = plain.ready()
        other = starting(plain, dict(reversed(ready.items())))
        assert other == starting(plain, ready)
        assert list(other.facts) == plain.names

    def test_the_range_is_that_of_the_noisiest_client(self, plain):
        settings = plain.settings
        wanted = range_from_public_settings(
            settings.privacy,
            settings.training,
            {"client-3": SIGMAS["client-3"]},
            {"client-3": 2},
            {"client-3": 1.0},
            1,
        )
        assert starting(plain, plain.ready()).largest_range == wanted

    def test_or_what_the_settings_say(self, make_apart):
        apart = make_apart(encryption=Plain(public_range=0.0625))
        assert starting(apart, apart.ready()).largest_range == 0.0625

    def test_in_few_bits_it_begins_with_what_rounding_allows_for(self, make_apart):
        """3/4 of 7 deviations of the noise of the noisiest client, upwards; in 4 bits."""
        apart = make_apart(encryption=BFV(bits=4, follow_released=True))
        found, settings = starting(apart, apart.ready()), apart.settings
        unit = settings.privacy.clipping_norm / settings.privacy.expected_batch_size
        noise = settings.training.learning_rate * np.sqrt(2) * max(SIGMAS.values()) * unit
        assert found.first_range == pytest.approx(0.75 * 7 * noise, rel=2**-11)
        assert found.first_range < 0.5 * found.largest_range

    @pytest.mark.parametrize(
        "encryption",
        [
            BFV(bits=12, follow_released=True),
            BFV(bits=4),
            BFV(bits=4, follow_released=True, public_range=8.0),
        ],
        ids=["enough bits", "it does not follow", "by hand"],
    )
    def test_else_it_begins_with_the_largest(self, make_apart, encryption):
        apart = make_apart(encryption=encryption)
        found = starting(apart, apart.ready())
        assert found.first_range == found.largest_range

    def test_the_key_is_sized_for_those_who_take_part(self, make_apart):
        apart = make_apart(encryption=BFV())
        names = ["client-3", "client-1", "client-2"]
        found = starting(apart, apart.ready(names), left_out=["client-0"])
        assert isinstance(found.scheme.parameters, BFVParameters)
        assert found.scheme.custody == Custody.SHARED_KEY
        assert (found.maker, found.scheme.num_clients) == ("client-1", 3)

    def test_who_is_left_out_is_in_nothing_of_it(self, plain):
        names = ["client-0", "client-1", "client-2"]
        found = starting(plain, plain.ready(names), left_out=["client-3"])
        assert list(found.facts) == names == list(found.agreement.weights)
        assert found.terms.left_out == ("client-3", "other")
        wanted = range_from_public_settings(
            plain.settings.privacy,
            plain.settings.training,
            {"client-0": SIGMAS["client-0"]},
            {"client-0": 2},
            {"client-0": 1.0},
            1,
        )
        assert found.largest_range == wanted

    def test_a_size_that_was_to_be_released_is_the_one_that_is_stated(self, make_apart):
        apart = make_apart(encryption=Plain())
        clients = list(apart.settings.clients)
        clients[2] = replace(clients[2], public_size=NoisySize(noise_epsilon=0.5))
        apart.settings = replace(apart.settings, clients=clients)
        apart.proposal = apart.settings.proposal().digest()
        ready = {name: stated(apart, name) for name in apart.names}
        assert starting(apart, ready).agreement.clients[2]["public_size"] == 33


class TestRefusals:
    def test_a_run_must_have_its_name(self, plain):
        refused(plain, plain.ready(), "must have the name that the statements", run="0a" * 16)

    def test_everybody_must_be_ready_or_left_out(self, plain):
        refused(plain, plain.ready(plain.names[:3]), r"\['client-3'\] must be ready, or left out")

    def test_who_is_left_out_is_not_among_the_ready(self, plain):
        named = r"at least 3 clients .*'client-3'\] are"
        refused(plain, plain.ready(), named, left_out=["client-3"])

    def test_fewer_than_the_least_are_refused(self, plain):
        named = r"at least 3 clients .*\['client-0', 'client-1'\] are"
        refused(plain, plain.ready(plain.names[:2]), named, left_out=plain.names[2:])

    def test_nobody_at_all(self, plain):
        refused(plain, {}, "at least 3 clients", left_out=plain.names)

    @pytest.mark.parametrize(
        "left_out", [["other"], ["client-9"], ["client-3", "client-3"], ["hub"]]
    )
    def test_only_who_was_asked_is_left_out_and_once(self, plain, left_out):
        refused(plain, plain.ready(), "each once", left_out=left_out)

    def test_a_client_that_nobody_asked(self, plain):
        client = {**plain.facts["client-1"].client, "id": "other"}
        ready = {**plain.ready(), "other": stated(plain, "other", of="client-1", client=client)}
        refused(plain, ready, r"nobody asked \['other'\]")

    def test_a_stranger(self, plain):
        stranger = Identity.generate("client-1", Role.CLIENT)
        ready = {**plain.ready(), "client-1": stated(plain, "client-1", key=stranger)}
        refused(plain, ready, "'client-1' must carry its signature", run="0a" * 16)

    def test_one_under_the_name_of_another(self, plain):
        ready = plain.ready()
        ready["client-1"], ready["client-2"] = ready["client-2"], ready["client-1"]
        refused(plain, ready, "'ready/client-1' is the statement of 'client-2'")

    def test_one_of_another_run(self, plain):
        ready = plain.ready()
        about = {"run": run_of(plain.epoch(ready))}
        ready["client-2"] = stated(plain, "client-2", run="0a1b")
        refused(plain, ready, "'client-2' sent a 'ready' of run '0a1b'", **about)

    @pytest.mark.parametrize(
        "change",
        [
            {"public_size": 34},
            {"dataset": "other topics"},
            {"epsilon_budget": 9.5},
            {"delta": 0.25},
            {"description": "more"},
            {"more": 1},
        ],
        ids=str,
    )
    def test_a_client_that_was_declared_otherwise(self, plain, change):
        client = {**plain.facts["client-2"].client, **change}
        ready = {**plain.ready(), "client-2": stated(plain, "client-2", client=client)}
        refused(plain, ready, "'client-2' is another client than all were told")

    def test_nor_may_only_the_rest_of_it_differ_where_a_size_is_released(self, plain):
        clients = list(plain.settings.clients)
        clients[2] = replace(clients[2], public_size=NoisySize(noise_epsilon=0.5))
        plain.settings = replace(plain.settings, clients=clients)
        plain.proposal = plain.settings.proposal().digest()
        ready = {name: stated(plain, name) for name in plain.names}
        client = {**plain.facts["client-2"].client, "dataset": "other topics"}
        ready["client-2"] = stated(plain, "client-2", client=client)
        refused(plain, ready, "'client-2' is another client than all were told")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("base_weights", "00" * 32),
            ("base_model", "00" * 32),
            ("layout", "00" * 32),
            ("num_params", 6),
            ("num_values", 6),
            ("start", "00" * 32),
            ("tokenizer", "00" * 32),
        ],
    )
    def test_one_that_holds_something_else(self, plain, name, value):
        ready = {**plain.ready(), "client-2": stated(plain, "client-2", **{name: value})}
        refused(plain, ready, rf"'client-2' has another \['{name}'\] than 'client-0'")

    @pytest.mark.parametrize("name", ["base_weights", "base_model", "tokenizer"])
    def test_one_whose_other_base_all_were_told_of(self, plain, name):
        clients = list(plain.settings.clients)
        clients[2] = replace(clients[2], base="small")
        plain.settings = plain.settings.of_clients(clients, "declared")
        plain.proposal = plain.settings.proposal().digest()
        ready = {one: stated(plain, one) for one in plain.names}
        client = {**plain.facts["client-2"].client, "base": "small"}
        ready["client-2"] = stated(plain, "client-2", client=client, **{name: "00" * 32})
        agreement = starting(plain, ready).agreement
        assert agreement.other_bases.keys() == {"client-2"}
        assert agreement.other_bases["client-2"][name] == "00" * 32
        ready["client-2"] = stated(plain, "client-2", client=client, layout="00" * 32)
        refused(plain, ready, r"'client-2' has another \['layout'\] than 'client-0'")

    @pytest.mark.parametrize(
        ("sigma", "allowed"),
        [(20, True), (20.0, True), (math.nextafter(20, 21), False), (21, False), (1e308, False)],
    )
    def test_noise_is_at_most_the_expected_batch_size(self, plain, sigma, allowed):
        ready = {**plain.ready(), "client-2": stated(plain, "client-2", noise_multiplier=sigma)}
        if allowed:
            assert starting(plain, ready).largest_range > 0
            return
        named = "the noise multiplier of 'client-2' must be at most expected_batch_size = 20"
        refused(plain, ready, named)

    @pytest.mark.parametrize("weight", [0.0, -0.5, 1.5])
    def test_a_weight_that_says_nothing_is_refused(self, plain, monkeypatch, weight):
        def weights(self, sizes, steps):
            return {**dict.fromkeys(sizes, 1.0), "client-2": weight}

        monkeypatch.setattr(type(plain.settings.method), "weights", weights)
        refused(plain, plain.ready(), "the weight of 'client-2' must be above 0")

    def test_what_is_no_ready_is_no_part_of_it(self, plain):
        ready = plain.ready()
        message = plain.message(
            "start",
            run=run_of(plain.epoch(ready)),
            blobs={"unready/client-9": b"?"} | {ready_of(n): one for n, one in ready.items()},
        )
        found = begun(Envelope.from_bytes(message), (), plain.settings, plain.roster, None)
        assert sorted(found.ready) == plain.names


class TestARunThatGoesOn:
    @pytest.fixture
    def begun_run(self, plain):
        """Its name, and what all brought to it."""
        ready = plain.ready()
        message = plain.start(ready)
        for name in plain.names:
            plain.programs[name].handle(message)
        known = facts_in(message, plain.roster, plain.settings.proposal())
        assert known == plain.facts
        return run_of(plain.epoch(ready)), known

    def test_what_all_brought_is_in_the_order_of_the_proposal(self, plain):
        """Whose base model comes first is the same in every program, restarted or not."""
        clients = [plain.settings.clients[at] for at in (2, 0, 3, 1)]
        plain.settings = replace(plain.settings, clients=clients)
        proposal = plain.settings.proposal()
        plain.proposal = proposal.digest()
        message = plain.start({name: stated(plain, name) for name in plain.names})
        found = facts_in(message, plain.roster, proposal)
        assert list(found) == ["client-2", "client-0", "client-3", "client-1"]

    def test_it_keeps_its_name_in_a_new_epoch(self, plain, begun_run):
        run, known = begun_run
        ready = plain.ready(run=run)
        found = starting(plain, ready, run=run, known=known)
        assert (found.run, found.epoch) == (run, plain.epoch(ready, run))
        assert not found.epoch.startswith(run)

    def test_who_is_away_still_takes_part(self, plain, begun_run):
        run, known = begun_run
        found = starting(plain, plain.ready(plain.names[1:], run), run=run, known=known)
        assert (list(found.facts), found.maker) == (plain.names, "client-1")
        assert (
            found.agreement == starting(plain, plain.ready(run=run), run=run, known=known).agreement
        )

    def test_who_leaves_does_not_change_its_range(self, plain, begun_run):
        run, known = begun_run
        whole = starting(plain, plain.ready(run=run), run=run, known=known)
        ready = plain.ready(plain.names[:3], run)
        found = starting(plain, ready, run=run, known=known, left_out=["client-3"])
        assert found.largest_range == whole.largest_range
        assert found.agreement != whole.agreement
        assert found.terms.left_out == ("client-3", "other")

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"noise_multiplier": 2.0}, "what they brought when it began"),
            ({"epsilon_before": 0.0}, "what they brought when it began"),
            ({"start": "00" * 32}, r"has another \['start'\]"),
        ],
        ids=str,
    )
    def test_each_brings_what_it_brought(self, plain, begun_run, change, named):
        run, known = begun_run
        changed = stated(plain, "client-2", run=run, **change)
        ready = {**plain.ready(run=run), "client-2": changed}
        refused(plain, ready, named, run=run, known=known)

    def test_too_few_are_refused(self, plain, begun_run):
        run, known = begun_run
        ready = plain.ready(plain.names[:2], run)
        refused(plain, ready, "at least 3 clients", run=run, known=known)

    def test_statements_of_a_new_run_are_none_of_it(self, plain, begun_run):
        run, known = begun_run
        ready = plain.ready()
        refused(plain, ready, "sent a 'ready' of run ''", run=run, known=known)

    def test_so_are_those_of_another_number_of_rounds(self, plain, begun_run):
        run, known = begun_run
        ready = plain.ready(run=run, over=1)
        assert starting(plain, ready, run=run, known=known, number=1).run == run
        refused(plain, ready, "of run .* round 1; expected", run=run, known=known)


def test_only_a_message_that_began_a_run_says_what_all_brought(plain):
    with pytest.raises(MessageError):
        facts_in(b"PRIVFED", plain.roster, plain.settings.proposal())
    other = replace(plain.settings.proposal(), clients=())
    message = plain.start(plain.ready())
    with pytest.raises(MessageError, match="states proposal"):
        facts_in(message, plain.roster, other)
