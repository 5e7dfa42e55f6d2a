"""The last value that a test rejects, for tests that reject small values and accept large ones.

A lower confidence bound is the largest claim that the data refute. The value returned is one at
which the test did reject, so that rounding the search off cannot raise the bound.
"""

from collections.abc import Callable

# Searches stop at brackets this narrow, or this narrow a part of the value.
_STEP = 1e-9


def first_accepted(rejected: Callable[[float], bool]) -> float:
    """Some value that is not rejected: 1, 2, 4, ..., so the test must accept in the end.

    >>> first_accepted(lambda value: value < 5)
    8.0
    """
    value = 1.0
    while rejected(value):
        value *= 2
    return value


def last_rejected(rejected: Callable[[float], bool], accepted: float) -> float:
    """The lower end of a bracket: a value that is rejected, next to one that is not; or 0.

    Args:
        rejected: the test; monotone for the result to be the largest value that is rejected.
        accepted: a value above all that are rejected.

    >>> round(last_rejected(lambda value: value * value < 2, accepted=2.0), 6)
    1.414214
    """
    if not rejected(0.0):
        return 0.0
    low, high = 0.0, accepted
    while high - low > _STEP * max(1.0, high):
        middle = (low + high) / 2
        if rejected(middle):
            low = middle
        else:
            high = middle
    return low
