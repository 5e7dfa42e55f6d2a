"""A record: the thing that may be added or removed; and the removal of copies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

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


def hold_out(
    strata: Sequence[str | int | None], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split positions into (kept, held out), the same fraction of every stratum.

    Args:
        strata: label of every position (any values; None counts as one stratum).
        fraction: share that is held out, in (0, 1).
        seed: public.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction must be in (0, 1), got {fraction!r}")
    random = np.random.default_rng(seed)
    held: set[int] = set()
    for stratum in sorted(set(strata), key=str):
        members = [position for position, value in enumerate(strata) if value == stratum]
        order = random.permutation(len(members))
        held.update(members[index] for index in order[: round(fraction * len(members))])
    if not held:
        raise DataError(
            f"holding out {fraction:g} of {len(strata)} records leaves none to evaluate on; "
            "raise held_out or give a held_out_source"
        )
    return [i for i in range(len(strata)) if i not in held], sorted(held)
