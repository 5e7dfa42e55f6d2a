"""The columns `person` and `chunk_tokens`, from a configuration file to the clipped sum.

What the sum must be is computed here, from the rows as they were written: one example at a time by
torch alone, the mean of a record's first examples, clipped, added up. True numbers of rows,
records and examples, the public sizes and the number of examples that are read all differ.
"""

import json
from collections import defaultdict

import pytest
import torch

from privfed import Record
from privfed.cli.run_file import load_federation
from privfed.models.examples import encode_records
from tests.contracts.private_steps import (
    CASES,
    LABELS,
    LENGTH,
    clipped_sum,
    num_rows,
    reference_gradients,
)

NORM = 0.7
COMMON = """
seed = 5
[model]
task = "{task}"
base = "{base}"
{labels}
max_length = {length}
[data]
source = "notes.csv"
text = "note"
{columns}
dataset = "ward-notes"
held_out_source = "public.jsonl"
[data.partition]
rule = "column"
column = "ward"
[data.public_sizes]
north = 31
south = 23
west = 27
[privacy]
epsilon = 4.0
delta = 1e-3
neighbouring = "add_remove"
record = "whole record"
expected_batch_size = 17
clipping_norm = {norm}
examples_per_record = 2
[adapter]
kind = "lora"
rank = 1
target_modules = ["{module}"]
[training]
learning_rate = 0.5
[federation]
rounds = 3
"""

# ward, person, topic, note: three rows of p in the north, whose third is not read; one in the south
ROWS = [
    ("north", "p", "a", "goal match team"),
    ("north", "q", "b", "bank share profit trade price"),
    ("south", "p", "c", "film actor"),
    ("north", "p", "c", "river stone market window garden"),
    ("north", "p", "b", "letter mountain paper"),
    ("south", "q", "a", "stage music album scene"),
    ("north", "r", "c", "winter glass method"),
    ("north", "q", "a", "coach league score goal"),
    ("west", "s", "a", "silver bridge answer pocket"),
    ("north", "q", "b", "bank share profit trade price"),
    ("north", "t", "a", "signal harbour"),
    ("west", "t", "b", "engine letter mountain paper signal harbour winter"),
]


@pytest.fixture
def north(tmp_path, folders):
    """A function: the records of one client, loaded from a configuration, as tensors."""

    def load(task, module, case, **settings):
        lines = [f"{ward},{who},{topic},{note}" for ward, who, topic, note in ROWS]
        (tmp_path / "notes.csv").write_text("\n".join(["ward,who,topic,note", *lines]))
        public = {"note": "trade stock", "topic": "a"}
        (tmp_path / "public.jsonl").write_text(json.dumps(public))
        path = tmp_path / "run.toml"
        base = folders[CASES[case].architecture]
        path.write_text(
            COMMON.format(task=task, base=base, module=module, length=LENGTH, norm=NORM, **settings)
        )
        federation = load_federation(path, tmp_path / "state")
        (client,) = [client for client in federation.clients if client.id == "north"]
        privacy, model = federation.privacy, federation.model
        encoded = encode_records(
            model, model.tokenizer(), client.records, privacy.examples_per_record
        )
        return encoded, privacy.clipping_norm

    return load


def expected_sum(private, case, folders, groups):
    """The sum of clipped means of single gradients, float64, in the order of the parameters."""
    flat = [example for group in groups for example in group]
    batch = private.task.collate(private.task.tokenizer(), flat)
    singles = iter(reference_gradients(CASES[case], folders, batch))
    total, norms = 0.0, []
    for group in groups:
        found = [next(singles) for _ in group]
        means = [
            sum(single[name] for single in found) / len(group) for name, _ in private.parameters()
        ]
        whole = torch.cat([mean.flatten() for mean in means]).double()
        norms.append(float(whole.norm()))
        total = total + whole * min(1.0, NORM / norms[-1])
    assert min(norms) < NORM < max(norms), "some records must be clipped, and some not"
    return total


def check(private, encoded, norm, expected, records):
    assert num_rows(encoded) == records
    summed = clipped_sum(private, encoded, range(records), clipping_norm=norm)
    assert float((summed - expected).norm()) <= 1e-5 * float(expected.norm())


def test_all_rows_of_a_person_at_a_client_are_one_record(north, built, folders):
    case = "bert lora q,v"
    encoded, norm = north(
        "classification",
        "query",
        case,
        labels=f"labels = {list(LABELS)}",
        columns='label = "topic"\nperson = "who"',
    )
    rows_of = defaultdict(list)
    for ward, who, topic, note in dict.fromkeys(ROWS):
        if ward == "north":
            rows_of[who].append(Record(note, LABELS.index(topic)))
    assert sorted(map(len, rows_of.values())) == [1, 1, 2, 3]
    private = built(case)
    expected = expected_sum(private, case, folders, [mine[:2] for mine in rows_of.values()])
    check(private, encoded, norm, expected, records=4)


def test_all_chunks_of_a_document_are_one_record(north, built, folders):
    case = "llama lora q,v"
    encoded, norm = north("causal-lm", "q_proj", case, labels="", columns="chunk_tokens = 2")
    documents = []
    for ward, _, _, note in ROWS:
        words = note.split()
        pieces = [Record(" ".join(words[at : at + 2])) for at in range(0, len(words), 2)]
        if ward == "north" and pieces not in documents:
            documents.append(pieces)
    assert sorted(map(len, documents)) == [1, 2, 2, 2, 2, 3, 3]
    private = built(case)
    expected = expected_sum(private, case, folders, [pieces[:2] for pieces in documents])
    check(private, encoded, norm, expected, records=7)
