"""Names that cannot be mistaken for each other, and hex that has one spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import IdentityError, MessageError
from privfed.identity.names import check_name, fold, from_hex, grouped_hex, short


@pytest.mark.parametrize(
    "name", ["a", "x" * 120, "\u75c5" * 80, "St. Mary's, ward 3", "Zürich", "病院", "a:b", "a.b"]
)
def test_allowed(name):
    check_name(name, "a name")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "1 to 120"),
        ("x" * 121, "1 to 120"),
        ("病" * 81, "240 bytes"),
        (" a", "space"),
        ("a ", "space"),
        ("a\n", "printable"),
        ("a\x00b", "printable"),
        ("a\u00a0b", "printable"),
        ("a\u200bb", "printable"),
        ("a\u202eb", "printable"),
        ("a\ud800b", "printable"),
        ("\x1b[2Ja", "printable"),
        ("a/b", "no '/'"),
        ("..", "begin with '.'"),
        (".hidden", "begin with '.'"),
        ("Zu\u0308rich", "normal form C"),
        ("\u212bngstrom", "normal form C"),
        (b"a", "be text"),
    ],
)
def test_refused(name, reason):
    with pytest.raises(IdentityError, match=reason):
        check_name(name, "a name")


def test_the_message_says_what_it_names_and_what_to_do():
    with pytest.raises(IdentityError, match="^a federation must .*, got 'a/b'; choose another"):
        check_name("a/b", "a federation")


def test_a_long_name_does_not_fill_the_message():
    with pytest.raises(IdentityError) as caught:
        check_name("\x07" * 100_000, "a name")
    assert len(str(caught.value)) < 300
    assert "\x07" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ward", "wARD"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uff57ard", "ward"),
        ("\ufb01rst", "first"),
        ("Zu\u0308rich", "Z\u00fcrich"),
        ("\u212bngstrom", "\u00e5NGSTROM"),
        ("\u1fb3", "\u1fbc"),
        ("\U0001d400lice", "alice"),
    ],
)
def test_names_that_look_alike_fold_to_one(one, other):
    assert one != other
    assert fold(one) == fold(other)


@pytest.mark.parametrize("other", ["ward 1", "ward-2", "wards", "w ard"])
def test_other_names_stay_apart(other):
    assert fold("ward") != fold(other)


@given(st.text(max_size=12))
def test_folding_twice_changes_nothing(name):
    assert fold(fold(name)) == fold(name)


def test_hex_is_grouped_from_its_beginning():
    assert grouped_hex(bytes.fromhex("0123456789ab")) == "0123 4567 89ab"
    assert grouped_hex(bytes.fromhex("0123456789")) == "0123 4567 89"


@given(st.binary(max_size=40))
def test_hex_and_back(content):
    assert from_hex(content.hex(), len(content)) == content
    assert bytes.fromhex(grouped_hex(content)) == content


@pytest.mark.parametrize("text", ["AB", "a", "abc", " ab", "ab\n", "", None, 12, "٣٣"])
def test_other_hex_is_refused(text):
    with pytest.raises(MessageError, match="1 bytes must come as 2 lower-case"):
        from_hex(text, 1)


@pytest.mark.parametrize("length", [0, 2])
def test_another_length_of_bytes_is_refused(length):
    with pytest.raises(MessageError, match=f"^{length} bytes must come as {2 * length} lower-case"):
        from_hex("ab", length)


def test_what_a_stranger_sent_is_shown_short_and_printable():
    assert short("b\u00e4d\n") == "'b\\xe4d\\n'"
    assert short("x" * 78) == f"'{'x' * 78}'"
    assert short("x" * 79) == f"'{'x' * 76}..."
    assert len(short("\U0001f600" * 1000)) == 80
