"""From a file to the clipped sum: one record more or less of a client moves it by at most C.

Tables are full of near-copies (other white space, other case, other label, another person); a
record is a row, a document that is cut into chunks, or all rows of one person at a client.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from privfed.cli.run_file_data import clients_and_held_out
from privfed.cli.toml_section import Section
from privfed.models.examples import encode_records
from tests.contracts.private_steps import LABELS, clipped_sum

WARDS = ("north", "south")
NORM = 0.05
EXAMPLES = 2
PUBLIC = ("goal match", "bank  share profit")
TEXTS = (
    *("goal match", "goal  match", " goal match", "Goal match", "goal match\n", "goal"),
    *("bank share profit", "bank share  profit", "film actor stage music album scene river stone"),
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "note": st.sampled_from(TEXTS),
            "topic": st.sampled_from(LABELS),
            "ward": st.sampled_from(WARDS),
            "who": st.sampled_from(["p", "q", "P"]),
        }
    ),
    min_size=2,
    max_size=8,
)
LABELLED_TWICE = [
    {"note": "goal", "topic": topic, "ward": "north", "who": who}
    for topic, who in (("a", "p"), ("c", "p"), ("b", "q"))
]
"""One text with several labels, the first of which goes."""


@dataclass(frozen=True)
class Kind:
    """What a record is, and the keys of [data] that say so."""

    model: str
    keys: dict = field(default_factory=dict)
    by_person: bool = False


KINDS = {
    "row": Kind("bert lora q,v", {"held_out": 0.4}),
    "row, public text held out": Kind("bert lora q,v", {"held_out_source": "public.jsonl"}),
    "document": Kind("llama lora q,v", {"held_out": 0.4, "chunk_tokens": 2}),
    "document, public text held out": Kind(
        "llama lora q,v", {"held_out_source": "public.jsonl", "chunk_tokens": 2}
    ),
    "person": Kind("bert lora q,v", {"held_out": 0.4, "person": "who"}, by_person=True),
    "person, public text held out": Kind(
        "bert lora q,v", {"held_out_source": "public.jsonl", "person": "who"}, by_person=True
    ),
}
SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def always():
    """Rows that stay, so that no client is empty and something is held out."""
    return [
        {"note": f"{word} {number}", "topic": "a", "ward": ward, "who": f"{word} {number}"}
        for ward, word in zip(WARDS, ("market", "window"), strict=True)
        for number in range(4)
    ]


def write(path, table):
    path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")


def records(kind, task, table, folder):
    """The training records of each client."""
    write(folder / "notes.jsonl", table)
    write(folder / "public.jsonl", [{"note": text, "topic": "c"} for text in PUBLIC])
    section = Section(
        "data",
        {
            "source": "notes.jsonl",
            "text": "note",
            **({"label": "topic"} if "bert" in kind.model else {}),
            "dataset": "notes",
            "partition": {"rule": "column", "column": "ward"},
            "public_sizes": dict.fromkeys(WARDS, 20),
            **kind.keys,
        },
    )
    clients, _, _ = clients_and_held_out(section, task, 1, folder, {})
    return {client.id: client.records for client in clients}


def neighbours(kind, table):
    """The table without each of its records in turn."""
    if kind.by_person:
        for ward, who in sorted({(row["ward"], row["who"]) for row in table}):
            yield [row for row in table if (row["ward"], row["who"]) != (ward, who)]
        return
    for gone in range(len(table)):
        yield table[:gone] + table[gone + 1 :]


def task_of(private):
    """The task behind the one that scales losses."""
    return private.task._task


@pytest.mark.parametrize("name", list(KINDS))
@SETTINGS
@given(drawn=rows)
def test_one_record_changes_one_training_record_at_most(name, drawn, built, tmp_path_factory):
    kind = KINDS[name]
    task, folder = task_of(built(kind.model)), tmp_path_factory.mktemp("tables")
    before = records(kind, task, [*drawn, *always()], folder)
    for fewer in neighbours(kind, drawn):
        after = records(kind, task, [*fewer, *always()], folder)
        gone = sum(sum((Counter(before[ward]) - Counter(after[ward])).values()) for ward in WARDS)
        come = sum(sum((Counter(after[ward]) - Counter(before[ward])).values()) for ward in WARDS)
        assert come == 0
        assert gone <= 1


@pytest.mark.parametrize("name", list(KINDS))
@settings(parent=SETTINGS, max_examples=12)
@given(drawn=rows, choice=st.integers(0, 7))
@example(drawn=LABELLED_TWICE, choice=0)
def test_it_moves_the_clipped_sum_by_at_most_c(name, drawn, choice, built, tmp_path_factory):
    kind = KINDS[name]
    private, folder = built(kind.model), tmp_path_factory.mktemp("tables")
    task = task_of(private)

    def sums(table):
        found = records(kind, task, [*table, *always()], folder)
        examples = 1 if name.startswith("row") else EXAMPLES
        encoded = {
            ward: encode_records(task, task.tokenizer(), mine, examples)
            for ward, mine in found.items()
        }
        return {
            ward: clipped_sum(private, encoded[ward], range(len(mine)), clipping_norm=NORM)
            for ward, mine in found.items()
        }

    others = list(neighbours(kind, drawn))
    before, after = sums(drawn), sums(others[choice % len(others)])
    moved = sum(float((before[ward] - after[ward]).norm()) for ward in WARDS)
    assert moved <= NORM * (1 + 1e-6)


def test_one_row_more_of_a_person_who_stays_exchanges_a_record(built, tmp_path_factory):
    """So a report calls all rows of a person the record: this moves a sum by up to 2 C."""
    kind = KINDS["person, public text held out"]
    task, folder = task_of(built(kind.model)), tmp_path_factory.mktemp("tables")
    row = {"note": "film actor", "topic": "a", "ward": "north", "who": "p"}
    before = records(kind, task, [row, *always()], folder)["north"]
    after = records(kind, task, [row, {**row, "topic": "b"}, *always()], folder)["north"]
    assert sum((Counter(before) - Counter(after)).values()) == 1
    assert sum((Counter(after) - Counter(before)).values()) == 1
