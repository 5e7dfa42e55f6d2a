import pytest

from privfed.errors import RunFolderError
from privfed.run_folder import RunFolder


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
