"""A record: the thing that may be added or removed; removal of copies, and what is held out."""

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from privfed.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """One example.

    Attributes:
        text: what the model reads.
        label: index into the public label set, or None for language modelling.
    """

    text: str
    label: int | None = None


@dataclass(frozen=True, slots=True)
class RecordGroup:
    """Several examples that are one record: of one person, or chunks of one document.

    Their gradients are averaged and clipped as one, so that the guarantee is for all of them
    together. Of more than the public number of examples per record, the first ones are taken: a
    rule on this group alone, which comes or goes as a whole.

    Attributes:
        examples: at least one.
    """

    examples: tuple[Record, ...]

    def __post_init__(self) -> None:
        """Check the field."""
        if not self.examples:
            raise DataError("a group must hold at least one example")


def group_by_person(records: Sequence[Record], persons: Sequence[str]) -> tuple[RecordGroup, ...]:
    """One group for every person, in the order in which persons first appear.

    A group holds the rows of its person and depends on no other row, so a person who comes or goes
    with all rows adds or removes one record. One row more or less of a person who stays exchanges
    that person's record for another, which moves a clipped sum by up to twice the clipping norm.

    Args:
        records: of one client.
        persons: whose record each is; as many.
    """
    groups: dict[str, list[Record]] = {}
    for record, person in zip(records, persons, strict=True):
        groups.setdefault(person, []).append(record)
    return tuple(RecordGroup(tuple(examples)) for examples in groups.values())


def first_copies(records: Iterable[Hashable]) -> list[int]:
    """Positions of the first of all that are equal.

    What is left is the set of what came, so one record more or less changes it by at most one.
    That holds for whole records alone: were two of them copies although they differ in anything
    that is trained on, the first would take the other's place, and two records would change.

    Args:
        records: everything that a training record is made of, one each.
    """
    seen: set[Hashable] = set()
    kept = []
    for position, record in enumerate(records):
        if record not in seen:
            seen.add(record)
            kept.append(position)
    return kept


def hold_out(keys: Sequence[str], fraction: float, dataset: str) -> tuple[list[int], list[int]]:
    """Split positions into (kept, held out), about the same fraction of any kind of record.

    Each key is drawn by its own hash with the data set's name, so that a record that comes or goes
    moves no other one from one side to the other, and equal keys lie on one side. Runs on one data
    set that hold out the same fraction by the same kind of key hold out the same records, whatever
    else they vary: none is trained on in one run and evaluated in clear in the next. A larger
    fraction holds out these and more, and the more was trained on before.

    Args:
        keys: what decides, one for each record: its text, or whom it is about; white space folded.
        fraction: share that is held out, in (0, 1).
        dataset: public name of the data set, to which its budget belongs.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction must be in (0, 1), got {fraction!r}")
    limit = int(fraction * 2**64)
    held = [i for i, key in enumerate(keys) if _hashed(dataset, folded(key)) < limit]
    if not held:
        raise DataError(
            f"holding out {fraction:g} of {len(keys)} records leaves none to evaluate on; "
            "raise held_out or give a held_out_source"
        )
    taken = set(held)
    return [i for i in range(len(keys)) if i not in taken], held


def folded(text: str) -> str:
    """A text with every run of white space as one space."""
    return " ".join(text.split())


def _hashed(dataset: str, key: str) -> int:
    """64 bits."""
    named = json.dumps([dataset, key]).encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "little")
