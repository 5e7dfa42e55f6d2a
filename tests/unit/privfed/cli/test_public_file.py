"""The public file: the same at every party, and nothing of anybody's records."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from accountants import Budget
from privfed import BFV, NoisySize
from privfed.cli.public_file import (
    SHARED_KEY_ACCEPTED,
    load_public_run,
    make_public_files,
    require_accepted,
)
from privfed.errors import ConfigError
from privfed.settings.encryption import Custody
from tests.unit.privfed.cli.between import ACCEPTED, write
from tests.unit.privfed.cli.configurations import MISSING, changed, texts


def loaded(place, public):
    return load_public_run(write(place / "run.toml", public))


class TestWhatIsRead:
    def test_everything_arrives(self, place, public, enrolled):
        run = loaded(place, public)
        settings = run.settings
        assert (settings.title, settings.seed, settings.rounds) == ("three wards", 7, 4)
        assert [(one.id, one.public_size, one.dataset, one.budget) for one in settings.clients] == [
            ("east", 31, "wards", None),
            ("north", 29, "wards", Budget(epsilon=5.5, delta=2e-3)),
            ("west", 27, "wards", None),
        ]
        assert settings.encryption == BFV(bits=9, custody=Custody.SHARED_KEY)
        assert settings.privacy.budget == Budget(epsilon=4.0, delta=1e-3)
        assert texts(settings.held_out) == {f"public {n}" for n in range(6)}
        assert [record.label for record in settings.held_out] == [0, 1, 0, 1, 0, 1]
        assert settings.held_out_source == "held-out.jsonl"
        assert settings.enrolment.roster == place / "wards.roster"
        assert settings.enrolment.authority == enrolled[1]
        assert run.folder == place
        assert (run.start, run.agreement) == (
            place / "start.safetensors",
            place / "agreement.json",
        )
        assert settings.start is None, "nobody made it yet"

    def test_the_initial_adapter_once_it_was_made(self, place, public):
        (place / "start.safetensors").write_bytes(b"whatever")
        assert loaded(place, public).settings.start == place / "start.safetensors"

    def test_a_size_may_be_released_under_noise(self, place, public):
        public = changed(public, "data/public_sizes/west", {"noise_epsilon": 0.5})
        settings = loaded(place, public).settings
        assert settings.clients[2].public_size == NoisySize(noise_epsilon=0.5, minimum=1)
        assert "released once under noise" in settings.public_size_source

    @pytest.mark.parametrize(
        ("path", "place_of_it"),
        [
            ("sources", "the top level"),
            ("data/source", r"\[data\]"),
            ("data/partition", r"\[data\]"),
            ("data/held_out", r"\[data\]"),
            ("parties/identities", r"\[parties\]"),
            ("federation/round", r"\[federation\]"),
            ("privacy/sigma", r"\[privacy\]"),
        ],
    )
    def test_an_unknown_key_is_named_with_its_table(self, place, public, path, place_of_it):
        """Also what belongs to one organisation alone."""
        name = path.split("/")[-1]
        with pytest.raises(ConfigError, match=rf"^{place_of_it} has unknown key.*'{name}'"):
            loaded(place, changed(public, path, 1))

    @pytest.mark.parametrize("path", ["data/public_sizes", "data/dataset", "parties", "hub"])
    def test_one_that_is_missing_is_named(self, place, public, path):
        with pytest.raises(ConfigError, match=f"needs the key '{path.split('/')[-1]}'"):
            loaded(place, changed(public, path, MISSING))

    def test_steps_of_one_client(self, place, public):
        public = changed(public, "privacy/clients/west", {"steps_per_round": 5})
        settings = loaded(place, public).settings
        assert settings.steps == {"west": 5, "north": 2, "east": 2}
        assert {one.id: one.budget is None for one in settings.clients}["west"]

    def test_a_budget_of_nobody(self, place, public):
        public = changed(public, "privacy/clients/suoth", {"epsilon": 1.0, "delta": 1e-4})
        with pytest.raises(ConfigError, match=r"\[privacy.clients\] names \['suoth'\]"):
            loaded(place, public)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ConfigError, match="none.toml does not exist"):
            load_public_run(tmp_path / "none.toml")


class TestCustody:
    @pytest.mark.parametrize(
        ("encryption", "words"),
        [
            (MISSING, "custody has no default"),
            ({}, "custody has no default"),
            ({"kind": "bfv", "bits": 9}, "custody has no default"),
            ({"kind": "plain"}, "summed under .* 'bfv'"),
            ({"kind": "ckks"}, "hides nothing from a hub that deviates"),
        ],
        ids=["no table", "empty", "no custody", "plain", "ckks"],
    )
    def test_is_said_by_whoever_writes_the_file(self, place, public, encryption, words):
        with pytest.raises(ConfigError, match=words):
            loaded(place, changed(public, "encryption", encryption))

    @pytest.mark.parametrize("custody", list(Custody))
    def test_either(self, place, public, custody):
        public = changed(public, "encryption/custody", custody.value)
        assert loaded(place, public).settings.encryption.custody is custody

    @pytest.mark.parametrize("said", [None, "", "yes", ACCEPTED + ".", ACCEPTED.upper()])
    def test_a_shared_key_is_accepted_in_these_words(self, said):
        assert SHARED_KEY_ACCEPTED == ACCEPTED
        require_accepted(Custody.SHARED_KEY, ACCEPTED)
        with pytest.raises(ConfigError, match=f'accept = "{ACCEPTED}"'):
            require_accepted(Custody.SHARED_KEY, said)

    @pytest.mark.parametrize("said", [None, ACCEPTED])
    def test_a_key_holder_needs_no_words(self, said):
        require_accepted(Custody.KEY_HOLDER, said)


class TestMakingWhatBelongsToIt:
    def test_made_once_and_compared_from_then_on(self, place):
        path = place / "run.toml"
        told = make_public_files(path)
        start, agreement = place / "start.safetensors", place / "agreement.json"
        tensors = load_file(start)
        assert tensors
        assert all(np.isfinite(one).all() for one in tensors.values())
        assert told[0].startswith(f"made {start}")
        assert told[1].startswith(f"made {agreement}")
        run = load_public_run(path)
        digest = run.settings.proposal().digest()
        assert f"agreement: SHA-256 {digest}" in told
        assert run.require_agreed().digest() == digest
        content = start.read_bytes(), agreement.read_bytes()
        again = make_public_files(path)
        assert again == told[2:]
        assert (start.read_bytes(), agreement.read_bytes()) == content

    def test_another_public_file_is_named_by_what_differs(self, place, public):
        (place / "start.safetensors").write_bytes(b"not read here")
        make_public_files(place / "run.toml")
        before = (place / "agreement.json").read_bytes()
        changes = {"privacy/epsilon": 4.5, "data/public_sizes/west": 28, "federation/rounds": 5}
        for key, value in changes.items():
            public = changed(public, key, value)
        with pytest.raises(ConfigError) as refused:
            make_public_files(write(place / "run.toml", public))
        words = str(refused.value)
        assert "agreement.json and the public file must say the same" in words
        assert "was 4.0 and is 4.5" in words
        assert "clients.west.public_size was 27 and is 28" in words
        assert "rounds was 4 and is 5" in words
        assert "north" not in words
        assert (place / "agreement.json").read_bytes() == before

    def test_a_changed_agreement_is_refused(self, place):
        (place / "start.safetensors").write_bytes(b"not read here")
        make_public_files(place / "run.toml")
        path = place / "agreement.json"
        values = json.loads(path.read_text())
        values["settings"]["privacy"]["record"] = "one word"
        path.write_text(json.dumps(values))
        with pytest.raises(ConfigError, match='was "one word" and is "one made-up sentence"'):
            load_public_run(place / "run.toml").require_agreed()

    def test_without_one_nothing_is_agreed(self, place):
        with pytest.raises(ConfigError, match="start.safetensors must lie beside"):
            load_public_run(place / "run.toml").require_agreed()
        (place / "start.safetensors").write_bytes(b"")
        with pytest.raises(ConfigError, match="agreement.json must lie beside"):
            load_public_run(place / "run.toml").require_agreed()
