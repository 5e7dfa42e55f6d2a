import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.data.records import Record, first_copies, folded, hold_out
from privfed.errors import DataError

texts = st.lists(st.text(alphabet="ab \t\n", max_size=6), max_size=20)


def test_a_record_has_no_label_unless_one_is_given():
    assert Record("a") == Record("a", None)
    assert Record("a", 1) != Record("a", 2)
    with pytest.raises(AttributeError):
        Record("a").text = "b"


def test_the_first_of_equal_records_is_kept_and_white_space_makes_a_difference():
    assert first_copies(["a b", "c", "a  b", "a b", "C", "c"]) == [0, 1, 2, 4]
    assert first_copies([("a", "x"), ("a", "y"), ("a", "x")]) == [0, 1]
    assert first_copies([]) == []


@given(rows=texts, gone=st.integers(0, 19))
def test_one_row_more_or_less_changes_one_record_at_most(rows, gone):
    fewer = rows[:gone] + rows[gone + 1 :]
    left, right = ({some[i] for i in first_copies(some)} for some in (rows, fewer))
    assert right <= left
    assert len(left - right) <= 1
    assert [rows[i] for i in first_copies(rows)] == list(dict.fromkeys(rows))


@given(
    keys=st.lists(st.integers(0, 99).map("a {} ".format), min_size=30, max_size=60),
    fraction=st.floats(0.4, 0.9),
    dataset=st.sampled_from(["notes", "letters", "a"]),
)
def test_every_position_is_on_one_side_with_all_its_copies(keys, fraction, dataset):
    keys = [*keys, *(f"b {number}" for number in range(30)), *keys[:5]]
    kept, held = hold_out(keys, fraction, dataset)
    assert sorted([*kept, *held]) == list(range(len(keys)))
    assert not {folded(keys[i]) for i in kept} & {folded(keys[i]) for i in held}


def test_each_stratum_gives_about_its_share():
    keys = [f"text {number}" for number in range(4000)]
    _, held = hold_out(keys, 0.3, "notes")
    for stratum in range(4):
        taken = sum(position % 4 == stratum for position in held)
        assert 245 < taken < 355  # 300 expected, standard deviation 14.5


def test_a_record_that_goes_moves_no_other():
    keys = [f"text {number}" for number in range(200)]
    for gone in (0, 77, 199):
        fewer = keys[:gone] + keys[gone + 1 :]
        before, after = (
            {rows[position] for position in hold_out(rows, 0.3, "notes")[1]}
            for rows in (keys, fewer)
        )
        assert before - {keys[gone]} == after


def test_a_larger_share_holds_out_more_and_never_others():
    keys = [f"text {number}" for number in range(200)]
    small, large = (set(hold_out(keys, fraction, "notes")[1]) for fraction in (0.1, 0.3))
    assert small < large


def test_name_and_key_do_not_run_into_each_other():
    keys = [f"b text {number}" for number in range(200)]
    longer = [key.removeprefix("b ") for key in keys]
    assert hold_out(keys, 0.3, "a") != hold_out(longer, 0.3, "a b")


def test_the_name_of_the_data_set_decides():
    keys = [f"text {number}" for number in range(100)]
    assert hold_out(keys, 0.3, "notes") == hold_out(keys, 0.3, "notes")
    assert hold_out(keys, 0.3, "notes") != hold_out(keys, 0.3, "letters")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_outside_the_open_interval_is_refused(fraction):
    with pytest.raises(DataError, match=r"in \(0, 1\)"):
        hold_out(["a"] * 10, fraction, "notes")


def test_a_fraction_that_leaves_nothing_to_evaluate_on_is_refused():
    with pytest.raises(DataError, match="leaves none"):
        hold_out(["a", "b", "c"], 1e-9, "notes")
    with pytest.raises(DataError, match="leaves none"):
        hold_out([], 0.5, "notes")
