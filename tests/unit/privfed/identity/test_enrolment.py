"""Who takes part: the same keys in every run of a simulation, and none but the enrolled ones."""

import shutil
from dataclasses import replace

import pytest

from privfed.errors import ConfigError, IdentityError, MessageError
from privfed.identity.enrolment import Enrolment, open_parties
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.storage.state_folder import identity_path

NAMES = ("west", "east", "Ünit 7")


def simulated(state, names=NAMES, key_holder=True):
    return open_parties(names, state, None, key_holder=key_holder)


def test_a_simulation_makes_everybody(tmp_path):
    parties = simulated(tmp_path / "state")
    assert parties.simulated
    assert set(parties.clients) == set(NAMES)
    assert {party.name for party in parties.roster.of_role(Role.CLIENT)} == set(NAMES)
    for name, identity in parties.clients.items():
        assert parties.roster.party(name) == identity.party
    assert parties.roster.of_role(Role.AGGREGATOR) == (parties.aggregator.party,)
    (holder,) = parties.roster.of_role(Role.KEY_HOLDER)
    assert Identity.load(parties.key_holder_file).party == holder
    assert parties.key_maker == "east"
    loaded = Roster.load(parties.roster_file, authority=parties.roster.authority)
    assert loaded == parties.roster


def test_without_a_key_holder_there_is_none(tmp_path):
    parties = simulated(tmp_path, key_holder=False)
    assert parties.key_holder_file is None
    assert parties.roster.of_role(Role.KEY_HOLDER) == ()
    assert not list(tmp_path.rglob("key_holder*"))


def test_keys_stay_the_same(tmp_path):
    """So a resumed run states the roster that its earlier messages stated."""
    first, second = simulated(tmp_path), simulated(tmp_path)
    assert first.roster == second.roster
    assert first.roster_file.read_bytes() == second.roster.to_bytes()
    assert first.aggregator.party == second.aggregator.party
    assert simulated(tmp_path / "other").roster.digest() != first.roster.digest()


def test_further_clients_leave_the_others_keys_as_they_are(tmp_path):
    first, second = simulated(tmp_path, NAMES[:1]), simulated(tmp_path, NAMES)
    assert second.roster.party("west") == first.roster.party("west")
    assert second.roster.authority == first.roster.authority
    assert Roster.load(second.roster_file, authority=first.roster.authority) == second.roster


def test_secrets_are_closed_to_others(tmp_path):
    simulated(tmp_path / "state")
    files = list((tmp_path / "state" / "identities").glob("*.identity"))
    assert len(files) == len(NAMES) + 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (tmp_path / "state" / "identities").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["aggregator", "key_holder", "authority", "Authority"])
def test_a_client_may_not_take_the_name_of_another_role(tmp_path, name):
    with pytest.raises(IdentityError, match="must belong to the"):
        simulated(tmp_path, (*NAMES, name))


@pytest.mark.parametrize("name", ["", " a", "x" * 200])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises((ConfigError, IdentityError)):
        simulated(tmp_path, (name,))


def test_keys_of_an_earlier_version_are_named_and_kept(tmp_path):
    simulated(tmp_path)
    path = identity_path(tmp_path, "west")
    earlier = bytearray(path.read_bytes())
    earlier[17] = 1
    path.write_bytes(earlier)
    with pytest.raises(
        MessageError, match="west.identity must be usable.*before transport keys.*move its folder"
    ):
        simulated(tmp_path)
    assert path.read_bytes() == earlier
    path.parent.rename(tmp_path / "earlier")
    assert simulated(tmp_path).simulated


def test_anothers_secret_keys_are_never_removed(tmp_path):
    """Somebody may have put real keys there; they exist nowhere else."""
    path = identity_path(tmp_path, "west")
    path.parent.mkdir(mode=0o700)
    kept = Identity.generate("north", Role.CLIENT)
    kept.save(path)
    with pytest.raises(IdentityError, match="must hold keys of 'west' as client.*'north'"):
        simulated(tmp_path)
    assert Identity.load(path).party == kept.party


@pytest.fixture
def enrolled(company, tmp_path):
    """Files as an authority and its parties have them."""
    for identity in company.identities.values():
        identity.save(tmp_path / f"{identity.party.name}.identity")
    company.roster.save(tmp_path / "roster.json")
    return Enrolment(
        roster=tmp_path / "roster.json",
        authority=company.roster.authority.hex(),
        identities=tmp_path,
    )


def opened(enrolment, tmp_path, names=("b", "a"), key_holder=True):
    return open_parties(names, tmp_path / "state", enrolment, key_holder=key_holder)


def signed(enrolment, company, parties):
    """The enrolment with a roster of other parties."""
    enrolment.roster.unlink()
    Roster.signed("wards", parties, company.authority).save(enrolment.roster)
    return enrolment


def without(company, *names):
    return [identity.party for name, identity in company.identities.items() if name not in names]


def test_enrolled_parties_are_read_from_files(company, enrolled, tmp_path):
    parties = opened(enrolled, tmp_path)
    assert not parties.simulated
    assert parties.roster == company.roster
    assert parties.roster_file == enrolled.roster
    assert {name: identity.party for name, identity in parties.clients.items()} == {
        name: company.identities[name].party for name in "ab"
    }
    assert parties.aggregator.party == company.identities["aggregator"].party
    assert parties.key_holder_file == tmp_path / "key_holder.identity"
    assert parties.key_maker == "a"
    assert opened(enrolled, tmp_path, key_holder=False).key_holder_file is None
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", ["a", "aggregator"])
def test_a_roster_that_names_other_keys_is_refused(company, enrolled, tmp_path, name):
    role = company.identities[name].party.role
    parties = [*without(company, name), Identity.generate(name, role).party]
    with pytest.raises(IdentityError, match=f"'{name}' must have the keys that the roster names"):
        opened(signed(enrolled, company, parties), tmp_path)


def test_another_authority_is_refused(enrolled, tmp_path):
    other = Identity.generate("ministry", Role.AUTHORITY).party.signing_key.hex()
    with pytest.raises(MessageError, match="must be signed by the authority"):
        opened(replace(enrolled, authority=other), tmp_path)


@pytest.mark.parametrize("authority", ["", "zz" * 32, "ab" * 31, "ministry"])
def test_an_authority_that_is_no_key_is_refused(enrolled, tmp_path, authority):
    with pytest.raises(IdentityError, match=r"(64 hexadecimal digits|Ed25519 public key)"):
        opened(replace(enrolled, authority=authority), tmp_path)


def test_a_client_that_is_not_enrolled_is_named(company, enrolled, tmp_path):
    with pytest.raises(IdentityError, match="'zoe' is not"):
        opened(enrolled, tmp_path, ("a", "zoe"))


def test_nothing_outside_the_folder_is_read(company, enrolled, tmp_path):
    """The name is looked up in the roster first, whatever file it would lead to."""
    shutil.copy(tmp_path / "a.identity", tmp_path / "state.identity")
    with pytest.raises(IdentityError, match="must be enrolled in 'wards'"):
        opened(replace(enrolled, identities=tmp_path / "x"), tmp_path, ("../state",))


@pytest.mark.parametrize("name", ["aggregator", "key_holder"])
def test_a_party_of_another_role_is_no_client(enrolled, tmp_path, name):
    with pytest.raises(IdentityError, match=f"'{name}' must be enrolled as client"):
        opened(enrolled, tmp_path, ("a", name))


def test_a_missing_identity_file_is_named(enrolled, tmp_path):
    (tmp_path / "b.identity").unlink()
    with pytest.raises(IdentityError, match=r"b\.identity"):
        opened(enrolled, tmp_path)


def test_a_missing_aggregator_is_named(company, enrolled, tmp_path):
    with pytest.raises(IdentityError, match="must name an aggregator"):
        opened(signed(enrolled, company, without(company, "aggregator")), tmp_path)


def test_a_missing_key_holder_is_named(company, enrolled, tmp_path):
    changed = signed(enrolled, company, without(company, "key_holder"))
    with pytest.raises(IdentityError, match="must name a key holder"):
        opened(changed, tmp_path)
    assert opened(changed, tmp_path, key_holder=False).key_holder_file is None
