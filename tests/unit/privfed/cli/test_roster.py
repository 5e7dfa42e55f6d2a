"""`privfed roster`: from fresh identities to a verified roster, and what is refused."""

import re
import stat
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from typer.testing import CliRunner

from privfed.cli.roster import RoleName, authority_key, roster_app
from privfed.errors import IdentityError, MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.names import grouped_hex
from privfed.identity.roster import Roster
from privfed.identity.transport import (
    hosts_of,
    new_transport_key,
    public_of,
    require_certificate_of,
    transport_fingerprint,
)


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


def key_of(folder, name, kind="signing_key"):
    return getattr(Party.from_bytes((folder / f"{name}.party.json").read_bytes()), kind)


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
            fingerprint = transport_fingerprint(party.transport_key)
            assert f"transport key of {party.name}: {fingerprint}" in shown


def test_a_party_without_a_transport_key_is_shown_as_such(tmp_path):
    authority = Identity.generate("ministry", Role.AUTHORITY)
    simulated = Identity.generate("east", Role.CLIENT).party
    Roster.signed("wards", [simulated], authority).save(tmp_path / "roster.json")
    key = authority.party.signing_key.hex()
    shown = worked("show", tmp_path / "roster.json", "--authority", key)
    assert "transport key of east: none" in shown


def test_an_identity_and_its_two_files(tmp_path):
    output = worked("identity", "east", "--role", "client", "--out", tmp_path / "key")
    identity = Identity.load(tmp_path / "key")
    assert identity.party.role is Role.CLIENT
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key.party.json").stat().st_mode) == 0o644
    assert (tmp_path / "key.party.json").read_bytes() == identity.party.to_bytes()
    assert identity.party.fingerprint in output
    assert "Hand it to the authority" in output


@pytest.mark.parametrize("role", ["client", "aggregator", "key_holder"])
def test_a_transport_key_is_a_private_file_of_its_own(tmp_path, role):
    output = worked("identity", "hub", "--role", role, "--out", tmp_path / "key")
    names = ["key", "key.party.json", "key.transport"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    secret = tmp_path / "key.transport"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    transport_key = public_of(secret.read_bytes())
    assert Identity.load(tmp_path / "key").party.transport_key == transport_key
    assert key_of(tmp_path, "key", "transport_key") == transport_key
    (line,) = [line for line in output.splitlines() if line.startswith("transport: ")]
    assert str(secret) in line
    for part in secret.read_text().splitlines()[1:-1]:
        assert part not in output


def test_an_authority_has_no_transport_key(tmp_path):
    output = worked("identity", "ministry", "--role", "authority", "--out", tmp_path / "key")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.party.json"]
    assert Identity.load(tmp_path / "key").party.transport_key == b""
    assert "transport: " not in output


def test_nothing_secret_is_shown(tmp_path):
    """Neither by what works nor by what fails half-way."""
    make = ("identity", "hub", "--role", "aggregator", "--out", tmp_path / "hub", "--host", "hub")
    renew = ("certificate", tmp_path / "hub", "--host", "hub")
    shown = worked(*make) + worked(*renew, "--out", tmp_path / "new.crt")
    for failed in (
        run(*make),
        run(*renew),
        run("show", tmp_path / "hub", "--authority", "ab" * 32),
    ):
        assert failed.exit_code != 0
        shown += failed.output + str(failed.exception)
    identity, transport = (tmp_path / "hub").read_bytes(), tmp_path / "hub.transport"
    body = "".join(transport.read_text().splitlines()[1:-1])
    key = transport.read_bytes()
    secrets = [identity[21:53].hex(), identity[53:85].hex(), key.hex()]
    secrets += [body[start : start + 12] for start in range(0, len(body), 12)]
    for secret in secrets:
        assert secret not in shown
    for path in (tmp_path / "hub", tmp_path / "hub.party.json", tmp_path / "hub.crt"):
        assert key.splitlines()[1] not in path.read_bytes()


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


@pytest.mark.parametrize("existing", ["key", "key.party.json", "key.transport", "key.crt"])
def test_no_identity_is_overwritten(tmp_path, existing):
    (tmp_path / existing).write_bytes(b"mine")
    result = run(
        *("identity", "hub", "--role", "aggregator", "--out", tmp_path / "key", "--host", "hub")
    )
    assert isinstance(result.exception, IdentityError)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_bytes() == b"mine"


@pytest.mark.parametrize("failing", ["key", "key.party.json", "key.transport", "key.crt"])
def test_no_file_stays_without_the_others(tmp_path, monkeypatch, failing):
    written = []

    def fail(path, content, *, mode):
        if path.name == failing:
            raise IdentityError("disk full")
        path.write_bytes(content)
        written.append(path.name)

    monkeypatch.setattr("privfed.storage.private_files.write_new", fail)
    result = run(
        *("identity", "hub", "--role", "aggregator", "--out", tmp_path / "key", "--host", "hub")
    )
    assert isinstance(result.exception, IdentityError)
    assert (written == []) == (failing == "key")
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


def test_a_transport_file_is_not_enrolled(folder):
    result = run(
        *("sign", folder / "east.transport", "--federation", "wards"),
        *("--authority", folder / "ministry", "--out", folder / "roster.json"),
    )
    assert "holds private keys" in str(result.exception)


def test_two_parties_that_share_a_transport_key_are_not_enrolled(tmp_path):
    _, shared = new_transport_key()
    for name in ("east", "west"):
        party = Identity.generate(name, Role.CLIENT, shared).party
        (tmp_path / f"{name}.party.json").write_bytes(party.to_bytes())
    worked("identity", "ministry", "--role", "authority", "--out", tmp_path / "ministry")
    result = sign(tmp_path, "east", "west")
    assert "transport key of its own, ['east', 'west'] share one" in str(result.exception)
    assert not (tmp_path / "roster.json").exists()


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


class TestDigest:
    def test_what_is_read_over_the_phone(self, folder):
        assert sign(folder, "west", "relay", "east").exit_code == 0
        key = key_of(folder, "ministry")
        roster = Roster.load(folder / "roster.json", authority=key)
        for given in (key.hex(), folder / "ministry.party.json"):
            output = worked("digest", folder / "roster.json", "--authority", given)
            assert output.splitlines() == [
                "federation: wards",
                "client: 2",
                "aggregator: 1",
                "key_holder: 0",
                f"roster digest: {grouped_hex(roster.digest())}",
                "The signature is the authority's.",
            ]
        groups = output.splitlines()[4].removeprefix("roster digest: ").split(" ")
        assert [len(group) for group in groups] == [4] * 16
        assert "".join(groups) == roster.digest().hex()

    def test_of_another_authority(self, folder):
        assert sign(folder, "east").exit_code == 0
        result = run("digest", folder / "roster.json", "--authority", key_of(folder, "west").hex())
        assert isinstance(result.exception, MessageError)
        assert "digest" not in result.output


class TestCertificates:
    @pytest.fixture
    def hub(self, tmp_path):
        worked("identity", "hub", "--role", "aggregator", "--out", tmp_path / "hub")
        return tmp_path / "hub"

    def make(self, folder, *arguments, role="aggregator"):
        return run("identity", "hub", "--role", role, "--out", folder / "hub", *arguments)

    def test_with_the_identity(self, tmp_path):
        result = self.make(tmp_path, "--host", "hub.org", "--host", "10.0.0.1")
        path = tmp_path / "hub.crt"
        assert f"certificate: {path}" in result.output
        assert "No certificate" not in result.output
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        content, key = path.read_bytes(), key_of(tmp_path, "hub", "transport_key")
        assert hosts_of(content) == ("hub.org", "10.0.0.1")
        now = datetime.now(UTC)
        for days in (0, 729):
            require_certificate_of(content, key, now + timedelta(days=days))
        with pytest.raises(IdentityError, match="expired"):
            require_certificate_of(content, key, now + timedelta(days=731))

    def test_for_some_days(self, tmp_path):
        assert self.make(tmp_path, "--host", "hub", "--days", "2").exit_code == 0
        content, key = (tmp_path / "hub.crt").read_bytes(), key_of(tmp_path, "hub", "transport_key")
        require_certificate_of(content, key, datetime.now(UTC) + timedelta(days=1))
        with pytest.raises(IdentityError, match="expired"):
            require_certificate_of(content, key, datetime.now(UTC) + timedelta(days=3))

    def test_without_a_host_the_command_for_one_is_told(self, tmp_path):
        output = self.make(tmp_path).output
        assert not (tmp_path / "hub.crt").exists()
        assert f"`privfed roster certificate {tmp_path / 'hub'} --host HOST` makes one" in output

    @pytest.mark.parametrize("arguments", [("--host", "hub"), ("--days", "3")])
    @pytest.mark.parametrize("role", ["client", "key_holder", "authority"])
    def test_of_no_other_party(self, tmp_path, role, arguments):
        result = self.make(tmp_path, *arguments, role=role)
        assert f"--role aggregator, got {role}" in str(result.exception)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--days", "3"), "must come with --host"),
            (("--host", "hub", "--days", "0"), "1 to 3650 days"),
            (("--host", "hub", "--host", "hub:1"), "IP address or a DNS name"),
            (("--host", ""), "IP address or a DNS name"),
        ],
    )
    def test_options_that_do_not_fit(self, tmp_path, arguments, reason):
        result = self.make(tmp_path, *arguments)
        assert isinstance(result.exception, IdentityError)
        assert reason in str(result.exception)
        assert list(tmp_path.iterdir()) == []

    def test_renewed_under_another_name(self, hub):
        before = {path.name: path.read_bytes() for path in hub.parent.iterdir()}
        worked("certificate", hub, "--host", "hub.org")
        first = hub.with_name("hub.crt").read_bytes()
        again = run("certificate", hub, "--host", "hub.net")
        assert "choose another --out" in str(again.exception)
        assert hub.with_name("hub.crt").read_bytes() == first
        new = hub.with_name("new.crt")
        output = worked("certificate", hub, "--host", "hub.net", "--days", "9", "--out", new)
        assert str(new) in output
        assert stat.S_IMODE(new.stat().st_mode) == 0o644
        key = key_of(hub.parent, "hub", "transport_key")
        for content, hosts in ((first, ("hub.org",)), (new.read_bytes(), ("hub.net",))):
            require_certificate_of(content, key, datetime.now(UTC))
            assert hosts_of(content) == hosts
        for name, content in before.items():
            assert hub.with_name(name).read_bytes() == content

    def test_the_identity_itself_is_not_read(self, hub):
        """Whoever runs the process that carries bytes needs no other key to renew."""
        hub.unlink()
        worked("certificate", hub, "--host", "hub.org")

    def test_not_over_another_file(self, hub):
        result = run("certificate", hub, "--host", "hub", "--out", hub.with_name("hub.transport"))
        assert "choose another --out" in str(result.exception)

    def test_not_without_a_host(self, hub):
        assert run("certificate", hub).exit_code == 2

    def test_of_the_transport_key_of_another(self, hub):
        worked("identity", "other", "--role", "client", "--out", hub.with_name("other"))
        hub.with_name("hub.transport").unlink()
        hub.with_name("other.transport").rename(hub.with_name("hub.transport"))
        result = run("certificate", hub, "--host", "hub")
        assert "must hold the transport key of 'hub'" in str(result.exception)
        assert not hub.with_name("hub.crt").exists()

    def test_of_a_client(self, hub):
        worked("identity", "east", "--role", "client", "--out", hub.with_name("east"))
        result = run("certificate", hub.with_name("east"), "--host", "hub")
        assert "of an aggregator, 'east' has the role client" in str(result.exception)

    def test_of_a_transport_file_that_others_can_read(self, hub):
        hub.with_name("hub.transport").chmod(0o644)
        result = run("certificate", hub, "--host", "hub")
        assert "mode 0644" in str(result.exception)


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
