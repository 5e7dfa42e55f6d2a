"""Which ledger data have: other runs continue it, other units do not, and none is forgotten."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from accountants import AnchorFolder, Budget, LedgerForeignError, Neighbouring, PoissonGaussian
from privfed.data.records import Record
from privfed.parties.client.client import Client
from privfed.parties.client.joining import open_ledgers
from privfed.settings.privacy import PrivacyConfig
from privfed.storage.state_folder import ledger_path
from tests.unit.accountants.first_version import FIRST_EVENTS, write_first, write_like_it

PRIVACY = PrivacyConfig(
    budget=Budget(epsilon=2.0, delta=1e-4),
    neighbouring=Neighbouring.ADD_REMOVE,
    record="one note",
    expected_batch_size=8,
)
STEP = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=3)


def client(id_="ward", **changes):
    own = Client(
        id=id_,
        records=(Record("a text", 0),),
        public_size=40,
        dataset="notes-7",
        description="part 1 of 3 of notes.csv, seed 0",
    )
    return replace(own, **changes)


def opened(state, *clients, privacy=PRIVACY, secret_randomness=True):
    second = AnchorFolder(state.parent / "anchors")
    return open_ledgers(clients, privacy, state, second, None, secret_randomness=secret_randomness)


def test_another_split_seed_batch_and_number_of_clients_continue_one_ledger(tmp_path):
    first = opened(tmp_path, client())["ward"]
    first.reserve("first run", 0, [STEP], lambda *_: None)
    second = opened(
        tmp_path,
        client(description="part 2 of 4 of moved/notes.csv, seed 7", public_size=60),
        client("north"),
        privacy=replace(PRIVACY, expected_batch_size=16, clipping_norm=0.3),
    )
    assert (second["ward"].id, second["ward"].events()) == (first.id, (STEP,))
    assert second["north"].events() == ()
    assert second["north"].id != first.id


def test_another_unit_is_refused(tmp_path):
    opened(tmp_path, client())
    with pytest.raises(LedgerForeignError, match="unit .* 'one note', and not 'one patient'"):
        opened(tmp_path, client(), privacy=replace(PRIVACY, record="one patient"))


def test_a_mistaken_unit_is_left_behind_as_the_error_says(tmp_path):
    opened(tmp_path, client(), client("north"), privacy=replace(PRIVACY, record="one patent"))
    for _ in ("ward", "north"):
        with pytest.raises(LedgerForeignError) as refused:
            opened(tmp_path, client(), client("north"))
        named = re.search(r" remove (.*), and open it again$", str(refused.value))
        for file in named[1].split(", "):
            Path(file).unlink()
    ledgers = opened(tmp_path, client(), client("north"))
    assert {each.identity.unit for each in ledgers.values()} == {"one note"}
    ledgers["ward"].reserve("a run", 0, [STEP], lambda *_: None)
    assert opened(tmp_path, client())["ward"].events() == (STEP,)


def test_seeded_randomness_have_a_ledger_of_their_own(tmp_path):
    opened(tmp_path, client())
    with pytest.raises(LedgerForeignError, match=r"and not 'one note \(seeded coins: not private"):
        opened(tmp_path, client(), secret_randomness=False)


def test_a_ledger_of_the_first_version_is_joined_where_a_record_is_one_example(tmp_path):
    old = write_first(ledger_path(tmp_path, "ward", "notes-7").with_name("ledger.sqlite3"))
    before = old.read_bytes()
    assert opened(tmp_path, client())["ward"].events() == FIRST_EVENTS
    assert old.read_bytes() == before


def test_a_ledger_of_the_first_version_of_another_name_blocks_its_client_alone(tmp_path):
    old = ledger_path(tmp_path, "ward", "notes (old)").with_name("ledger.sqlite3")
    write_like_it(old, STEP, dataset="notes (old)")
    with pytest.raises(LedgerForeignError, match="'ward' must be assigned"):
        opened(tmp_path, client())
    assert opened(tmp_path, client("north"))["north"].events() == ()


def test_a_unit_of_several_examples_is_not_taken_for_that_of_the_first_version(tmp_path):
    write_first(ledger_path(tmp_path, "ward", "notes-7").with_name("ledger.sqlite3"))
    persons = replace(PRIVACY, record="one patient", examples_per_record=5)
    with pytest.raises(LedgerForeignError, match="'ward' must be assigned"):
        opened(tmp_path, client(), privacy=persons)
