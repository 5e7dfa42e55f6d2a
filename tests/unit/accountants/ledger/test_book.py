"""What the entries of a ledger say, and which of them do not follow from those before."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.errors import (
    InvalidValueError,
    LedgerCorruptError,
    LedgerRolledBackError,
    LedgerStateError,
    UnsupportedAnalysisError,
)
from accountants.event_json import event_to_json
from accountants.ledger.book import (
    Commit,
    Inheritance,
    Reservation,
    committing,
    inheriting,
    opening,
    read,
    reserving,
    source_of,
)
from accountants.ledger.chain import Anchor, Entry, anchor_from_json, linked
from accountants.ledger.identity import EarlierIdentity, Identity
from accountants.ledger.ledger import Ledger
from tests.unit.accountants.first_version import (
    FIRST_ANCHOR,
    FIRST_EVENTS,
    FIRST_OWNER,
    first_version_entries,
)
from tests.unit.accountants.ledger.ledgers import (
    LESS,
    MORE,
    OWNER,
    STEP,
    always,
    commit_body,
    edit,
    event,
    forge,
    play,
    reserve_body,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "notes 7?#%.ledger"


@pytest.fixture
def ledger(path):
    return Ledger.create(path, **OWNER)


def test_what_was_reserved_and_never_committed_counts_in_full(ledger):
    ledger.reserve("a", 0, [STEP, LESS], always)
    play(ledger, "b", 1)
    assert ledger.events() == (STEP, LESS, STEP)
    assert ledger.events("a") == (STEP, LESS)
    assert ledger.events("b") == (STEP,)
    assert ledger.events("c") == ()
    assert ledger.runs() == ["a", "b"]


operations = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 9), st.none() | st.integers(0, 9)),
    max_size=8,
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(operations=operations)
def test_it_counts_like_a_list_in_memory(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("ledgers") / "ledger"
    ledger = Ledger.create(path, **OWNER)
    expected = []
    for number, (run, steps, ran) in enumerate(operations):
        counted = [event(steps)]
        reservation = ledger.reserve(run, number, counted, always)
        if ran is not None and ran > steps:
            with pytest.raises(LedgerStateError):
                ledger.commit(reservation.id, [event(ran)], b"")
        elif ran is not None:
            counted = [event(ran)] if ran else []
            ledger.commit(reservation.id, counted, bytes(ran))
        expected.extend((run, each) for each in counted)
    again = Ledger.open(path, **OWNER)
    assert again.events() == tuple(each for _, each in expected)
    for run in ("a", "b"):
        assert again.events(run) == tuple(each for name, each in expected if name == run)
    assert again.runs() == list(dict.fromkeys(run for run, _, _ in operations))


# What is refused


def test_a_round_is_reserved_once(ledger):
    ledger.reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerStateError, match="reserved and never committed") as open_round:
        ledger.reserve("a", 0, [STEP], always)
    assert str(open_round.value).endswith("it counts in full; go on with the next round")
    assert "bytes" not in str(open_round.value)
    play(ledger, "b", 1)
    with pytest.raises(LedgerStateError, match="already committed; send its stored bytes again"):
        ledger.reserve("b", 0, [STEP], always)
    assert len(ledger.events()) == 2


def test_more_than_was_reserved_cannot_be_committed(ledger):
    reservation = ledger.reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerStateError, match="within the reservation"):
        ledger.commit(reservation.id, [MORE], b"x")
    with pytest.raises(LedgerStateError, match="within the reservation"):
        ledger.commit(reservation.id, [STEP, LESS], b"x")
    assert ledger.status("a", 0) == "reserved"
    assert ledger.outgoing("a", 0) is None


def test_a_reservation_is_committed_once(ledger):
    play(ledger, rounds=1)
    with pytest.raises(LedgerStateError, match="committed once"):
        ledger.commit(1, [STEP], b"other")
    assert ledger.outgoing("a", 0) == b"a0"


@pytest.mark.parametrize("unknown", [0, 7])
def test_only_a_reservation_can_be_committed(ledger, unknown):
    with pytest.raises(LedgerStateError, match="must name a reservation"):
        ledger.commit(unknown, [], b"")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("reserve", reserve_body(run="a", round=0)),
        ("reserve", reserve_body(run="")),
        ("reserve", reserve_body(round=-1)),
        ("reserve", reserve_body(round=1.0)),
        ("reserve", reserve_body(planned=[])),
        ("reserve", reserve_body(planned=event_to_json(STEP))),
        ("reserve", reserve_body(planned=[event_to_json(STEP) | {"steps": 0}])),
        ("reserve", reserve_body(more=1)),
        ("commit", commit_body(reservation=0)),
        ("commit", commit_body(reservation=9)),
        ("commit", commit_body(reservation="1")),
        ("commit", commit_body(ran=[event_to_json(MORE)])),
        ("commit", commit_body(outgoing_sha256="0" * 63)),
        ("commit", commit_body(outgoing_bytes=-1)),
        ("commit", {"reservation": 1}),
        ("open", {"schema": "privfed-ledger/2", "id": "0" * 32} | OWNER),
        ("refund", {}),
    ],
)
def test_an_entry_that_does_not_follow_is_refused_although_its_digest_is_right(
    path, ledger, kind, body
):
    ledger.reserve("a", 0, [STEP], always)
    forge(path, kind, body)
    with pytest.raises(LedgerCorruptError, match="entry 2 does not follow"):
        Ledger.open(path, **OWNER)


def test_a_second_commit_is_refused_although_its_digest_is_right(path, ledger):
    play(ledger, rounds=1)
    forge(path, "commit", commit_body(ran=[]))
    with pytest.raises(LedgerCorruptError, match="committed once"):
        Ledger.open(path, **OWNER)


def test_an_event_of_a_later_version_is_refused_by_name(path, ledger):
    forge(path, "reserve", reserve_body(planned=[{"type": "tree"}]))
    with pytest.raises(UnsupportedAnalysisError, match=r"^entry 1 .*'tree'"):
        Ledger.open(path, **OWNER)


# Anchors


def test_an_anchor_survives_json_and_proves_a_prefix(ledger):
    anchors = [ledger.anchor()]
    for number in range(2):
        ledger.reserve("a", number, [STEP], always)
        anchors.append(ledger.anchor())
    assert [a.length for a in anchors] == [1, 2, 3]
    for anchor in anchors:
        assert anchor_from_json(json.loads(json.dumps(anchor.to_json()))) == anchor
        assert ledger.verify(anchor) == anchors[-1]


def test_a_cut_end_shows_against_an_anchor_only(path, ledger):
    play(ledger)
    ledger.reserve("a", 3, [STEP], always)
    anchor = ledger.anchor()
    edit(path, ("DELETE FROM entries WHERE seq = 7",))
    cut = Ledger.open(path, **OWNER)
    with pytest.raises(LedgerRolledBackError, match="at least the 8 entries"):
        cut.verify(anchor)


def test_an_older_copy_shows_against_an_anchor(path, ledger, tmp_path):
    play(ledger, "a", 1)
    shutil.copy(path, tmp_path / "backup")
    play(ledger, "b", 2)
    anchor = ledger.anchor()
    shutil.copy(tmp_path / "backup", path)
    restored = Ledger.open(path, **OWNER)
    with pytest.raises(LedgerRolledBackError, match="older copy was put back"):
        restored.verify(anchor)
    play(restored, "c", 2)
    assert restored.anchor().length == anchor.length
    with pytest.raises(LedgerRolledBackError, match="put back and continued"):
        restored.verify(anchor)


def test_a_ledger_rewritten_with_right_digests_shows_against_an_anchor_only(path, ledger):
    for number in range(3):
        ledger.reserve("a", number, [STEP], always)
    anchor = ledger.anchor()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM entries WHERE seq > 0")
    for number, steps in enumerate([1, 8, 8]):
        forge(
            path,
            "reserve",
            reserve_body(run="a", round=number, planned=[event_to_json(event(steps))]),
        )
    rewritten = Ledger.open(path, **OWNER)
    assert rewritten.events() == (event(1), STEP, STEP)
    with pytest.raises(LedgerRolledBackError):
        rewritten.verify(anchor)


# Chains without a file


IDENTITY = Identity(**OWNER)
ID = "0123456789abcdef" * 2


def after(entries):
    return Anchor(length=len(entries), head=entries[-1].digest)


def chain(*steps):
    """Entries made one after the other; each step is a function of the anchor before it."""
    entries = [opening(IDENTITY, ID)]
    for step in steps:
        entries.append(step(after(entries)))
    return entries


def reserve(run, round, *planned):
    return lambda anchor: reserving(anchor, run, round, planned)


def commit(id_, *ran, outgoing=b"update"):
    return lambda anchor: committing(anchor, id_, ran, outgoing)


def first_version(length=8):
    return read(
        [
            Entry(seq=seq, kind=kind, body=body, previous=previous, digest=digest)
            for seq, kind, body, previous, digest in first_version_entries()
        ][:length]
    )


def test_a_chain_says_what_was_written_into_it():
    entries = chain(
        reserve("a", 4, STEP, LESS), commit(1, LESS, outgoing=b"four"), reserve("b", 0, MORE)
    )
    book = read(entries)
    assert (book.identity, book.id, book.entries) == (IDENTITY, ID, tuple(entries))
    assert book.reservations == {
        1: Reservation(id=1, run="a", round=4, planned=(STEP, LESS)),
        3: Reservation(id=3, run="b", round=0, planned=(MORE,)),
    }
    digest = hashlib.sha256(b"four").hexdigest()
    assert book.commits == {1: Commit(ran=(LESS,), outgoing_sha256=digest, outgoing_bytes=4)}
    assert book.rounds == {("a", 4): 1, ("b", 0): 3}
    assert book.inherited == {}
    assert book.anchor() == Anchor(length=4, head=entries[3].digest)
    assert book.events() == (LESS, MORE)
    assert (book.events("a"), book.events("b")) == ((LESS,), (MORE,))


def test_runs_come_in_the_order_of_their_first_reservation():
    book = read(chain(reserve("b", 0, STEP), reserve("a", 0, STEP), reserve("b", 1, STEP)))
    assert book.runs() == ["b", "a"]


def test_the_latest_commit_of_a_run_is_the_one_that_was_written_last():
    """Its rounds may be committed in another order than they were reserved in."""
    steps = [reserve("a", 0, STEP), reserve("a", 1, STEP), reserve("b", 0, STEP)]
    assert read(chain(*steps)).latest_commits() == set()
    assert read(chain(*steps, commit(2, STEP), commit(3, STEP))).latest_commits() == {2, 3}
    book = read(chain(*steps, commit(2, STEP), commit(3, STEP), commit(1, STEP)))
    assert book.latest_commits() == {1, 3}


def test_a_commit_knows_its_bytes():
    book = read(chain(reserve("a", 0, STEP), commit(1, STEP, outgoing=b"four")))
    found = book.commits[1]
    assert found.is_of(b"four")
    assert not found.is_of(b"five")
    assert not found.is_of(b"four ")
    assert not replace(found, outgoing_bytes=5).is_of(b"four")


def test_a_chain_continues_each_of_its_anchors_and_no_other():
    entries = chain(reserve("a", 0, STEP), commit(1, LESS))
    book = read(entries)
    for length in (1, 2, 3):
        book.check_continues(after(entries[:length]))
    with pytest.raises(
        LedgerRolledBackError, match="at least the 4 entries .* and holds 3: an old"
    ):
        book.check_continues(Anchor(length=4, head=entries[-1].digest))
    with pytest.raises(
        LedgerRolledBackError,
        match=f"^entry 1 must have the digest {entries[2].digest} .* has {entries[1].digest}",
    ):
        book.check_continues(Anchor(length=2, head=entries[2].digest))
    with pytest.raises(InvalidValueError, match="^anchor must be an Anchor"):
        book.check_continues(entries[-1].digest)


def test_a_reservation_plans_something_and_its_round_is_free():
    book = read(chain(reserve("a", 0, STEP), commit(1, STEP), reserve("a", 1, STEP)))
    book.check_reservation("a", 2, (STEP,))
    book.check_reservation("b", 0, (STEP,))
    with pytest.raises(
        LedgerStateError, match="at least one event, got none for round 2 of run 'a'"
    ):
        book.check_reservation("a", 2, ())
    with pytest.raises(LedgerStateError, match="round 0 of run 'a' is already committed"):
        book.check_reservation("a", 0, (STEP,))
    with pytest.raises(LedgerStateError, match="round 1 of run 'a' is already reserved"):
        book.check_reservation("a", 1, (STEP,))


def test_a_commit_fits_its_own_reservation():
    book = read(chain(reserve("a", 0, STEP), reserve("a", 1, MORE), commit(1, LESS)))
    assert book.check_commit(2, (STEP,)) == book.reservations[2]
    assert book.check_commit(2, ()) == book.reservations[2]
    with pytest.raises(
        LedgerStateError, match="within the reservation .*; the release must not be"
    ):
        book.check_commit(2, (MORE, LESS))
    with pytest.raises(LedgerStateError, match=r"once: 1 \(round 0 of run 'a'\) already is"):
        book.check_commit(1, (LESS,))
    with pytest.raises(LedgerStateError, match="must name a reservation .* got 3;"):
        book.check_commit(3, ())


def test_what_was_inherited_counts_once_and_belongs_to_no_run():
    earlier = first_version()
    source = earlier.entries[1].digest
    assert source_of(earlier) == source
    book = read(chain(reserve("a", 0, LESS), lambda anchor: inheriting(anchor, earlier)))
    assert book.events() == (*FIRST_EVENTS, LESS)
    assert (book.events("a"), book.events("b")) == ((LESS,), ())
    assert book.runs() == ["a"]
    assert book.inherited == {
        source: Inheritance(
            source=source,
            identity=EarlierIdentity(**FIRST_OWNER),
            anchor=anchor_from_json(FIRST_ANCHOR),
            released=FIRST_EVENTS,
        )
    }


def test_an_earlier_ledger_that_grew_replaces_what_it_was():
    shorter, longer = first_version(7), first_version()
    joined = chain(lambda a: inheriting(a, shorter), lambda a: inheriting(a, longer))
    assert read(joined).events() == FIRST_EVENTS
    for again in (longer, shorter):
        entries = [*joined, inheriting(after(joined), again)]
        with pytest.raises(LedgerCorruptError, match="^the ledger must .*entry 3 does not follow"):
            read(entries)
    body = json.loads(joined[1].body) | {"length": 1}
    empty = linked("inherit", body, after(joined[:1]))
    with pytest.raises(LedgerCorruptError, match="must have grown since it was joined, got 1"):
        read([joined[0], empty])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "0" * 63}, "source must be a SHA-256 digest"),
        ({"source": None}, "source must be a SHA-256 digest, got None"),
        ({"head": "0" * 63}, "anchor_head must be"),
        ({"length": 8.0}, "anchor_length must be"),
        ({"client": ""}, "client must be text"),
        ({"description": ""}, "description must be text"),
        ({"released": {}}, "events must be a list"),
        ({"more": 1}, "must have the fields"),
    ],
)
def test_an_inheritance_is_checked_field_by_field(changes, reason):
    good = json.loads(inheriting(after(chain()), first_version()).body)
    with pytest.raises(LedgerCorruptError, match=f"entry 1 does not follow: .*{reason}"):
        read([*chain(), linked("inherit", good | changes, after(chain()))])


def test_the_first_version_inherited_nothing():
    earlier = first_version()
    entry = linked(
        "inherit", json.loads(inheriting(earlier.anchor(), earlier).body), earlier.anchor()
    )
    with pytest.raises(LedgerCorruptError, match="entry 8 does not follow: kind must be"):
        read([*earlier.entries, entry])
    assert (earlier.id, earlier.identity) == (None, EarlierIdentity(**FIRST_OWNER))


def test_a_chain_begins_with_whose_it_is():
    with pytest.raises(LedgerCorruptError, match="it has no entries"):
        read([])
    with pytest.raises(LedgerCorruptError, match="entry 0 must be of kind 'open', not 'reserve'"):
        read([linked("reserve", json.loads(opening(IDENTITY, ID).body), None)])
    body = json.loads(opening(IDENTITY, ID).body)
    with pytest.raises(LedgerCorruptError, match="entry 0 names nobody: .*must have the fields"):
        read([linked("open", {k: v for k, v in body.items() if k != "unit"}, None)])
    with pytest.raises(LedgerCorruptError, match="^the schema must be .*got 'privfed-ledger/3'"):
        read([linked("open", body | {"schema": "privfed-ledger/3"}, None)])
