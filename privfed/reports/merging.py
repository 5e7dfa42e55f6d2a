"""What clients may state differently, put together so that nothing looks better than one says."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final

from privfed.reports.budget import COMPLETE, RUNNING, BudgetReport
from privfed.reports.closed import Closed
from privfed.reports.round_record import RoundRecord
from privfed.reports.sections import Difference, Measured, Published

OWN: Final[Mapping[str, frozenset[str]]] = {
    "mechanism": frozenset({"public_sizes"}),
    "training": frozenset({"held_out", "model.base", "optimizer.physical_batch_size"}),
}
"""Words, paths and speeds that are each client's own, in sections that all must state alike."""

_LISTED: Final = ("accounting", "randomness", "versions")
"""Sections in which every field is each client's own."""


def flat(section: object, name: str = "") -> dict[str, object]:
    """The values of a section under their dotted names.

    Args:
        section: JSON values.
        name: that goes before.
    """
    if not isinstance(section, Mapping):
        return {name: section}
    values: dict[str, object] = {}
    for key, inner in section.items():
        values |= flat(inner, f"{name}.{key}" if name else key)
    return values


def status_of(parts: Sequence[Closed]) -> str:
    """Complete only if every client says so; that the run may go on goes before all else."""
    said = {part.report.status for part in parts}
    if len(said) == 1:
        return said.pop()
    if RUNNING in said:
        return RUNNING
    each = "; ".join(
        f"{', '.join(part.client for part in parts if part.report.status == status)}: "
        f"{status!r:.200}"  # quoted: it is their words
        for status in sorted(said, key=lambda status: (status == COMPLETE, status))
    )
    return f"ended differently for its clients ({each})"


def named(
    parts: Sequence[Closed], items_of: Callable[[BudgetReport], Iterable[str]]
) -> tuple[str, ...]:
    """All that any client says: what only some say comes first, after their names.

    Args:
        parts: of all clients that closed.
        items_of: sentences of a report.
    """
    said = {part.client: list(items_of(part.report)) for part in parts}
    everything = list(dict.fromkeys(item for items in said.values() for item in items))
    of_some, of_all = [], []
    for item in everything:
        who = [client for client, items in said.items() if item in items]
        if len(who) == len(parts):
            of_all.append(item)
        else:
            of_some.append(f"{', '.join(who)}: {item}")
    return *of_some, *of_all


def published(parts: Sequence[Closed]) -> tuple[Published, ...]:
    """Every row of what any client published; of those that only some state, after their names."""
    rows = list(dict.fromkeys(row for part in parts for row in part.report.published))
    merged = []
    for row in rows:
        who = [part.client for part in parts if row in part.report.published]
        all_say_so = len(who) == len(parts)
        merged.append(row if all_say_so else replace(row, what=f"{', '.join(who)}: {row.what}"))
    return tuple(merged)


def measured(parts: Sequence[Closed]) -> Measured | None:
    """The most that any client measured."""
    found = [part.report.encryption.measured for part in parts]
    all_found = [one for one in found if one is not None]
    if not all_found:
        return None
    most: dict[str, Any] = {}
    for field in fields(Measured):
        values = [getattr(one, field.name) for one in all_found]
        most[field.name] = max((value for value in values if value is not None), default=None)
    return Measured(**most)


def rounds(parts: Sequence[Closed]) -> tuple[RoundRecord, ...]:
    """Rounds with what each client spent, the worst metric and the most bytes and seconds.

    Signal to noise is the least that any states, and unknown where one does not state it; figures
    of the method are the largest, of names that all state.
    """
    merged = []
    for same in zip(*(part.report.rounds for part in parts), strict=True):
        worst = min if same[0].metric == "accuracy" else max
        ratios = [row.signal_to_noise for row in same if row.signal_to_noise is not None]
        spent = zip(parts, same, strict=True)
        merged.append(
            replace(
                same[0],
                value=worst(row.value for row in same),
                signal_to_noise=min(ratios) if len(ratios) == len(same) else None,
                figures=_largest_figures(same),
                bytes_up=max(row.bytes_up for row in same),
                bytes_down=max(row.bytes_down for row in same),
                bytes_holder=max(row.bytes_holder for row in same),
                seconds=max(row.seconds for row in same),
                seconds_aggregator=max(row.seconds_aggregator for row in same),
                seconds_opening=max(row.seconds_opening for row in same),
                epsilon={part.client: row.epsilon[part.client] for part, row in spent},
            )
        )
    return tuple(merged)


def _largest_figures(same: Sequence[RoundRecord]) -> dict[str, float]:
    names = [name for name in same[0].figures if all(name in row.figures for row in same)]
    return {name: max(row.figures[name] for row in same) for name in names}


def baseline(parts: Sequence[Closed]) -> dict[str, float]:
    """The best metric of the initial adapter: training then made the least of a difference."""
    metric = parts[0].report.metric
    best = max if metric == "accuracy" else min
    return {metric: best(part.report.baseline[metric] for part in parts)}


def differences(parts: Sequence[Closed]) -> tuple[Difference, ...]:
    """All that clients state differently and need not agree on, with who states it."""
    said = {part.client: _own_values(part.report) for part in parts}
    names = dict.fromkeys(name for values in said.values() for name in values)
    found = []
    for name in names:
        groups: dict[str, list[str]] = {}
        for client, values in said.items():
            groups.setdefault(values.get(name, "not stated"), []).append(client)
        if len(groups) > 1:
            found += [
                Difference(field=name, value=value, clients=tuple(who))
                for value, who in groups.items()
            ]
    return tuple(found)


def _own_values(report: BudgetReport) -> dict[str, str]:
    """What a client states for itself, as text, by dotted name."""
    everything = asdict(report)
    values: dict[str, object] = {}
    for section, own in OWN.items():
        all_of_it = flat(everything[section])
        values |= {f"{section}.{name}": all_of_it[name] for name in own if name in all_of_it}
    for section in _LISTED:
        values |= flat(everything[section], section)
    texts = {name: _text(value) for name, value in sorted(values.items())}
    metrics = {f"rounds.{row.round}.{row.metric}": f"{row.value:.4g}" for row in report.rounds}
    ratios = {
        f"rounds.{row.round}.signal_to_noise": f"{row.signal_to_noise:.3g}"
        for row in report.rounds
        if row.signal_to_noise is not None
    }
    ratios |= {
        f"rounds.{row.round}.{name}": f"{value:.3g}"
        for row in report.rounds
        for name, value in row.figures.items()
    }
    before = {f"baseline.{report.metric}": f"{report.baseline[report.metric]:.4g}"}
    return {**texts, **before, **metrics, **ratios}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
