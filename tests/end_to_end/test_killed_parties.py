"""Parties in processes of their own, killed (-9) at every message: what it costs, and whom."""

import pytest

from accountants import Neighbouring, epsilon
from privfed.reports.statement_folder import verify_statements
from tests.end_to_end.apart import Apart
from tests.end_to_end.separate_parties import CLIENTS, STEPS

NAMES = ["east", "north", "west"]


@pytest.fixture
def apart(nursery, tmp_path, bert_folder):
    made = []

    def make(*, clients=NAMES, custody="shared_key", deaths=None, **options):
        made.append(
            Apart(
                nursery,
                tmp_path,
                str(bert_folder),
                clients,
                custody,
                deaths=deaths or {},
                **options,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def check(federation, line, *, rounds, lost=None):
    """What holds after every run, whoever was killed.

    Args:
        federation: that was played.
        line: with which its aggregator ended.
        rounds: planned.
        lost: rounds in which a client was killed between reserving and committing, by client.
    """
    assert line == "done", (line, federation.errors())
    closed = {path.stem for path in (federation.folder / "hub/statements").glob("*.closed")}
    assert closed == set(federation.clients)
    check_report(federation)
    lost, record = lost or {}, federation.reached()["record"]
    over = [row["round"] for row in record["rounds"]] + [r["round"] for r in record["abandoned"]]
    assert sorted(over) == list(range(1, rounds + 1))
    ends = {name: federation.ended(name) for name in federation.clients}
    assert {end["base"] for end in ends.values()} == {federation.reached()["base"]}
    for name in federation.clients:
        export = federation.ledger(name).export()
        reserved = [e["body"]["round"] for e in export["entries"] if e["kind"] == "reserve"]
        assert reserved == sorted(set(reserved)), f"{name} reserved a round twice"
        committed = [e for e in export["entries"] if e["kind"] == "commit"]
        assert len(reserved) - len(committed) == len(lost.get(name, ()))
        events = federation.ledger(name).events()
        assert sum(event.steps for event in events) == STEPS * len(reserved)
        _, _, budget, delta = CLIENTS[name]
        spent = epsilon(events, delta, Neighbouring.ADD_REMOVE).upper
        assert spent <= budget
        assert record["rounds"][-1]["epsilon"][name] <= spent
        for row in record["rounds"]:
            assert set(row["clients"]).isdisjoint(n for n, r in lost.items() if row["round"] in r)
            assert row["round"] in reserved or name not in row["clients"]
    sums = {}
    for name in federation.clients:
        for row in federation.opened(name):
            if "absent" in row:
                sums.setdefault(row["round"], set()).add(tuple(row["absent"]))
    assert all(len(contributors) == 1 for contributors in sums.values()), "a second sum of a round"


def authority_of(federation):
    """Public key (hex) of who signed the roster."""
    return (federation.folder / "authority.hex").read_text()


def check_report(federation):
    """The federation's report follows from what clients signed, and from ledgers that they gave."""
    report, notes = verify_statements(federation.folder / "hub", authority=authority_of(federation))
    assert [row.id for row in report.clients] == sorted(federation.clients)
    for row in report.clients:
        _, _, _, delta = CLIENTS[row.id]
        events = federation.ledger(row.id).events()
        assert row.epsilon_spent == epsilon(events, delta, Neighbouring.ADD_REMOVE).upper
        assert (row.signed, row.recomputed) == (True, row.id != "north")
    largest = max(row.epsilon_spent for row in report.clients)
    assert report.guarantee.epsilon == largest
    assert any("epsilon of north is as it states" in note for note in notes)
    return report


def test_a_run(apart):
    federation = apart(patience_s=30.0)
    check(federation, federation.play(), rounds=3)
    assert federation.restarts == []
    record = federation.reached()["record"]
    assert [row["clients"] for row in record["rounds"]] == [NAMES] * 3
    assert not list(federation.runs_folder("east").glob("*/round-*")), "nothing of it is kept"


def test_a_client_on_another_processor_agrees_to_the_bit(apart):
    """Its vector instructions give other initial values and other gradients: none is shared."""
    federation = apart(alone={"north": {"ATEN_CPU_CAPABILITY": "default"}}, patience_s=60.0)
    check(federation, federation.play(), rounds=3)
    record = federation.reached()["record"]
    assert [row["clients"] for row in record["rounds"]] == [NAMES] * 3
    opened = federation.reached()["opened"]
    assert sorted(opened) == NAMES, "all three stated the same digests"


QUESTION = {"shared_key": "listing", "key_holder": "challenge"}
ENDING = {"shared_key": "sum", "key_holder": "result"}


@pytest.mark.parametrize("custody", ["shared_key", "key_holder"])
@pytest.mark.parametrize("name", ["east", "west"], ids=["makes the key", "takes the key"])
def test_a_client_that_is_killed_at_every_message(apart, custody, name):
    """It comes back: all rounds but the one that it lost are complete, and nobody paid twice."""
    question, ending = QUESTION[custody], ENDING[custody]
    points = [
        ["hello", 0, "before"],
        ["hello", 0, "after"],
        ["start", 0, "before"],
        ["start", 0, "after"],
        ["train", 1, "before"],
        ["train", 1, "after"],
        [question, 2, "before"],
        [question, 2, "after"],
        [ending, 3, "before"],
        [ending, 3, "after"],
        ["train", 4, "within"],
        ["start", 3, "after"],
        ["abandon", 4, "before" if name == "east" else "after"],
        ["finish", 5, "before"],
        ["finish", 5, "after"],
    ]
    if custody == "shared_key" and name == "east":
        points += [["make-key", 0, "before"], ["make-key", 0, "after"]]
    federation = apart(custody=custody, deaths={name: points}, rounds=5, patience_s=60.0)
    check(federation, federation.play(), rounds=5, lost={name: [4]})
    left = (federation.folder / f"{name}.die.json").read_text()
    assert left == "[]", "every point was passed"
    record = federation.reached()["record"]
    assert [row["round"] for row in record["abandoned"]] == [4]
    for other in set(NAMES) - {name}:
        assert len(federation.ledger(other).events(record["run"])) == 5, "one for each round"


@pytest.mark.parametrize("custody", ["shared_key", "key_holder"])
def test_an_aggregator_that_is_killed_at_every_message(apart, custody):
    question, ending = QUESTION[custody], ENDING[custody]
    kinds = [("hello", 0), ("start", 0), ("train", 1), (question, 2), (ending, 3), ("finish", 3)]
    if custody == "shared_key":
        kinds.append(("make-key", 0))
    points = [[kind, number, when] for kind, number in kinds for when in ("before", "after")]
    federation = apart(custody=custody, deaths={"aggregator": points}, patience_s=60.0)
    check(federation, federation.play(), rounds=3)
    assert (federation.folder / "aggregator.die.json").read_text() == "[]"
    assert federation.restarts == ["aggregator"] * len(points)
    assert federation.reached()["record"]["abandoned"] == []


def test_an_aggregator_that_is_killed_while_a_round_is_given_up(apart):
    """All clients have recorded that it is closed, and the aggregator does not know."""
    points = [["abandon", 2, "before"], ["abandon", 2, "after"]]
    deaths = {"west": [["train", 2, "within"]], "aggregator": points}
    federation = apart(deaths=deaths, patience_s=60.0, rounds=4)
    check(federation, federation.play(), rounds=4, lost={"west": [2]})
    record = federation.reached()["record"]
    assert [row["round"] for row in record["abandoned"]] == [2]
    assert [row["round"] for row in record["rounds"]] == [1, 3, 4]


def test_a_client_that_misses_the_last_sum_is_given_the_adapter_before_the_end(apart):
    """Else it would state another adapter than the others, and there would be no report."""
    federation = apart(
        clients=[*NAMES, "south"], deaths={"south": [["sum", 3, "before"]]}, patience_s=60.0
    )
    check(federation, federation.play(), rounds=3)
    record = federation.reached()["record"]
    assert record["rounds"][-1]["clients"] == ["east", "north", "south", "west"]


def test_a_client_that_was_left_out_before_it_completed_a_round_is_in_the_report(apart):
    """Its text was trained on in a round that was given up; its epsilon is not left out."""
    federation = apart(
        clients=[*NAMES, "south"],
        deaths={"west": [["listing", 1, "before"]]},
        gone=("west",),
        patience_s=3.0,
        without=("west", 1),
    )
    line = federation.play()
    assert line == "done", (line, federation.errors())
    report, _ = verify_statements(federation.folder / "hub", authority=authority_of(federation))
    assert [row.id for row in report.not_closed] == ["west"]
    assert "west" not in report.training.weights
    assert report.guarantee.epsilon is None


def test_a_key_holder_that_is_killed_at_every_message(apart):
    points = [
        [kind, number, when]
        for number, kind in enumerate(("open-round", "sum", "answers"), start=1)
        for when in ("before", "after")
    ]
    federation = apart(custody="key_holder", deaths={"holder": points}, patience_s=60.0)
    federation.again = ("stopped EncryptionError", "stopped ConfigError")
    check(federation, federation.play(), rounds=3)
    assert (federation.folder / "holder.die.json").read_text() == "[]"


POINTS = [
    *[(kind, when) for kind in ("train", "listing", "sum") for when in ("before", "after")],
    ("train", "within"),
]


class TestAClientThatDoesNotComeBack:
    """It costs the others at most one round's epsilon."""

    @pytest.mark.parametrize(("kind", "when"), POINTS)
    def test_with_enough_others(self, apart, kind, when):
        federation = apart(
            clients=[*NAMES, "south"],
            deaths={"west": [[kind, 2, when]]},
            gone=("west",),
            rounds=4,
            patience_s=3.0,
        )
        line = federation.play()
        assert line == "done", (line, federation.errors())
        record = federation.reached()["record"]
        given_up = [row["round"] for row in record["abandoned"]]
        assert given_up == ([2] if (kind, when) in AGREED else [])
        for name in ("east", "north", "south"):
            assert len(federation.ledger(name).events(record["run"])) == 4
        assert [row["clients"] for row in record["rounds"] if row["round"] > 2] == [
            ["east", "north", "south"]
        ] * 2
        report, _ = verify_statements(federation.folder / "hub", authority=authority_of(federation))
        assert [row.id for row in report.not_closed] == ["west"]
        assert report.guarantee.epsilon is None, "what nobody stated is not bounded"

    def test_with_too_few_others(self, apart):
        federation = apart(
            deaths={"west": [["listing", 2, "before"]]}, gone=("west",), patience_s=3.0, rounds=5
        )
        assert federation.play().startswith("stopped AwayError: at least 3 clients must")
        record = federation.reached()["record"]
        assert [row["round"] for row in record["abandoned"]] == [2]
        for name in ("east", "north"):
            assert len(federation.ledger(name).events(record["run"])) == 2


AGREED = {("listing", "before"), ("listing", "after")}
"""Where the sum needs what the client that is gone would say."""
