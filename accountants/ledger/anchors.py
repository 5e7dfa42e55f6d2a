"""The second place: how far every ledger of this machine had come, kept apart from the ledgers.

A ledger that was put back, replaced or deleted is whole in itself, or leaves nothing to look at;
only what was kept elsewhere shows it. For each ledger, a small file here holds its last anchor. It
is written after the ledger and before the caller goes on, so that a crash in between leaves the
ledger ahead, which is fine; and it is tried before the ledger is written, so that a full disk
refuses a round instead of losing it. What nothing here can show is both places put back together.

    ledgers/ID.json      the last anchor of the ledger with this id, and where it lay
    ledgers/ID.lock      held while that ledger and its anchor are written
    paths/SHA256.json    the id of the ledger that lies at a path
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accountants.durable import (
    PRIVATE,
    create_private_folders,
    publish,
    write_draft,
    write_durably,
)
from accountants.errors import (
    InvalidValueError,
    LedgerCorruptError,
    LedgerError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
)
from accountants.ledger.book import Book
from accountants.ledger.chain import WHAT_TO_DO, Anchor, require_fields
from accountants.ledger.identity import Identity, checked_id

SCHEMA = "privfed-anchor/1"
"""Name of the form of the files that this version reads and writes."""

BUSY_TIMEOUT_S = 30.0
"""How long to wait for another process that writes a copy of the same ledger."""

_POLL_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnchor:
    """What the second place knows of one ledger.

    Attributes:
        id: of the ledger.
        identity: whose releases it counts.
        path: where it lay when this was written; absolute.
        anchor: its length and head then.
    """

    id: str
    identity: Identity
    path: Path
    anchor: Anchor

    def to_json(self) -> dict[str, object]:
        """The content of its file."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            **self.identity.to_json(),
            "path": str(self.path),
            **self.anchor.to_json(),
        }


class AnchorFolder:
    """A folder with the last anchor of every ledger; made, for its owner only, when first written.

    Keep it outside the folders of the ledgers and of runs, so that a backup of those, put back,
    does not take it along. Safe to use from several threads and processes at once.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()

    def __repr__(self) -> str:
        return f"AnchorFolder({str(self.folder)!r})"

    def find(self, id_: str) -> KeptAnchor | None:
        """What is known of the ledger with this id; None if nothing is.

        Raises:
            InvalidValueError: for something else than the id of a ledger.
            LedgerCorruptError: if the file was damaged.
            LedgerError: if it cannot be read.
        """
        path = self._anchor_file(checked_id(id_))
        found = _read(path)
        return None if found is None else _kept_anchor(path, found)

    def check_not_lost(self, path: Path) -> None:
        """Refuse a path where a ledger lay and no file does.

        Raises:
            LedgerMissingError: if a ledger is known to have been there.
            LedgerError: if the second place cannot be read.
        """
        id_ = self._id_at(path)  # before the look at the path: written after its file was made
        if id_ is None or path.exists():
            return
        kept = self.find(id_)
        what_is_known = "it was deleted or moved away"
        if kept is not None and kept.path != _absolute(path):
            what_is_known = f"it was last seen at {kept.path} (open it there, or move it back)"
        raise LedgerMissingError(
            f"the ledger {path} must be there, and is gone: the ledger {id_} lay there, and "
            f"{what_is_known}; counting must not start at zero. Put back a copy that is at least "
            "as new as the last release; without one, count the whole budget of this data as "
            f"spent. Only if nothing was ever released from it, remove {self._path_file(path)} and "
            "start again"
        )

    def check_same(self, path: Path, book: Book) -> None:
        """Refuse another ledger in the place of the one that is known to lie at a path.

        Raises:
            LedgerRolledBackError: if the ids differ.
            LedgerError: if the second place cannot be read.
        """
        id_ = self._id_at(path)
        if id_ is not None and id_ != book.id:
            raise LedgerRolledBackError(
                f"the ledger {path} must be the one with the id {id_}, and has the id {book.id}: "
                f"it was replaced by another one; {WHAT_TO_DO}. Only if nothing was ever released "
                f"from the ledger {id_}, remove {self._path_file(path)} and start again"
            )

    def check(self, book: Book) -> None:
        """Refuse a ledger that does not continue its last anchor.

        Raises:
            LedgerRolledBackError: naming the file with the anchor.
            LedgerError: if the second place cannot be read.
        """
        id_ = checked_id(book.id)
        kept = self.find(id_)
        if kept is None:
            return
        try:
            book.check_continues(kept.anchor)
        except LedgerRolledBackError as error:
            raise LedgerRolledBackError(
                f"{error} (the anchor is the last of the ledger {id_}, kept in "
                f"{self._anchor_file(id_)})"
            ) from error

    def files_about(self, path: Path, id_: str) -> list[Path]:
        """The files here that tell of a ledger and of the path where it lies."""
        files = self._anchor_file(checked_id(id_)), self._path_file(path)
        return [file for file in files if file.exists()]

    def holds(self, book: Book, path: Path) -> bool:
        """Whether this very state is kept already, and that it lies at this path."""
        kept = self.find(checked_id(book.id))
        return (
            kept is not None
            and (kept.anchor, kept.path) == (book.anchor(), _absolute(path))
            and self._id_at(path) == kept.id
        )

    @contextmanager
    def keeping(self, book: Book, path: Path, anchor: Anchor) -> Iterator[None]:
        """Keep an anchor when what is done inside has succeeded; on disk on leaving.

        The new file is written in full before anything inside is done, and gets its name
        afterwards: a second place that cannot be written refuses the release beforehand.

        Args:
            book: the ledger before; it must continue the anchor that is kept.
            path: where it lies.
            anchor: its length and head afterwards.

        Raises:
            LedgerRolledBackError: as `check`.
            LedgerStateError: if another process holds the lock for too long.
            LedgerError: if the second place cannot be read or written.
        """
        id_ = checked_id(book.id)
        if not isinstance(book.identity, Identity):
            raise InvalidValueError(f"a ledger of this version must be kept, got {book.identity}")
        kept = KeptAnchor(id=id_, identity=book.identity, path=_absolute(path), anchor=anchor)
        target = self._anchor_file(id_)
        with self._locked(id_):
            self.check(book)
            draft = target.with_name(f"{target.name}.new")
            with self._writing("; nothing was written to the ledger"):
                write_draft(draft, _content(kept.to_json()), mode=PRIVATE)
            try:
                yield
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            with self._writing(", though the ledger was; what was reserved in it counts"):
                publish(draft, target)
                if self._id_at(path) != id_:
                    record = {"schema": SCHEMA, "id": id_, "path": str(kept.path)}
                    create_private_folders(self._path_file(path).parent)
                    write_durably(self._path_file(path), _content(record), mode=PRIVATE)

    def _anchor_file(self, id_: str) -> Path:
        return self.folder / "ledgers" / f"{id_}.json"

    def _path_file(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(_absolute(path))).hexdigest()
        return self.folder / "paths" / f"{name}.json"

    def _id_at(self, path: Path) -> str | None:
        file = self._path_file(path)
        found = _read(file)
        try:
            return None if found is None else checked_id(found.get("id"))
        except InvalidValueError as error:
            raise _damaged(file, error) from error

    @contextmanager
    def _locked(self, id_: str) -> Iterator[None]:
        """One writer of the anchor of a ledger at a time; a killed one holds nothing."""
        path = self._anchor_file(id_).with_suffix(".lock")
        with self._writing("; nothing was written to the ledger"):
            create_private_folders(path.parent)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            _lock(descriptor, path)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold the descriptor too
            os.close(descriptor)

    @contextmanager
    def _writing(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LedgerError(
                f"the folder {self.folder}, which keeps the last anchor of every ledger, must be "
                f"writable, and is not ({error}){consequence}; make room or change its "
                "permissions, or choose another folder outside those of ledgers and runs"
            ) from error


def _lock(descriptor: int, path: Path) -> None:
    end = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise LedgerStateError(
                    f"{path} must be free within {BUSY_TIMEOUT_S:g} seconds, and another process "
                    "holds it: it writes to a copy of the same ledger, or hangs; nothing was "
                    "written; let it finish, or end it, then run this again"
                ) from None
            time.sleep(_POLL_S)


def _absolute(path: Path) -> Path:
    """One name per file, whatever the working folder and links in the folders above it."""
    return path.parent.resolve() / path.name


def _content(record: Mapping[str, object]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a file of the second place; None if there is no file."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(
            f"{path}, with what is known of a ledger, must be readable, and is not ({error}); use "
            "it as its owner"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise _damaged(path, f"its schema must be {SCHEMA!r}")
    return record


def _kept_anchor(path: Path, record: dict[str, Any]) -> KeptAnchor:
    try:
        names = ("client", "dataset", "unit", "neighbouring")
        require_fields(record, {"schema", "id", *names, "path", "length", "head"})
        if record["id"] != path.stem or not isinstance(record["path"], str):
            raise InvalidValueError(f"it is about {record['id']!r} at {record['path']!r}")
        return KeptAnchor(
            id=record["id"],
            identity=Identity(**{name: record[name] for name in names}),
            path=Path(record["path"]),
            anchor=Anchor(length=record["length"], head=record["head"]),
        )
    except InvalidValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> LedgerCorruptError:
    return LedgerCorruptError(
        f"{path}, with what is known of a ledger, must be as it was written, and is not: {reason}; "
        "restore it. If the ledger is known to be the newest by other means, such as the anchor in "
        "a report, remove this file"
    )
