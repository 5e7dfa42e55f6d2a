"""The file of one organisation: what it brings, what it chose alone, and what it agreed to."""

from pathlib import Path

import pytest

from accountants import Budget
from privfed.cli.node_file import load_node_file
from privfed.cli.public_file import make_public_files
from privfed.errors import ConfigError
from tests.unit.privfed.cli.between import node_file, write
from tests.unit.privfed.cli.configurations import MISSING, changed

DIGEST = "00" * 32


@pytest.fixture
def load(place):
    """A function that loads an organisation's file."""

    def from_tables(values, name="north.toml"):
        return load_node_file(write(place / name, values))

    return from_tables


class TestWhatIsRead:
    def test_everything_arrives(self, load, place):
        found = load({**node_file(), "agreement": DIGEST})
        assert (found.name, found.agreement, found.hub) == ("north", DIGEST, "127.0.0.9:81")
        assert found.identity == place / "secret/own.identity"
        assert found.transport == place / "secret/own.key"
        assert found.certificate == place / "elsewhere.crt"
        assert found.results == place / "left"
        assert found.socket == Path("/run/node.sock")
        assert (found.share_ledger, found.pump) == (True, False)
        assert found.public.folder == place
        assert found.settings.state == place / "own-state"
        assert found.settings.anchors == place / "own-anchors"
        assert found.settings.device == "cpu"
        assert found.settings.training.physical_batch_size == 5
        assert found.settings.computation.cache_frozen_layers
        assert found.settings.proposal().digest() == found.public.settings.proposal().digest()

    def test_what_it_brings(self, load):
        """What is held out publicly is not trained on, nor a row that lacks a value."""
        client = load(node_file()).client
        assert (client.id, client.public_size, client.dataset) == ("north", 29, "wards")
        assert client.budget == Budget(epsilon=5.5, delta=2e-3)
        assert client.continues == "3:" + "ab" * 32
        assert len(client.records) == 19

    def test_what_it_holds_out_for_its_own_eyes_is_not_trained_on(self, load):
        whole = load(node_file()).client
        client = load(changed(node_file(), "data/own_held_out", 0.3)).client
        own = {record.text for record in client.own_held_out}
        assert 0 < len(own) < len(whole.records)
        trained = {example.text for record in client.records for example in record.examples}
        assert not own & trained
        assert whole.own_held_out == ()
        again = load(changed(node_file(), "data/own_held_out", 0.3)).client
        assert again == client, "the same records in every run on this data set"

    def test_defaults(self, load, place):
        values = node_file()
        for key in set(values) - {"name", "run", "accept", "dataset", "epsilon", "delta", "data"}:
            del values[key]
        for key in ("person", "continues"):
            del values["data"][key]
        found = load(values)
        assert found.identity == place / "north.identity"
        assert found.transport == place / "north.identity.transport"
        assert (found.agreement, found.socket) == (None, None)
        assert found.hub == "hub.example:7443"
        assert found.certificate == place / "hub.crt"
        assert (found.share_ledger, found.pump) == (False, True)
        assert found.results == place / "results-north"
        assert found.settings.training.physical_batch_size == 8
        assert found.client.continues is None
        assert found.settings.device is None

    def test_the_public_file_may_lie_elsewhere(self, load, place):
        """What it names lies beside it, and what the organisation names beside its own."""
        own = place / "own"
        own.mkdir()
        (place / "own.jsonl").rename(own / "own.jsonl")
        values = changed(changed(node_file(), "run", "../run.toml"), "certificate", MISSING)
        found = load(values, "own/north.toml")
        assert found.certificate == (place / "hub.crt").resolve()
        assert found.identity == own / "secret/own.identity"
        assert found.settings.enrolment.roster.resolve() == (place / "wards.roster").resolve()

    def test_its_base_model_may_lie_elsewhere(self, load, place, bert_folder):
        (place / "models").symlink_to(bert_folder)
        found = load({**node_file(), "base": "models"})
        assert Path(found.settings.model.base) == Path(bert_folder).resolve()
        assert found.settings.proposal().digest() == found.public.settings.proposal().digest()

    def test_so_may_one_that_it_alone_holds(
        self, load, place, public, bert_folder, other_bert_folder
    ):
        public["model"]["anchor_texts"] = ["goal", "bank"]
        public["bases"] = {"small": {"base": bert_folder, "clients": ["north"]}}
        write(place / "run.toml", public)
        found = load({**node_file(), "base": other_bert_folder})
        assert found.client.base == "small"
        assert found.settings.bases == {"small": str(Path(other_bert_folder).resolve())}
        assert found.settings.model == found.public.settings.model
        assert found.settings.task_on(found.client.base).base == found.settings.bases["small"]
        assert found.settings.proposal().digest() == found.public.settings.proposal().digest()

    @pytest.mark.parametrize(
        ("path", "where"),
        [
            ("privacy", "the top level"),
            ("data/public_sizes", r"\[data\]"),
            ("data/held_out_source", r"\[data\]"),
            ("computation/faster", r"\[computation\]"),
        ],
    )
    def test_an_unknown_key_is_named(self, load, path, where):
        """Also what the public file says for all."""
        name = path.split("/")[-1]
        with pytest.raises(ConfigError, match=rf"^{where} has unknown key.*'{name}'"):
            load(changed(node_file(), path, 1))

    @pytest.mark.parametrize(
        "path", ["name", "run", "dataset", "epsilon", "delta", "data", "data/source", "data/text"]
    )
    def test_one_that_is_missing_is_named(self, load, path):
        with pytest.raises(ConfigError, match=f"needs the key '{path.split('/')[-1]}'"):
            load(changed(node_file(), path, MISSING))

    @pytest.mark.parametrize(
        ("key", "value"), [("share_ledger", "yes"), ("pump", 1), ("physical_batch_size", 2.5)]
    )
    def test_a_value_of_another_type(self, load, key, value):
        with pytest.raises(ConfigError, match=f"'{key}' at the top level must be of type"):
            load({**node_file(), key: value})

    @pytest.mark.parametrize("name", ["suoth", "North", "hub"])
    def test_a_name_that_the_run_does_not_have(self, load, name):
        with pytest.raises(ConfigError) as refused:
            load({**node_file(), "name": name})
        assert f"got '{name}'; it names ['east', 'north', 'west']" in str(refused.value)

    def test_a_run_that_is_not_there(self, load):
        with pytest.raises(ConfigError, match="gone.toml does not exist"):
            load({**node_file(), "run": "gone.toml"})

    def test_rows_that_are_left_out_are_counted_and_not_quoted(self, load, caplog):
        with caplog.at_level("INFO", logger="privfed"):
            load(node_file())
        (said,) = [one for one in caplog.records if one.name == "privfed.cli.node_file"]
        assert said.levelname == "WARNING"
        words = said.getMessage()
        assert "21 rows, of which 1 lack a value, 0 are copies, 1 are held out" in words
        assert "19" in words
        assert "café" not in words


class TestWhatItAgreedTo:
    @pytest.mark.parametrize("said", [MISSING, "yes"])
    def test_a_shared_key_must_be_accepted(self, load, said):
        with pytest.raises(ConfigError, match="any client together with the hub"):
            load(changed(node_file(), "accept", said))

    def test_a_key_holder_need_not_be(self, load, place, public):
        write(place / "run.toml", changed(public, "encryption/custody", "key_holder"))
        assert load(changed(node_file(), "accept", MISSING)).name == "north"

    @pytest.fixture
    def agreed(self, place):
        (place / "start.safetensors").write_bytes(b"not read here")
        (line,) = [one for one in make_public_files(place / "run.toml") if "SHA-256" in one]
        return line.split()[-1]

    def test_the_run_that_was_confirmed(self, load, agreed):
        load({**node_file(), "agreement": agreed}).require_confirmed()

    def test_nobody_confirmed_it(self, load, agreed):
        with pytest.raises(ConfigError, match=f'add agreement = "{agreed}"'):
            load(node_file()).require_confirmed()

    def test_another_was_confirmed(self, load, agreed):
        with pytest.raises(ConfigError, match=f"confirmed the agreement {DIGEST}.* are {agreed}"):
            load({**node_file(), "agreement": DIGEST}).require_confirmed()

    def test_what_was_confirmed_was_changed_afterwards(self, load, agreed, place, public):
        """The public file by itself, and together with the agreement."""
        write(place / "run.toml", changed(public, "privacy/epsilon", 40.0))
        file = {**node_file(), "agreement": agreed}
        with pytest.raises(ConfigError, match=r"was 4\.0 and is 40\.0"):
            load(file).require_confirmed()
        (place / "agreement.json").unlink()
        make_public_files(place / "run.toml")
        with pytest.raises(ConfigError, match=f"confirmed the agreement {agreed}"):
            load(file).require_confirmed()
