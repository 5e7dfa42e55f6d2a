"""The adapter of a run is whole and of the moment of its report, or it is refused."""

import hashlib
import json

import pytest

from privfed import InPlaceModel, load_task
from privfed.errors import FileError, ReportError
from privfed.reports.adapter_folder import file_digest, require_adapter_of, save_adapter
from privfed.storage.run_folder import RunFolder
from tests.unit.privfed.reports.made_up import report

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A run folder, as it is while the run writes into it."""
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


@pytest.fixture
def saved(folder, built):
    """The folder of an adapter beside its report."""
    save_adapter(folder, built("bert lora q,v"), report())
    return folder.adapter


def test_it_names_the_moment_and_every_other_file(saved):
    values = json.loads((saved / "privfed.json").read_text())
    assert values["run"] == "00ff"
    assert values["rounds_over"] == 1
    assert (values["base_sha256"], values["adapter_sha256"]) == ("cd" * 32, "ef" * 32)
    found = {path.name: path.read_bytes() for path in saved.iterdir()}
    del found["privfed.json"]
    assert {WEIGHTS, "adapter_config.json", "README.md"} <= set(found)
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    assert values["files"] == expected
    require_adapter_of(report(), saved)


def test_the_task_can_be_found_in_it(saved, built):
    assert load_task(saved) == built("bert lora q,v").task._task


def test_a_later_round_replaces_it(saved, folder, built):
    later = report(rounds_over=2, adapter_sha256="12" * 32)
    save_adapter(folder, built("bert lora q,v"), later)
    require_adapter_of(later, saved)
    with pytest.raises(ReportError, match="its rounds_over is 2 and the report's 1"):
        require_adapter_of(report(), saved)
    assert not (folder.path / ".adapter.part").exists()


def test_what_a_kill_left_half_written_does_not_matter_to_the_next(folder, built):
    draft = folder.path / ".adapter.part"
    draft.mkdir()
    (draft / "torn.safetensors").write_bytes(b"half")
    save_adapter(folder, built("bert lora q,v"), report())
    assert not draft.exists()
    assert not (folder.adapter / "torn.safetensors").exists()
    require_adapter_of(report(), folder.adapter)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("bert lora q,v", "PeftModel.from_pretrained"),
        ("bert biases", "InPlaceModel.from_pretrained"),
        ("bert houlsby", "HoulsbyModel.from_pretrained"),
    ],
)
def test_its_readme_names_what_reads_it(case, said, folder, built):
    private = built(case)
    save_adapter(folder, private, report())
    text = (folder.adapter / "README.md").read_text()
    assert said in text
    package = "privfed" if isinstance(private.adapter, InPlaceModel) else "peft"
    assert f"the package {package}." in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "00fe"),
        ("rounds_over", 0),
        ("base_sha256", "ce" * 32),
        ("adapter_sha256", "ee" * 32),
    ],
)
def test_an_adapter_of_another_moment_is_refused_by_what_differs(saved, name, value):
    with pytest.raises(ReportError, match=f"but its {name} is .* and the report's {value!r}"):
        require_adapter_of(report(**{name: value}), saved)


def test_one_that_goes_with_more_bases_than_the_report_says_is_refused(saved):
    path = saved / "privfed.json"
    others = {"other_bases": {"client-3": "ce" * 32}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **others}))
    with pytest.raises(ReportError, match="but its other_bases is .* and the report's None"):
        require_adapter_of(report(), saved)


def flip(saved):
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (saved / WEIGHTS).write_bytes(content)


CHANGES = {
    "a changed bit": flip,
    "a file that is gone": lambda saved: (saved / "README.md").unlink(),
    "a file more": lambda saved: (saved / "more.bin").write_bytes(b"x"),
    "another name": lambda saved: (saved / WEIGHTS).rename(saved / "model.safetensors"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_are_not_those_that_are_named_are_refused(saved, change):
    CHANGES[change](saved)
    with pytest.raises(ReportError, match="are not those that its privfed.json names"):
        require_adapter_of(report(), saved)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: FileNotFoundError"),
        (b"{", "cannot be read: JSON"),
        (b"\xff", "cannot be read: Unicode"),
        (b"[]", "must hold a JSON object"),
    ],
)
def test_a_description_that_is_none_is_refused(saved, content, reason):
    path = saved / "privfed.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReportError, match=reason):
        require_adapter_of(report(), saved)


def test_a_folder_that_cannot_be_written_is_named(folder, built):
    folder.adapter.write_text("a file, no folder")
    with pytest.raises(FileError, match="run/adapter must be writable"):
        save_adapter(folder, built("bert lora q,v"), report())


def test_the_digest_of_a_file_is_that_of_sha256sum(tmp_path):
    """Golden: printf abc | sha256sum."""
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "file") == expected
