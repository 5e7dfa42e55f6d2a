"""What a hub reads of a run: two tables and the agreement, and no model."""

import json
import re
import subprocess
import sys

import pytest

from privfed.cli.hub_file import hub_of, read_agreement
from privfed.cli.public_file import load_public_run
from privfed.errors import ConfigError
from tests.unit.privfed.cli.between import write
from tests.unit.privfed.cli.configurations import MISSING, changed


class TestTheTables:
    def test_every_key_arrives(self, place, enrolled):
        assert hub_of(place / "run.toml") == {
            "address": "hub.example:7443",
            "certificate": place / "hub.crt",
            "timeout_s": 1234.5,
            "patience_s": 67.0,
            "key_holder": None,
            "roster": place / "wards.roster",
            "authority": enrolled[1],
        }

    def test_what_has_a_default(self, place, public):
        for key in ("timeout_s", "patience_s"):
            public = changed(public, f"hub/{key}", MISSING)
        public = changed(public, "hub/key_holder", "keys.example:99")
        found = hub_of(write(place / "run.toml", public))
        assert (found["timeout_s"], found["patience_s"]) == (3600.0, 600.0)
        assert found["key_holder"] == "keys.example:99"

    @pytest.mark.parametrize(
        "key", ["hub/address", "hub/certificate", "parties/roster", "parties/authority"]
    )
    def test_what_has_none(self, place, public, key):
        table, name = key.split("/")
        path = write(place / "run.toml", changed(public, key, MISSING))
        with pytest.raises(ConfigError, match=rf"\[{table}\] needs the key '{name}'"):
            hub_of(path)

    def test_an_unknown_key_is_named(self, place, public):
        path = write(place / "run.toml", changed(public, "hub/timeout", 5.0))
        with pytest.raises(ConfigError, match=r"\[hub\] has unknown key\(s\) \['timeout'\]"):
            hub_of(path)

    @pytest.mark.parametrize(
        ("key", "value"), [("address", 7443), ("timeout_s", "1h"), ("key_holder", True)]
    )
    def test_a_value_of_another_type(self, place, public, key, value):
        path = write(place / "run.toml", changed(public, f"hub/{key}", value))
        with pytest.raises(ConfigError, match=rf"\[hub\] {key} must be of type"):
            hub_of(path)

    @pytest.mark.parametrize("key", ["timeout_s", "patience_s"])
    @pytest.mark.parametrize("value", [float("nan"), -1.0])
    def test_a_time_that_is_none(self, place, public, key, value):
        path = write(place / "run.toml", changed(public, f"hub/{key}", value))
        with pytest.raises(ConfigError, match=key):
            hub_of(path)


class TestTheAgreement:
    def test_there_and_back(self, place):
        proposal = load_public_run(place / "run.toml").settings.proposal()
        path = place / "agreement.json"
        path.write_text(json.dumps(proposal.to_json()))
        found = read_agreement(path)
        assert found.digest() == proposal.digest()
        assert found.names == ("east", "north", "west")
        assert (found.rounds, found.min_clients) == (4, 3)

    def test_one_that_is_not_there_is_made_by_whoever_wrote_the_run(self, tmp_path):
        with pytest.raises(ConfigError, match="agreement.json must lie beside.*privfed agreement"):
            read_agreement(tmp_path / "agreement.json")

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"5", b"{}", b"null"])
    def test_anything_else(self, tmp_path, content):
        path = tmp_path / "agreement.json"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape("as pri") + "|must be as"):
            read_agreement(path)

    def test_a_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="IsADirectoryError"):
            read_agreement(tmp_path)


def test_no_model_is_loaded(place):
    """Nor any library that could decrypt."""
    program = f"""
import sys
from pathlib import Path
from privfed.cli.hub_file import hub_of
hub_of(Path({str(place / "run.toml")!r}))
print([name for name in ("torch", "tenseal", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
