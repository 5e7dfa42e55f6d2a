from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.data.partition import by_column, client_names, dirichlet, iid
from privfed.errors import DataError


def positions(split):
    return sorted(row for rows in split.values() for row in rows)


def shares(split, labels, num_labels):
    """Label shares of every client, shape (clients, labels)."""
    counts = [
        [Counter(labels[i] for i in rows)[k] for k in range(num_labels)] for rows in split.values()
    ]
    return np.array(counts) / np.array(counts).sum(axis=1, keepdims=True)


def test_each_value_of_a_column_is_a_client():
    split = by_column(["north", "south", "north", "east"])
    assert split == {"east": [3], "north": [0, 2], "south": [1]}
    assert list(split) == ["east", "north", "south"]


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_a_row_without_an_owner_is_named(blank):
    with pytest.raises(DataError, match="record 2 names no client"):
        by_column(["a", "b", blank])


def test_clients_to_which_a_pool_is_dealt_have_public_names():
    assert client_names(2) == ("client-01", "client-02")
    assert client_names(1000)[-1] == "client-1000"


def test_iid_clients_differ_by_at_most_one_record():
    split = iid(11, 3, seed=0)
    assert list(split) == ["client-01", "client-02", "client-03"]
    assert [len(rows) for rows in split.values()] == [4, 4, 3]
    assert positions(split) == list(range(11))


@given(num_records=st.integers(1, 200), num_clients=st.integers(1, 20), seed=st.integers(0, 9))
def test_iid_gives_every_record_to_one_client(num_records, num_clients, seed):
    if num_records < num_clients:
        with pytest.raises(DataError):
            iid(num_records, num_clients, seed)
        return
    split = iid(num_records, num_clients, seed)
    assert positions(split) == list(range(num_records))
    sizes = [len(rows) for rows in split.values()]
    assert len(sizes) == num_clients
    assert max(sizes) - min(sizes) <= 1


def test_iid_is_shuffled_and_repeats_with_its_seed():
    assert iid(100, 4, 1) == iid(100, 4, 1)
    assert iid(100, 4, 1) != iid(100, 4, 2)
    assert iid(100, 4, 1)["client-01"] != list(range(25))


@settings(max_examples=50)
@given(
    labels=st.lists(st.integers(0, 3), min_size=12, max_size=80),
    alpha=st.sampled_from([0.01, 0.5, 5.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_dirichlet_gives_every_record_to_one_client(labels, alpha, seed):
    try:
        split = dirichlet(labels, 3, alpha, 1, seed)
    except DataError as error:
        assert alpha == 0.01
        assert "500 tries" in str(error)
        return
    assert positions(split) == list(range(len(labels)))
    assert all(rows == sorted(rows) for rows in split.values())
    assert all(type(row) is int for rows in split.values() for row in rows)


def test_a_small_alpha_skews_labels_and_a_large_one_does_not():
    labels = [row % 4 for row in range(2000)]
    skewed = shares(dirichlet(labels, 5, 0.1, 10, seed=3), labels, 4)
    even = shares(dirichlet(labels, 5, 1e5, 10, seed=3), labels, 4)
    assert skewed.max(axis=1).mean() > 0.6
    assert np.abs(even - 0.25).max() < 0.02


def test_dirichlet_repeats_with_its_seed():
    labels = [row % 3 for row in range(90)]
    assert dirichlet(labels, 3, 1.0, 5, 1) == dirichlet(labels, 3, 1.0, 5, 1)
    assert dirichlet(labels, 3, 1.0, 5, 1) != dirichlet(labels, 3, 1.0, 5, 2)


def test_every_client_holds_the_minimum():
    labels = [row % 3 for row in range(300)]
    sizes = [min(map(len, dirichlet(labels, 4, 0.5, 40, seed).values())) for seed in range(10)]
    assert min(sizes) >= 40
    free = [min(map(len, dirichlet(labels, 4, 0.5, 1, seed).values())) for seed in range(10)]
    assert min(free) < 40, "the minimum must have been what kept the sizes up"


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(DataError, match="alpha"):
        dirichlet([0, 1] * 20, 2, alpha, 1, 0)


def test_a_split_that_cannot_be_found_says_what_to_change():
    with pytest.raises(DataError, match="lower the minimum or raise alpha"):
        dirichlet([0] * 40, 4, 0.001, 10, 0)


@pytest.mark.parametrize(
    ("num_records", "num_clients", "minimum"),
    [(9, 2, 5), (5, 6, 1), (5, 0, 1), (5, 2, 0), (0, 1, 1)],
)
def test_counts_that_cannot_work_are_refused(num_records, num_clients, minimum):
    with pytest.raises(DataError, match="cannot give"):
        dirichlet([0] * num_records, num_clients, 1.0, minimum, 0)


@pytest.mark.parametrize(("num_records", "num_clients"), [(2, 3), (5, 0), (5, -1)])
def test_iid_counts_that_cannot_work_are_refused(num_records, num_clients):
    with pytest.raises(DataError, match="cannot give"):
        iid(num_records, num_clients, 0)
