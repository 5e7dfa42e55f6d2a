import pytest

from privfed.custody.opened_rounds import OpenedRounds
from privfed.errors import EncryptionError


@pytest.fixture
def opened(tmp_path):
    return OpenedRounds(tmp_path / "opened" / "run.json")


def test_the_same_sum_may_be_opened_again_after_a_crash(opened, tmp_path):
    opened.require(4, ("a", "b", "c"))
    again = OpenedRounds(tmp_path / "opened" / "run.json")
    assert again.contributors_of(4) == ("a", "b", "c")
    again.require(4, ("a", "b", "c"))
    assert again.contributors_of(5) is None
    again.require(5, ("a", "b", "c", "d"))
    assert again.contributors_of(5) == ("a", "b", "c", "d")


def test_a_sum_of_others_in_the_same_round_is_refused(opened):
    opened.require(4, ("a", "b", "c"))
    with pytest.raises(EncryptionError, match="round 4 was opened as the sum of"):
        opened.require(4, ("a", "b", "c", "d"))
    assert opened.contributors_of(4) == ("a", "b", "c")


def test_an_earlier_round_is_over(opened):
    opened.require(4, ("a", "b", "c"))
    with pytest.raises(EncryptionError, match="round 3 is over"):
        opened.require(3, ("a", "b", "c"))


def test_the_record_is_on_the_disk_before_the_sum_is_opened(opened, tmp_path, disk_steps):
    opened.require(4, ("a", "b", "c"))
    path = tmp_path / "opened" / "run.json"
    assert disk_steps == [("file", path.stat().st_size), "rename", "folder"]
    assert path.parent.stat().st_mode & 0o777 == 0o700
    opened.require(4, ("a", "b", "c"))
    assert len(disk_steps) == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"round": 1}', '{"round": "x"}'])
def test_a_damaged_record_is_refused(opened, tmp_path, damage):
    opened.require(1, ("a", "b", "c"))
    (tmp_path / "opened" / "run.json").write_text(damage)
    with pytest.raises(EncryptionError, match="cannot be read"):
        opened.require(2, ("a", "b", "c"))
