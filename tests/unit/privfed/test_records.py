import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.data.records import Record, deduplicate, hold_out
from privfed.errors import DataError

texts = st.lists(st.text(alphabet="ab \t\n", max_size=6), max_size=20)


def folded(text):
    return " ".join(text.split())


def test_a_record_has_no_label_unless_one_is_given():
    assert Record("a") == Record("a", None)
    assert Record("a", 1) != Record("a", 2)
    with pytest.raises(AttributeError):
        Record("a").text = "b"


def test_the_first_of_several_copies_is_kept():
    assert deduplicate(["a b", "c", "a  b", " a b\n", "C", "c"]) == [0, 1, 4]


def test_text_without_a_word_is_dropped():
    assert deduplicate(["", " ", "\n\t", "a"]) == [3]


def test_nothing_gives_nothing():
    assert deduplicate([]) == []


@given(texts)
def test_every_word_sequence_is_kept_once_and_in_order(rows):
    kept = deduplicate(rows)
    assert kept == sorted(kept)
    assert [folded(rows[i]) for i in kept] == [
        text for text in dict.fromkeys(map(folded, rows)) if text
    ]


@given(
    keys=st.lists(st.integers(0, 99).map("a {} ".format), min_size=30, max_size=60),
    fraction=st.floats(0.4, 0.9),
    seed=st.integers(0, 5),
)
def test_every_position_is_on_one_side_with_all_its_copies(keys, fraction, seed):
    keys = [*keys, *(f"b {number}" for number in range(30)), *keys[:5]]
    kept, held = hold_out(keys, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(keys)))
    assert not {folded(keys[i]) for i in kept} & {folded(keys[i]) for i in held}


def test_each_stratum_gives_about_its_share():
    keys = [f"text {number}" for number in range(4000)]
    _, held = hold_out(keys, 0.3, 1)
    for stratum in range(4):
        taken = sum(position % 4 == stratum for position in held)
        assert 245 < taken < 355  # 300 expected, standard deviation 14.5


def test_a_record_that_goes_moves_no_other():
    keys = [f"text {number}" for number in range(200)]
    for gone in (0, 77, 199):
        fewer = keys[:gone] + keys[gone + 1 :]
        before, after = (
            {rows[position] for position in hold_out(rows, 0.3, 1)[1]} for rows in (keys, fewer)
        )
        assert before - {keys[gone]} == after


def test_the_public_seed_decides():
    keys = [f"text {number}" for number in range(100)]
    assert hold_out(keys, 0.3, 1) == hold_out(keys, 0.3, 1)
    assert hold_out(keys, 0.3, 1) != hold_out(keys, 0.3, 2)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_outside_the_open_interval_is_refused(fraction):
    with pytest.raises(DataError, match=r"in \(0, 1\)"):
        hold_out(["a"] * 10, fraction, 0)


def test_a_fraction_that_leaves_nothing_to_evaluate_on_is_refused():
    with pytest.raises(DataError, match="leaves none"):
        hold_out(["a", "b", "c"], 1e-9, 0)
    with pytest.raises(DataError, match="leaves none"):
        hold_out([], 0.5, 0)
