"""A plan as text of at most 100 columns, and as JSON values."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from accountants import ACCOUNTANT, BudgetExceededError
from privfed.agreement import Declaration, budget_of
from privfed.planning.answer import Answer
from privfed.planning.cautions import cautions_of, not_counted
from privfed.planning.costs import Gradients, bytes_of_round, gradients_of
from privfed.planning.curves import Curves
from privfed.planning.signal import Signal, signal_of
from privfed.reports.round_record import rounded_up

WIDTH: Final = 100
_NAME: Final = 24
_CONTEXT: Final = (
    "For comparison (README.md, benchmarks/RESULTS.md): of the demo on BBC news, 8 clients and "
    "2,309 parameters at epsilon 2, this reckoning says 2.7 at best; a run showed 1.0 to 1.07, and "
    "held-out accuracy still rose from 0.90 to 0.93 or more. So a ratio near 1 is no proof of "
    "failure, and a high best case is no promise, since real records do not agree."
)

Row = Sequence[str]


def table(answer: Answer) -> str:
    """The whole plan, for reading."""
    parts = [
        _numbers(answer),
        _clients(answer),
        _signal_words(answer, signal_of(answer)),
        _other_rounds(answer),
        _bytes_words(answer),
        _gradient_words(gradients_of(answer)),
        _cautions(answer),
    ]
    return "\n\n".join(parts)


def _numbers(answer: Answer) -> str:
    privacy = answer.privacy
    spent = max(answer.epsilons().values())
    noise = sorted(set(answer.noise_multipliers.values()))
    shown = f"{noise[0]:g}" if len(noise) == 1 else f"{noise[0]:g} to {noise[-1]:g}, see below"
    rows = [
        ("clients", _who(answer)),
        ("rounds", _with_why(f"{answer.rounds:,}", answer.why.get("rounds"))),
        ("steps per round", f"{privacy.steps_per_round:,}"),
        (
            "expected batch",
            _with_why(f"{privacy.expected_batch_size:,}", answer.why.get("expected_batch_size")),
        ),
        ("noise multiplier", f"{shown}: noise over the clipping norm {privacy.clipping_norm:g}"),
        (
            "epsilon",
            f"at most {rounded_up(spent)} at each client's delta, for each of its own records",
        ),
    ]
    return "\n".join(line for name, text in rows for line in _described(name, text))


def _who(answer: Answer) -> str:
    sizes = sorted(client.size for client in answer.clients)
    each = f"{sizes[0]:,} records" if sizes[0] == sizes[-1] else f"{sizes[0]:,} to {sizes[-1]:,}"
    some = answer.per_round < len(sizes)
    drawn = f"; {answer.per_round} of them train in a round" if some else ""
    return f"{len(sizes)} with {each} each: public sizes, of each client and not of all{drawn}"


def _with_why(number: str, why: str | None) -> str:
    return number if why is None else f"{number}: chosen here, {why}"


def _described(name: str, text: str) -> list[str]:
    """A name to the left and text beside it, in lines."""
    wrapped = textwrap.wrap(text, WIDTH - _NAME)
    return [f"{name if place == 0 else '':<{_NAME}}{line}" for place, line in enumerate(wrapped)]


def _clients(answer: Answer) -> str:
    """Those that differ in name alone are one row."""
    rates, spent = answer.sample_rates(), answer.epsilons()
    middle = sorted(answer.noise_multipliers.values())[len(answer.clients) // 2]
    groups: dict[tuple[str, ...], list[str]] = {}
    for client in answer.clients:
        groups.setdefault(_client_row(answer, client, rates, spent, middle), []).append(client.id)
    rows = [(_together(names), *cells) for cells, names in groups.items()]
    head = ("client", "size", "rate", "rounds", "noise", "of middle", "epsilon")
    return aligned((*head, "budget", "delta"), rows) + _left_out(answer)


def _client_row(
    answer: Answer,
    client: Declaration,
    rates: Mapping[str, float],
    spent: Mapping[str, float],
    middle: float,
) -> tuple[str, ...]:
    budget, noise = budget_of(client, answer.privacy), answer.noise_multipliers[client.id]
    return (
        f"{client.size:,}",
        f"{rates[client.id]:.4g}",
        f"{answer.rounds_of[client.id]:,}",
        f"{noise:g}",
        f"{noise / middle:.2f}",
        rounded_up(spent[client.id]),
        f"{budget.epsilon:g}",
        f"{budget.delta:g}",
    )


def _together(names: Sequence[str]) -> str:
    """Clients that are alike, by the first of them; the middle of a long name is left out."""
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    room = max(_NAME - len(others), 8)
    first = names[0]
    if len(first) > room:
        first = f"{first[: room // 2]}…{first[len(first) - (room - room // 2 - 1) :]}"
    return first + others


def _left_out(answer: Answer) -> str:
    if not answer.left_out:
        return ""
    names = [f"{name} ({size:,})" for name, size in answer.left_out.items()]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return "\n" + _paragraph(f"left out, having fewer records: {', '.join(names[:5])}{more}")


def _signal_words(answer: Answer, signal: Signal | None) -> str:
    if signal is None:
        return _paragraph(
            "Signal and noise: the noise of an update is known for plain SGD with a fixed clipping "
            "norm and methods that send the update itself, which this is not."
        )
    rate = answer.training.learning_rate_of(1, answer.rounds)
    lines = [
        "Signal and noise of the mean update of the first round, at learning rate "
        f"{rate:g}: noise of {signal.noise_per_entry:.3g} in an entry; the longest update, if all "
        f"records agreed, has length {signal.longest:.3g}."
    ]
    if signal.noise is None or signal.best_printed is None:
        lines.append("How long the noise is depends on how many numbers are trained: --parameters.")
        return _paragraph(" ".join(lines))
    lines.append(
        f"Over {answer.parameters:,} parameters noise has length {signal.noise:.3g}, so that the "
        f"column signal/noise of a run (its signal holds noise too) is at best about "
        f"{signal.best_printed:.3g}; nothing but noise shows 1."
    )
    return _paragraph(" ".join(lines)) + "\n" + _paragraph(_CONTEXT)


def _other_rounds(answer: Answer) -> str:
    """What half and twice as many rounds would ask of the client that needs the most noise."""
    rows = []
    for rounds in sorted({max(1, answer.rounds // 2), answer.rounds, 2 * answer.rounds}):
        try:
            noise = f"{answer.noise_with(rounds=rounds):g}"
        except BudgetExceededError:
            noise = "none fits"
        here = "this plan" if rounds == answer.rounds else ""
        rows.append((f"{rounds:,}", noise, here))
    return aligned(("rounds", f"noise of {_together([answer.noisiest.id])}", ""), rows)


def _bytes_words(answer: Answer) -> str:
    ways = bytes_of_round(answer)
    if not ways:
        return _paragraph(
            "Bytes: they follow from how many numbers a client trains and sends (--parameters)."
        )
    rows = [
        (
            way.name,
            f"{way.up:,}",
            f"{way.down:,}",
            f"{way.to_holder:,}" if way.to_holder else "",
            "this plan" if way.chosen else "",
        )
        for way in ways
    ]
    head = ("bytes of a round", "up, each client", "down, each client", "to the key holder", "")
    more = (
        "Signatures, statements and lists of contributions come on top: in the demo, of 8 clients, "
        "2 kB up and 11 kB down each."
    )
    return f"{aligned(head, rows)}\n{_paragraph(more)}"


def _gradient_words(gradients: Gradients) -> str:
    most = max(gradients.of_client.values())
    text = (
        f"Gradients: about {most:,.0f} examples at the client that computes most, "
        f"{gradients.in_all:,.0f} at all of them together."
    )
    longest, simulated = gradients.longest_seconds, gradients.simulated_seconds
    if longest is None or simulated is None:
        return _paragraph(f"{text} Seconds: not known; measure one and give --seconds-per-example.")
    return _paragraph(
        f"{text} At {gradients.seconds_per_example:g} s each, as stated: {longest:,.0f} s on "
        f"machines of their own, {simulated:,.0f} s in a simulation on one; encryption, "
        "evaluation and waiting come on top."
    )


def _cautions(answer: Answer) -> str:
    sentences = cautions_of(answer)
    found = [*sentences, not_counted(answer)]
    lines = [
        line
        for sentence in found
        for line in textwrap.wrap(
            sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False
        )
    ]
    head = f"Take care: {len(sentences)} warning(s)" if sentences else "No warning. And"
    return "\n".join([f"{head}:", *lines])


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def aligned(head: Row, rows: Sequence[Row]) -> str:
    """A table: the first column to the left, numbers to the right, what is behind them left."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if place == 0 or not head[place] else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def curves_table(curves: Curves) -> str:
    """Both curves as columns."""
    epsilon = aligned(
        ("rounds", "epsilon at most"),
        [(f"{rounds:,}", rounded_up(spent)) for rounds, spent in curves.epsilon],
    )
    noise = aligned(
        ("expected batch", "noise multiplier", "noise of a step in an entry"),
        [
            (
                f"{point.expected_batch_size:,}",
                "none fits" if point.noise_multiplier is None else f"{point.noise_multiplier:g}",
                "" if point.noise_of_step is None else f"{point.noise_of_step:.4g}",
            )
            for point in curves.noise
        ],
    )
    first = (
        f"Epsilon of {curves.client} after so many of its rounds, at the noise of the plan "
        f"({curves.rounds:,} rounds):"
    )
    second = f"Noise of {curves.client} for other batches, in {curves.rounds:,} rounds:"
    return f"{_paragraph(first)}\n{epsilon}\n\n{_paragraph(second)}\n{noise}"


def to_json(answer: Answer, curves: Curves | None = None) -> dict[str, Any]:
    """All numbers of a plan, exact, as JSON values."""
    signal, gradients = signal_of(answer), gradients_of(answer)
    spent, rates, steps = answer.epsilons(), answer.sample_rates(), answer.steps()
    clients = {
        client.id: {
            "public_size": client.size,
            "sample_rate": rates[client.id],
            "steps_per_round": steps[client.id],
            "rounds": answer.rounds_of[client.id],
            "noise_multiplier": answer.noise_multipliers[client.id],
            "epsilon": spent[client.id],
            "epsilon_budget": budget_of(client, answer.privacy).epsilon,
            "delta": budget_of(client, answer.privacy).delta,
        }
        for client in answer.clients
    }
    return {
        "rounds": answer.rounds,
        "expected_batch_size": answer.expected_batch_size,
        "clipping_norm": answer.privacy.clipping_norm,
        "neighbouring": answer.privacy.neighbouring.value,
        "clients_per_round": answer.per_round,
        "clients": clients,
        "left_out": dict(answer.left_out),
        "chosen_by_rule": dict(answer.why),
        "signal": None if signal is None else asdict(signal),
        "bytes_of_round": [asdict(one) for one in bytes_of_round(answer)],
        "gradients": asdict(gradients),
        "cautions": list(cautions_of(answer)),
        "earlier_releases": not_counted(answer),
        "curves": None if curves is None else asdict(curves),
        "accountant": ACCOUNTANT,
    }
