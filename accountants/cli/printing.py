"""What the command line prints: rows of text, or JSON, and what every number rests on.

Numbers in rows have six digits and are rounded to the safe side: upper bounds and noise up, lower
bounds down. JSON has all digits.
"""

import json
import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from accountants.event_json import event_to_json
from accountants.events import Event
from accountants.guarantees import Neighbouring

RELATIONS = {
    Neighbouring.ADD_REMOVE: "one data set has one unit more than the other",
    Neighbouring.REPLACE_ONE: "one unit of a data set is another one; the size is public",
    Neighbouring.ZERO_OUT: "the contributions of one unit are zeros in one of the data sets",
}
"""What each relation compares, for a reader who does not know its name."""

GROUPS = {
    Neighbouring.ADD_REMOVE: "one data set has up to {} units more than the other",
    Neighbouring.REPLACE_ONE: "up to {} units of a data set are other ones; the size is public",
    Neighbouring.ZERO_OUT: "the contributions of up to {} units are zeros in one of the data sets",
}
"""What each relation compares for a group of units."""

UNIT = "what is clipped, and sampled or not, as one contribution: in DP-SGD one record; "
ASSUMES = (
    "a schedule fixed in advance; secret coins for noise and sampling; batches drawn as the "
    "events say (a shuffled epoch is no Poisson sample)"
)

_DIGITS = 6

Rows = list[tuple[str, str]]


def rounded_up(value: float) -> str:
    """A number >= 0 with at most six significant digits, not below it.

    >>> rounded_up(2.10143001), rounded_up(0.5), rounded_up(float("inf"))
    ('2.10144', '0.5', 'infinity')
    """
    return _rounded(value, ROUND_CEILING)


def rounded_down(value: float) -> str:
    """A number >= 0 with at most six significant digits, not above it.

    >>> rounded_down(2.10143999), rounded_down(0)
    ('2.10143', '0')
    """
    return _rounded(value, ROUND_FLOOR)


def basis(
    events: Iterable[Event], neighbouring: Neighbouring, group_size: int = 1
) -> dict[str, Any]:
    """The events and what a number about them rests on, for JSON."""
    return {
        "events": [event_to_json(event) for event in events],
        "neighbouring": neighbouring.value,
        "group_size": group_size,
        "neighbours": _neighbours(neighbouring, group_size),
        "unit": _unit(group_size),
        "assumes": ASSUMES,
    }


def assumptions(neighbouring: Neighbouring, group_size: int = 1) -> Rows:
    """What a number rests on, as rows."""
    return [
        ("neighbours", f"{_neighbours(neighbouring, group_size)} ({neighbouring.value})"),
        ("unit", _unit(group_size)),
        ("assumes", ASSUMES),
    ]


def show(record: dict[str, Any], rows: Rows, *, as_json: bool) -> None:
    """Print a result in one of its two forms."""
    if as_json:
        print(json.dumps(record, indent=1, allow_nan=False))
    else:
        print_rows(rows)


def print_rows(rows: Rows) -> None:
    """Names to the left, values to the right, one row per line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def plain(value: float) -> float | str:
    """A number that JSON can hold; infinity as a word that no reader takes for 0."""
    return "infinity" if math.isinf(value) else value


def _neighbours(neighbouring: Neighbouring, group_size: int) -> str:
    if group_size == 1:
        return RELATIONS[neighbouring]
    return GROUPS[neighbouring].format(group_size)


def _unit(group_size: int) -> str:
    if group_size == 1:
        return UNIT + "a person with k records is protected less"
    return UNIT + f"the number holds for a person with up to {group_size} of them, and not for more"


def _rounded(value: float, rounding: str) -> str:
    if math.isinf(value):
        return "infinity"
    short = Decimal(repr(float(value))).normalize(Context(prec=_DIGITS, rounding=rounding))
    return f"{short:f}" if short == 0 or 1e-4 <= short < 1e15 else f"{short:e}"
