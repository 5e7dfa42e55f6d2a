"""The picture of who holds what says every count, and holds whatever names there are."""

from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import ReportError
from privfed.reports.partition_picture import partition_picture

SVG = "{http://www.w3.org/2000/svg}"
COUNTS = {"north": [300, 0, 100], "south": [40, 150, 10], "east": [0, 0, 0]}
LABELS = ("sport", "money", "culture")


@dataclass(frozen=True)
class Part:
    """One part of a bar, or a colour of the legend."""

    x: float
    y: float
    width: float
    colour: str
    said: str

    @property
    def end(self):
        return self.x + self.width


def parts(picture):
    """The parts of all bars, and the colours of the legend."""
    drawn = [
        Part(
            *(float(box.get(key)) for key in ("x", "y", "width")),
            colour=box.get("fill"),
            said=box.findtext(f"{SVG}title"),
        )
        for box in ET.fromstring(picture.svg).iter(f"{SVG}rect")
        if box.get("fill")
    ]
    return [part for part in drawn if ": " in part.said], [p for p in drawn if ": " not in p.said]


def words(picture):
    """What can be read without pointing."""
    return [text.text for text in ET.fromstring(picture.svg).iter(f"{SVG}text")]


def test_every_part_says_its_count_in_the_order_of_clients_and_labels():
    bars, _ = parts(partition_picture(COUNTS, LABELS))
    assert [part.said for part in bars] == [
        "north: 300 of 400 are sport",
        "north: 100 of 400 are culture",
        "south: 40 of 200 are sport",
        "south: 150 of 200 are money",
        "south: 10 of 200 are culture",
    ]


def test_parts_are_as_long_as_their_counts_and_begin_where_the_last_one_ends():
    picture = partition_picture(COUNTS, LABELS)
    first, second, *south = parts(picture)[0]
    unit = (first.width + 1) / 300  # a pixel is left between two parts
    assert second.width + 1 == pytest.approx(100 * unit, abs=0.02)
    assert [part.width + 1 for part in south] == pytest.approx(
        [40 * unit, 150 * unit, 10 * unit], abs=0.02
    )
    assert second.x == pytest.approx(first.x + 300 * unit, abs=0.02)
    begun = [first.x, first.x + 40 * unit, first.x + 190 * unit]
    assert [part.x for part in south] == pytest.approx(begun, abs=0.02)
    assert unit * 400 > 500, "the longest bar fills the picture"


def test_it_reads_as_labels_then_clients_with_their_sizes():
    assert words(partition_picture({**COUNTS, "west": [1200, 34, 0]}, LABELS)) == [
        *("sport", "money", "culture"),
        *("north", "400", "south", "200", "east", "0", "west", "1,234"),
    ]


def test_a_label_has_its_colour_in_the_legend_and_in_every_bar():
    bars, legend = parts(partition_picture(COUNTS, LABELS))
    colours = {part.said: part.colour for part in legend}
    assert list(colours) == list(LABELS)
    assert len(set(colours.values())) == 3
    assert all(part.colour == colours[part.said.rsplit(" are ")[-1]] for part in bars)


def test_twenty_labels_have_twenty_colours_and_of_more_the_rarest_are_one():
    labels = [f"topic {number}" for number in range(23)]
    many = [7] * 23
    many[4], many[9], many[22] = 1, 2, 3
    picture = partition_picture({"a": many, "b": [5] * 23}, labels)
    bars, legend = parts(picture)
    rare = {"topic 4", "topic 9", "topic 22"}
    kept = [label for label in labels if label not in rare]
    assert [part.said for part in legend] == [*kept, "3 other labels"]
    assert len({part.colour for part in legend}) == 21
    assert bars[20].said == "a: 6 of 146 are 3 other labels"
    assert bars[-1].said == "b: 15 of 115 are 3 other labels"
    twenty = parts(partition_picture({"a": many[:20]}, labels[:20]))[1]
    assert [part.said for part in twenty] == labels[:20]


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.text(max_size=60), min_size=1, max_size=12, unique=True),
    labels=st.lists(st.text(max_size=60), min_size=1, max_size=24),
    data=st.data(),
)
def test_whatever_the_names_and_counts_it_is_whole_and_within_its_frame(names, labels, data):
    numbers = st.lists(st.integers(0, 10**6), min_size=len(labels), max_size=len(labels))
    picture = partition_picture({name: data.draw(numbers) for name in names}, labels)
    root = ET.fromstring(picture.svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    for box in root.iter(f"{SVG}rect"):
        left, top = float(box.get("x", 0)), float(box.get("y", 0))
        assert 0 <= left <= left + float(box.get("width")) <= width
        assert 0 <= top <= top + float(box.get("height")) <= height
    assert len(words(picture)) == min(len(labels), 21) + 2 * len(names)


def test_a_long_name_loses_its_middle_and_is_whole_where_it_is_pointed_at():
    long = "University Hospital of the northern province, ward 17"
    root = ET.fromstring(partition_picture({long: [3]}, ["x"]).svg)
    (name,) = [text for text in root.iter(f"{SVG}text") if "…" in text.text]
    assert name.text.startswith("University")
    assert name.text.endswith("ward 17")
    assert name.findtext(f"{SVG}title") == long


def test_names_cannot_add_to_the_page():
    hostile = '</svg><script>alert("1")</script>&amp;\x00\x1b\ud800'
    picture = partition_picture({hostile: [2]}, [hostile])
    assert "<script" not in picture.svg
    said = parts(picture)[0][0].said
    shown = hostile[:-3] + "\N{REPLACEMENT CHARACTER}" * 3
    assert said == f"{shown}: 2 of 2 are {shown}"


def test_it_stands_alone_and_is_light_or_dark():
    """Style sheets in a notebook's page are for all of it: every rule names the picture."""
    picture = partition_picture(COUNTS, LABELS)
    assert picture.svg.count("http") == 1, "the name of SVG itself"
    assert "url(" not in picture.svg
    assert " id=" not in picture.svg
    style = ET.fromstring(picture.svg).findtext(f"{SVG}style")
    assert "@media (prefers-color-scheme: dark)" in style
    rules = [part for line in style.split("}") for part in line.split("{")[:-1] if part.strip()]
    assert all(
        rule.strip().startswith((".privfed-partition", "@media")) for rule in rules if rule.strip()
    )


def test_a_notebook_shows_the_same_text_every_time():
    picture = partition_picture(COUNTS, LABELS)
    assert picture._repr_html_() == picture.svg
    assert picture == partition_picture(COUNTS, LABELS)


def test_counts_may_be_those_of_numpy():
    counted = {client: np.array(held) for client, held in COUNTS.items()}
    assert partition_picture(counted, LABELS) == partition_picture(COUNTS, LABELS)


@pytest.mark.parametrize(("counts", "labels"), [({}, LABELS), ({"a": []}, ())])
def test_without_clients_or_labels_there_is_no_picture(counts, labels):
    with pytest.raises(ReportError, match=r"needs clients and labels, got \d client"):
        partition_picture(counts, labels)


@pytest.mark.parametrize("held", [[1, 2], [1, 2, 3, 4], [1, -1, 0], [1, 0.5, 2], [1, "2", 3]])
def test_counts_that_are_none_are_refused_with_their_client(held):
    with pytest.raises(ReportError, match="client 'south' must have a count from 0 for each of 3"):
        partition_picture({"north": [1, 2, 3], "south": held}, LABELS)
