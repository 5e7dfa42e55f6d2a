"""A client has one memory for each run, in the second place, which a restart does not replace."""

import pytest

from privfed.errors import EncryptionError
from privfed.parties.client.memories import Memories
from privfed.storage.state_folder import opened_path

CLIENTS = ["c", "a", "b", "d"]
RUN, OTHER = "0a1b", "2c3d"


def test_it_is_begun_where_there_is_none(tmp_path):
    memory = Memories(tmp_path, "a")(RUN, CLIENTS)
    memory.require(1, ("a", "b", "d"))
    assert opened_path(tmp_path, RUN, "a").read_text().splitlines() == [
        '{"clients": ["a", "b", "c", "d"]}',
        '{"round": 1, "absent": ["c"]}',
    ]


def test_asked_again_it_is_the_same(tmp_path):
    memories = Memories(tmp_path, "a")
    assert memories(RUN, CLIENTS) is memories(RUN, CLIENTS) is memories.resume(RUN)


def test_no_two_runs_or_clients_share_one(tmp_path):
    memories = Memories(tmp_path, "a")
    memories(RUN, CLIENTS).require(1, ("a", "b", "d"))
    assert memories(OTHER, CLIENTS).contributors_of(1) is None
    assert Memories(tmp_path, "b")(RUN, CLIENTS).contributors_of(1) is None


def test_after_a_restart_it_goes_on(tmp_path):
    Memories(tmp_path, "a")(RUN, CLIENTS).require(1, ("a", "b", "d"))
    again = Memories(tmp_path, "a")
    assert again.resume(RUN).contributors_of(1) == ("a", "b", "d")
    assert again(RUN, CLIENTS).contributors_of(1) == ("a", "b", "d")
    with pytest.raises(EncryptionError, match="round 1 was opened or agreed to as the sum of"):
        again(RUN, CLIENTS).require(1, ("a", "b", "c"))


def test_and_is_not_begun_afresh(tmp_path):
    Memories(tmp_path, "a")(RUN, CLIENTS).require(1, ("a", "b", "d"))
    with pytest.raises(EncryptionError, match="File exists"):
        Memories(tmp_path, "a")(RUN, CLIENTS)


def test_one_that_is_lost_is_not_replaced(tmp_path):
    Memories(tmp_path, "a")(RUN, CLIENTS)
    opened_path(tmp_path, RUN, "a").unlink()
    again = Memories(tmp_path, "a")
    with pytest.raises(EncryptionError, match="must remember whose sums it opened"):
        again.resume(RUN)
    assert not opened_path(tmp_path, RUN, "a").exists()


def test_nor_one_that_is_damaged(tmp_path):
    Memories(tmp_path, "a")(RUN, CLIENTS)
    opened_path(tmp_path, RUN, "a").write_text("{}\n")
    with pytest.raises(EncryptionError, match="is damaged"):
        Memories(tmp_path, "a").resume(RUN)
