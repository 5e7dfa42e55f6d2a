"""The roster: whatever is not exactly what the pinned authority signed is refused."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.canonical import canonical_json
from privfed.errors import IdentityError, MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster
from privfed.identity.transport import new_transport_key

AUTHORITY = Identity.generate("ministry", Role.AUTHORITY)
OTHER_AUTHORITY = Identity.generate("ministry", Role.AUTHORITY)
IDENTITIES = {
    "aggregator": Identity.generate("aggregator", Role.AGGREGATOR, new_transport_key()[1]),
    "east": Identity.generate("east", Role.CLIENT, new_transport_key()[1]),
    "holder": Identity.generate("holder", Role.KEY_HOLDER),
    "west": Identity.generate("west", Role.CLIENT, new_transport_key()[1]),
}
PARTIES = [identity.party for identity in IDENTITIES.values()]
PINNED = AUTHORITY.party.signing_key
LOW_ORDER = "00" * 32


def roster(parties=PARTIES):
    return Roster.signed("wards", parties, AUTHORITY)


def content(parties=PARTIES):
    """What the authority signs, as a dict."""
    return {
        "schema": 2,
        "federation": "wards",
        "parties": [party.to_json() for party in parties],
        "authority": PINNED.hex(),
    }


def file_of(value, authority=AUTHORITY):
    """A file whose signature is right, whatever it says."""
    signature = authority.sign(b"privfed roster 2\n" + canonical_json(value))
    return canonical_json({**value, "signature": signature.hex()}) + b"\n"


def read(raw):
    return Roster.from_bytes(raw, authority=PINNED)


def edited(raw, change):
    """The file after an edit that keeps it canonical, with the signature it had."""
    value = json.loads(raw)
    change(value)
    return canonical_json(value) + b"\n"


def test_by_hand():
    """The file is what its description says, and parties come sorted."""
    signed = Roster.signed("wards", reversed(PARTIES), AUTHORITY)
    assert signed.to_bytes() == file_of(content())
    assert [party.name for party in signed.parties] == ["aggregator", "east", "holder", "west"]
    assert signed.digest() == hashlib.sha256(file_of(content())).digest()
    assert read(signed.to_bytes()) == signed


def test_save_and_load(tmp_path):
    roster().save(tmp_path / "roster.json")
    assert Roster.load(tmp_path / "roster.json", authority=PINNED) == roster()
    with pytest.raises(IdentityError, match="choose another path"):
        roster().save(tmp_path / "roster.json")


@pytest.mark.parametrize("name", ["none.json", "a\0b"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(IdentityError, match="readable file"):
        Roster.load(tmp_path / name, authority=PINNED)


names = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="/."),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(st.lists(names, min_size=1, max_size=4, unique=True), st.randoms())
def test_any_roster_that_was_signed_is_read_back(chosen, random):
    try:
        parties = [Identity.generate(name, Role.CLIENT).party for name in chosen]
        signed = Roster.signed("wards", parties, AUTHORITY)
    except IdentityError:
        return
    again = random.sample(parties, len(parties))
    assert Roster.signed("wards", again, AUTHORITY).to_bytes() == signed.to_bytes()
    assert read(signed.to_bytes()) == signed
    assert set(signed.parties) == set(parties)


class TestTampering:
    @pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
    def test_one_changed_byte_anywhere(self, mask):
        raw = roster().to_bytes()
        for position in range(len(raw)):
            changed = bytearray(raw)
            changed[position] ^= mask
            with pytest.raises(MessageError):
                read(bytes(changed))

    def test_every_cut_and_any_addition(self):
        raw = roster().to_bytes()
        for changed in (*(raw[:end] for end in range(len(raw))), raw + b"\n", b" " + raw):
            with pytest.raises(MessageError):
                read(changed)

    @pytest.mark.parametrize(
        "key", ["signing_key", "wrapping_key", "transport_key", "name", "role"]
    )
    def test_two_parties_swap_a_value(self, key):
        def swap(value):
            first, last = value["parties"][1], value["parties"][2]
            first[key], last[key] = last[key], first[key]

        with pytest.raises(MessageError, match="authority's signature"):
            read(edited(roster().to_bytes(), swap))

    @pytest.mark.parametrize("key", ["signing_key", "wrapping_key", "transport_key"])
    def test_the_aggregator_puts_its_own_key_in(self, key):
        fresh = Identity.generate("east", Role.CLIENT, new_transport_key()[1]).party.to_json()

        def replace(value):
            value["parties"][1][key] = fresh[key]

        with pytest.raises(MessageError, match="authority's signature"):
            read(edited(roster().to_bytes(), replace))

    def test_a_party_left_out(self):
        with pytest.raises(MessageError, match="authority's signature"):
            read(edited(roster().to_bytes(), lambda value: value["parties"].pop()))

    def test_another_federation(self):
        with pytest.raises(MessageError, match="authority's signature"):
            read(edited(roster().to_bytes(), lambda value: value.update(federation="other")))

    def test_another_authority_signs_in_its_own_name(self):
        forged = Roster.signed("wards", PARTIES, OTHER_AUTHORITY)
        with pytest.raises(MessageError, match=f"by the authority {PINNED.hex()}, this one names"):
            read(forged.to_bytes())

    def test_another_authority_signs_in_the_name_of_the_pinned_one(self):
        with pytest.raises(MessageError, match="authority's signature"):
            read(file_of(content(), OTHER_AUTHORITY))

    def test_the_signature_of_another_roster(self):
        smaller = json.loads(roster(PARTIES[:2]).to_bytes())["signature"]
        with pytest.raises(MessageError, match="authority's signature"):
            read(edited(roster().to_bytes(), lambda value: value.update(signature=smaller)))

    def test_a_signature_without_the_label_of_rosters(self):
        signature = AUTHORITY.sign(canonical_json(content())).hex()
        raw = canonical_json({**content(), "signature": signature}) + b"\n"
        with pytest.raises(MessageError, match="authority's signature"):
            read(raw)

    def test_a_malleated_signature(self):
        """S + L verifies under lax libraries; it must not give a second file."""
        order = 2**252 + 27742317777372353535851937790883648493

        def add_order(value):
            raw = bytes.fromhex(value["signature"])
            scalar = int.from_bytes(raw[32:], "little") + order
            value["signature"] = (raw[:32] + scalar.to_bytes(32, "little")).hex()

        with pytest.raises(MessageError, match="authority's signature"):
            read(edited(roster().to_bytes(), add_order))

    def test_an_object_cannot_be_changed_either(self):
        other = Identity.generate("east", Role.CLIENT).party
        with pytest.raises(IdentityError, match="authority's signature"):
            dataclasses.replace(roster(), parties=(other,))
        with pytest.raises(dataclasses.FrozenInstanceError):
            roster().parties = (other,)


class TestSignedButWrong:
    """Even the authority cannot enrol what parties must not work with."""

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"schema": 1}, "schema 2, got 1, of an earlier version, before transport keys; make"),
            ({"schema": 3}, "schema 2; use"),
            ({"schema": True}, "schema 2; use"),
            ({"schema": "2"}, "schema 2; use"),
            ({"federation": ""}, "1 to 120"),
            ({"federation": " wards"}, "space"),
            ({"federation": None}, "federation's name"),
            ({"parties": []}, "sorted by name, got 0"),
            ({"parties": {}}, "list of parties"),
            ({"parties": [3]}, "exactly the keys"),
            ({"parties": [[]]}, "exactly the keys"),
            ({"note": "hi"}, "exactly the keys"),
            ({"authority": PINNED.hex().upper()}, "lower-case hex"),
            ({"authority": 3}, "lower-case hex"),
        ],
    )
    def test_a_field(self, change, reason):
        with pytest.raises(MessageError, match=reason):
            read(file_of({**content(), **change}))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"role": "authority", "transport_key": ""}, "must not be among"),
            ({"role": "authority"}, "authority must have no transport key"),
            ({"role": "boss"}, "one of client"),
            ({"role": "aggregator"}, "at most one aggregator"),
            ({"role": "key_holder"}, "at most one key_holder"),
            ({"name": "holder"}, "name, whatever its case"),
            ({"name": "Holder"}, "name, whatever its case"),
            ({"name": "ｈolder"}, "name, whatever its case"),
            ({"name": "aggregator"}, "must belong to the aggregator"),
            ({"name": "we/st"}, "no '/'"),
            ({"signing_key": PARTIES[1].signing_key.hex()}, "signing key of its own"),
            ({"signing_key": PINNED.hex()}, "another signing key than the authority"),
            ({"signing_key": LOW_ORDER}, "prime-order"),
            ({"wrapping_key": PARTIES[1].wrapping_key.hex()}, "wrapping key of its own"),
            ({"wrapping_key": LOW_ORDER}, "low order"),
            ({"transport_key": PARTIES[1].transport_key.hex()}, "transport key of its own"),
            ({"transport_key": "02" + "ff" * 48}, "point of P-384"),
            ({"extra": "x"}, "exactly the keys"),
        ],
    )
    def test_a_party(self, change, reason):
        value = content()
        value["parties"][-1].update(change)
        value["parties"].sort(key=lambda party: party["name"])
        with pytest.raises(MessageError, match=reason):
            read(file_of(value))

    def test_a_roster_of_an_earlier_version(self):
        value = content()
        value["schema"] = 1
        for party in value["parties"]:
            del party["transport_key"]
        signature = AUTHORITY.sign(b"privfed roster 1\n" + canonical_json(value)).hex()
        with pytest.raises(MessageError, match="make new identities and sign a new roster"):
            read(canonical_json({**value, "signature": signature}) + b"\n")

    def test_the_label_of_an_earlier_version(self):
        signature = AUTHORITY.sign(b"privfed roster 1\n" + canonical_json(content())).hex()
        with pytest.raises(MessageError, match="authority's signature"):
            read(canonical_json({**content(), "signature": signature}) + b"\n")

    def test_another_order(self):
        with pytest.raises(MessageError, match="sorted by name"):
            read(file_of(content(PARTIES[::-1])))

    def test_no_signature(self):
        with pytest.raises(MessageError, match="exactly the keys"):
            read(canonical_json(content()) + b"\n")

    @pytest.mark.parametrize("signature", [3, None, "", "00" * 63, "00" * 65, "ZZ" * 64])
    def test_what_is_no_signature(self, signature):
        with pytest.raises(MessageError, match="64 bytes must come as 128"):
            read(canonical_json({**content(), "signature": signature}) + b"\n")


class TestHostileFiles:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"null\n",
            b"[]\n",
            b"[" * 400_000,
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
            b"\xff" * 100,
            b'"' + b"a" * 1_000_000 + b'"\n',
            b"1" * 1_000_000 + b"\n",
        ],
    )
    def test_are_refused(self, raw):
        with pytest.raises(MessageError):
            read(raw)

    def test_too_long(self, tmp_path):
        with pytest.raises(MessageError, match="at most 1048576 bytes"):
            read(b" " * ((1 << 20) + 1))
        (tmp_path / "long").write_bytes(b" " * (1 << 21))
        with pytest.raises(MessageError, match="at most 1048576 bytes"):
            Roster.load(tmp_path / "long", authority=PINNED)

    @pytest.mark.parametrize("key", ["federation", "parties", "signature", "schema"])
    def test_duplicate_keys(self, key):
        """Parsers disagree on which of the two counts."""
        raw = roster().to_bytes()
        start = raw.index(f'"{key}":'.encode())
        first = f'"{key}":0,'.encode()
        with pytest.raises(MessageError, match="exactly as privfed wrote it"):
            read(raw[:start] + first + raw[start:])

    def test_the_keys_of_an_unauthentic_file_cost_nothing(self, monkeypatch):
        def fail(value):
            raise AssertionError("a party was read before the signature was checked")

        monkeypatch.setattr(Party, "from_json", fail)
        with pytest.raises(MessageError, match="authority's signature"):
            read(file_of(content(), OTHER_AUTHORITY))

    @pytest.mark.parametrize(
        "key",
        [b"", b"\1" + bytes(31), bytes(32), PINNED[:-1], PINNED.hex()],
        ids=["empty", "no point", "zeros", "short", "in hex"],
    )
    def test_an_unusable_pin_is_refused_first(self, key):
        with pytest.raises(IdentityError, match="prime-order"):
            Roster.from_bytes(roster().to_bytes(), authority=key)


class TestSigning:
    def test_only_an_authority_signs(self):
        with pytest.raises(IdentityError, match="'east' has the role client"):
            Roster.signed("wards", PARTIES, IDENTITIES["east"])

    @pytest.mark.parametrize(
        ("parties", "reason"),
        [
            ([], "got 0 parties"),
            ([*PARTIES, PARTIES[1]], "name, whatever its case"),
            ([*PARTIES, AUTHORITY.party], "must not be among"),
            ([PARTIES[1], dataclasses.replace(PARTIES[1], name="b")], "signing key of its own"),
            (
                [
                    PARTIES[1],
                    dataclasses.replace(PARTIES[3], wrapping_key=PARTIES[1].wrapping_key),
                ],
                r"wrapping key of its own, \['east', 'west'\] share",
            ),
            (
                [
                    PARTIES[0],
                    dataclasses.replace(PARTIES[3], transport_key=PARTIES[0].transport_key),
                ],
                r"transport key of its own, \['aggregator', 'west'\] share",
            ),
            ([*PARTIES, Identity.generate("b", Role.AGGREGATOR).party], "one aggregator"),
            ([*PARTIES, Identity.generate("b", Role.KEY_HOLDER).party], "one key_holder"),
        ],
    )
    def test_parties_that_do_not_fit(self, parties, reason):
        with pytest.raises(IdentityError, match=reason):
            roster(parties)

    def test_many_parties_may_have_no_transport_key(self):
        simulated = [Identity.generate(name, Role.CLIENT).party for name in ("a", "b")]
        assert len(roster([*simulated, *PARTIES]).parties) == 6

    def test_a_wrong_federation(self):
        with pytest.raises(IdentityError, match="name of a federation must have 1 to 120"):
            Roster.signed("", PARTIES, AUTHORITY)

    def test_too_many_parties_for_the_file(self, monkeypatch):
        monkeypatch.setattr("privfed.identity.roster._MAX_BYTES", 500)
        with pytest.raises(IdentityError, match="enrol fewer"):
            roster()


class TestLooking:
    def test_a_party(self):
        assert roster().party("east") == IDENTITIES["east"].party
        with pytest.raises(IdentityError, match="'north' is not"):
            roster().party("north")
        with pytest.raises(IdentityError, match="'East' is not"):
            roster().party("East")

    def test_of_role(self):
        assert [party.name for party in roster().of_role(Role.CLIENT)] == ["east", "west"]
        assert [party.name for party in roster().of_role(Role.KEY_HOLDER)] == ["holder"]
        assert roster().of_role(Role.AUTHORITY) == ()


class TestVerify:
    @settings(deadline=None, max_examples=20)
    @given(st.binary(max_size=200), st.sampled_from(sorted(IDENTITIES)))
    def test_what_a_party_signed(self, message, name):
        sender = IDENTITIES[name]
        signed = roster()
        signed.verify(name, message, sender.sign(message), role=sender.party.role)
        with pytest.raises(MessageError, match="does not"):
            signed.verify(name, message + b"x", sender.sign(message), role=sender.party.role)

    def test_who_is_not_enrolled(self):
        stranger = Identity.generate("north", Role.CLIENT)
        with pytest.raises(MessageError, match="'north' is not"):
            roster().verify("north", b"m", stranger.sign(b"m"), role=Role.CLIENT)

    def test_another_role(self):
        signature = IDENTITIES["aggregator"].sign(b"m")
        with pytest.raises(MessageError, match="as client, 'aggregator' has the role aggregator"):
            roster().verify("aggregator", b"m", signature, role=Role.CLIENT)

    def test_another_client_in_its_name(self):
        with pytest.raises(MessageError, match="'east' must carry its signature"):
            roster().verify("east", b"m", IDENTITIES["west"].sign(b"m"), role=Role.CLIENT)

    @pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s + b"\0", lambda s: b""])
    def test_a_signature_of_another_length(self, change):
        signature = change(IDENTITIES["east"].sign(b"m"))
        with pytest.raises(MessageError, match="signature"):
            roster().verify("east", b"m", signature, role=Role.CLIENT)

    def test_a_long_name_does_not_fill_the_message(self):
        with pytest.raises(MessageError) as caught:
            roster().verify("x" * 100_000, b"m", bytes(64), role=Role.CLIENT)
        assert len(str(caught.value)) < 400


def test_rosters_that_differ_have_other_digests():
    assert roster().digest() == roster().digest()
    assert roster().digest() != roster(PARTIES[:3]).digest()
    assert len(roster().digest()) == 32
