"""Checks of single values, with one wording; NaN and infinity fail every one of them.

Each function takes exactly one keyword argument, whose name goes into the message, and returns
the value as a plain Python number: `sigma = positive(noise_multiplier=sigma)`.
"""

from numbers import Integral, Real

from accountants.errors import InvalidValueError
from accountants.relations import Neighbouring


def positive(**named: object) -> float:
    """A finite number above 0."""
    name, value = _only(named)
    number = _number(value)
    if not 0 < number < float("inf"):
        raise _refusal(name, "a finite number above 0", value)
    return number


def non_negative(**named: object) -> float:
    """A finite number, 0 or above."""
    name, value = _only(named)
    number = _number(value)
    if not 0 <= number < float("inf"):
        raise _refusal(name, "a finite number, 0 or above", value)
    return number


def probability(**named: object) -> float:
    """A number strictly between 0 and 1, such as delta."""
    name, value = _only(named)
    number = _number(value)
    if not 0 < number < 1:
        raise _refusal(name, "strictly between 0 and 1", value)
    return number


def probability_or_zero(**named: object) -> float:
    """A number in [0, 1), such as a delta that may be 0."""
    name, value = _only(named)
    number = _number(value)
    if not 0 <= number < 1:
        raise _refusal(name, "in [0, 1)", value)
    return number


def rate(**named: object) -> float:
    """A number in (0, 1], such as a sampling rate."""
    name, value = _only(named)
    number = _number(value)
    if not 0 < number <= 1:
        raise _refusal(name, "in (0, 1]: a probability, not a count", value)
    return number


def count(**named: object) -> int:
    """A whole number, 1 or above."""
    name, value = _only(named)
    if not _is_whole(value) or not int(value) >= 1:  # type: ignore[call-overload]
        raise _refusal(name, "a whole number, 1 or above", value)
    return int(value)  # type: ignore[call-overload, no-any-return]


def index(**named: object) -> int:
    """A whole number, 0 or above."""
    name, value = _only(named)
    if not _is_whole(value) or not int(value) >= 0:  # type: ignore[call-overload]
        raise _refusal(name, "a whole number, 0 or above", value)
    return int(value)  # type: ignore[call-overload, no-any-return]


def text(**named: object) -> str:
    """A string with at least one visible character, encodable as UTF-8."""
    name, value = _only(named)
    if not isinstance(value, str) or not value.strip():
        raise _refusal(name, "text that is not empty", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refusal(name, "text that UTF-8 can hold", value) from None
    return value


def neighbouring(value: object) -> Neighbouring:
    """A neighbouring relation, or its name."""
    try:
        return Neighbouring(value)
    except ValueError:
        raise _refusal(
            "neighbouring", f"one of {[each.value for each in Neighbouring]}", value
        ) from None


def _only(named: dict[str, object]) -> tuple[str, object]:
    ((name, value),) = named.items()
    return name, value


def _number(value: object) -> float:
    """The value as a float; NaN, which fails every comparison, for what is not a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _refusal(name: str, rule: str, value: object) -> InvalidValueError:
    return InvalidValueError(f"{name} must be {rule}, got {value!r}")
