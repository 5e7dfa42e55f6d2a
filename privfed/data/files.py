"""Reading the rows of a data file or of a data set on the hub, as they are written there.

No error quotes a file: what a parser complains about is private text. Errors name the file, the
kind of mistake, and a row by its number; the first row is 1, and neither a header nor an empty line
is a row.
"""

import codecs
import csv
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet

from privfed.errors import ConfigError, DataError

Row = dict[str, Any]
"""Cells by column; a column that is not there is missing in this row."""

_LONGEST_FIELD: Final = 1 << 27
"""Characters of one CSV field; the csv module's default of 131,072 is less than a long document."""
_UNREADABLE: Final = (ValueError, RecursionError, csv.Error, pyarrow.ArrowException)


Table = tuple[list[Row], list[str]]
"""Rows, and the names of all columns."""


class _FormatError(ValueError):
    """What is wrong with a file, in words that quote nothing of it."""


def read_rows(source: str, roles: Mapping[str, str], encoding: str) -> list[Row]:
    """The rows of a source.

    Args:
        source: path of a .jsonl, .json, .csv or .parquet file, or the name of a data set on the
            hub, with an optional split behind a colon.
        roles: wanted columns, by what they are for.
        encoding: of a text file; a byte order mark is skipped.

    Raises:
        ConfigError: for an unknown encoding.
        DataError: for a source that cannot be read, has no rows, or lacks a column.
    """
    path = Path(source)
    reader = _READERS.get(path.suffix)
    if reader is None:
        _refuse_other_file(source, path)
        rows, found = _read_from_hub(source)
    else:
        if not path.is_file():
            raise DataError(f"the data file {source} does not exist")
        rows, found = _read_file(path, reader, list(roles.values()), _known_encoding(encoding))
    if not rows:
        raise DataError(f"{source} holds no rows; give it data, or name another source")
    for role, column in roles.items():
        if column not in found:
            raise DataError(
                f"{source} has no column {column!r} for the {role}, among its {len(found)}; "
                f"{_column_hint(path.suffix, column, found)}"
            )
        if found.count(column) > 1:
            raise DataError(f"{source} has several columns {column!r}; rename or remove one")
    return rows


def _refuse_other_file(source: str, path: Path) -> None:
    if path.exists() or not is_hub_name(source):
        found = "a folder" if path.is_dir() else "neither"
        raise DataError(
            f"the data source must be a file that ends in {', '.join(_READERS)}, or the name "
            f"of a Hugging Face data set ('owner/name', 'owner/name:split'); {source!r} is "
            f"{found}"
        )


def _read_file(path: Path, reader: "Reader", columns: Sequence[str], encoding: str) -> Table:
    try:
        return reader(path, columns, encoding)
    except _FormatError as error:
        why = str(error)
    except UnicodeError:
        why = (
            f"it is not encoded in {encoding}; name its encoding in [data] encoding, such as "
            "'latin-1' or 'utf-16'"
        )
    except OSError as error:
        why = f"{error.strerror or type(error).__name__}; check the file and its permissions"
    except _UNREADABLE as error:
        why = f"{type(error).__name__}; check the file's format"
    raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {why}")


def _column_hint(suffix: str, column: str, found: Sequence[str]) -> str:
    """Says nothing of the columns that are there: without a header, they are private text."""
    if any(_plain(name) == _plain(column) for name in found):
        return "one differs only in upper and lower case or in spaces"
    if suffix == ".csv":
        return "the first line of a CSV file must name the columns, with commas between them"
    return "check the spelling"


def _plain(name: str) -> str:
    return "".join(str(name).split()).casefold()


def _known_encoding(name: str) -> str:
    """The encoding to read with: UTF-8 with or without a byte order mark by one name."""
    try:
        "".encode(name)
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ConfigError(
            f"[data] encoding must be one that Python knows, such as 'utf-8' or 'latin-1', got "
            f"{name!r}"
        ) from None
    return "utf-8-sig" if known == "utf-8" else known


def _read_json(path: Path, columns: Sequence[str], encoding: str) -> Table:  # noqa: ARG001
    """JSON lines, or one array of objects."""
    with path.open(encoding=encoding) as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        rows = json.load(file) if start == "[" else list(_json_lines(file))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise _FormatError(
                f"row {number} must be a JSON object, with a value for each column, got "
                f"{type(row).__name__}"
            )
    return rows, _columns(rows)


def _columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _json_lines(lines: Iterable[str]) -> Iterable[Any]:
    filled = (line for line in lines if line.strip())
    for number, line in enumerate(filled, start=1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _FormatError(
                f"row {number} is no whole JSON value ({type(error).__name__}); write one JSON "
                "object on each line, or one array of objects"
            ) from None


def _read_csv(path: Path, columns: Sequence[str], encoding: str) -> Table:  # noqa: ARG001
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding=encoding, newline="") as file:
        lines = (line for line in csv.reader(file, strict=True) if line)
        header = next(lines, [])
        rows = []
        for number, line in enumerate(lines, start=1):
            if len(line) > len(header):
                raise _FormatError(
                    f"row {number} has more fields ({len(line)}) than the header "
                    f"({len(header)}); put text with a comma in quotes"
                )
            rows.append(dict(zip(header, line, strict=False)))
    return rows, header


def _read_parquet(path: Path, columns: Sequence[str], encoding: str) -> Table:  # noqa: ARG001
    """The wanted columns alone: others may be of types that have no Python value."""
    with pyarrow.parquet.ParquetFile(path) as file:
        table = file.read()
    wanted = [name for name in table.column_names if name in columns]
    if len(set(wanted)) < len(wanted):
        return [{}] * table.num_rows, table.column_names
    return table.select(wanted).to_pylist(), table.column_names


Reader = Callable[[Path, Sequence[str], str], Table]
"""Path, wanted columns and encoding to rows and the names of all columns."""

_READERS: Final[dict[str, Reader]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
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


def _read_from_hub(source: str) -> Table:
    name, _, split = source.partition(":")
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            f"{source!r} is no .jsonl, .csv or .parquet file; to load a Hugging Face data set of "
            "that name: pip install 'privfed[hub]'"
        )
    import datasets

    try:
        rows: list[Row] = list(datasets.load_dataset(name, split=split or "train"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} is neither a data file nor a data set that can be loaded "
            f"({type(error).__name__}); check its name and split, the network, and whether "
            "HF_HUB_OFFLINE is set"
        ) from None
    return rows, _columns(rows)
