"""Who holds what, as a picture: a bar for each client, made of its records of each label.

It is for public text and simulations. How many records of a label a client holds is derived from
its text: of private text the counts must not leave the client, so no report draws them.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ReportError

_COLOURS: Final = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#8d6cab", "#499894", "#b6992d", "#d37295"),
    *("#9d7660", "#5f7fe0", "#a0cbe8", "#ffbe7d", "#8cd17d", "#ff9d9a", "#d4b3e6", "#86d0c8"),
    *("#f1ce63", "#fabfd2", "#d7b5a6", "#aebcf7"),
)
"""Ten hues, then the same ten lighter; both read on white and on black."""
_OTHERS: Final = "#8a8f94"
_STYLE: Final = """
.privfed-partition { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.privfed-partition .page { fill: #ffffff; } .privfed-partition text { fill: #1c1e21; }
.privfed-partition text.soft { fill: #5b636b; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
.privfed-partition .page { fill: #16181b; } .privfed-partition text { fill: #e6e8ea; }
.privfed-partition text.soft { fill: #a3abb3; } }
"""
"""Style sheets in a page are for all of it, so every rule names the picture."""
_NO_XML: Final = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WIDTH, _MARGIN, _GAP = 760, 14, 10
_ROW, _BAR, _LINE, _SWATCH = 26, 18, 22, 12
_WIDEST_NAME, _WIDEST_LABEL = 200, 160


Held = Sequence[int] | NDArray[np.integer[Any]]
"""A client's records of every label, shape (labels,)."""


@dataclass(frozen=True, slots=True)
class PartitionPicture:
    """A picture that a notebook shows as it is.

    Attributes:
        svg: whole SVG text without any outside reference; light or dark as the reader's system is.
    """

    svg: str

    def _repr_html_(self) -> str:
        return self.svg


def partition_picture(counts: Mapping[str, Held], labels: Sequence[str]) -> PartitionPicture:
    """A bar for each client, as long as it holds records, made of its records of each label.

    For public text and simulations alone: counts of private text are derived from it and must not
    leave the client. Of more labels than there are colours (20) the rarest are drawn as one. The
    number behind a bar is that of all its records; each part says its own when it is pointed at.

    Args:
        counts: for each client, by name in the order of the bars, its records of every label.
        labels: their names, in the order of the counts.

    Raises:
        ReportError: if there is no client or no label, or counts are not whole numbers from 0, one
            for each label.
    """
    drawn, shown = _merged(_checked(counts, labels), labels)
    colours = (*_COLOURS, _OTHERS)[: len(shown)]
    legend, top = _legend(shown, colours)
    height = top + _ROW * len(drawn) + _MARGIN
    picture = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "privfed-partition",
            "viewBox": f"0 0 {_WIDTH} {height}",
            "width": str(_WIDTH),
            "style": "max-width: 100%; height: auto",
            "role": "img",
            "aria-label": f"Records of {len(drawn)} clients by label",
        },
    )
    ET.SubElement(picture, "style").text = _STYLE
    page = {"class": "page", "width": str(_WIDTH), "height": str(height), "rx": "6"}
    ET.SubElement(picture, "rect", page)
    picture.extend(legend)
    picture.extend(_bars(drawn, shown, colours, top))
    return PartitionPicture(ET.tostring(picture, encoding="unicode"))


def _checked(counts: Mapping[str, Held], labels: Sequence[str]) -> dict[str, list[int]]:
    if not counts or not labels:
        raise ReportError(
            "a picture of who holds what needs clients and labels, got "
            f"{len(counts)} client(s) and {len(labels)} label(s)"
        )
    for client, held in counts.items():
        whole = all(isinstance(n, (int, np.integer)) and n >= 0 for n in held)
        if len(held) != len(labels) or not whole:
            raise ReportError(
                f"client {client!r} must have a count from 0 for each of {len(labels)} labels, got "
                f"{list(held)!r}; give 0 for a label of which it has no records"
            )
    return {client: [int(n) for n in held] for client, held in counts.items()}


def _merged(
    counts: Mapping[str, Sequence[int]], labels: Sequence[str]
) -> tuple[Mapping[str, Sequence[int]], Sequence[str]]:
    """The same, where the rarest of too many labels are one, the last."""
    if len(labels) <= len(_COLOURS):
        return counts, labels
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    frequent_first = sorted(range(len(labels)), key=lambda place: -totals[place])
    own, rest = sorted(frequent_first[: len(_COLOURS)]), frequent_first[len(_COLOURS) :]
    merged = {
        client: [*(held[place] for place in own), sum(held[place] for place in rest)]
        for client, held in counts.items()
    }
    return merged, [*(labels[place] for place in own), f"{len(rest)} other labels"]


def _legend(labels: Sequence[str], colours: Sequence[str]) -> tuple[list[ET.Element], int]:
    """The colour of each label, in lines, and where they end."""
    drawn = []
    x, line = _MARGIN, 0
    for label, colour in zip(labels, colours, strict=True):
        shown = _shortened(label, _WIDEST_LABEL)
        width = _SWATCH + 5 + round(_text_width(shown)) + 14
        if x > _MARGIN and x + width > _WIDTH - _MARGIN:
            x, line = _MARGIN, line + 1
        y = _MARGIN + line * _LINE
        drawn.append(_rectangle(x, y, _SWATCH, _SWATCH, colour, label))
        drawn.append(_text(x + _SWATCH + 5, y + 11, shown, label))
        x += width
    return drawn, _MARGIN + (line + 1) * _LINE + _GAP


def _bars(
    counts: Mapping[str, Sequence[int]], labels: Sequence[str], colours: Sequence[str], top: int
) -> list[ET.Element]:
    """A line for each client: its name, its bar and its size."""
    shown = {client: _shortened(client, _WIDEST_NAME) for client in counts}
    sizes = {client: sum(held) for client, held in counts.items()}
    left = _MARGIN + max(map(_text_width, shown.values())) + _GAP
    right = _WIDTH - _MARGIN - max(_text_width(f"{size:,}") for size in sizes.values()) - _GAP
    unit = (right - left) / (max(sizes.values()) or 1)
    drawn = []
    for line, (client, held) in enumerate(counts.items()):
        y = top + line * _ROW
        drawn.append(_text(left - _GAP, y + 14, shown[client], client, anchor="end"))
        begun = 0
        for label, colour, number in zip(labels, colours, held, strict=True):
            if number:
                width = unit * number
                said = f"{client}: {number:,} of {sizes[client]:,} are {label}"
                apart = 1 if width > 3 else 0
                x = left + unit * begun
                drawn.append(_rectangle(x, y, width - apart, _BAR, colour, said))
            begun += number
        end = left + unit * begun + _GAP / 2
        drawn.append(_text(end, y + 14, f"{sizes[client]:,}", None, kind="soft"))
    return drawn


def _rectangle(
    x: float, y: float, width: float, height: float, colour: str, said: str
) -> ET.Element:
    """A box that says something when it is pointed at."""
    place = {"x": f"{x:.2f}", "y": f"{y:.2f}", "width": f"{width:.2f}", "height": f"{height:.2f}"}
    drawn = ET.Element("rect", {**place, "fill": colour})
    ET.SubElement(drawn, "title").text = _printable(said)
    return drawn


def _text(
    x: float, y: float, text: str, whole: str | None, anchor: str = "start", kind: str = ""
) -> ET.Element:
    """A line of text, which says the whole of it when it is pointed at and was shortened."""
    drawn = ET.Element("text", {"x": f"{x:.2f}", "y": f"{y:.2f}", "text-anchor": anchor})
    if kind:
        drawn.set("class", kind)
    drawn.text = text
    if whole is not None and text != whole:
        ET.SubElement(drawn, "title").text = _printable(whole)
    return drawn


def _shortened(text: str, widest: float) -> str:
    """A text that fits; its middle is left out, since names often differ at their ends."""
    text = _printable(text)
    shown, left = text, len(text)
    while left and _text_width(shown) > widest:
        left -= 1
        shown = text[: (left + 1) // 2] + "…" + text[len(text) - left // 2 :]
    return shown


def _printable(text: str) -> str:
    """Without what XML cannot hold (XML 1.0, production 2)."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _text_width(text: str) -> float:
    """About how many pixels wide it is; on the wide side, since fonts are the reader's."""
    return sum(
        13.0
        if unicodedata.east_asian_width(sign) in "WF" or sign in "MWm@%…"
        else 10.5
        if sign.isupper() or sign == "w"
        else 5.0
        if sign in "ijlt.,:; "
        else 8.0
        for sign in text
    )
