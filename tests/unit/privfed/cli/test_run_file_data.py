"""From the table [data] to clients and held-out text: who has which rows, and what is said."""

import json
from itertools import pairwise

import pytest

from accountants import Budget
from privfed import NoisySize, RecordGroup
from privfed.cli import run_file_data as run_data
from privfed.cli import run_file_sizes as run_sizes
from privfed.cli.toml_section import Section
from privfed.data.partition import quantity_skew
from privfed.errors import ConfigError, DataError
from tests.unit.privfed.cli.configurations import MISSING, changed, texts

NAN = float("nan")


class TestRowsOfAColumn:
    def test_each_value_of_the_column_is_a_client_with_its_own_notes(self, load, settings):
        federation = load(settings)
        clients = {client.id: client for client in federation.clients}
        assert list(clients) == ["east", "north", "south", "west"]
        assert {client.dataset for client in federation.clients} == {"notes-2026"}
        assert sum(len(client.records) for client in federation.clients) == 129
        assert {r.label for client in federation.clients for r in client.records} == {0, 1, 2}
        held = texts(federation.held_out)
        assert len(federation.held_out) == 31
        assert not any(held & texts(client.records) for client in federation.clients)

    def test_a_listed_public_size_is_taken_and_others_have_that_of_all(self, load, settings):
        clients = {client.id: client for client in load(settings).clients}
        sizes = {name: client.public_size for name, client in clients.items()}
        assert sizes == {"east": 21, "north": 25, "south": 21, "west": 21}
        assert not {len(client.records) for client in clients.values()} & {21, 25}

    def test_where_held_out_text_and_sizes_come_from_is_said(self, load, settings):
        federation = load(settings)
        assert federation.held_out_source == "0.2 of notes.jsonl, taken out before the split"
        assert federation.public_size_source == "declared in the configuration"

    def test_another_seed_holds_out_the_same_notes(self, load, settings):
        """Else a note would be trained on in one run and evaluated in clear in the next."""
        first, other = load(settings), load(changed(settings, "seed", 8))
        assert list(first.held_out) == list(other.held_out)
        assert [client.records for client in first.clients] == [
            client.records for client in other.clients
        ]

    def test_another_file_of_the_data_set_holds_out_the_same_notes(self, load, settings, tmp_path):
        first = load(settings)
        (tmp_path / "notes.jsonl").rename(tmp_path / "renamed.jsonl")
        other = load(changed(settings, "data/source", "renamed.jsonl"))
        assert list(first.held_out) == list(other.held_out)

    def test_another_data_set_holds_out_other_notes(self, load, settings):
        first, other = load(settings), load(changed(settings, "data/dataset", "notes-2027"))
        assert texts(first.held_out) != texts(other.held_out)
        assert {client.dataset for client in other.clients} == {"notes-2027"}


class TestOtherSplitsAndSources:
    def split(self, settings, **rule):
        return {**settings, "data": {**settings["data"], "partition": rule, "public_sizes": {}}}

    @pytest.fixture
    def pooled(self, settings):
        return changed(settings, "privacy/clients", {"client-02": {"epsilon": 1, "delta": 1e-4}})

    def test_iid(self, load, pooled):
        federation = load(self.split(pooled, rule="iid", clients=5))
        sizes = [len(client.records) for client in federation.clients]
        assert next(client.id for client in federation.clients) == "client-01"
        assert sizes == [26, 26, 26, 26, 25]
        everyone = [r.text for client in federation.clients for r in client.records]
        assert len(everyone) == len(set(everyone)) == 129
        assert federation.clients[1].budget == Budget(epsilon=1.0, delta=1e-4)

    def test_dirichlet(self, load, pooled):
        split = self.split(pooled, rule="dirichlet", clients=4, alpha=1, minimum=15)
        federation = load(split)
        assert min(len(client.records) for client in federation.clients) >= 15
        everyone = [r.text for client in federation.clients for r in client.records]
        assert len(everyone) == len(set(everyone)) == 129
        assert not set(everyone) & texts(federation.held_out)

    def test_quantity_skew(self, load, pooled):
        split = self.split(pooled, rule="quantity_skew", clients=4, alpha=1.0, minimum=7)
        federation = load(split)
        sizes = [len(client.records) for client in federation.clients]
        dealt = quantity_skew(129, 4, alpha=1.0, minimum=7, seed=7)
        assert sizes == [len(rows) for rows in dealt.values()]
        assert min(sizes) >= 7
        everyone = [r.text for client in federation.clients for r in client.records]
        assert len(everyone) == len(set(everyone)) == 129
        unlike = self.split(pooled, rule="quantity_skew", clients=4, alpha=3.0, minimum=7)
        assert [len(client.records) for client in load(unlike).clients] != sizes
        assert federation.clients[0].description.startswith("notes.jsonl, quantity_skew, 4 clients")

    def test_feature_shift_orders_the_notes_of_each_topic_by_their_length(self, load, pooled):
        split = self.split(pooled, rule="feature_shift", clients=4, random_share=0)
        clients = load(split).clients
        assert sorted(len(client.records) for client in clients) == [32, 32, 32, 33]
        for topic in range(3):
            lengths = [
                sorted(len(r.text) for r in client.records if r.label == topic)
                for client in clients
            ]
            dealt = [length for block in lengths for length in block]
            assert dealt == sorted(dealt)
            assert dealt[0] < dealt[-1]
            assert {len(block) for block in lengths} <= {len(dealt) // 4, len(dealt) // 4 + 1}
        even = load(self.split(pooled, rule="feature_shift", clients=4, random_share=1.0)).clients
        longest = [max(len(r.text) for r in client.records) for client in (clients[0], even[0])]
        assert longest[0] < longest[1]

    @pytest.mark.parametrize(
        "rule",
        [
            {"rule": "feature_shift", "random_share": 0.0},
            {"rule": "quantity_skew", "alpha": 1.0},
        ],
    )
    def test_splits_that_need_no_classes(self, load, pooled, llama_folder, rule):
        split = self.split(pooled, clients=4, **rule)
        split["model"] = {"task": "causal-lm", "base": llama_folder}
        del split["data"]["label"]
        clients = load(split).clients
        everyone = [r.text for client in clients for r in client.records]
        assert len(everyone) == len(set(everyone)) == 129
        lengths = [[len(r.text) for r in client.records] for client in clients]
        in_order = all(max(a) <= min(b) for a, b in pairwise(lengths))
        assert in_order == (rule["rule"] == "feature_shift")

    def test_a_dirichlet_split_needs_classes(self, load, pooled, llama_folder):
        split = self.split(pooled, rule="dirichlet", clients=4, alpha=1.0)
        split["model"] = {"task": "causal-lm", "base": llama_folder}
        del split["data"]["label"]
        with pytest.raises(ConfigError, match="needs a classification task"):
            load(split)

    def test_another_held_out_source_leaves_every_note_to_the_clients(self, load, settings):
        settings = changed(settings, "data/held_out_source", "other.jsonl")
        federation = load(changed(settings, "data/held_out", MISSING))
        assert len(federation.held_out) == 12
        assert sum(len(client.records) for client in federation.clients) == 160
        assert federation.held_out_source == "other.jsonl"

    def test_a_share_beside_another_source_is_refused(self, load, settings):
        with pytest.raises(
            ConfigError, match=r"\[data\] takes held_out or held_out_source, got both"
        ):
            load(changed(settings, "data/held_out_source", "other.jsonl"))

    @pytest.mark.parametrize("spelling", ["notes.jsonl", "./notes.jsonl", "sub/../notes.jsonl", ""])
    def test_the_source_itself_is_no_held_out_source(self, load, settings, tmp_path, spelling):
        (tmp_path / "sub").mkdir()
        (tmp_path / "link.jsonl").symlink_to(tmp_path / "notes.jsonl")
        settings = changed(settings, "data/held_out", MISSING)
        other = spelling or "link.jsonl"
        with pytest.raises(ConfigError, match="held_out_source must be another source"):
            load(changed(settings, "data/held_out_source", other))

    def test_a_split_that_is_the_default_is_the_same_source(self, load, settings):
        settings["data"].update(source="ag_news", held_out_source="ag_news:train")
        with pytest.raises(ConfigError, match="held_out_source must be another source"):
            load(changed(settings, "data/held_out", MISSING))

    def test_what_is_held_out_does_not_depend_on_what_is_trained_on(self, load, settings, tmp_path):
        """Else the public held-out set would tell who holds which text."""
        first = json.loads((tmp_path / "notes.jsonl").read_text().splitlines()[0])
        copy = {**first, "note": "  " + first["note"].replace(" ", "  ")}
        with (tmp_path / "other.jsonl").open("a") as file:
            file.write(json.dumps(copy) + "\n")
        settings = changed(settings, "data/held_out", MISSING)
        federation = load(changed(settings, "data/held_out_source", "other.jsonl"))
        assert len(federation.held_out) == 13
        assert federation.held_out_source == "other.jsonl"
        trained = {text for client in federation.clients for text in texts(client.records)}
        assert first["note"] not in trained
        assert len(trained) > 100
        (tmp_path / "other.jsonl").write_text((tmp_path / "notes.jsonl").read_text())
        with pytest.raises(DataError, match="every text is also held out"):
            load(changed(settings, "data/held_out_source", "other.jsonl"))

    @pytest.mark.parametrize("source", ["notes.txt", "absent.txt", ".", "folder", "two words"])
    def test_what_is_neither_a_file_nor_a_hub_name_is_refused(
        self, load, settings, tmp_path, source
    ):
        (tmp_path / "notes.txt").write_text("a note")
        (tmp_path / "folder").mkdir()
        with pytest.raises(DataError, match=r"ends in \.jsonl, \.json, \.csv, \.parquet, or"):
            load(changed(settings, "data/source", source))

    @pytest.mark.parametrize("source", ["ag_news", "owner/corpus-1.1", "owner/c4.en:train[:1%]"])
    def test_a_hub_name_is_handed_on_as_it_is(self, load, settings, monkeypatch, source):
        asked = []

        def load_table(place, **columns):
            asked.append(place)
            raise DataError("stop")

        monkeypatch.setattr(run_data, "load_table", load_table)
        with pytest.raises(DataError, match="stop"):
            load(changed(settings, "data/source", source))
        assert asked == [source]

    def test_an_absolute_source(self, load, settings, tmp_path):
        path = str(tmp_path / "notes.jsonl")
        federation = load(changed(settings, "data/source", path))
        assert len(federation.held_out) == 31

    def test_documents_are_cut_into_chunks_that_are_one_record(self, load, settings, llama_folder):
        settings["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 12}
        settings["data"]["chunk_tokens"] = 2
        del settings["data"]["label"]
        federation = load(settings)
        whole = load(changed(settings, "data/chunk_tokens", MISSING))
        for client, other in zip(federation.clients, whole.clients, strict=True):
            assert len(client.records) == len(other.records)
            for group, document in zip(client.records, other.records, strict=True):
                assert isinstance(group, RecordGroup)
                assert " ".join(e.text for e in group.examples) == document.text
                assert {len(e.text.split()) for e in group.examples[:-1]} <= {2}

    def test_chunks_are_for_documents_of_a_language_model(self, load, settings):
        settings["data"]["chunk_tokens"] = 2
        with pytest.raises(ConfigError, match="chunk_tokens cuts documents for task 'causal-lm'"):
            load(settings)
        settings["data"]["chunk_tokens"] = 0
        with pytest.raises(ConfigError, match="chunk_tokens must be at least 1"):
            load(settings)


class TestPersons:
    """All rows of a person at a client are one record."""

    @pytest.fixture
    def by_person(self, settings, tmp_path):
        path = tmp_path / "notes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{**row, "who": f"p{position % 9}"} for position, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return changed(settings, "data/person", "who")

    def test_they_are_grouped_within_each_client(self, load, by_person):
        clients = load(by_person).clients
        groups = [record for client in clients for record in client.records]
        assert all(isinstance(group, RecordGroup) for group in groups)
        assert all(len(client.records) <= 9 for client in clients)
        assert sum(len(group.examples) for group in groups) + len(load(by_person).held_out) == 160

    def test_a_person_is_held_out_with_all_rows(self, load, by_person, tmp_path):
        lines = (tmp_path / "notes.jsonl").read_text().splitlines()
        person = {row["note"]: row["who"] for row in map(json.loads, lines)}
        federation = load(changed(by_person, "data/held_out", 0.5))
        held = {person[record.text] for record in federation.held_out}
        kept = {
            person[example.text]
            for client in federation.clients
            for group in client.records
            for example in group.examples
        }
        assert held
        assert kept
        assert not held & kept

    def test_a_split_by_chance_would_tear_them_apart(self, load, by_person):
        rule = {"rule": "iid", "clients": 4}
        by_person = changed(by_person, "data/partition", rule)
        with pytest.raises(ConfigError, match=r"person needs \[data.partition\] rule 'column'"):
            load(changed(by_person, "data/public_sizes", MISSING))

    def test_chunks_of_documents_are_no_rows_of_a_person(self, load, by_person, llama_folder):
        by_person["model"] = {"task": "causal-lm", "base": llama_folder, "max_length": 12}
        by_person["data"]["chunk_tokens"] = 2
        del by_person["data"]["label"]
        with pytest.raises(ConfigError, match="and beside person"):
            load(by_person)


class TestAnchors:
    def test_each_client_continues_from_its_own(self, load, settings):
        anchors = {"north": "7:" + "ab" * 32, "east": "9:" + "cd" * 32}
        clients = load(changed(settings, "data/continues", anchors)).clients
        assert {client.id: client.continues for client in clients} == {
            "east": anchors["east"],
            "north": anchors["north"],
            "south": None,
            "west": None,
        }

    def test_an_anchor_of_nobody_is_refused(self, load, settings):
        with pytest.raises(ConfigError, match=r"continues\] names unknown client\(s\) \['moon'\]"):
            load(changed(settings, "data/continues", {"moon": "7:" + "ab" * 32}))


class TestSplitsThatCannotBe:
    @pytest.mark.parametrize(
        ("rule", "named"),
        [
            (
                {"rule": "random", "clients": 3},
                r"one of \['column', 'dirichlet', 'feature_shift', 'iid', 'quantity_skew'\], got",
            ),
            ({"rule": "iid"}, "needs the key 'clients'"),
            ({"rule": "iid", "clients": 3, "alpha": 1.0}, r"unknown key\(s\) \['alpha'\]"),
            ({"rule": "iid", "clients": 3, "column": "ward"}, r"unknown key\(s\) \['column'\]"),
            ({"rule": "iid", "clients": 0}, "clients must be at least 1, got 0"),
            ({"rule": "iid", "clients": 1000}, "cannot give 1000 clients"),
            ({"rule": "iid", "clients": 10**12}, "at most 1000 clients .*got 1000000000000"),
            ({"rule": "dirichlet", "clients": 1001}, "at most 1000 clients .*got 1001"),
            ({"rule": "dirichlet", "clients": 3}, "needs the key 'alpha'"),
            ({"rule": "dirichlet", "clients": 3, "alpha": 0}, "alpha"),
            ({"rule": "dirichlet", "clients": 3, "alpha": NAN}, "alpha"),
            ({"rule": "dirichlet", "clients": 3, "alpha": 1, "minimum": 100}, "cannot give 3"),
            ({"rule": "quantity_skew", "clients": 3}, "needs the key 'alpha'"),
            ({"rule": "quantity_skew", "clients": 3, "alpha": 1, "minimum": 100}, "cannot give 3"),
            ({"rule": "feature_shift", "clients": 3}, "needs the key 'random_share'"),
            ({"rule": "feature_shift", "clients": 3, "random_share": 1.5}, "random_share must be"),
            (
                {"rule": "feature_shift", "clients": 3, "random_share": 1, "minimum": 2},
                r"unknown key\(s\) \['minimum'\]",
            ),
            ({"rule": "column", "column": "ward", "clients": 4}, "clients must be of type list"),
            ({"rule": "column", "column": "ward"}, "names are not taken from the rows"),
            ({"rule": "column", "column": "ward", "clients": []}, "names are not taken from the"),
            ({"rule": "iid", "clients": 3, "others": "drop"}, r"unknown key\(s\) \['others'\]"),
        ],
    )
    def test_a_split_that_cannot_be_made_is_named(self, load, settings, rule, named):
        del settings["data"]["public_sizes"]
        del settings["privacy"]["clients"]
        with pytest.raises((ConfigError, DataError), match=named):
            load(changed(settings, "data/partition", rule))

    def test_the_rule_of_a_split_is_judged_before_other_keys_are_asked_for(self, load, settings):
        settings["data"] = {"partition": {"rule": "random"}}
        with pytest.raises(ConfigError, match=r"\[data\.partition\] rule must be one of"):
            load(settings)


class TestDeclaredClients:
    """Names and sizes are public before any row is read."""

    @pytest.fixture
    def more(self, settings, tmp_path):
        """The settings, with nine more notes of a ward that is not declared."""
        extra = [{"note": f"river stone {n}", "topic": "sport", "ward": "tiny"} for n in range(9)]
        with (tmp_path / "notes.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in extra)
        settings = changed(settings, "data/held_out_source", "other.jsonl")
        return changed(settings, "data/held_out", MISSING)

    @pytest.fixture
    def loaded(self, load, more):
        """What `load` would do, when the nine notes are there."""
        return lambda path, value: load(changed(more, path, value))

    def test_rows_of_another_client_are_refused_by_number(self, loaded):
        with pytest.raises(DataError, match=r"9 row\(s\) .*first in row 161.* = 'drop'") as caught:
            loaded("data/partition/others", "refuse")
        assert "tiny" not in str(caught.value)

    def test_or_left_out_also_of_what_is_held_out(self, load, loaded, more):
        clients = loaded("data/partition/others", "drop").clients
        assert [client.id for client in clients] == ["east", "north", "south", "west"]
        drawn = changed(changed(more, "data/held_out_source", MISSING), "data/held_out", 0.9)
        everything = texts(load(drawn).held_out)
        assert len(everything) > 100
        assert not any(text.startswith("river stone") and text[-1].isdigit() for text in everything)

    def test_the_listed_sizes_name_the_clients_where_nothing_else_does(self, load, more):
        more = changed(more, "data/partition/clients", MISSING)
        more = changed(more, "data/public_size", MISSING)
        sizes = {"tiny": 12, "north": 25, "east": 30}
        more = changed(more, "privacy/clients", MISSING)
        clients = load(changed(more, "data/public_sizes", sizes)).clients
        assert {client.id: client.public_size for client in clients} == sizes
        assert {client.id: len(client.records) for client in clients}["tiny"] == 9

    def test_a_client_without_a_size_is_refused(self, load, settings):
        """There is no default: a true number would tell whether one record is there."""
        with pytest.raises(ConfigError, match=r"3 client\(s\) have no public size, such as 'west'"):
            load(changed(settings, "data/public_size", MISSING))

    def test_a_size_may_be_released_under_noise(self, load, settings):
        settings = changed(settings, "data/public_size", {"noise_epsilon": 0.5})
        federation = load(settings)
        sizes = {client.id: client.public_size for client in federation.clients}
        noisy = NoisySize(noise_epsilon=0.5, minimum=11)
        assert sizes == {"east": noisy, "north": 25, "south": noisy, "west": noisy}
        assert "released once under noise" in federation.public_size_source
        settings = changed(settings, "data/public_sizes/north", {"noise_epsilon": 0.25})
        (north,) = [client for client in load(settings).clients if client.id == "north"]
        assert north.public_size == NoisySize(noise_epsilon=0.25, minimum=11)

    def test_a_client_whose_declared_size_is_too_small_is_left_out(self, load, settings):
        """By its declared size: that it holds more, or fewer, must not show."""
        settings = changed(settings, "data/partition/minimum", 22)
        assert [client.id for client in load(changed(settings, "privacy/clients", MISSING)).clients]
        settings = changed(settings, "data/public_sizes", {"north": 25, "east": 22, "west": 90})
        settings = changed(settings, "privacy/clients", MISSING)
        federation = load(settings)
        assert [client.id for client in federation.clients] == ["east", "north", "west"]
        held = load(changed(settings, "data/partition/minimum", 1)).held_out
        assert len(federation.held_out) < len(held)

    def test_an_own_budget_of_a_client_that_is_left_out_is_no_mistake(self, load, settings):
        """Nor is an anchor of it."""
        settings = changed(settings, "data/public_sizes", {"north": 25, "east": 22, "west": 90})
        settings = changed(settings, "data/partition/minimum", 22)
        settings = changed(settings, "data/continues", {"south": "3:" + "ab" * 32})
        settings = changed(settings, "privacy/clients/east", {"epsilon": 2.5, "delta": 1e-5})
        budgets = {client.id: client.budget for client in load(settings).clients}
        own = Budget(epsilon=2.5, delta=1e-5)
        assert budgets == {"east": own, "north": None, "west": None}

    @pytest.mark.parametrize(
        ("table", "value"),
        [
            ("privacy/clients", {"epsilon": 1.5, "delta": 1e-4}),
            ("data/continues", "3:" + "ab" * 32),
            ("data/public_sizes", 30),
        ],
    )
    def test_a_name_that_is_not_declared_is_refused_with_those_that_are(
        self, load, settings, table, value
    ):
        with pytest.raises(ConfigError) as refused:
            load(changed(settings, f"{table}/suoth", value))
        assert str(refused.value) == (
            f"[{table.replace('/', '.')}] names unknown client(s) ['suoth']; those declared in "
            "[data] are ['east', 'north', 'south', 'west']"
        )

    def test_of_many_declared_names_some_are_shown(self, load, settings):
        names = ["north", *(f"ward-{number}" for number in range(10, 33))]
        with pytest.raises(ConfigError, match=r"\['south'\]; .*'ward-27', 'ward-28'\] and 4 more$"):
            load(changed(settings, "data/partition/clients", names))

    @pytest.mark.parametrize("form", ["clients", "public_sizes"])
    def test_the_limit_of_clients_is_checked_before_any_text_is_read(
        self, load, settings, monkeypatch, form
    ):
        monkeypatch.setattr(run_data, "load_table", None)
        settings = changed(settings, "privacy/clients", MISSING)
        names = [f"ward-{number}" for number in range(1001)]
        if form == "clients":
            settings = changed(settings, "data/partition/clients", names)
        else:
            settings = changed(settings, "data/partition/clients", MISSING)
        settings = changed(settings, "data/public_sizes", dict.fromkeys(names, 30))
        with pytest.raises(ConfigError, match="at most 1000 clients can take part.*got 1001"):
            load(settings)
        settings["data"]["public_sizes"][names[0]] = 10
        with pytest.raises(TypeError):  # it goes on to read: one client is too small to take part
            load(settings)

    def test_names_are_compared_in_the_spelling_of_a_table(self, load, settings, tmp_path):
        path = tmp_path / "notes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        spelt = {"north": True, "south": 2.0, "east": "3", "west": 4}
        rows = [{**row, "ward": spelt[row["ward"]]} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = changed(settings, "data/partition/clients", ["True", "2", "3.0", "4"])
        settings = changed(settings, "data/public_sizes", {"True": 25})
        settings = changed(settings, "privacy/clients", MISSING)
        federation = load(settings)
        assert [client.id for client in federation.clients] == ["2", "3.0", "4", "True"]
        assert all(len(client.records) > 25 for client in federation.clients)


class TestRowsThatAreLeftOut:
    """Said to whoever runs it, as counts."""

    def test_they_are_counted_in_a_warning(self, load, settings, tmp_path, caplog):
        path = tmp_path / "notes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        other = json.loads((tmp_path / "other.jsonl").read_text().splitlines()[0])
        extra = [rows[0], rows[0], rows[1], {**rows[2], "topic": None}]
        extra += [{**rows[3], "ward": "tiny"} for _ in range(1)]
        extra += [{**other, "note": other["note"] + " " * n, "ward": "north"} for n in range(5)]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
        settings = changed(settings, "data/held_out_source", "other.jsonl")
        settings = changed(settings, "data/held_out", MISSING)
        with caplog.at_level("INFO", logger="privfed"):
            load(settings)
        (record,) = [
            record for record in caplog.records if record.name == "privfed.cli.run_file_data"
        ]
        assert record.levelname == "WARNING"
        assert record.getMessage() == (
            "notes.jsonl: 170 rows, of which 1 lack a value, 3 are copies, 1 are of clients that "
            "do not take part, 5 are in held_out_source too, 0 are held out, and 160 are trained on"
        )

    def test_else_they_are_counted_quietly(self, load, settings, caplog):
        with caplog.at_level("INFO", logger="privfed"):
            federation = load(settings)
        (record,) = [
            record for record in caplog.records if record.name == "privfed.cli.run_file_data"
        ]
        assert record.levelname == "INFO"
        held = len(federation.held_out)
        assert f"{held} are held out, and {160 - held} are trained on" in record.getMessage()


class TestSizesOfARunBetweenMachines:
    """All are declared, since nobody has the records of all."""

    def read(self, sizes):
        return run_sizes.declared_sizes(Section("data", {"public_sizes": sizes}))

    def test_by_name_sorted(self):
        found = self.read({"west": 27, "east": 31, "north": {"noise_epsilon": 0.25}})
        noisy = NoisySize(noise_epsilon=0.25, minimum=1)
        assert list(found.items()) == [("east", 31), ("north", noisy), ("west", 27)]

    def test_they_have_no_default(self):
        with pytest.raises(ConfigError, match=r"\[data\] needs the key 'public_sizes'"):
            run_sizes.declared_sizes(Section("data", {"public_size": 30}))

    @pytest.mark.parametrize("size", [0, -3, 2.5, "30", True])
    def test_what_is_no_size_is_named_with_its_client(self, size):
        with pytest.raises(ConfigError, match="north"):
            self.read({"east": 31, "north": size})

    def test_an_unknown_key_of_a_size_is_named(self):
        sizes = {"north": {"noise_epsilon": 0.25, "minimum": 9}}
        with pytest.raises(ConfigError, match=r"\[data.public_sizes.north\] has unknown key"):
            self.read(sizes)

    def test_at_most_a_thousand(self):
        with pytest.raises(ConfigError, match="at most 1000 clients can take part.*got 1001"):
            self.read({f"ward-{number}": 30 for number in range(1001)})
