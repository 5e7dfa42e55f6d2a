"""Loading a table of text: JSON lines, CSV, Parquet, or the name of a Hugging Face data set."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from privfed.data.records import Record, deduplicate
from privfed.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of text with their label and owner, copies removed.

    Attributes:
        texts: one per row.
        labels: class name per row, or None without a label column.
        owners: client per row, or None without a client column.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    owners: tuple[str, ...] | None = None

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
    source: str, *, text: str, label: str | None = None, owner: str | None = None
) -> TextTable:
    """Read a data set and remove copies of the same text.

    Args:
        source: path of a .jsonl, .csv or .parquet file, or a Hugging Face data set name, with an
            optional split behind a colon ("ag_news:train").
        text: column with the text.
        label: column with the class, if any.
        owner: column that says which client a row belongs to, if any. Copies are then removed
            within each client, since an organisation cannot know what another one holds.

    Raises:
        DataError: unknown file, format or column, or no text at all.
    """
    frame = _read(source)
    wanted = {"text": text, "label": label, "client": owner}
    for role, column in wanted.items():
        if column is not None and column not in frame.columns:
            raise DataError(
                f"{source} has no column {column!r} for the {role}; it has {sorted(frame.columns)}"
            )
    frame = frame[[column for column in wanted.values() if column is not None]].dropna()
    frame = frame.astype(str)
    keys = (
        [f"{o}\x00{t}" for o, t in zip(frame[owner], frame[text], strict=True)] if owner else None
    )
    frame = frame.iloc[deduplicate(keys if keys is not None else frame[text])]
    frame = frame[frame[text].str.strip() != ""]
    if frame.empty:
        raise DataError(f"{source} holds no text in column {text!r}")
    return TextTable(
        texts=tuple(frame[text]),
        labels=tuple(frame[label]) if label else None,
        owners=tuple(frame[owner]) if owner else None,
    )


def _read(source: str) -> pd.DataFrame:
    path = Path(source)
    readers = {
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
        ".json": lambda: pd.read_json(path, lines=True, dtype=False),
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix in readers:
        if not path.is_file():
            raise DataError(f"the data file {source} does not exist")
        try:
            return readers[path.suffix]()
        except (ValueError, OSError) as error:
            raise DataError(
                f"{source} cannot be read as {path.suffix[1:]} "
                f"({type(error).__name__}); check the file's format"
            ) from None
    return _read_from_hub(source)


def _read_from_hub(source: str) -> pd.DataFrame:
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            f"{source!r} is no .jsonl, .csv or .parquet file; to load a Hugging Face data set of "
            "that name: pip install 'privfed[hub]'"
        )
    import datasets

    name, _, split = source.partition(":")
    try:
        return datasets.load_dataset(name, split=split or "train").to_pandas()
    except (OSError, ValueError, ConnectionError) as error:
        raise DataError(
            f"{name!r} is neither a data file nor a data set that can be loaded "
            f"({type(error).__name__}: {error})"
        ) from error
