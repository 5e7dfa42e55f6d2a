"""The data of a run configuration: clients, and what is held out.

From the source to a client's training records, one record more or less of that client changes one
training record at most, as the report defines a record; the argument for each step stands where
the step does (`privfed.data.datasets`, `privfed.data.records`, and below). Where one pool is dealt
by a public seed (every rule but "column"), one row more or less deals all rows out anew: there a
client's source is the part that it was dealt.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from privfed.cli.run_file_partition import Rule, read_rule
from privfed.cli.run_file_sizes import Sizes, require_declared, sizes_of, taking_part
from privfed.cli.toml_section import Section
from privfed.data.cells import as_name
from privfed.data.datasets import TextTable, load_table, name_index
from privfed.data.files import is_hub_name
from privfed.data.partition import by_column
from privfed.data.records import Record, RecordGroup, folded, group_by_person, hold_out
from privfed.errors import ConfigError, DataError
from privfed.models.classification import Classification
from privfed.models.examples import chunks
from privfed.models.tasks import CausalLanguageModel, Task
from privfed.parties.client.client import Client
from privfed.settings.privacy import OwnPrivacy

_LOG: Final = logging.getLogger(__name__)


def clients_and_held_out(
    section: Section, task: Task, seed: int, folder: Path, own: Mapping[str, OwnPrivacy]
) -> tuple[list[Client], tuple[Record, ...], str]:
    """What the table [data] says. How many rows were left out is logged: counts, no content.

    Args:
        section: that table; all of it is taken.
        task: which columns it reads.
        seed: public; of a split by chance.
        folder: to which paths are relative.
        own: of declared clients that have a table of their own; who takes no part needs none.

    Returns:
        The clients, the held-out records, and what these are, for the report.
    """
    labels = task.labels if isinstance(task, Classification) else None
    rule = read_rule(section.section("partition"), labels)
    load = loader(section, labels, folder)
    source = section.take("source", str)
    other = _other_source(section, source, folder)
    fraction = section.take("held_out", float) if other is None else 0.0
    person = _person(section, rule)
    cut = cutter(section, task, person)
    dataset = section.take("dataset", str)
    sizes = sizes_of(section, rule)
    continues = section.take("continues", dict, {})
    require_declared("data.continues", continues, sizes)
    require_declared("privacy.clients", own, sizes)
    section.end()
    taking = taking_part(sizes, rule)
    table = load(source, owner=rule.column, person=person)
    mine = _rows_of(table, rule, sizes, taking)
    if other is None:
        kept, held = hold_out([record_key(table, row) for row in mine], fraction, dataset)
        kept, held = [mine[place] for place in kept], [mine[place] for place in held]
        held_records = table.records(held, labels)
        described = f"{fraction:g} of {source}, taken out before the split"
    else:
        outside = load(other)
        kept, held = without_held_out(table, mine, outside.texts), []
        held_records = outside.records(range(len(outside.texts)), labels)
        described = other
    _log_counts(source, table, mine, kept, held)
    parts = _split(rule, table, kept, labels, seed)
    clients = [
        Client(
            id=client,
            records=records_of(table, parts.get(as_name(client), ()), labels, cut),
            public_size=size,
            dataset=dataset,
            description=f"{source}, {rule.kind}, {len(taking)} clients, seed {seed}",
            continues=continues.get(client),
            budget=own.get(client, OwnPrivacy()).budget,
            steps_per_round=own.get(client, OwnPrivacy()).steps_per_round,
        )
        for client, size in taking.items()
    ]
    return clients, held_records, described


def loader(
    section: Section, labels: Sequence[str] | None, folder: Path
) -> Callable[..., TextTable]:
    """What reads a source by its name; both sources are read in the same way."""
    text = section.take("text", str)
    label = section.take("label", str) if labels is not None else None
    missing = section.take("missing", str, "refuse")
    encoding = section.take("encoding", str, "utf-8")

    def load(source: str, owner: str | None = None, person: str | None = None) -> TextTable:
        return load_table(
            relative(source, folder),
            text=text,
            label=label,
            owner=owner,
            person=person,
            missing=missing,
            encoding=encoding,
        )

    return load


def _rows_of(table: TextTable, rule: Rule, sizes: Sizes, taking: Collection[str]) -> list[int]:
    """Rows of the clients that take part: a rule on each row alone, given the public names."""
    if table.owners is None:
        return list(range(len(table.texts)))
    declared = name_index(tuple(sizes))
    others = [row for row, owner in enumerate(table.owners) if owner not in declared]
    if others and rule.others == "refuse":
        raise DataError(
            f"{len(others)} row(s) name a client in column {rule.column!r} that is not declared, "
            f"the first in row {table.number(others[0])}; declare it in [data.partition] clients, "
            "or leave such rows out with others = 'drop'"
        )
    chosen = {as_name(name) for name in taking}
    return [row for row, owner in enumerate(table.owners) if owner in chosen]


def record_key(table: TextTable, row: int) -> str:
    """What decides whether a row is held out: whom it is about, else its text.

    A person is held out with all rows. Whose text equals another's who is held out is trained on
    all the same: were it removed, a row more of the one would remove a record of the other.
    """
    return table.texts[row] if table.persons is None else table.persons[row]


def _log_counts(
    source: str, table: TextTable, mine: Sequence[int], kept: Sequence[int], held: Sequence[int]
) -> None:
    """Counts for whoever owns the rows; a warning where some were left out unasked."""
    others = len(table.texts) - len(mine)
    public = len(mine) - len(kept) - len(held)
    left_out = table.missing + table.copies + others + public
    _LOG.log(
        logging.WARNING if left_out else logging.INFO,
        "%s: %d rows, of which %d lack a value, %d are copies, %d are of clients that do not take "
        "part, %d are in held_out_source too, %d are held out, and %d are trained on",
        source,
        table.missing + table.copies + len(table.texts),
        table.missing,
        table.copies,
        others,
        public,
        len(held),
        len(kept),
    )


def _person(section: Section, rule: Rule) -> str | None:
    """The column that says whom a row is about, where there is one."""
    person: str | None = section.take("person", str, None)
    if person is not None and rule.column is None:
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
    if _canonical(relative(other, folder)) == _canonical(relative(source, folder)):
        raise ConfigError(
            f"[data] held_out_source must be another source than source, got {other!r} for both; "
            "give held_out instead, a share that is taken out of it"
        )
    return str(other)


def cutter(section: Section, task: Task, person: str | None) -> Callable[[str], RecordGroup] | None:
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


def records_of(
    table: TextTable,
    rows: Sequence[int],
    labels: Sequence[str] | None,
    cut: Callable[[str], RecordGroup] | None,
) -> tuple[Record | RecordGroup, ...]:
    """Rows as records; or cut into chunks; or one group per person where a column names one.

    A record is made of one row, or of all rows of one person, and of nothing else.
    """
    if cut is not None:
        return tuple(cut(table.texts[row]) for row in rows)
    records = table.records(rows, labels)
    if table.persons is None:
        return records
    return group_by_person(records, [table.persons[row] for row in rows])


def without_held_out(table: TextTable, rows: Sequence[int], held_out: Sequence[str]) -> list[int]:
    """Rows to train on, but for those whose text is held out in another source, white space folded.

    A rule on each row alone, given the public text. Not the other way round: what is held out is
    public, and would tell whose text is trained on. What is drawn out of the source itself needs no
    such rule: rows of equal text lie on one side, and of persons see `_key`.
    """
    public = {folded(text) for text in held_out}
    left = [row for row in rows if folded(table.texts[row]) not in public]
    if not left:
        raise DataError("every text is also held out; give a held_out_source with other text")
    return left


def _split(
    rule: Rule,
    table: TextTable,
    kept: Sequence[int],
    labels: Sequence[str] | None,
    seed: int,
) -> dict[str, list[int]]:
    """Rows of each client, by name."""
    if rule.deal is not None:
        places = rule.deal(table.records(kept, labels), seed)
    else:
        owners = table.owners or ()
        places = by_column([owners[row] for row in kept])
    return {client: [kept[place] for place in mine] for client, mine in places.items()}


def relative(source: str, folder: Path) -> str:
    """A file beside the configuration; a name on the hub stays as it is."""
    local = folder / source
    return str(local) if local.exists() or not is_hub_name(source) else source


def _canonical(place: str) -> str:
    """The same for two ways to write one source."""
    if is_hub_name(place):
        name, _, split = place.partition(":")
        return f"{name}:{split or 'train'}"
    return str(Path(place).resolve())
