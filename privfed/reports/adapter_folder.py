"""The adapter of a run folder, and what says that it is whole and of which round it is.

`adapter/` is in PEFT format, or that of `InPlaceModel` and the like. Its file `privfed.json`
names the task, the base model by the digest of its frozen parameters, the run and the round, and
the digest of every other file; it is written last. So a folder that a kill left half written, or
one that is older than the report beside it, shows.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from privfed.errors import ReportError
from privfed.reports.budget import BudgetReport
from privfed.storage.durable import writing
from privfed.storage.run_folder import RunFolder

if TYPE_CHECKING:  # a folder is checked without torch
    from privfed.private_step.private_model import PrivateModel

DESCRIPTION: Final = "privfed.json"

_README: Final = """# Adapter trained by privfed

    from privfed import load_adapter

    task, model = load_adapter("adapter")  # base="..." where the base model lies elsewhere
    tokenizer = task.tokenizer()

`privfed.json` names the base model, which is not in this folder, by the digest of its weights;
where clients held different base models, each of them. Another one is refused. Without privfed:
`{loader}.from_pretrained(base_model, "adapter")`, from the package {package}. What was guaranteed
to whose records stands in the `report.html` of the run.
"""


def save_adapter(folder: RunFolder, model: "PrivateModel", report: BudgetReport) -> None:
    """Write the adapter that a report is about; each file appears whole.

    Args:
        folder: of the run.
        model: with the adapter in place.
        report: that will stand beside it.
    """
    from privfed.models.in_place import InPlaceModel

    draft = folder.path / ".adapter.part"
    in_place = isinstance(model.adapter, InPlaceModel)
    kind = type(model.adapter).__name__
    package, loader = ("privfed", kind) if in_place else ("peft", "PeftModel")
    with writing(folder.adapter):
        shutil.rmtree(draft, ignore_errors=True)
        model.save_adapter(draft)
        (draft / "README.md").write_text(_README.format(package=package, loader=loader))
        files = {path.name: file_digest(path) for path in sorted(draft.iterdir())}
        folder.adapter.mkdir(exist_ok=True)
        for name in files:
            os.replace(draft / name, folder.adapter / name)
        draft.rmdir()
    values = {
        **model.task.describe(),
        **_of_the_report(report),
        "files": files,
    }
    folder.write_json(f"adapter/{DESCRIPTION}", values)


def require_adapter_of(report: BudgetReport, adapter: Path) -> None:
    """Refuse an adapter that is damaged, or of another round, run or base than the report.

    Raises:
        ReportError: naming the file.
    """
    values = _description(adapter / DESCRIPTION)
    of_report = _of_the_report(report)
    for name in dict.fromkeys((*of_report, "other_bases")):
        stated = of_report.get(name)
        if values.get(name) != stated:
            raise ReportError(
                f"{adapter} and the report must be of one moment, but its {name} is "
                f"{values.get(name)!r} and the report's {stated!r}; one of them is "
                "older, or was put there. `privfed run --resume` writes both anew"
            )
    files = values.get("files")
    found = {path.name: file_digest(path) for path in adapter.iterdir() if path.is_file()}
    found.pop(DESCRIPTION)
    if found != files:
        raise ReportError(
            f"the files in {adapter} are not those that its {DESCRIPTION} names; they were "
            "changed, or the run was killed while it wrote them; `privfed run --resume` writes "
            "them anew"
        )


def _of_the_report(report: BudgetReport) -> dict[str, Any]:
    """What an adapter and its report say alike."""
    others = report.training.other_bases
    return {
        "run": report.run,
        "rounds_over": report.rounds_over,
        "base_sha256": report.base_sha256,
        **({} if others is None else {"other_bases": dict(others)}),
        "adapter_sha256": report.adapter_sha256,
    }


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _description(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise ReportError(f"{path} must hold a JSON object")
    return values
