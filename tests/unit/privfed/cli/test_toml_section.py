"""One table of a file: every key is taken once and by its type, and none is left over."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import pytest

from privfed.cli.toml_section import Section, choose, parsed
from privfed.errors import ConfigError

TABLE = {"count": 3, "share": 0.5, "name": "x", "on": True, "items": ["a", "b"], "inner": {"k": 1}}


@pytest.fixture
def section():
    return Section("outer", TABLE)


class TestTaking:
    @pytest.mark.parametrize(
        ("key", "kind"), [("count", int), ("share", float), ("name", str), ("on", bool)]
    )
    def test_a_value_of_its_type(self, section, key, kind):
        assert section.take(key, kind) is TABLE[key]

    def test_a_whole_number_is_a_float_where_one_is_wanted(self, section):
        taken = section.take("count", float)
        assert (taken, type(taken)) == (3.0, float)

    @pytest.mark.parametrize(
        ("key", "kind", "names"),
        [
            ("on", int, "int"),
            ("on", float, "float"),
            ("share", int, "int"),
            ("count", str, "str"),
            ("name", (int, dict), "int or dict"),
            ("on", (int, dict), "int or dict"),
        ],
    )
    def test_another_type_is_named_with_its_table(self, section, key, kind, names):
        with pytest.raises(
            ConfigError, match=rf"^\[outer\] {key} must be of type {names}, got {TABLE[key]!r}"
        ):
            section.take(key, kind)

    def test_one_of_several_types(self):
        assert Section("outer", {"size": 3}).take("size", (int, dict)) == 3
        assert Section("outer", {"size": {"k": 1}}).take("size", (int, dict)) == {"k": 1}

    def test_a_key_that_is_not_there(self, section):
        assert section.take("absent", int, 7) == 7
        assert section.take("absent", int, None) is None
        with pytest.raises(ConfigError, match=r"^\[outer\] needs the key 'absent'"):
            section.take("absent", int)

    def test_a_default_does_not_hide_a_wrong_value(self, section):
        with pytest.raises(ConfigError, match="must be of type str, got 3"):
            section.take("count", str, "x")

    def test_at_the_top_level_no_table_is_named(self):
        with pytest.raises(ConfigError, match="^the top level needs the key 'seed'"):
            Section("", {}).take("seed", int)
        with pytest.raises(ConfigError, match="^'seed' at the top level must be of type int"):
            Section("", {"seed": "7"}).take("seed", int)


class TestLists:
    def test_items_of_their_type(self, section):
        assert section.take_all("items", str) == ("a", "b")
        assert section.take_all("absent", str, ()) == ()

    @pytest.mark.parametrize("items", [["a", 1], [["a"], "b"], [True, "a"]])
    def test_an_item_of_another_type(self, items):
        with pytest.raises(ConfigError, match=r"^\[outer\] k must be a list of items of type str"):
            Section("outer", {"k": items}).take_all("k", str)

    def test_true_is_no_number(self):
        with pytest.raises(ConfigError, match="items of type int"):
            Section("outer", {"k": [1, True]}).take_all("k", int)

    def test_what_is_no_list(self, section):
        with pytest.raises(ConfigError, match=r"^\[outer\] name must be of type list, got 'x'"):
            section.take_all("name", str, ())
        with pytest.raises(ConfigError, match="needs the key 'absent'"):
            section.take_all("absent", str)


class TestTables:
    def test_a_table_inside_has_both_names(self, section):
        inner = section.section("inner")
        assert inner.name == "outer.inner"
        with pytest.raises(ConfigError, match=r"^\[outer\.inner\] needs the key 'gone'"):
            inner.take("gone", int)
        assert Section("", TABLE).section("inner").name == "inner"

    def test_it_may_be_missing_where_that_is_said(self, section):
        assert section.optional("absent") is None
        assert section.optional("inner").take("k", int) == 1
        assert section.section("absent", {"k": 2}).take("k", int) == 2
        with pytest.raises(ConfigError, match="needs the key 'absent'"):
            section.section("absent")


class TestTheEnd:
    def test_what_was_not_taken_is_named(self, section):
        section.take("count", int)
        with pytest.raises(
            ConfigError,
            match=r"^\[outer\] has unknown key\(s\) \['inner', 'items', 'name', 'on', 'share'\]",
        ):
            section.end()

    def test_what_was_taken_is_gone(self, section):
        """A key that is read twice would be a default the second time."""
        section.take("count", int)
        with pytest.raises(ConfigError, match="needs the key 'count'"):
            section.take("count", int)

    def test_nothing_is_left(self):
        section = Section("outer", {"count": 3, "items": ["a"], "inner": {}})
        section.take("count", int)
        section.take_all("items", str)
        section.optional("inner").end()
        section.end()

    def test_the_parsed_file_itself_stays_whole(self, section):
        before = dict(TABLE)
        section.take("count", int)
        assert before == TABLE


class TestWhetherAKeyIsThere:
    def test_until_it_is_taken(self, section):
        assert section.has("count")
        section.take("count", int)
        assert not section.has("count")

    def test_also_where_it_says_nothing(self):
        section = Section("outer", {"off": False, "none": {}, "empty": ""})
        assert [section.has(key) for key in ("off", "none", "empty", "gone")] == [True] * 3 + [
            False
        ]

    def test_asking_takes_nothing(self, section):
        section.has("count")
        assert section.take("count", int) == 3


class TestAFile:
    def test_its_top_level(self, tmp_path):
        path = tmp_path / "run.toml"
        path.write_text('title = "café"\n[inner]\nk = 1\n', encoding="utf-8")
        root = parsed(path)
        assert root.name == ""
        assert root.take("title", str) == "café"
        assert root.section("inner").take("k", int) == 1
        root.end()

    def test_one_that_is_not_there(self, tmp_path):
        with pytest.raises(ConfigError, match=r"configuration .*none\.toml does not exist"):
            parsed(tmp_path / "none.toml")

    @pytest.mark.parametrize("content", [b"title = ", b"a = 1\na = 2\n", b"\xff", b"[x\n"])
    def test_one_that_is_no_toml(self, tmp_path, content):
        path = tmp_path / "run.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"run\.toml is no readable TOML file: \S"):
            parsed(path)

    def test_a_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="is no readable TOML file"):
            parsed(tmp_path)


class Colour(StrEnum):
    RED = "red"
    BLUE = "deep blue"


class TestChoices:
    def test_by_its_value(self):
        chosen = choose(Section("outer", {"k": "deep blue"}), "k", Colour, Colour.RED)
        assert chosen is Colour.BLUE
        assert choose(Section("outer", {}), "k", Colour, Colour.RED) is Colour.RED

    @pytest.mark.parametrize("value", ["BLUE", "Red", ""])
    def test_another_name_is_refused_with_those_that_there_are(self, value):
        with pytest.raises(
            ConfigError, match=rf"^\[outer\] k must be one of \['red', 'deep blue'\], got '{value}'"
        ):
            choose(Section("outer", {"k": value}), "k", Colour, Colour.RED)


@dataclass(frozen=True, kw_only=True)
class Made:
    """One field of every type that a table can say."""

    rate: float
    names: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    limit: float | None = None
    word: Literal["one", "two"] = "one"
    colour: Colour = Colour.RED
    exact: bool = False
    extra: dict = field(default_factory=dict)


class TestADataclass:
    def test_every_field_is_a_key(self):
        table = {"rate": 2, "names": ["a", "b"], "layers": [3], "limit": 0.5, "word": "two"}
        section = Section("outer", {**table, "colour": "deep blue", "exact": True})
        assert section.build(Made) == Made(
            rate=2.0,
            names=("a", "b"),
            layers=(3,),
            limit=0.5,
            word="two",
            colour=Colour.BLUE,
            exact=True,
        )
        section.end()

    def test_what_is_not_said_is_its_own_default(self):
        section = Section("outer", {"rate": 0.25, "names": []})
        assert section.build(Made) == Made(rate=0.25, names=())

    def test_a_field_may_be_given_or_have_another_key(self):
        section = Section("outer", {"speed": 0.25, "rate": 3.0})
        found = section.build(Made, renamed={"rate": "speed"}, names=("x",))
        assert found == Made(rate=0.25, names=("x",))
        with pytest.raises(ConfigError, match=r"unknown key\(s\) \['rate'\]"):
            section.end()

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"rate": "fast"}, r"\[outer\] rate must be of type float"),
            ({"rate": True}, r"\[outer\] rate must be of type float"),
            ({"names": "a"}, r"\[outer\] names must be of type list"),
            ({"names": ["a", 1]}, r"\[outer\] names must be a list of items of type str"),
            ({"layers": [True]}, r"\[outer\] layers must be a list of items of type int"),
            ({"exact": 1}, r"\[outer\] exact must be of type bool"),
            ({"colour": "RED"}, r"\[outer\] colour must be one of \['red', 'deep blue'\]"),
            ({"word": 1}, r"\[outer\] word must be of type str"),
        ],
    )
    def test_another_type_is_named(self, changes, named):
        section = Section("outer", {"rate": 0.25, "names": [], **changes})
        with pytest.raises(ConfigError, match=named):
            section.build(Made)

    @pytest.mark.parametrize("missing", ["rate", "names"])
    def test_so_is_one_that_is_missing(self, missing):
        table = {"rate": 0.25, "names": []}
        del table[missing]
        with pytest.raises(ConfigError, match=rf"\[outer\] needs the key '{missing}'"):
            Section("outer", table).build(Made)
