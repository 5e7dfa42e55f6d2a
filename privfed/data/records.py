"""A record: the thing that may be added or removed; and the removal of copies."""

import hashlib
from collections.abc import Iterable, Sequence
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
    together. Of more than the public number of examples per record, the first ones are taken.

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

    Args:
        records: of one client.
        persons: whose record each is; as many.
    """
    groups: dict[str, list[Record]] = {}
    for record, person in zip(records, persons, strict=True):
        groups.setdefault(person, []).append(record)
    return tuple(RecordGroup(tuple(examples)) for examples in groups.values())


def deduplicate(texts: Iterable[str]) -> list[int]:
    """Positions of the first copy of every text, white space folded.

    Copies must go before data are split: otherwise one text is held out and trained on, or is a
    record of two clients.
    """
    seen: set[str] = set()
    kept = []
    for position, text in enumerate(texts):
        folded = " ".join(text.split())
        if folded and folded not in seen:
            seen.add(folded)
            kept.append(position)
    return kept


def hold_out(keys: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split positions into (kept, held out), about the same fraction of any kind of record.

    Each key is drawn by its own hash, so that a record that comes or goes moves no other one from
    one side to the other. Equal keys lie on one side.

    Args:
        keys: what decides, one for each record: its text, or whom it is about; white space folded.
        fraction: share that is held out, in (0, 1).
        seed: public.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction must be in (0, 1), got {fraction!r}")
    limit = int(fraction * 2**64)
    held = [i for i, key in enumerate(keys) if _hashed(seed, " ".join(key.split())) < limit]
    if not held:
        raise DataError(
            f"holding out {fraction:g} of {len(keys)} records leaves none to evaluate on; "
            "raise held_out or give a held_out_source"
        )
    taken = set(held)
    return [i for i in range(len(keys)) if i not in taken], held


def _hashed(seed: int, key: str) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "little")
