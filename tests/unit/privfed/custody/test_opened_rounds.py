"""What a client never forgets: one set of contributors a round, and which rounds are closed."""

import json
import multiprocessing
import os

import pytest

from privfed.custody.opened_rounds import OpenedRounds
from privfed.errors import EncryptionError

CLIENTS = ("a", "b", "c", "d")
WHY = {"reason": "fixed", "missing": ["d"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "anchors" / "opened" / "run" / "a.jsonl"


@pytest.fixture
def opened(path):
    return OpenedRounds.create(path, reversed(CLIENTS))


def again(path):
    """As a new process reads it."""
    return OpenedRounds.resume(path)


def test_the_same_sum_may_be_opened_again_after_a_crash(opened, path):
    opened.require(4, ("a", "b", "c"))
    assert again(path).contributors_of(4) == ("a", "b", "c")
    again(path).require(4, ("a", "b", "c"))
    assert again(path).contributors_of(5) is None
    again(path).require(5, CLIENTS)
    assert again(path).contributors_of(5) == CLIENTS


def test_a_sum_of_others_in_the_same_round_is_refused_for_ever(opened, path):
    opened.require(4, ("a", "b", "c"))
    for others in (CLIENTS, ("a", "b", "d")):
        with pytest.raises(EncryptionError, match="round 4 was opened or agreed to as the sum of"):
            again(path).require(4, others)
    opened.require(5, CLIENTS)
    opened.require(6, CLIENTS)
    with pytest.raises(EncryptionError, match="would show by its difference"):
        again(path).require(4, CLIENTS)
    again(path).require(4, ("a", "b", "c"))
    assert again(path).contributors_of(4) == ("a", "b", "c")


def test_an_earlier_round_without_a_sum_is_over(opened, path):
    opened.require(4, ("a", "b", "c"))
    for memory in (opened, again(path)):
        with pytest.raises(EncryptionError, match="round 3 is over: this client was in round 4"):
            memory.require(3, ("a", "b", "c"))
        with pytest.raises(EncryptionError, match="round 3 is over"):
            memory.require_not_over(3)
        memory.require_not_over(4)
        memory.require_not_over(5)


class TestAClosedRound:
    def test_nothing_more_happens_in_it(self, opened, path):
        opened.require(1, CLIENTS)
        opened.require(2, CLIENTS)
        opened.close(2, WHY)
        for memory in (opened, again(path)):
            assert memory.why_closed(2) == WHY
            assert memory.why_closed(1) is None
            assert memory.contributors_of(2) == CLIENTS, "what was agreed to is not forgotten"
            with pytest.raises(EncryptionError, match="round 2 was given up and is closed"):
                memory.require(2, CLIENTS)
            with pytest.raises(EncryptionError, match="round 2 was given up and is closed"):
                memory.require_not_over(2)
            memory.require_not_over(3)
            memory.require(1, CLIENTS)

    def test_one_that_was_never_agreed_to_too(self, opened, path):
        opened.close(3, WHY)
        with pytest.raises(EncryptionError, match="round 3 was given up"):
            again(path).require(3, CLIENTS)
        with pytest.raises(EncryptionError, match="round 2 is over"):
            again(path).require(2, CLIENTS)

    def test_the_first_reason_stays(self, opened, path):
        opened.close(3, WHY)
        size = path.stat().st_size
        again(path).close(3, {"reason": "another", "missing": []})
        assert again(path).why_closed(3) == WHY
        assert path.stat().st_size == size


def test_a_line_is_on_the_disk_before_the_client_acts(tmp_path, path, disk_steps):
    opened = OpenedRounds.create(path, CLIENTS)
    assert disk_steps[-2:] == [("file", path.stat().st_size), "folder"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    made = len(disk_steps)
    opened.require(4, ("a", "b", "c"))
    assert disk_steps[made:] == [("file", path.stat().st_size)]
    opened.require(4, ("a", "b", "c"))
    again(path).contributors_of(4)
    assert len(disk_steps) == made + 1, "one flush a round at most"
    opened.close(5, WHY)
    assert disk_steps[made + 1 :] == [("file", path.stat().st_size)]


def test_a_round_in_which_all_take_part_costs_few_bytes(path):
    names = [f"client-{number:04d}" for number in range(1000)]
    opened = OpenedRounds.create(path, names)
    before = path.stat().st_size
    for number in range(1, 101):
        opened.require(number, tuple(names))
    assert path.stat().st_size - before < 100 * 40


def test_a_line_that_is_not_whole_was_never_acted_on_and_is_dropped(opened, path):
    """Whatever a kill or a power cut leaves of the last line."""
    opened.require(1, ("a", "b", "c"))
    whole = path.read_bytes()
    opened.require(2, CLIENTS)
    last = path.read_bytes()[len(whole) :]
    for length in range(len(last)):
        for tail in (last[:length], b"\0" * length):
            path.write_bytes(whole + tail)
            assert again(path).contributors_of(2) is None
            again(path).require(2, ("b", "c", "d"))
            assert path.read_bytes().startswith(whole + b'{"round": 2, "absent": ["a"]}\n')
            assert again(path).contributors_of(1) == ("a", "b", "c")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{\n",
        b"[]\n",
        b'{"round": 1}\n',
        b'{"clients": 5}\n',
        b'{"clients": ["a", "b"]}\n\n',
        b'{"clients": ["a", "b"]}\n{"round": "x", "absent": []}\n',
        b'{"clients": ["a", "b"]}\n{"round": 1}\n',
        b'{"clients": ["a", "b"]}\n{"round": 1, "absent": ["z"]}\n',
        b'{"clients": ["a", "b"]}\n{"round": 1, "absent": []}\n{"round": 1, "absent": []}\n',
        b'{"clients": ["a", "b"]}\n{"round": 1, "closed": {}}\n{"round": 1, "absent": []}\n',
        b'{"clients": ["a", "b"]}\n{"round": 1, "closed": 5}\n',
        b'{"clients": ["a", "b"]}\n\xff\xfe\n',
    ],
)
def test_a_damaged_record_is_refused(opened, path, damage):
    path.write_bytes(damage)
    for use in (
        lambda: again(path),
        lambda: opened.require(2, ("a", "b", "c")),
        lambda: opened.require_not_over(2),
        lambda: opened.close(2, WHY),
    ):
        with pytest.raises(EncryptionError, match="is damaged"):
            use()


class TestASecondPlaceThatCannotBeUsed:
    def test_no_folder_can_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(EncryptionError, match=r"cannot be made: .*\$PRIVFED_ANCHORS"):
            OpenedRounds.create(tmp_path / "file" / "run" / "a.jsonl", CLIENTS)

    def test_a_run_that_has_one_already_begins_no_second(self, opened, path):
        with pytest.raises(EncryptionError, match="cannot be made: File exists"):
            OpenedRounds.create(path, CLIENTS)

    def test_a_resume_without_it_is_refused(self, opened, path):
        path.unlink()
        with pytest.raises(EncryptionError, match="the folder in which the run was begun"):
            again(path)
        with pytest.raises(EncryptionError, match="cannot be used: No such file"):
            opened.require(1, CLIENTS)

    def test_a_full_disk_agrees_to_nothing(self, opened, path, monkeypatch):
        opened.require(1, CLIENTS)
        whole = path.read_bytes()

        def full(descriptor):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            for use in (lambda: opened.require(2, CLIENTS), lambda: opened.close(2, WHY)):
                with pytest.raises(EncryptionError, match="cannot be written: No space left"):
                    use()
                path.write_bytes(whole)
        opened.require(2, ("a", "b", "c"))


def test_strangers_are_refused(opened):
    with pytest.raises(EncryptionError, match="must be one of clients of this run"):
        opened.require(1, ("a", "b", "z"))


def _agree(path, barrier, contributors, out):
    barrier.wait()
    try:
        OpenedRounds.resume(path).require(1, contributors)
        out.put(contributors)
    except EncryptionError:
        out.put(None)


def test_two_processes_of_one_client_agree_to_one_sum(opened, path):
    """Two copies of a run folder, driven at once, share this one file."""
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        path.unlink()
        OpenedRounds.create(path, CLIENTS)
        barrier, out = context.Barrier(2), context.Queue()
        workers = [
            context.Process(target=_agree, args=(path, barrier, names, out))
            for names in (("a", "b", "c"), ("a", "b", "d"))
        ]
        for worker in workers:
            worker.start()
        answers = [out.get(timeout=20) for _ in workers]
        for worker in workers:
            worker.join()
        (agreed,) = [names for names in answers if names]
        assert again(path).contributors_of(1) == agreed
        lines = path.read_text().splitlines()
        assert len([line for line in lines if "absent" in json.loads(line)]) == 1
