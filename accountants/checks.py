"""Checks of single values, with one wording; NaN and infinity fail every one of them.

Each function takes exactly one keyword argument, whose name goes into the message, and returns
the value as a plain Python number: `sigma = positive(noise_multiplier=sigma)`.
"""

from numbers import Integral, Real

from accountants.errors import InvalidValueError

# Arithmetic on counts is that of floats, which skip whole numbers from here on.
_LARGEST = 2**53


def positive(**named: object) -> float:
    """A finite number above 0."""
    name, value = _only(named)
    number = _number(value)
    if not 0 < number < float("inf"):
        raise refusal(name, "a finite number above 0", value)
    return number


def non_negative(**named: object) -> float:
    """A finite number, 0 or above."""
    name, value = _only(named)
    number = _number(value)
    if not 0 <= number < float("inf"):
        raise refusal(name, "a finite number, 0 or above", value)
    return number


def probability(**named: object) -> float:
    """A number strictly between 0 and 1, such as delta."""
    name, value = _only(named)
    number = _number(value)
    if not 0 < number < 1:
        raise refusal(name, "strictly between 0 and 1", value)
    return number


def probability_or_zero(**named: object) -> float:
    """A number in [0, 1), such as a delta that may be 0."""
    name, value = _only(named)
    number = _number(value)
    if not 0 <= number < 1:
        raise refusal(name, "in [0, 1)", value)
    return number


def rate(**named: object) -> float:
    """A number in (0, 1], such as a sampling rate."""
    name, value = _only(named)
    number = _number(value)
    if not 0 < number <= 1:
        raise refusal(name, "in (0, 1]: a probability, not a count", value)
    return number


def count(**named: object) -> int:
    """A whole number, 1 or above, that a float holds exactly."""
    return _whole(named, 1)


def index(**named: object) -> int:
    """A whole number, 0 or above, that a float holds exactly."""
    return _whole(named, 0)


def index_up_to(limit_name: str, limit: int, **named: object) -> int:
    """A whole number from 0 to another value, which the message names too."""
    name, value = _only(named)
    number = _whole(named, 0)
    if number > limit:
        raise refusal(name, f"at most {limit_name}, which is {limit}", value)
    return number


def text(**named: object) -> str:
    """A string with at least one visible character, encodable as UTF-8."""
    name, value = _only(named)
    if not isinstance(value, str) or not value.strip():
        raise refusal(name, "text that is not empty", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refusal(name, "text that UTF-8 can hold", value) from None
    return value


def shown(value: object) -> str:
    """A value as a message shows it.

    Python does not write out whole numbers of thousands of digits; of a value with one of them,
    only the type is shown.
    """
    try:
        return repr(value)
    except ValueError:
        return f"a value of type {type(value).__name__} that is too long to write out"


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


def _whole(named: dict[str, object], least: int) -> int:
    name, value = _only(named)
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(value) if is_whole else -1  # type: ignore[call-overload]
    if not least <= number <= _LARGEST:
        raise refusal(name, f"a whole number from {least} to 2**53", value)
    return number


def refusal(name: str, rule: str, value: object) -> InvalidValueError:
    """The error of a value that breaks a rule."""
    return InvalidValueError(f"{name} must be {rule}, got {shown(value)}")
