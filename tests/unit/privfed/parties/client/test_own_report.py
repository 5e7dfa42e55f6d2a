"""At the end a client states what its own ledger counts, whatever it was told, and nothing more."""

import json
from dataclasses import replace

import pytest

from accountants import PoissonGaussian, epsilon
from accountants.ledger.export import book_of_export
from privfed import Plain
from privfed.errors import FileError
from privfed.methods.method import vector_digest
from privfed.parties.client import own_report
from privfed.parties.client.own_report import events_until
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import CLOSED
from privfed.reports.closed import EXPORT, REPORT, read_closed
from privfed.reports.encryption_statements import identities, setting
from privfed.reports.round_record import Abandoned, Reason
from tests.unit.privfed.parties.apart import EARLIER, INITIAL, SHARING, SIGMAS, evaluate

ME, OTHERS = "client-1", ("client-0", "client-2", "client-3")
SIZE, BUDGET, DELTA = 38, 5.0, 2e-3


@pytest.fixture
def played(make_apart):
    """A run of three rounds, of which `client-1` missed the second."""
    apart = make_apart(encryption=Plain())
    run = apart.aggregator()
    run.begin()
    run.play_round()
    apart.away = {ME}
    run.play_round()
    apart.away = set()
    run.play_round()
    return apart, run


def spent(apart, rounds):
    """Epsilon of the run before and of so many rounds, computed by itself."""
    event = PoissonGaussian(noise_multiplier=SIGMAS[ME], sample_rate=20 / SIZE, steps=2)
    events = [replace(event, steps=EARLIER[ME]), *[event] * rounds]
    return epsilon(events, DELTA, apart.settings.privacy.neighbouring).upper


def closed(apart, record, name=ME):
    """What it says, which whoever puts reports together accepts."""
    message = apart.programs[name].handle(apart.finish(record))
    assert Envelope.from_bytes(message).statement.kind == CLOSED
    return message, read_closed(message, apart.roster, client=name, run=record.run)


class TestTheReport:
    def test_its_numbers_are_those_of_its_own_ledger(self, played):
        apart, run = played
        _, found = closed(apart, run.record)
        assert found.row.id == ME
        assert found.row.epsilon_spent == spent(apart, 2)
        assert (found.row.epsilon_budget, found.row.delta) == (BUDGET, DELTA)
        assert found.row.public_size == SIZE
        after = [row.epsilon for row in found.report.rounds]
        assert after == [{ME: spent(apart, 1)}, {ME: spent(apart, 1)}, {ME: spent(apart, 2)}]
        assert found.agreement == apart.programs[ME].membership.starting.agreement.digest()

    def test_whatever_the_aggregator_tells(self, played):
        apart, run = played
        lies = tuple(
            replace(row, epsilon=dict.fromkeys(row.epsilon, 0.015625)) for row in run.record.rounds
        )
        _, found = closed(apart, replace(run.record, rounds=lies))
        assert found.row.epsilon_spent == spent(apart, 2)
        assert [row.epsilon[ME] for row in found.report.rounds] == [
            spent(apart, rounds) for rounds in (1, 1, 2)
        ]

    def test_how_the_rounds_went_is_as_it_was_told(self, played):
        apart, run = played
        _, found = closed(apart, run.record)
        assert [row.value for row in found.report.rounds] == [r.value for r in run.record.rounds]
        assert found.report.rounds[1].absent == (ME,)
        assert (found.report.rounds_over, found.report.status) == (3, "complete")

    def test_what_was_given_up_and_who_left_is_said(self, played):
        apart, run = played
        told = replace(
            run.record,
            rounds=(run.record.rounds[0], run.record.rounds[2]),
            abandoned=(Abandoned(round=2, reason=Reason.TOO_FEW, missing=("client-3",)),),
            left_out={"client-3": 3},
        )
        _, found = closed(apart, told)
        said = " ".join(found.report.warnings)
        assert "Round 2 was abandoned: too few clients sent an update (missing: client-3)" in said
        assert f"a note of {ME}" in said
        assert "client-3 was left out from round 3 on" in said

    def test_it_states_the_steps_of_all_as_the_others_do(self, played):
        """Statements that differ in what is the run's cannot be put together."""
        apart, run = played
        _, found = closed(apart, run.record)
        assert sorted(found.report.mechanism.steps_per_round) == sorted(apart.names)

    def test_so_is_which_numbers_are_only_told(self, played):
        apart, run = played
        _, found = closed(apart, run.record)
        said = " ".join(found.report.warnings)
        assert "and its signal to noise are as the aggregator told them" in said
        assert "epsilon after each round is this client's, by its own ledger" in said

    def test_so_is_a_weight_that_leaves_its_client_little_cover(self, make_apart, monkeypatch):
        apart = make_apart(encryption=Plain())

        def weights(self, sizes, steps):
            return {**dict.fromkeys(sizes, 0.125), "client-1": 1.0}

        monkeypatch.setattr(type(apart.settings.method), "weights", weights)
        run = apart.aggregator()
        run.begin()
        with pytest.warns(UserWarning, match="weighs more than all others"):
            message = apart.programs["client-0"].handle(apart.finish(run.record))
        found = read_closed(message, apart.roster, client="client-0", run=run.record.run)
        note = "client 'client-1' weighs more than all others together"
        assert note in " ".join(found.report.warnings)

    def test_a_run_that_was_stopped_is_not_complete(self, make_apart):
        apart = make_apart(encryption=Plain())
        run = apart.aggregator()
        run.begin()
        run.play_round()
        _, found = closed(apart, run.record)
        assert (found.report.status, found.report.rounds_over) == ("stopped before round 2", 1)
        assert found.row.epsilon_spent == spent(apart, 1)
        assert found.report.adapter_sha256 == run.reached.released

    def test_the_adapter_is_the_one_that_it_holds(self, played):
        apart, run = played
        held = vector_digest(apart.programs[ME].membership.progress.state.adapter)
        _, found = closed(apart, run.record)
        assert found.report.adapter_sha256 == held == run.reached.released
        assert held != vector_digest(INITIAL)
        assert found.report.baseline == {"accuracy": evaluate(INITIAL)}

    def test_what_was_agreed_and_how_it_was_summed_is_said(self, played):
        """Each of these programs has keys of its own, and a process of its own is what it knows."""
        apart, run = played
        _, found = closed(apart, run.record)
        report = found.report
        assert report.training.participants == ("client-0", ME, "client-2", "client-3")
        assert report.mechanism.public_sizes.startswith(f"a source of {ME};")
        assert report.encryption.identities == identities(simulated_keys=False)
        assert report.encryption.setting == setting(in_one_process=False)
        assert report.encryption.public_range == run.record.public_range


class TestWhatIsNotSaid:
    def test_nothing_of_what_others_spent(self, played):
        apart, run = played
        _, found = closed(apart, run.record)
        assert [client.id for client in found.report.clients] == [ME]
        said = found.report.to_json()
        for name in OTHERS:
            for row in run.record.rounds:
                assert repr(row.epsilon[name]) not in said
            assert repr(apart.facts[name].epsilon_before) not in said
        assert repr(spent(apart, 2)) in said, "its own is found like that"

    @pytest.mark.parametrize("there", [True, False])
    def test_nothing_of_where_its_base_model_lies(self, played, monkeypatch, tmp_path, there):
        apart, run = played
        place = tmp_path / "bert"
        if there:
            place.mkdir()
        found = own_report.client_report

        def report(*arguments, **about):
            made = found(*arguments, **about)
            model = {**made.training.model, "base": str(place)}
            return replace(made, training=replace(made.training, model=model))

        monkeypatch.setattr(own_report, "client_report", report)
        message, said = closed(apart, run.record)
        assert str(tmp_path).encode() not in message
        digest = apart.facts[ME].base_weights
        assert said.report.training.model["base"] == f"local files, SHA-256 {digest}"

    def test_the_name_of_a_public_one_is_said(self, played, monkeypatch):
        apart, run = played
        found = own_report.client_report

        def report(*arguments, **about):
            made = found(*arguments, **about)
            model = {**made.training.model, "base": "ministry/public-model"}
            return replace(made, training=replace(made.training, model=model))

        monkeypatch.setattr(own_report, "client_report", report)
        _, said = closed(apart, run.record)
        assert said.report.training.model["base"] == "ministry/public-model"

    def test_nothing_of_where_its_files_lie_or_of_its_adapter(self, played):
        apart, run = played
        progress = apart.programs[ME].membership.progress
        message, _ = closed(apart, run.record, "client-0")
        assert str(apart.settings.state).encode() not in message
        assert progress.state.adapter.tobytes() not in message
        assert json.dumps(progress.state.adapter.tolist()[0]).encode() not in message

    @pytest.mark.parametrize("name", [ME, "client-0"])
    def test_its_ledger_leaves_only_if_its_operator_lets_it(self, played, name):
        apart, run = played
        message, found = closed(apart, run.record, name)
        blobs = Envelope.from_bytes(message).blobs
        if name in SHARING:
            assert set(blobs) == {REPORT, EXPORT}
            assert json.loads(bytes(blobs[EXPORT])) == json.loads(
                json.dumps(apart.programs[name].node.ledger.export())
            )
            assert found.export is not None
        else:
            assert set(blobs) == {REPORT}
            assert found.export is None
            entry = apart.programs[name].node.ledger.export()["entries"][1]
            assert entry["digest"].encode() not in message, "an entry that is no anchor"


class TestWhatItKeepsForItself:
    def kept(self, played, keep):
        """Have the client close its run with this function, which keeps what it is given."""
        apart, run = played
        program = apart.programs[ME]
        closing = replace(program._outside.closing, keep=keep)
        program._outside = replace(program._outside, closing=closing)
        return apart, apart.finish(run.record)

    def test_is_all_that_it_says_and_what_does_not_leave(self, played):
        given = []
        apart, message = self.kept(played, lambda *what: given.append(what))
        said = read_closed(
            apart.programs[ME].handle(message),
            apart.roster,
            client=ME,
            run=played[1].record.run,
        )
        assert ME not in SHARING
        ((report, record, export, progress),) = given
        assert said.report == report
        assert said.export is None
        assert export == json.loads(json.dumps(apart.programs[ME].node.ledger.export()))
        assert record.run == played[1].record.run
        assert record.anchors == {ME: apart.programs[ME].node.ledger.anchor()}
        assert record.noise_multipliers == SIGMAS
        assert record.start_sha256 == apart.facts[ME].start
        assert record.public_range == progress.public_range
        assert record.first_range == played[1].record.first_range
        assert [row.round for row in record.rounds] == [1, 2, 3]
        assert {name for row in record.rounds for name in row.epsilon} == {ME}
        assert progress.round == 3
        assert vector_digest(progress.state.adapter) == report.adapter_sha256

    def test_comes_before_a_word_is_said(self, played):
        """What cannot be kept is not closed: the run stays open, and is closed when asked again."""

        def fails(*what):
            raise FileError("/home/north is full")

        apart, message = self.kept(played, fails)
        reason = apart.reason(ME, message)
        assert reason.startswith("FileError")
        assert "/home/north" not in reason
        assert apart.programs[ME].membership.name == played[1].record.run
        assert apart.files[ME].closed(played[1].record.run) is None
        apart, message = self.kept(played, None)
        assert apart.ask(ME, message).statement.kind == CLOSED


class TestTheNumbersOfTheRounds:
    @pytest.mark.parametrize("change", ["one less", "one twice", "one more"])
    def test_must_be_exactly_those_that_are_over(self, played, change):
        apart, run = played
        rounds = run.record.rounds
        told = {
            "one less": rounds[:2],
            "one twice": (*rounds[:2], rounds[1]),
            "one more": (*rounds, replace(rounds[2], round=4)),
        }[change]
        message = apart.finish(replace(run.record, rounds=told), number=3)
        assert "3 rounds are over, told is of rounds" in apart.reason(ME, message)
        assert apart.programs[ME].membership.name == run.record.run, "it is not over"

    def test_no_more_are_over_than_were_planned(self, played):
        apart, run = played
        more = (*run.record.rounds, replace(run.record.rounds[2], round=4))
        reason = apart.reason(ME, apart.finish(replace(run.record, rounds=more)))
        assert "end of round 3 of 3, and to another adapter than after round 4" in reason
        assert apart.programs[ME].membership.name == run.record.run, "it is not over"

    def test_show_no_figures_but_those_of_the_method(self, played):
        """Their names stand in a report that the client signs."""
        apart, run = played
        last = replace(run.record.rounds[2], figures={"epsilon as certified": 0.01})
        told = (*run.record.rounds[:2], last)
        reason = apart.reason(ME, apart.finish(replace(run.record, rounds=told)))
        assert "the figures of a round must be those that its method shows" in reason
        assert "certified" not in reason


class TestEventsUntil:
    @pytest.fixture
    def book(self, make_apart):
        """The run before; rounds 1 and 3 of this run; between them and after, one of another."""
        apart = make_apart(encryption=Plain())
        ledger = apart.programs[ME].node.ledger
        for run, number, steps in (("0a", 1, 6), ("0b", 1, 7), ("0a", 3, 8), ("0b", 2, 9)):
            event = PoissonGaussian(noise_multiplier=2.5, sample_rate=0.25, steps=steps)
            ledger.reserve(run, number, [event], lambda *_: None)
        return book_of_export(json.loads(json.dumps(ledger.export())))

    @pytest.mark.parametrize(
        ("number", "steps"),
        [(0, [4]), (1, [4, 6]), (2, [4, 6]), (3, [4, 6, 7, 8]), (9, [4, 6, 7, 8])],
    )
    def test_are_all_that_had_been_counted_by_then(self, book, number, steps):
        assert [event.steps for event in events_until(book, "0a", number)] == steps

    def test_before_its_first_round_all_that_came_before_the_run_counts(self, book):
        """One that is drawn later, or was away, has spent what it had spent."""
        assert [event.steps for event in events_until(book, "0b", 0)] == [4, 6]
        assert [event.steps for event in events_until(book, "none", 1)] == [4, 6, 7, 8, 9]
