import numpy as np
import pytest

from privfed.errors import FileError, RunFolderError
from privfed.storage.checkpoint import Checkpoint
from privfed.storage.run_folder import RunFolder

SETTINGS = {
    "privacy": {"clipping_norm": 1.0, "clipping": {"kind": "FlatClipping"}},
    "clients": [{"id": "north", "delta": 1e-5}, {"id": "west", "delta": 1e-4}],
    "rounds": 3,
    "title": None,
}


def test_a_run_that_failed_before_it_began_leaves_its_folder_usable(tmp_path):
    first = RunFolder(tmp_path / "run")
    first.claim()
    first.release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    again = RunFolder(tmp_path / "run")
    again.claim()
    again.release()


def test_a_folder_with_anything_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"not empty.*--resume"):
        RunFolder(tmp_path).claim()


def test_two_processes_cannot_have_one_folder(tmp_path):
    first = RunFolder(tmp_path / "run")
    first.claim()
    with pytest.raises(RunFolderError, match="another process"):
        RunFolder(tmp_path / "run").claim()
    first.release()


class TestAResumeWithOtherSettings:
    @pytest.fixture
    def message(self, tmp_path):
        """A function that gives the refusal of a resume with these settings."""
        folder = RunFolder(tmp_path / "run")
        folder.claim()
        state = np.zeros(2, np.float32)
        folder.save(Checkpoint(round=1, tensors={"adapter": state}, record={"settings": SETTINGS}))
        folder.release()

        def refused(**changes):
            with pytest.raises(RunFolderError) as caught:
                RunFolder(tmp_path / "run").latest({**SETTINGS, **changes})
            return str(caught.value)

        return refused

    def test_the_key_is_named_with_both_values(self, message, tmp_path):
        privacy = {"clipping_norm": 0.5, "clipping": {"kind": "FlatClipping"}}
        assert message(privacy=privacy) == (
            f"the run in {tmp_path / 'run'} has other settings (privacy.clipping_norm was 1.0 and "
            "is 0.5); resume it with its own settings, or choose another output folder"
        )

    def test_a_client_is_named(self, message):
        clients = [{"id": "north", "delta": 1e-5}, {"id": "west", "delta": 1e-3}]
        assert "(clients.west.delta was 0.0001 and is 0.001)" in message(clients=clients)
        assert 'clients.west was {"id": "west", ' in message(clients=clients[:1])

    def test_every_key_is_named(self, message):
        text = message(rounds=4, privacy={"clipping_norm": 1.0, "clipping": {"kind": "x" * 200}})
        assert 'privacy.clipping.kind was "FlatClipping" and is "xxxx' in text
        assert "rounds was 3 and is 4" in text
        assert len(text) < 400

    def test_what_was_not_there(self, message):
        assert 'title was null and is {"first_round": 3}' in message(title={"first_round": 3})


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file/run must be writable"):
        RunFolder(tmp_path / "file/run").claim()


def test_a_lock_that_is_no_file_is_refused(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(FileError, match="must be writable.*Is a directory"):
        RunFolder(tmp_path).claim()


class TestKilledBeforeTheFirstCheckpoint:
    """Such a run has spent nothing, and begins anew in its folder."""

    @pytest.mark.parametrize(
        "left",
        [(), ("start.safetensors.part",), ("start.safetensors",), ("start.safetensors", ".lock")],
    )
    def test_what_it_may_leave(self, tmp_path, left):
        for name in left:
            (tmp_path / name).write_bytes(b"half")
        (tmp_path / "checkpoints").mkdir()
        folder = RunFolder(tmp_path)
        assert folder.latest(SETTINGS) is None
        folder.release()

    def test_anything_else_is_not_overwritten(self, tmp_path):
        (tmp_path / "start.safetensors").touch()
        (tmp_path / "notes.txt").touch()
        with pytest.raises(RunFolderError, match=r"no checkpoint to resume from, but \['notes.txt"):
            RunFolder(tmp_path).latest(SETTINGS)
