"""Loading a table of text: JSON lines, CSV, Parquet, or the name of a Hugging Face data set."""

import csv
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet

from privfed.data.records import Record, deduplicate
from privfed.errors import DataError

Row = dict[str, Any]
_LONGEST_FIELD: Final = 1 << 27
"""Characters of one CSV field; the csv module's default of 131,072 is less than a long document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of text with their label and owner, copies removed.

    Attributes:
        texts: one per row.
        labels: class name per row, or None without a label column.
        owners: client per row, or None without a client column.
        persons: whom a row is about, or None without such a column.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    owners: tuple[str, ...] | None = None
    persons: tuple[str, ...] | None = None

    def records(self, rows: Sequence[int], label_set: Sequence[str] | None) -> tuple[Record, ...]:
        """The chosen rows as records; labels become indices into the public label set."""
        if self.labels is None or label_set is None:
            return tuple(Record(self.texts[row]) for row in rows)
        index = {name: position for position, name in enumerate(label_set)}
        unknown = sorted({self.labels[row] for row in rows} - set(index))
        if unknown:
            raise DataError(
                f"{len(unknown)} label value(s) are not in the public label set {list(label_set)}; "
                "list every label in [model] labels"
            )
        return tuple(Record(self.texts[row], index[self.labels[row]]) for row in rows)


def load_table(
    source: str,
    *,
    text: str,
    label: str | None = None,
    owner: str | None = None,
    person: str | None = None,
) -> TextTable:
    """Read a data set and remove copies of the same text.

    Args:
        source: path of a .jsonl, .csv or .parquet file, or a Hugging Face data set name, with an
            optional split behind a colon ("ag_news:train").
        text: column with the text.
        label: column with the class, if any.
        owner: column that says which client a row belongs to, if any. Copies are then removed
            within each client, since an organisation cannot know what another one holds.
        person: column that says whom a row is about, if any. Copies are then removed within each
            person: what one of them brings must not depend on another.

    Raises:
        DataError: unknown file, format or column, or no text at all.
    """
    columns = {"text": text, "label": label, "client": owner, "person": person}
    named = [column for column in columns.values() if column is not None]
    if len(set(named)) < len(named):
        raise DataError(f"text, label and client must be different columns, got {named}")
    rows = _read(source)
    found = sorted({column for row in rows for column in row})
    for role, column in columns.items():
        if column is not None and column not in found:
            raise DataError(f"{source} has no column {column!r} for the {role}; it has {found}")
    rows = [row for row in rows if all(row.get(column) is not None for column in named)]
    parties = [column for column in (owner, person) if column]
    keys = [_key(row, text, parties) for row in rows]
    kept = [rows[position] for position in deduplicate(keys)]
    if not kept:
        raise DataError(f"{source} holds no text in column {text!r}")
    return TextTable(
        texts=tuple(str(row[text]) for row in kept),
        labels=tuple(str(row[label]) for row in kept) if label else None,
        owners=tuple(str(row[owner]) for row in kept) if owner else None,
        persons=tuple(str(row[person]) for row in kept) if person else None,
    )


def _key(row: Row, text: str, parties: Sequence[str]) -> str:
    """Equal for the copies of a text within the same parties; empty for no text."""
    folded = " ".join(str(row[text]).split())
    return json.dumps([str(row[column]) for column in parties] + [folded]) if folded else ""


def _read(source: str) -> list[Row]:
    path = Path(source)
    reader = _READERS.get(path.suffix)
    if reader is None:
        if path.exists() or not is_hub_name(source):
            found = "a folder" if path.is_dir() else "neither"
            raise DataError(
                f"the data source must be a file that ends in {', '.join(_READERS)}, or the name "
                f"of a Hugging Face data set ('owner/name', 'owner/name:split'); {source!r} is "
                f"{found}"
            )
        return _read_from_hub(source)
    if not path.is_file():
        raise DataError(f"the data file {source} does not exist")
    try:
        return reader(path)
    except (ValueError, OSError, csv.Error, pyarrow.ArrowException) as error:
        raise DataError(
            f"{source} cannot be read as {path.suffix[1:]} ({type(error).__name__}); check the "
            "file's format"
        ) from None


def _read_json_lines(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("every line must be a JSON object")
    return rows


def _read_csv(path: Path) -> list[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    if any(None in row for row in rows):
        raise ValueError("a line has more fields than the header")
    return [dict(row) for row in rows]


def _read_parquet(path: Path) -> list[Row]:
    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS: Final[dict[str, Callable[[Path], list[Row]]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


_HUB_NAME: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:.*)?")
_FILE_ENDING: Final = re.compile(r"\.[A-Za-z]\w*")
"""A version at the end of a name, as in "corpus-1.1", is none; nor is what a split follows."""


def is_hub_name(source: str) -> bool:
    """Whether a source reads as the name of a data set on the hub, not as that of a file."""
    ending = _FILE_ENDING.fullmatch(Path(source).suffix)
    return ending is None and _HUB_NAME.fullmatch(source) is not None


def _read_from_hub(source: str) -> list[Row]:
    name, _, split = source.partition(":")
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            f"{source!r} is no .jsonl, .csv or .parquet file; to load a Hugging Face data set of "
            "that name: pip install 'privfed[hub]'"
        )
    import datasets

    try:
        return list(datasets.load_dataset(name, split=split or "train"))
    except (OSError, ValueError, ConnectionError) as error:
        raise DataError(
            f"{name!r} is neither a data file nor a data set that can be loaded "
            f"({type(error).__name__}: {error})"
        ) from error
