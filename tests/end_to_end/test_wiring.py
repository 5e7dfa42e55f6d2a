"""From the configuration file to the effect, for every option that guards something.

One run is started by the program with every such option away from its default, and watched where
the options act: at each client's records, its private step, its ledger, its memory of sums, and at
the key holder's process. `test_run_config.py` shows that every key is read; here it is used.
"""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from accountants import AnchorFolder, Budget, LedgerMissingError, Neighbouring
from privfed.cli import main
from privfed.cli.run_file import load_federation
from privfed.custody.opened_rounds import OpenedRounds
from privfed.errors import AwayError, EncryptionError
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.client import joining
from privfed.parties.client.node import ClientNode
from privfed.private_step.batches import num_rows
from privfed.private_step.randomness import FastNoise, SecureNoise
from privfed.protocol.links import ProcessLink
from privfed.storage.state_folder import ledger_path, opened_path

CONFIGURATION = """
seed = 3
[model]
task = "classification"
base = "{base}"
labels = ["sport", "money", "culture"]
max_length = 12
[data]
source = "notes.csv"
text = "note"
label = "topic"
person = "who"
dataset = "ward-notes"
missing = "drop"
encoding = "latin-1"
held_out_source = "public.jsonl"
[data.partition]
rule = "column"
column = "ward"
[data.public_sizes]
east = 14
hill = 16
north = 13
south = 19
west = 22
{continues}
[privacy]
epsilon = 4.0
delta = 1e-3
neighbouring = "add_remove"
record = "all notes of one person"
expected_batch_size = 10
clipping_norm = 0.6
steps_per_round = 2
examples_per_record = 2
secure_noise = {secure}
[privacy.clients.hill]
epsilon = 5.0
delta = 2e-3
[privacy.clients.west]
epsilon = 3.5
delta = 5e-4
[adapter]
kind = "lora"
rank = 1
target_modules = ["query"]
[training]
learning_rate = 0.5
physical_batch_size = 6
[encryption]
{encryption}
[federation]
rounds = 2
min_clients = 4
"""
HELD = 'custody = "key_holder"'
PERSONS = {"east": 11, "hill": 12, "north": 15, "south": 17, "west": 18}
SIZES = {"east": 14, "hill": 16, "north": 13, "south": 19, "west": 22}
DEFAULT = Budget(epsilon=4.0, delta=1e-3)
BUDGETS = {
    **dict.fromkeys(PERSONS, DEFAULT),
    "hill": Budget(epsilon=5.0, delta=2e-3),
    "west": Budget(epsilon=3.5, delta=5e-4),
}
TOPICS = ("sport", "money", "culture")


def note(ward, person, row):
    """A text of its own, in words that the tokenizer knows but for one with an accent."""
    words = ("river", "stone", "market", "window", "garden", "engine", "letter", "mountain")
    return f"{words[person % 8]} {words[row]} café {ward} {person}"


def rows_of(ward):
    """(person, row) of a ward, in the order of the file: one to three rows of each person."""
    return [(who, row) for row in range(3) for who in range(PERSONS[ward]) if row <= who % 3]


def write_files(folder, base, **changes):
    """The configuration beside its notes, of which one row of each ward has no topic."""
    lines = ["ward,who,topic,note"]
    for ward in PERSONS:
        lines.append(f"{ward},{ward}-0,,nobody knows what this is about")
        for who, row in rows_of(ward):
            lines.append(f"{ward},{ward}-{who},{TOPICS[who % 3]},{note(ward, who, row)}")
    (folder / "notes.csv").write_text("\n".join(lines), encoding="latin-1")
    public = [{"note": f"public {topic}", "topic": topic} for topic in TOPICS]
    (folder / "public.jsonl").write_text("".join(json.dumps(row) + "\n" for row in public))
    path = folder / "wards.toml"
    settings = {"secure": "true", "encryption": HELD, "continues": "", **changes}
    path.write_text(CONFIGURATION.format(base=base, **settings))
    return path


class Ran:
    """What was seen in one run of the program."""

    def __init__(self, folder):
        self.folder = folder
        self.nodes, self.records, self.examples = {}, {}, set()
        self.noises, self.command = set(), []

    def report(self):
        return json.loads((self.folder / "run/report.json").read_text())

    def clients(self):
        return {client["id"]: client for client in self.report()["clients"]}

    def memory(self, client):
        path = opened_path(self.folder / "second", self.report()["run"], client)
        return OpenedRounds.resume(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, bert_folder):
    """The program, run once."""
    seen = Ran(tmp_path_factory.mktemp("wiring"))
    path = write_files(seen.folder, bert_folder)
    with pytest.MonkeyPatch.context() as patched:
        _watch(patched, seen)
        patched.setenv("PRIVFED_STATE", str(seen.folder / "default-state"))
        patched.setenv("PRIVFED_ANCHORS", str(seen.folder / "default-second"))
        places = {"--out": "run", "--state": "state", "--anchors": "second"}
        options = [part for name, at in places.items() for part in (name, str(seen.folder / at))]
        CliRunner().invoke(main.app, ["run", str(path), *options], catch_exceptions=False)
    return seen


def _watch(patched, seen):
    begin, encode, start = ClientNode.local_round, joining.usable_records, ProcessLink.__init__

    def local_round(self, plan, state, start):
        mine = begin(self, plan, state, start)
        seen.nodes[self.id] = self
        seen.noises.add(type(mine.noise))
        return mine

    def usable_records(model, records, examples_per_record, size):
        name = records[0].examples[0].text.split()[-2]
        seen.records[name] = records
        seen.examples.add(examples_per_record)
        return encode(model, records, examples_per_record, size)

    def started(self, **settings):
        start(self, **settings)
        seen.command.append(self._process.args)

    patched.setattr(ClientNode, "local_round", local_round)
    patched.setattr(joining, "usable_records", usable_records)
    patched.setattr(ProcessLink, "__init__", started)


def grouped(ward):
    """Texts of each person, in the order in which persons first appear."""
    groups = {who: [] for who in range(PERSONS[ward])}
    for who, row in rows_of(ward):
        groups[who].append(note(ward, who, row))
    return list(groups.values())


def texts(records):
    return [[example.text for example in group.examples] for group in records]


OF_A_CLIENT = {
    "person, missing, encoding": lambda ran, name: (texts(ran.records[name]), grouped(name)),
    "person: one row of tensors each": lambda ran, name: (
        num_rows(ran.nodes[name].encoded),
        PERSONS[name],
    ),
    "examples_per_record": lambda ran, name: (
        ran.nodes[name].encoded["input_ids"].shape[1],
        2,
    ),
    "public_sizes and expected_batch_size": lambda ran, name: (
        ran.nodes[name].config.sample_rate,
        10 / SIZES[name],
    ),
    "clipping_norm": lambda ran, name: (ran.nodes[name].config.clipping_norm, 0.6),
    "clipping_norm: where the bound begins": lambda ran, name: (
        ran.nodes[name].bound.current,
        0.6,
    ),
    "steps_per_round": lambda ran, name: (ran.nodes[name].config.steps, 2),
    "physical_batch_size": lambda ran, name: (ran.nodes[name].config.physical_batch_size, 6),
    "clients: budget of the filter": lambda ran, name: (
        ran.nodes[name].filter.budget,
        BUDGETS[name],
    ),
    "clients: epsilon in the report": lambda ran, name: (
        ran.clients()[name]["epsilon_budget"],
        BUDGETS[name].epsilon,
    ),
    "clients: delta in the report": lambda ran, name: (
        ran.clients()[name]["delta"],
        BUDGETS[name].delta,
    ),
    "neighbouring: in the ledger": lambda ran, name: (
        ran.nodes[name].ledger.identity.neighbouring,
        Neighbouring.ADD_REMOVE,
    ),
    "neighbouring: in the filter": lambda ran, name: (
        ran.nodes[name].filter.neighbouring,
        Neighbouring.ADD_REMOVE,
    ),
    "record": lambda ran, name: (
        ran.nodes[name].ledger.identity.unit,
        "all notes of one person",
    ),
    "dataset": lambda ran, name: (ran.nodes[name].ledger.identity.dataset, "ward-notes"),
    "state": lambda ran, name: (
        ledger_path(ran.folder / "state", name, "ward-notes").is_file(),
        True,
    ),
    "anchors: of the ledger": lambda ran, name: (
        AnchorFolder(ran.folder / "second").find(ran.clients()[name]["ledger_id"]).anchor.length,
        ran.clients()[name]["ledger_length"],
    ),
    "anchors: memory of both sums": lambda ran, name: (
        [ran.memory(name).contributors_of(number) for number in (1, 2)],
        [tuple(PERSONS)] * 2,
    ),
}


@pytest.mark.parametrize("option", OF_A_CLIENT)
def test_what_an_option_does_at_every_client(ran, option):
    assert set(ran.nodes) == set(ran.records) == set(PERSONS)
    for name in PERSONS:
        found, wanted = OF_A_CLIENT[option](ran, name)
        assert found == wanted, name


OF_THE_RUN = {
    "examples_per_record": lambda ran: (ran.examples, {2}),
    "secure_noise": lambda ran: (ran.noises, {SecureNoise}),
    "min_clients of the key holder": lambda ran: (
        [command[command.index("--min-clients") + 1] for command in ran.command],
        ["4"],
    ),
    "noise multipliers": lambda ran: (
        len({node.config.noise_multiplier for node in ran.nodes.values()}),
        len(PERSONS),
    ),
    "state and anchors: nothing elsewhere": lambda ran: (
        [path.name for path in sorted(ran.folder.glob("default*"))],
        [],
    ),
    "rounds": lambda ran: ([row["round"] for row in ran.report()["rounds"]], [1, 2]),
}


@pytest.mark.parametrize("option", OF_THE_RUN)
def test_what_an_option_does_in_the_run(ran, option):
    found, wanted = OF_THE_RUN[option](ran)
    assert found == wanted


@pytest.mark.parametrize(("secure", "kind"), [("true", SecureNoise), ("false", FastNoise)])
def test_the_noise_is_drawn_where_secure_noise_says(
    tmp_path, bert_folder, monkeypatch, secure, kind
):
    drawn = []
    for noise in (SecureNoise, FastNoise):

        def normal(self, count, device, real=noise.normal, noise=noise):
            drawn.append(noise)
            return real(self, count, device)

        monkeypatch.setattr(noise, "normal", normal)
    path = write_files(tmp_path, bert_folder, secure=secure, encryption='kind = "plain"')
    load_federation(path, tmp_path / "state").run(tmp_path / "run")
    assert drawn == [kind] * (2 * 2 * len(PERSONS)), "rounds, steps and clients"


TOO_FEW = "4 to 5 contributors, got 3"


@pytest.mark.parametrize("encryption", [HELD, 'custody = "shared_key"', 'kind = "ckks"'])
def test_who_holds_the_key_refuses_fewer_than_min_clients(
    tmp_path, bert_folder, monkeypatch, encryption
):
    """Whatever the aggregator was told: its own check is lowered here to the general least."""
    real, update = Aggregator.__init__, ClientNode.update
    monkeypatch.setattr(
        Aggregator, "__init__", lambda self, **given: real(self, **{**given, "min_clients": 3})
    )

    def fail(self, plan, state, start):
        if self.id in ("hill", "north"):
            raise RuntimeError
        return update(self, plan, state, start)

    monkeypatch.setattr(ClientNode, "update", fail)
    federation = load_federation(
        write_files(tmp_path, bert_folder, encryption=encryption), tmp_path / "state"
    )
    if encryption == HELD:
        with pytest.raises(EncryptionError, match=TOO_FEW):
            federation.run(tmp_path / "run")
        return
    with pytest.raises(AwayError, match="east, south, west did not in round"):
        federation.run(tmp_path / "run")
    for name in ("east", "south", "west"):
        assert TOO_FEW in (tmp_path / f"state/clients/{name}/ward-notes/client.log").read_text()


def test_an_anchor_in_the_configuration_is_one_that_the_ledger_must_continue(tmp_path, bert_folder):
    """Also of a client with a budget of its own."""
    anchors = {name: f"{number}:{'ab' * 32}" for number, name in enumerate(PERSONS, start=5)}
    for name in PERSONS:
        continues = f'[data.continues]\n{name} = "{anchors[name]}"'
        federation = load_federation(
            write_files(tmp_path, bert_folder, continues=continues), tmp_path / "state"
        )
        given = {client.id: client.continues for client in federation.clients}
        assert given == {**dict.fromkeys(PERSONS), name: anchors[name]}
        assert {client.id: client.budget or DEFAULT for client in federation.clients} == BUDGETS
    with pytest.raises(LedgerMissingError):
        replace(federation, state_folder=tmp_path / "other").run(tmp_path / "run")
