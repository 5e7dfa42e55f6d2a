"""A source is counted under one name, whatever a public file calls it."""

import json

import pytest

from privfed.engines.machines.sources import require_same_data_set
from privfed.errors import ConfigError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "letters.jsonl"
    path.write_text("a private text")
    return path


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def test_the_same_name_again(state, source):
    for _ in range(2):
        require_same_data_set(state, source, "letters-2026")


def test_another_name_for_the_same_place(state, source):
    """Also where the text has grown since."""
    require_same_data_set(state, source, "letters-2026")
    source.write_text("a private text and another")
    with pytest.raises(ConfigError, match="'letters-2026', and would now be counted as 'new'"):
        require_same_data_set(state, source, "new")


def test_another_name_for_the_same_text_elsewhere(state, source, tmp_path):
    require_same_data_set(state, source, "letters-2026")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(source.read_bytes())
    with pytest.raises(ConfigError, match="'letters-2026', and would now be counted as 'new'"):
        require_same_data_set(state, copy, "new")


def test_another_name_for_the_same_place_by_another_way(state, source, tmp_path):
    """Through a link; the text has grown since."""
    require_same_data_set(state, source, "letters-2026")
    source.write_text("a private text and another")
    (tmp_path / "link.jsonl").symlink_to(source)
    with pytest.raises(ConfigError, match="'letters-2026', and would now be counted as 'new'"):
        require_same_data_set(state, tmp_path / "link.jsonl", "new")


def test_who_is_refused_once_is_refused_again(state, source):
    require_same_data_set(state, source, "letters-2026")
    for _ in range(2):
        with pytest.raises(ConfigError, match="'letters-2026'"):
            require_same_data_set(state, source, "new")
    require_same_data_set(state, source, "letters-2026")


def test_two_sources_may_have_two_names(state, source, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("another text")
    require_same_data_set(state, source, "letters-2026")
    require_same_data_set(state, other, "notes")
    with pytest.raises(ConfigError, match="'letters-2026'"):
        require_same_data_set(state, source, "notes")


def test_what_is_kept_holds_no_text_and_is_private(state, source):
    require_same_data_set(state, source, "letters-2026")
    kept = (state / "sources.json").read_text()
    assert "private" not in kept
    assert source.name not in kept, "nor where it lies"
    assert set(json.loads(kept).values()) == {"letters-2026"}
    assert state.stat().st_mode & 0o077 == 0
