"""`privfed roster`: from fresh identities to a verified roster, and what is refused."""

import re
import stat
from typing import get_args

import pytest
from typer.testing import CliRunner

from privfed.cli.roster import RoleName, authority_key, roster_app
from privfed.errors import IdentityError, MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster


def run(*arguments):
    return CliRunner().invoke(roster_app, [str(argument) for argument in arguments])


def worked(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def folder(tmp_path):
    """Identities of an authority, an aggregator and two clients."""
    for name, role in [
        ("ministry", "authority"),
        ("relay", "aggregator"),
        ("east", "client"),
        ("west", "client"),
    ]:
        worked("identity", name, "--role", role, "--out", tmp_path / name)
    return tmp_path


def public(folder, *names):
    return [folder / f"{name}.party.json" for name in names]


def sign(folder, *names, out="roster.json", authority="ministry"):
    return run(
        "sign",
        *public(folder, *names),
        "--federation",
        "wards",
        "--authority",
        folder / authority,
        "--out",
        folder / out,
    )


def key_of(folder, name):
    return Party.from_bytes((folder / f"{name}.party.json").read_bytes()).signing_key


def test_the_whole_way(folder):
    signed = sign(folder, "west", "relay", "east")
    assert signed.exit_code == 0, signed.output
    key = key_of(folder, "ministry")
    assert key.hex() in signed.output
    roster = Roster.load(folder / "roster.json", authority=key)
    assert [party.name for party in roster.parties] == ["east", "relay", "west"]
    for given in (key.hex(), key.hex().upper(), folder / "ministry.party.json"):
        shown = worked("show", folder / "roster.json", "--authority", given)
        assert "wards" in shown
        for party in roster.parties:
            assert re.search(rf"{party.name} +{party.role} +{party.fingerprint}", shown)


def test_an_identity_and_its_two_files(tmp_path):
    output = worked("identity", "east", "--role", "client", "--out", tmp_path / "key")
    identity = Identity.load(tmp_path / "key")
    assert identity.party.role is Role.CLIENT
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key.party.json").stat().st_mode) == 0o644
    assert (tmp_path / "key.party.json").read_bytes() == identity.party.to_bytes()
    assert identity.party.fingerprint in output
    assert "Hand it to the authority" in output


def test_the_authority_is_told_to_hand_its_key_to_all(tmp_path):
    output = worked("identity", "ministry", "--role", "authority", "--out", tmp_path / "key")
    assert Identity.load(tmp_path / "key").party.signing_key.hex() in output
    assert "Hand it to every party" in output


def test_the_roles_are_all_of_them():
    assert tuple(Role) == get_args(RoleName)


def test_another_role_is_refused(tmp_path):
    result = run("identity", "east", "--role", "boss", "--out", tmp_path / "key")
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_another_name_is_refused(tmp_path):
    result = run("identity", "a/b", "--role", "client", "--out", tmp_path / "key")
    assert isinstance(result.exception, IdentityError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["key", "key.party.json"])
def test_no_identity_is_overwritten(tmp_path, existing):
    (tmp_path / existing).write_bytes(b"mine")
    result = run("identity", "east", "--role", "client", "--out", tmp_path / "key")
    assert isinstance(result.exception, IdentityError)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_bytes() == b"mine"


def test_no_private_file_stays_without_its_public_one(tmp_path, monkeypatch):
    def fail(path, content, *, mode):
        if mode == 0o644:
            raise IdentityError("disk full")
        path.write_bytes(content)

    monkeypatch.setattr("privfed.storage.private_files.write_new", fail)
    result = run("identity", "east", "--role", "client", "--out", tmp_path / "key")
    assert isinstance(result.exception, IdentityError)
    assert list(tmp_path.iterdir()) == []


def test_no_roster_is_overwritten(folder):
    (folder / "roster.json").write_bytes(b"mine")
    assert isinstance(sign(folder, "east").exception, IdentityError)
    assert (folder / "roster.json").read_bytes() == b"mine"


def test_a_client_cannot_sign(folder):
    result = sign(folder, "east", authority="west")
    assert isinstance(result.exception, IdentityError)
    assert "'west' has the role client" in str(result.exception)
    assert not (folder / "roster.json").exists()


def test_the_public_file_cannot_sign(folder):
    result = sign(folder, "east", authority="ministry.party.json")
    assert "leave off .party.json" in str(result.exception)


def test_a_private_file_is_not_enrolled(folder):
    result = run(
        *("sign", folder / "east", "--federation", "wards"),
        *("--authority", folder / "ministry", "--out", folder / "roster.json"),
    )
    assert isinstance(result.exception, IdentityError)
    assert "holds private keys" in str(result.exception)
    assert not (folder / "roster.json").exists()


def test_a_damaged_public_file_is_named(folder):
    path = folder / "east.party.json"
    path.write_bytes(path.read_bytes()[:-5])
    result = sign(folder, "east", "west")
    assert isinstance(result.exception, MessageError)
    assert str(path) in str(result.exception)


def test_the_same_party_twice(folder):
    result = sign(folder, "east", "east")
    assert "of its own, ['east', 'east'] share one" in str(result.exception)


def test_a_roster_of_another_authority_is_not_shown(folder):
    assert sign(folder, "east").exit_code == 0
    worked("identity", "impostor", "--role", "authority", "--out", folder / "impostor")
    result = run("show", folder / "roster.json", "--authority", folder / "impostor.party.json")
    assert isinstance(result.exception, MessageError)
    assert "fingerprint" not in result.output


class TestAuthorityKey:
    def test_hex_digits(self):
        assert authority_key("aB" * 32) == b"\xab" * 32

    def test_a_client_is_none(self, folder):
        with pytest.raises(IdentityError, match="'east' with the role client"):
            authority_key(str(folder / "east.party.json"))

    def test_the_private_file_is_not_needed(self, folder):
        with pytest.raises(IdentityError, match="holds private keys"):
            authority_key(str(folder / "ministry"))

    @pytest.mark.parametrize("given", ["ab" * 31, "ab" * 33, "zz" * 32, "/", ""])
    def test_neither(self, given):
        with pytest.raises(IdentityError, match="must be readable"):
            authority_key(given)
