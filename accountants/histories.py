"""Histories: the events of one data set, in any order, and the normal form of equal ones."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from accountants import checks
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.event_json import event_to_json
from accountants.events import (
    KINDS,
    Event,
    Gaussian,
    PoissonGaussian,
    RandomAllocationGaussian,
    is_event,
)

Events = tuple[Event, ...]
"""A history, or a part of one."""


def checked(events: Iterable[Event]) -> Events:
    """The events as a tuple.

    Raises:
        InvalidValueError: for one event in place of several.
        UnsupportedAnalysisError: for anything that is no event.
    """
    if is_event(events):
        raise InvalidValueError(f"events must be a list of events, got one event; use [{events}]")
    values = tuple(events)
    for value in values:
        if not is_event(value):
            raise UnsupportedAnalysisError(
                f"an event must be one of {', '.join(k.__name__ for k in KINDS)}, got "
                f"{checks.shown(value)}; nothing is known here about any other release"
            )
    return values


def canonical(events: Iterable[Event]) -> Events:
    """The same releases in one normal form: equal mechanisms merged, in a fixed order.

    Composition commutes, so histories with the same normal form cost the same epsilon. A Poisson
    sample at rate 1 and an epoch of one batch are written as the plain Gaussian that they are.
    """
    total: dict[Event, int] = {}
    for event in map(_plain, checked(events)):
        one = replace(event, steps=1)
        total[one] = total.get(one, 0) + event.steps
    merged = [replace(one, steps=steps) for one, steps in total.items()]
    return tuple(sorted(merged, key=_order))


def is_within(ran: Iterable[Event], planned: Iterable[Event]) -> bool:
    """Whether `ran` has, of every mechanism, no more steps than `planned`."""
    limit = {replace(event, steps=1): event.steps for event in canonical(planned)}
    return all(e.steps <= limit.get(replace(e, steps=1), 0) for e in canonical(ran))


def _plain(event: Event) -> Event:
    match event:
        case PoissonGaussian() if event.sample_rate == 1:
            return Gaussian(noise_multiplier=event.noise_multiplier, steps=event.steps)
        case RandomAllocationGaussian() if event.batches == 1:
            return Gaussian(noise_multiplier=event.noise_multiplier, steps=event.steps)
        case _:
            return event


def _order(event: Event) -> tuple[Any, ...]:
    return tuple(event_to_json(event).values())
