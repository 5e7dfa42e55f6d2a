"""What a client keeps of a run is there after a restart, or is refused; one process has it."""

import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import FileError, RunFolderError
from privfed.methods.method import GlobalState
from privfed.parties.client.kept_run import RunFiles
from privfed.parties.client.round import Progress
from privfed.storage.checkpoint import Checkpoint, save_checkpoint

RUN, OTHER = "0a1b2c", "3d4e5f"
PROPOSAL, ANOTHER = "a9" * 32, "a8" * 32


@pytest.fixture
def files(tmp_path):
    files = RunFiles(tmp_path)
    yield files
    files.release()


@pytest.fixture
def again(tmp_path, files):
    """A function that gives what another process finds, once the first has ended."""

    def opened():
        files.release()
        other = RunFiles(tmp_path)
        other.release()
        return other

    return opened


def after(number, *, average=False):
    adapter = np.arange(4, dtype=np.float32) + number
    counted = np.array([number + 20], dtype=np.int32)
    memory = {"tail.average": adapter / 2, "tail.counted": counted} if average else {}
    state = GlobalState(adapter=adapter, memory=memory)
    return Progress(
        round=number,
        state=state,
        base=state.digest(),
        public_range=0.5 / (number + 1),
    )


def assert_same(found, expected):
    assert (found.round, found.base) == (expected.round, expected.base)
    assert found.public_range == expected.public_range
    assert arrays(found) == arrays(expected)


def arrays(progress):
    found = progress.state.tensors()
    return {name: (one.dtype, one.shape, one.tolist()) for name, one in found.items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestARestart:
    def test_nothing_is_open_at_first(self, again):
        assert again().kept() is None

    def test_what_was_kept_is_there_again(self, files, again):
        files.begin(RUN, b"the start")
        files.save(RUN, after(0))
        files.save(RUN, after(1, average=True))
        files.leave_out(RUN, ["west", "east"])
        kept = again().kept()
        assert (kept.run, kept.start, kept.left_out) == (RUN, b"the start", ("west", "east"))
        assert_same(kept.progress, after(1, average=True))
        assert_same(kept.before, after(0))

    def test_before_the_first_checkpoint_there_is_no_progress(self, files, again):
        files.begin(RUN, b"the start")
        kept = again().kept()
        assert (kept.run, kept.left_out, kept.progress, kept.before) == (RUN, None, None, None)

    def test_who_goes_back_has_nothing_of_the_later_round(self, files, again, tmp_path):
        files.begin(RUN, b"the start")
        for number in (1, 2, 3):
            files.save(RUN, after(number))
        files.save(RUN, after(2, average=True))
        kept = again().kept()
        assert_same(kept.progress, after(2, average=True))
        assert kept.before is None or kept.before.round < 2
        assert not list(tmp_path.rglob("round-00003.*"))

    @settings(max_examples=15)
    @given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    def test_the_last_that_was_saved_is_where_it_goes_on(self, tmp_path_factory, numbers):
        files = RunFiles(tmp_path_factory.mktemp("client"))
        files.begin(RUN, b"the start")
        for number in numbers:
            files.save(RUN, after(number))
        assert files.kept().progress.round == numbers[-1]
        files.release()

    def test_another_run_takes_the_place_of_one_that_gave_way(self, files, again):
        files.begin(RUN, b"the start")
        files.save(RUN, after(0))
        files.begin(OTHER, b"another start")
        kept = again().kept()
        assert (kept.run, kept.start, kept.progress) == (OTHER, b"another start", None)

    def test_only_its_owner_can_read_it(self, files, tmp_path):
        files.begin(RUN, b"the start")
        for folder in (tmp_path / "runs", tmp_path / "runs" / RUN):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_run_is_open_only_once_its_start_is_on_the_disk(self, files, again, monkeypatch):
        from privfed.parties.client import kept_run

        real, written = kept_run.write_durably, []

        def killed(path, content):
            written.append(path.name)
            if path.name == "open":
                raise KeyboardInterrupt
            real(path, content)

        monkeypatch.setattr(kept_run, "write_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            files.begin(RUN, b"the start")
        assert written == ["start", "open"]
        assert again().kept() is None


class TestTheEnd:
    def test_what_was_said_is_kept_and_nothing_else(self, files, again, tmp_path):
        files.begin(RUN, b"the start")
        files.save(RUN, after(3))
        assert files.closed(RUN) is None
        files.close(RUN, PROPOSAL, b"what it said")
        assert names(tmp_path / "runs") == [".lock", f"{RUN}.{PROPOSAL}.closed"]
        assert again().closed(RUN) == b"what it said"
        assert again().kept() is None

    def test_each_run_has_its_own_words(self, files, again):
        for run, said in ((RUN, b"one"), (OTHER, b"two")):
            files.begin(run, b"the start")
            files.close(run, PROPOSAL, said)
        assert (again().closed(RUN), again().closed(OTHER)) == (b"one", b"two")
        assert again().closed("0a1b") is None

    def test_a_crash_in_between_leaves_it_closed(self, files, again, monkeypatch, tmp_path):
        """Else no other run could ever begin here."""
        files.begin(RUN, b"the start")
        files.save(RUN, after(3))
        monkeypatch.setattr(RunFiles, "give_up", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.close(RUN, PROPOSAL, b"what it said")
        monkeypatch.undo()
        found = again()
        assert found.kept() is None
        assert found.played(PROPOSAL)
        assert found.closed(RUN) == b"what it said"
        assert names(tmp_path / "runs") == [".lock", f"{RUN}.{PROPOSAL}.closed"]

    def test_settings_are_played_once(self, files, again):
        files.begin(RUN, b"the start")
        assert not files.played(PROPOSAL), "it is open"
        files.close(RUN, PROPOSAL, b"what it said")
        found = again()
        assert found.played(PROPOSAL)
        assert not found.played(ANOTHER), "its operator was given other settings since"

    def test_until_their_operator_allows_them_again(self, files, again):
        for run, proposal in ((RUN, PROPOSAL), ("0a1b", PROPOSAL), (OTHER, ANOTHER)):
            files.begin(run, b"the start")
            files.close(run, proposal, b"what it said")
        files.allow_again(PROPOSAL)
        found = again()
        assert not found.played(PROPOSAL)
        assert found.closed(RUN) == found.closed("0a1b") == b"what it said", "the hub may ask again"
        assert found.played(ANOTHER), "nothing was said of these"
        assert found.closed(OTHER) == b"what it said"

    def test_what_was_half_written_when_power_went_was_not_said(self, files, again, tmp_path):
        files.begin(RUN, b"the start")
        (tmp_path / "runs" / f"{RUN}.{PROPOSAL}.closed.part").write_bytes(b"what it s")
        found = again()
        assert found.closed(RUN) is None
        assert found.kept().run == RUN

    def test_a_run_that_is_open_stays_open_where_another_is_allowed(self, files, again):
        files.begin(RUN, b"the start")
        files.allow_again(PROPOSAL)
        assert again().kept().run == RUN

    @pytest.mark.parametrize("run", ["../secret", "", "secret", "0A1B", "0a/1b", "0a\n"])
    def test_what_is_no_hex_names_no_file(self, files, tmp_path, run):
        ending = f".{PROPOSAL}.closed"
        for path in (tmp_path / f"secret{ending}", tmp_path / "runs" / f"secret{ending}"):
            path.write_bytes(b"a secret")
        for name in (ending, f"0A1B{ending}", f"0a\n{ending}"):
            (tmp_path / "runs" / name).write_bytes(b"a secret")
        (tmp_path / "runs" / "0a").mkdir()
        (tmp_path / "runs" / "0a" / f"1b{ending}").write_bytes(b"a secret")
        assert files.closed(run) is None
        assert files.closed("0a") is None, "it is a folder"


class TestTheLock:
    def test_a_second_process_is_refused(self, files, tmp_path):
        code = (
            "import sys; from pathlib import Path\n"
            "from privfed.parties.client.kept_run import RunFiles\n"
            "RunFiles(Path(sys.argv[1]))\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "RunFolderError: another process plays a run" in refused.stderr
        files.release()
        subprocess.run(command, check=True)

    def test_so_are_second_files_in_one_process(self, files, tmp_path):
        with pytest.raises(RunFolderError, match="another process plays a run on the data set in"):
            RunFiles(tmp_path)
        RunFiles(tmp_path / "another data set").release()

    def test_where_nothing_can_be_written_there_is_none(self, tmp_path):
        (tmp_path / "runs").write_text("a file in its place")
        with pytest.raises(FileError, match="must be writable"):
            RunFiles(tmp_path)


class TestDamage:
    @pytest.fixture
    def run(self, files, tmp_path):
        files.begin(RUN, b"the start")
        files.leave_out(RUN, ["west"])
        for number in (1, 2):
            files.save(RUN, after(number))
        return tmp_path / "runs" / RUN

    def refused(self, files):
        with pytest.raises(RunFolderError) as caught:
            files.kept()
        return str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"../runs", b"0a1b2C", b"\xff", b"0a1b2c\n"])
    def test_of_the_name(self, files, run, content):
        (run.parent / "open").write_bytes(content)
        assert "the run that is open in" in self.refused(files)

    def test_of_the_name_where_it_leads_to_another_folder(self, files, run):
        shutil.move(run, run.parents[1] / "elsewhere")
        (run.parent / "open").write_text("../elsewhere")
        assert "the run that is open in" in self.refused(files)

    @pytest.mark.parametrize("content", [b"", b"{", b"7", b"null", b"\xff"])
    def test_of_who_was_left_out(self, files, run, content):
        (run / "left_out").write_bytes(content)
        assert "the run that is open in" in self.refused(files)

    def test_a_run_without_its_start_is_not_forgotten(self, files, run):
        """It is open, and another must not begin."""
        (run / "start").unlink()
        assert "the run that is open in" in self.refused(files)
        shutil.rmtree(run)
        assert "the run that is open in" in self.refused(files)

    @pytest.mark.parametrize("number", [1, 2])
    def test_of_a_checkpoint(self, files, run, number):
        (run / f"round-{number:05d}.safetensors").write_bytes(b"cut")
        assert f"round-{number:05d}.safetensors cannot be read" in self.refused(files)

    @pytest.mark.parametrize(
        "record",
        [
            {},
            {"averaged": 1},
            {"public_range": None},
            {"public_range": "wide"},
        ],
    )
    def test_of_what_stands_beside_it(self, files, run, record):
        tensors = after(3).state.tensors()
        save_checkpoint(run, Checkpoint(round=3, tensors=tensors, record=record))
        assert "must be as privfed wrote it" in self.refused(files)

    def test_what_cannot_be_read_is_not_taken_for_nothing(self, files, run):
        (run / "start").unlink()
        (run / "start").mkdir()
        assert "IsADirectoryError" in self.refused(files)
