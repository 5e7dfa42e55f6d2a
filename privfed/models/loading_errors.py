"""Why files of a model cannot be read, in one line, with what to do."""

from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

_LFS_POINTER: Final = b"version https://git-lfs"
_DESCRIPTIONS: Final = ("config.json", "adapter_config.json", "privfed.json")
"""Of a model, of an adapter, of what a run trained."""
_MOST_CHARACTERS: Final = 300


def explained(place: str | Path, error: Exception) -> str:
    """What is wrong with a folder, else what the library said, on one line.

    Args:
        place: folder of a model or an adapter, or a model's name.
        error: of the library that tried to read it.
    """
    folder = Path(place)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_file() and _begins_with(path, _LFS_POINTER):
                return (
                    f"{path.name} is a pointer of git-lfs, not the file itself; run "
                    "`git lfs pull` in that folder"
                )
        for path in sorted(folder.glob("*.safetensors")):
            if not _is_whole(path):
                return (
                    f"{path.name} is damaged or cut short; copy it again and compare its size "
                    "with the original's"
                )
        if not any((folder / name).is_file() for name in _DESCRIPTIONS):
            return "the folder has no config.json; write it with save_pretrained"
    said = " ".join(str(error).split())[:_MOST_CHARACTERS]
    return f"{type(error).__name__}: {said}; take an intact copy, or another model"


def _begins_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False
