"""Prints the test files of what was changed since the last commit, or in it if nothing was."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lines(*command):
    return subprocess.run(
        ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")


def tests_of(path):
    """A test file guards itself; a source file has the one of its name, or else its folder's."""
    if path.suffix != ".py" or path.parts[0] not in ("privfed", "accountants", "tests"):
        return None
    if path.parts[0] == "tests":
        return path if path.name.startswith("test_") else None
    own = Path("tests/unit", *path.parts[:-1], f"test_{path.name}")
    return own if (ROOT / own).exists() else own.parent


def main():
    changed = lines("diff", "--name-only", "HEAD")
    changed += lines("ls-files", "--others", "--exclude-standard")
    if not any(changed):
        changed = lines("diff", "--name-only", "HEAD~1")
    found = {tests_of(Path(name)) for name in changed if name}
    touched = sorted(str(path) for path in found if path is not None and (ROOT / path).exists())
    print(*touched or ["tests/unit/test_documents.py"])  # without a path, pytest would run all


if __name__ == "__main__":
    main()
