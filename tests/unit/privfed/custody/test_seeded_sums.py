"""Reading a sum: who contributed, with which seeds, and only once; no key is needed for that."""

from dataclasses import dataclass

import numpy as np
import pytest

from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.seeded_sums import SeededSums
from privfed.errors import EncryptionError, MessageError
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, blobs_of, contribution_of, updates


@dataclass(frozen=True)
class Other:
    """Parameters of some other seeded encryption; `SeededSums` asks for no more."""

    num_clients: int = 4
    num_ciphertexts: int = 1
    sum_bits: tuple[int, ...] = ()


@pytest.fixture
def federation(tmp_path):
    return SmallFederation(Custody.SHARED_KEY, tmp_path, num_clients=4)


@pytest.fixture
def sums(federation):
    return SeededSums(federation.parameters, federation.roster, 3)


def message(federation, round=1, names=("c1", "c3", "c4")):
    terms = federation.terms(round)
    return federation.total(terms, federation.uploads(terms, updates(federation.parameters, names)))


def test_what_is_read_is_what_was_sent(federation, sums):
    total = message(federation)
    read = sums.read(federation.terms(), total)
    assert read.contributors == ("c1", "c3", "c4")
    blobs = federation.changed(federation.terms(), total)
    assert read.rows.tobytes() in blobs
    assert read.seeds.shape == (3, 1, 64)
    for position, name in enumerate(read.contributors):
        assert read.seeds[position].tobytes() in blobs
        assert contribution_of(total)[position]["client"] == name


def test_more_contributors_than_the_parameters_allow(federation):
    few = SeededSums(Other(num_clients=3), federation.roster, 3)
    with pytest.raises(MessageError, match="3 to 3 contributors, got 4"):
        few.read(federation.terms(), message(federation, names=federation.names))


def test_rounds_go_up_and_may_be_left_out(federation, sums):
    for round in (1, 2, 5):
        sums.read(federation.terms(round), message(federation, round))
    for round in (5, 4, 1):
        with pytest.raises(EncryptionError, match=f"round {round} came after round 5"):
            sums.read(federation.terms(round), message(federation, round))


def test_two_readers_know_nothing_of_each_other(federation, sums):
    total = message(federation)
    first = sums.read(federation.terms(), total)
    again = SeededSums(federation.parameters, federation.roster, 3)
    assert np.array_equal(again.read(federation.terms(), total).rows, first.rows)


def test_a_sum_with_too_few_bytes_uses_up_nothing(federation, sums):
    total = message(federation)
    with pytest.raises(MessageError, match="bytes"):
        sums.read(
            federation.terms(),
            federation.changed(
                federation.terms(),
                total,
                blobs={**blobs_of(total), "ciphertexts": b"\0"},
            ),
        )
    assert sums.read(federation.terms(), total).contributors == ("c1", "c3", "c4")


@pytest.mark.parametrize("listed", [None, {}, "c1", [1, 2, 3], [{}, {}, {}]])
def test_a_list_of_contributions_that_is_none(federation, sums, listed):
    terms = federation.terms()
    total = federation.signed(
        terms,
        "sum",
        manifest={"contributions": listed},
        blobs=blobs_of(message(federation)),
    )
    with pytest.raises(MessageError, match="list its contributions|must have the fields"):
        sums.read(terms, total)


def test_over_a_crash_a_round_is_opened_for_the_same_contributors_only(federation, tmp_path):
    """The second sum lacks one client: the difference of the two would be its update."""

    OpenedRounds.create(tmp_path / "c1.jsonl", federation.names)

    def reader():
        opened = OpenedRounds.resume(tmp_path / "c1.jsonl")
        return SeededSums(federation.parameters, federation.roster, 3, opened)

    whole = message(federation, names=("c1", "c2", "c3", "c4"))
    assert len(reader().read(federation.terms(), whole).contributors) == 4
    assert len(reader().read(federation.terms(), whole).contributors) == 4
    with pytest.raises(EncryptionError, match="would show by its difference"):
        reader().read(federation.terms(), message(federation))
    assert reader().read(federation.terms(2), message(federation, 2)).contributors[0] == "c1"
    with pytest.raises(EncryptionError, match="would show by its difference"):
        reader().read(federation.terms(), message(federation))
