"""The data of a run configuration: clients, and what is held out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from privfed.client.node import Client
from privfed.data import partition
from privfed.data.datasets import TextTable, is_hub_name, load_table
from privfed.data.records import Record, RecordGroup, group_by_person, hold_out
from privfed.errors import ConfigError, DataError
from privfed.models.examples import chunks
from privfed.models.tasks import CausalLanguageModel, Classification, Task
from privfed.toml_section import Section

SIZE_ROUNDING = 10
"""Public sizes that are not given are true counts rounded down to a multiple of this."""


def clients_and_held_out(
    section: Section, task: Task, seed: int, folder: Path
) -> tuple[list[Client], tuple[Record, ...], str]:
    """What the table [data] says.

    Args:
        section: that table; all of it is taken.
        task: which columns it reads.
        seed: public; of what is held out and of a split by chance.
        folder: to which paths are relative.

    Returns:
        The clients, the held-out records, and what these are, for the report.
    """
    labels = task.labels if isinstance(task, Classification) else None
    rule = section.section("partition")
    kind = rule.take("rule", str)
    if kind not in ("column", "dirichlet", "iid"):
        raise ConfigError(
            f"[data.partition] rule must be 'column', 'dirichlet' or 'iid', got {kind!r}"
        )
    text = section.take("text", str)
    label = section.take("label", str) if labels is not None else None
    owner = rule.take("column", str) if kind == "column" else None
    source = section.take("source", str)
    other = _other_source(section, source, folder)
    person = _person(section, kind)
    cut = _cutter(section, task, person)
    table = load_table(
        _relative(source, folder), text=text, label=label, owner=owner, person=person
    )
    if other is None:
        fraction = section.take("held_out", float)
        kept, held = hold_out(table.persons or table.texts, fraction, seed)
        kept = _without(table, kept, [table.texts[row] for row in held])
        held_records = table.records(held, labels)
        described = f"{fraction:g} of {source}, taken out before the split"
    else:
        outside = load_table(_relative(other, folder), text=text, label=label)
        kept = _without(table, range(len(table.texts)), outside.texts)
        held_records = outside.records(range(len(outside.texts)), labels)
        described = other
    parts = _split(rule, kind, table, kept, labels, seed)
    rule.end()
    records = {
        client: _records(table, [kept[row] for row in rows], labels, cut)
        for client, rows in parts.items()
    }
    clients = _clients(
        section, records, source, f"{source}, {kind}, {len(parts)} clients, seed {seed}"
    )
    section.end()
    return clients, held_records, described


def _clients(
    section: Section,
    records: Mapping[str, tuple[Record | RecordGroup, ...]],
    source: str,
    description: str,
) -> list[Client]:
    dataset = section.take("dataset", str, Path(source).stem)
    sizes = section.take("public_sizes", dict, {})
    unknown = sorted(set(sizes) - set(records))
    if unknown:
        raise ConfigError(f"[data.public_sizes] names unknown client(s) {unknown}")
    return [
        Client(
            id=client,
            records=mine,
            public_size=sizes[client] if client in sizes else _rounded_size(client, len(mine)),
            dataset=dataset,
            description=description,
        )
        for client, mine in records.items()
    ]


def _person(section: Section, kind: str) -> str | None:
    """The column that says whom a row is about, where there is one."""
    person: str | None = section.take("person", str, None)
    if person is not None and kind != "column":
        raise ConfigError(
            "[data] person needs [data.partition] rule 'column': a split by chance would give one "
            "person's rows to several clients"
        )
    return person


def _other_source(section: Section, source: str, folder: Path) -> str | None:
    """Where held-out text comes from, if not out of the source itself."""
    other = section.take("held_out_source", str, None)
    if other is None:
        return None
    if section.take("held_out", float, None) is not None:
        raise ConfigError("[data] takes held_out or held_out_source, got both; leave one out")
    if _canonical(_relative(other, folder)) == _canonical(_relative(source, folder)):
        raise ConfigError(
            f"[data] held_out_source must be another source than source, got {other!r} for both; "
            "give held_out instead, a share that is taken out of it"
        )
    return str(other)


def _cutter(
    section: Section, task: Task, person: str | None
) -> Callable[[str], RecordGroup] | None:
    """What cuts documents into chunks, where the configuration says so."""
    tokens = section.take("chunk_tokens", int, None)
    if tokens is None:
        return None
    if tokens < 1:
        raise ConfigError(f"[data] chunk_tokens must be at least 1, got {tokens}")
    if not isinstance(task, CausalLanguageModel) or person is not None:
        raise ConfigError(
            "[data] chunk_tokens cuts documents for task 'causal-lm'; leave it out of a "
            "classification, and beside person"
        )
    return partial(chunks, task.tokenizer(), tokens=tokens)


def _records(
    table: TextTable,
    rows: Sequence[int],
    labels: Sequence[str] | None,
    cut: Callable[[str], RecordGroup] | None,
) -> tuple[Record | RecordGroup, ...]:
    """Rows as records; or cut into chunks; or one group per person where a column names one."""
    if cut is not None:
        return tuple(cut(table.texts[row]) for row in rows)
    records = table.records(rows, labels)
    if table.persons is None:
        return records
    return group_by_person(records, [table.persons[row] for row in rows])


def _without(table: TextTable, kept: Sequence[int], held_out: Sequence[str]) -> list[int]:
    """Rows to train on, but for those whose text is held out.

    Not the other way round: what is held out is public, and would tell whose text is trained on.
    """
    public = {" ".join(text.split()) for text in held_out}
    left = [row for row in kept if " ".join(table.texts[row].split()) not in public]
    if not left:
        raise DataError("every text is also held out; give a held_out_source with other text")
    return left


def _split(
    rule: Section,
    kind: str,
    table: TextTable,
    kept: Sequence[int],
    labels: Sequence[str] | None,
    seed: int,
) -> dict[str, list[int]]:
    if kind == "column":
        return partition.by_column([(table.owners or ())[row] for row in kept])
    count = rule.take("clients", int)
    if kind == "iid":
        return partition.iid(len(kept), count, seed)
    if labels is None or table.labels is None:
        raise ConfigError("[data.partition] rule 'dirichlet' needs a classification task")
    index = {name: position for position, name in enumerate(labels)}
    numbers = [index.get(table.labels[row], -1) for row in kept]
    alpha, minimum = rule.take("alpha", float), rule.take("minimum", int, 1)
    return partition.dirichlet(numbers, count, alpha, minimum, seed)


def _rounded_size(client: str, count: int) -> int:
    rounded = count - count % SIZE_ROUNDING
    if rounded == 0:
        raise DataError(
            f"client {client!r} has too few records to train on (fewer than {SIZE_ROUNDING}); "
            "leave it out, or give it a public size"
        )
    return rounded


def _relative(source: str, folder: Path) -> str:
    """A file beside the configuration; a name on the hub stays as it is."""
    local = folder / source
    return str(local) if local.exists() or not is_hub_name(source) else source


def _canonical(place: str) -> str:
    """The same for two ways to write one source."""
    if is_hub_name(place):
        name, _, split = place.partition(":")
        return f"{name}:{split or 'train'}"
    return str(Path(place).resolve())
