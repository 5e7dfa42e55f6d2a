"""A table of text from a file or the hub: cells by one rule, true copies removed.

Each step changes the rows by at most one when one row is added to or removed from the source:

- What a cell says, and whether it is missing, depends on that cell alone (`privfed.data.cells`). A
  row with a missing cell is dropped, where that is asked for, by a rule on that row alone.
- Copies are rows that are equal in all that is read of them: text, label, client and person, each
  compared as it stands, no white space folded. What is left is the set of distinct rows, and a set
  gains or loses at most one member. Had rows been copies whose labels differ, one that comes first
  would take the other's place: two records change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from privfed.data.cells import CellError, as_name, as_text, is_missing
from privfed.data.files import Row, read_rows
from privfed.data.records import Record, first_copies
from privfed.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of text with their label and owner, copies removed. Labels, owners, persons are names.

    Attributes:
        texts: one per row.
        labels: class name per row, or None without a label column.
        owners: client per row, or None without a client column.
        persons: whom a row is about, or None without such a column.
        numbers: of the rows in the source, where the first is 1; None numbers the rows themselves.
        missing: rows of the source that were dropped, since a cell was missing.
        copies: rows of the source that were dropped, since an equal row came before.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    owners: tuple[str, ...] | None = None
    persons: tuple[str, ...] | None = None
    numbers: tuple[int, ...] | None = field(default=None, compare=False)
    missing: int = field(default=0, compare=False)
    copies: int = field(default=0, compare=False)

    def number(self, row: int) -> int:
        """The number of a row in the source; the first is 1."""
        return row + 1 if self.numbers is None else self.numbers[row]

    def records(self, rows: Sequence[int], label_set: Sequence[str] | None) -> tuple[Record, ...]:
        """The chosen rows as records; labels become indices into the public label set.

        Raises:
            DataError: for a label that is not in the label set, by the number of its row.
        """
        if self.labels is None or label_set is None:
            return tuple(Record(self.texts[row]) for row in rows)
        index = name_index(label_set)
        unknown = [row for row in rows if self.labels[row] not in index]
        if unknown:
            raise DataError(
                f"{len({self.labels[row] for row in unknown})} label value(s) are not in the "
                f"public label set {list(label_set)}, the first in row {self.number(unknown[0])}; "
                "list every label in [model] labels, or mend the rows"
            )
        return tuple(Record(self.texts[row], index[self.labels[row]]) for row in rows)


def name_index(names: Sequence[str]) -> dict[str, int]:
    """Position of each declared name, by the spelling in which names of a table are compared.

    Raises:
        ConfigError: if two of them are one name in a table, as "1" and "1.0" are.
    """
    index = {as_name(name): position for position, name in enumerate(names)}
    if len(index) < len(names):
        raise ConfigError(
            f"names must differ in more than how a file may write them ('1' and '1.0', 'true' and "
            f"'True' are the same), got {list(names)}"
        )
    return index


def load_table(
    source: str,
    *,
    text: str,
    label: str | None = None,
    owner: str | None = None,
    person: str | None = None,
    missing: str = "refuse",
    encoding: str = "utf-8",
) -> TextTable:
    """Read a data set and remove copies of the same row.

    Args:
        source: path of a .jsonl, .json, .csv or .parquet file, or a Hugging Face data set name,
            with an optional split behind a colon ("ag_news:train").
        text: column with the text.
        label: column with the class, if any.
        owner: column that says which client a row belongs to, if any. Copies are then removed
            within each client, since an organisation cannot know what another one holds.
        person: column that says whom a row is about, if any. Copies are then removed within each
            person: what one of them brings must not depend on another.
        missing: "refuse" or "drop" rows in which one of these columns is missing.
        encoding: of a text file.

    Raises:
        ConfigError: for another value of `missing`, an unknown encoding, or one column twice.
        DataError: unknown file, format or column, a cell that cannot be used, or no text at all.
            No message quotes a file.
    """
    if missing not in ("refuse", "drop"):
        raise ConfigError(f"[data] missing must be 'refuse' or 'drop', got {missing!r}")
    asked = {"text": text, "label": label, "client": owner, "person": person}
    roles = {role: column for role, column in asked.items() if column is not None}
    named = list(roles.values())
    if len(set(named)) < len(named):
        raise DataError(f"text, label, client and person must be different columns, got {named}")
    rows = read_rows(source, roles, encoding)
    gaps = _gaps(rows, named)
    if gaps and missing == "refuse":
        raise DataError(_missing(source, gaps))
    complete = [number for number in range(1, len(rows) + 1) if number not in gaps]
    if not complete:
        raise DataError(f"{source} holds no text in column {text!r}: every row lacks a value")
    read = {column: as_text if column == text else as_name for column in named}
    cells = [_cells(source, read, rows[number - 1], number) for number in complete]
    kept = first_copies(cells)
    values = zip(*(cells[place] for place in kept), strict=True)
    columns: dict[str | None, tuple[str, ...]] = dict(zip(named, values, strict=True))
    return TextTable(
        texts=columns[text],
        labels=columns.get(label),
        owners=columns.get(owner),
        persons=columns.get(person),
        numbers=tuple(complete[place] for place in kept),
        missing=len(gaps),
        copies=len(cells) - len(kept),
    )


def _gaps(rows: Sequence[Row], named: Sequence[str]) -> dict[int, str]:
    """A column without a value, for each row that has one, by its number."""
    return {
        number: column
        for number, row in enumerate(rows, start=1)
        for column in named
        if is_missing(row.get(column))
    }


def _missing(source: str, gaps: Mapping[int, str]) -> str:
    first = min(gaps)
    return (
        f"{source} has no value in column {gaps[first]!r} of row {first} (the first is 1), and "
        f"{len(gaps) - 1} other row(s) lack one; fill them in, or drop such rows with [data] "
        "missing = 'drop'"
    )


def _cells(
    source: str, read: Mapping[str, Callable[[object], str]], row: Row, number: int
) -> tuple[str, ...]:
    """One cell for each column of `read`."""
    cells = []
    for column, reader in read.items():
        try:
            cells.append(reader(row[column]))
        except CellError as error:
            raise DataError(
                f"column {column!r} of {source} {error} in row {number} (the first is 1); mend "
                "that row, or write the column as text"
            ) from None
    return tuple(cells)
