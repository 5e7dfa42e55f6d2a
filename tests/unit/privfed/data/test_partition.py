from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.data.partition import (
    by_column,
    client_names,
    dirichlet,
    feature_shift,
    iid,
    quantity_skew,
)
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


def sizes(split):
    return [len(rows) for rows in split.values()]


class TestQuantitySkew:
    def test_sizes_are_the_draw_of_the_seed(self):
        """Golden: the shares that NumPy draws from Dirichlet(0.5), cumulated and rounded down."""
        split = quantity_skew(1000, 5, 0.5, minimum=3, seed=4)
        assert list(split) == [f"client-0{number}" for number in range(1, 6)]
        assert sizes(split) == [607, 4, 141, 5, 243]
        assert split == quantity_skew(1000, 5, 0.5, minimum=3, seed=4)
        assert sizes(quantity_skew(1000, 5, 0.5, minimum=3, seed=5)) == [520, 175, 8, 260, 37]

    @settings(max_examples=50)
    @given(
        num_records=st.integers(30, 200),
        alpha=st.sampled_from([0.3, 1.0, 1e6]),
        minimum=st.integers(1, 5),
        seed=st.integers(0, 99),
    )
    def test_every_record_has_one_client_and_every_client_the_minimum(
        self, num_records, alpha, minimum, seed
    ):
        split = quantity_skew(num_records, 3, alpha, minimum, seed)
        assert positions(split) == list(range(num_records))
        assert min(sizes(split)) >= minimum
        assert all(rows == sorted(rows) for rows in split.values())

    def test_a_small_alpha_skews_sizes_and_a_large_one_does_not(self):
        assert max(sizes(quantity_skew(2000, 5, 0.1, 10, seed=2))) > 1000
        assert np.abs(np.array(sizes(quantity_skew(2000, 5, 1e6, 10, seed=3))) - 400).max() <= 3

    def test_labels_stay_alike_whatever_the_sizes(self):
        labels = [row // 1000 for row in range(4000)]
        split = quantity_skew(4000, 4, 1.0, 300, seed=6)
        assert max(sizes(split)) > 2 * min(sizes(split))
        assert np.abs(shares(split, labels, 4) - 0.25).max() < 0.08

    @pytest.mark.parametrize(
        ("num_records", "num_clients", "minimum"), [(9, 2, 5), (5, 6, 1), (5, 0, 1), (5, 2, 0)]
    )
    def test_counts_that_cannot_work_are_refused(self, num_records, num_clients, minimum):
        with pytest.raises(DataError, match=f"{num_records} records cannot give {num_clients} cli"):
            quantity_skew(num_records, num_clients, 1.0, minimum, 0)

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
    def test_an_alpha_out_of_range_is_refused(self, alpha):
        with pytest.raises(DataError, match="alpha"):
            quantity_skew(40, 2, alpha, 1, 0)

    def test_sizes_that_cannot_be_found_say_what_to_change(self):
        with pytest.raises(DataError, match="40 records over 4 .* lower the minimum or raise"):
            quantity_skew(40, 4, 0.001, 10, 0)


def column(values):
    """A single feature, shape (records, 1)."""
    return np.array(values)[:, None]


def counts(split, labels, num_labels):
    """Records of every label, shape (clients, labels)."""
    return np.array(
        [[sum(labels[i] == k for i in rows) for k in range(num_labels)] for rows in split.values()]
    )


class TestFeatureShift:
    def test_by_hand(self):
        """Label 0 in order is rows 2, 4, 0, and label 1 is rows 1, 3, 5.

        Client 1 has one more of label 0, so client 2 has one more of label 1.
        """
        values, labels = [9, 1, 5, 2, 7, 3], [0, 1, 0, 1, 0, 1]
        split = feature_shift(column(values), labels, 2, 0.0, seed=0)
        assert split == {"client-01": [1, 2, 4], "client-02": [0, 3, 5]}

    @settings(max_examples=80)
    @given(
        records=st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=7, max_size=60),
        random_share=st.floats(0, 1),
        seed=st.integers(0, 9),
    )
    def test_label_counts_and_sizes_are_equal_up_to_one(self, records, random_share, seed):
        labels, values = zip(*records, strict=True)
        split = feature_shift(column(values), labels, 7, random_share, seed)
        assert list(split) == list(client_names(7))
        assert positions(split) == list(range(len(labels)))
        assert np.ptp(counts(split, labels, 4), axis=0).max() <= 1
        assert np.ptp(sizes(split)) <= 1
        assert all(rows == sorted(rows) for rows in split.values())
        assert all(type(row) is int for rows in split.values() for row in rows)

    @settings(max_examples=50)
    @given(
        records=st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9)), min_size=4, max_size=60),
        seed=st.integers(0, 9),
    )
    def test_without_chance_every_label_is_in_sorted_blocks(self, records, seed):
        labels, values = zip(*records, strict=True)
        split = feature_shift(column(values), labels, 4, 0.0, seed)
        for label in set(labels):
            blocks = [
                sorted(values[i] for i in rows if labels[i] == label) for rows in split.values()
            ]
            dealt = [value for block in blocks for value in block]
            assert dealt == sorted(dealt)

    @pytest.mark.parametrize(("random_share", "moved"), [(0.0, 0.0), (0.4, 0.3), (1.0, 0.75)])
    def test_of_the_random_share_a_quarter_comes_back_to_one_of_four(self, random_share, moved):
        values = np.random.default_rng(1).permutation(4000)
        labels = [row % 2 for row in range(4000)]
        split = feature_shift(column(values), labels, 4, random_share, seed=1)
        home = feature_shift(column(values), labels, 4, 0.0, seed=3)
        away = [len(set(split[client]) - set(home[client])) for client in split]
        assert sum(away) / 4000 == pytest.approx(moved, abs=0.02)

    def test_the_seed_decides_who_moves_and_which_equal_value_goes_where(self):
        """Golden."""
        values, labels = [4, 4, 4, 4, 1, 2, 3, 8], [0, 0, 0, 0, 1, 1, 1, 1]
        assert feature_shift(column(values), labels, 2, 0.5, seed=11) == {
            "client-01": [1, 3, 4, 5],
            "client-02": [0, 2, 6, 7],
        }
        others = [feature_shift(column(values), labels, 2, 0.5, seed) for seed in range(20)]
        assert len({tuple(split["client-01"]) for split in others}) >= 8
        assert {split["client-01"][0] for split in others} > {0}

    @pytest.mark.parametrize(
        ("axis", "sign"), [((1, -2), -1), ((-2, 1), -1), ((2, 1), 1), ((1, 3), 1), ((-1, -3), -1)]
    )
    def test_many_features_are_one_along_the_direction_in_which_they_vary(self, axis, sign):
        """Its larger entry counts as positive; where the mean lies has no effect."""
        along = np.random.default_rng(5).permutation(60).astype(float)
        mean = 300.0 * np.array([-axis[1], axis[0]])  # at a right angle to the axis
        features = mean + np.outer(along, axis)
        labels = [row % 3 for row in range(60)]
        split = feature_shift(features, labels, 5, 0.25, seed=6)
        assert split == feature_shift(column(sign * along), labels, 5, 0.25, seed=6)
        assert split != feature_shift(column(-sign * along), labels, 5, 0.25, seed=6)

    @pytest.mark.parametrize("scale", [1e-300, 1e300])
    def test_the_unit_of_features_has_no_effect(self, scale):
        features = np.random.default_rng(7).normal(size=(30, 2))
        split = feature_shift(features, [0] * 30, 3, 0.0, seed=8)
        assert feature_shift(scale * features, [0] * 30, 3, 0.0, seed=8) == split

    def test_features_that_are_all_zero_are_dealt_at_random(self):
        split = feature_shift(np.zeros((90, 2)), [0] * 90, 3, 0.0, seed=9)
        assert sizes(split) == [30, 30, 30]
        assert split["client-01"] != list(range(30))

    @pytest.mark.parametrize("random_share", [-0.1, 1.1, float("nan")])
    def test_a_share_out_of_range_is_refused(self, random_share):
        with pytest.raises(DataError, match=r"random_share must be in \[0, 1\], got"):
            feature_shift(column(range(6)), [0] * 6, 2, random_share, 0)

    @pytest.mark.parametrize(
        "features", [np.zeros(6), np.zeros((5, 2)), np.zeros((6, 0)), np.zeros((6, 1, 1))]
    )
    def test_features_of_another_shape_are_refused(self, features):
        with pytest.raises(DataError, match=r"shape \(records, d\), here \(6, d\)"):
            feature_shift(features, [0] * 6, 2, 0.5, 0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_features_that_are_no_numbers_are_refused(self, value):
        with pytest.raises(DataError, match="features must be finite"):
            feature_shift(column([1.0, value, 2.0]), [0] * 3, 2, 0.5, 0)

    @pytest.mark.parametrize(("num_records", "num_clients"), [(2, 3), (5, 0), (0, 1)])
    def test_counts_that_cannot_work_are_refused(self, num_records, num_clients):
        with pytest.raises(DataError, match="cannot give"):
            feature_shift(np.zeros((num_records, 1)), [0] * num_records, num_clients, 0.5, 0)
