"""`python -m accountants`: epsilon, noise and ledgers from the command line.

Arguments (`cli/arguments.py`) become events, a budget or a path (`cli/input_files.py`), and results
become text (`cli/printing.py`); everything is computed by the functions of the package. Exit code 0
says that it worked, 1 that it was refused, with one line that says why, 2 that the arguments cannot
be read; where SIGINT or SIGTERM ended it, the code is 128 plus the number of the signal.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from accountants.cli.arguments import parser
from accountants.cli.input_files import events_of_file, ledger_of_file, ledger_or_export
from accountants.cli.printing import (
    Rows,
    assumptions,
    basis,
    plain,
    print_rows,
    rounded_down,
    rounded_up,
    show,
)
from accountants.errors import AccountingError, LedgerForeignError
from accountants.events import Event, NoisedCount, PoissonGaussian
from accountants.guarantees import DeltaBounds, EpsilonBounds, Neighbouring
from accountants.ledger.book import Book
from accountants.ledger.earlier import assign
from accountants.ledger.export import export
from accountants.ledger.identity import Identity
from accountants.stopping import exit_status, stopped_by_signals

# Accountants are imported by the commands that compute: they load scipy and dp-accounting.

NO_ANCHOR = (
    "not checked: without --anchor, a cut end, an older copy that was put back, or a ledger "
    "rewritten with fresh digests cannot be seen"
)

ROLLBACK = "a rollback is not checked here, but by verify --anchor"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, in the main thread; the exit code.

    Args:
        arguments: what follows the name of the program; by default those of this process.

    Raises:
        SystemExit: with code 2 for arguments that cannot be read, and 0 after a help text.
    """
    options = parser().parse_args(arguments)
    try:
        with stopped_by_signals():
            _COMMANDS[options.command](options)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader went away, as `head` does; nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (AccountingError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    except ArithmeticError as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        print(f"error: out of the range of floating point ({reason}); no number", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("error: interrupted", file=sys.stderr)
        return exit_status(error)
    return 0


def _epsilon(options: argparse.Namespace) -> None:
    from accountants import certified

    book = _book(options)
    events = _events(options) if book is None else book.events()
    relation = _relation(options, book)
    bounds = certified.epsilon(events, options.delta, relation, group_size=options.group_size)
    _show_bounds(options, events, relation, book, "epsilon", bounds, at="delta")


def _delta(options: argparse.Namespace) -> None:
    from accountants import certified

    book = _book(options)
    events = _events(options) if book is None else book.events()
    relation = _relation(options, book)
    bounds = certified.delta(events, options.epsilon, relation, group_size=options.group_size)
    _show_bounds(options, events, relation, book, "delta", bounds, at="epsilon")


def _calibrate(options: argparse.Namespace) -> None:
    from accountants.calibration.noise import noise_multiplier
    from accountants.guarantees import Budget

    budget = Budget(epsilon=options.epsilon, delta=options.delta)
    counts = _noised_counts(options)
    sigma = noise_multiplier(
        budget, options.sample_rate, options.steps, counts, neighbouring=options.neighbouring
    )
    plan = PoissonGaussian(
        noise_multiplier=sigma, sample_rate=options.sample_rate, steps=options.steps
    )
    record = basis([*counts, plan], options.neighbouring) | {
        "delta": options.delta,
        "epsilon": options.epsilon,
        "noise_multiplier": sigma,
    }
    rows = [
        ("noise multiplier", f"{rounded_up(sigma)}, times the clipping norm"),
        ("schedule", f"{options.steps} steps at sample rate {options.sample_rate!r}"),
        ("budget", f"epsilon {options.epsilon!r} at delta {options.delta!r}"),
        *assumptions(options.neighbouring),
    ]
    show(record, rows, as_json=options.json)


def _verify(options: argparse.Namespace) -> None:
    kind, book = ledger_or_export(options.path)
    if options.anchor is not None:
        book.check_continues(options.anchor)
    anchor = book.anchor()
    rows = [
        ("whole", f"this {kind}: every entry follows from the one before it"),
        *_names(book),
        ("entries", f"{anchor.length}"),
        ("head", anchor.head),
        *_inherited(book),
        *_runs(book),
        ("rollback", NO_ANCHOR if options.anchor is None else "none: it continues the anchor"),
        ("anchor", str(anchor)),
    ]
    print_rows(rows)


def _export(options: argparse.Namespace) -> None:
    text = json.dumps(export(ledger_of_file(options.path)), indent=1) + "\n"
    if options.output is None:
        sys.stdout.write(text)
        return
    with open(options.output, "x", encoding="utf-8") as file:  # never over a ledger
        file.write(text)


def _assign(options: argparse.Namespace) -> None:
    for path in options.paths:
        found = ledger_of_file(path)
        identity = Identity(
            client=options.client or found.identity.client,
            dataset=options.dataset,
            unit=options.unit,
            neighbouring=options.neighbouring,
        )
        written = assign(path, identity)
        print_rows(
            [
                ("assigned", f"{path}, with {len(found.entries)} entries"),
                *((f"its {name}", value) for name, value in _names(found)),
                *((f"to the {name}", repr(value)) for name, value in identity.to_json().items()),
                ("written", str(written)),
            ]
        )


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "epsilon": _epsilon,
    "delta": _delta,
    "calibrate": _calibrate,
    "verify": _verify,
    "export": _export,
    "assign": _assign,
}


def _book(options: argparse.Namespace) -> Book | None:
    """What the ledger in the arguments says, if one is there; with a schedule too, exits with 2."""
    if options.ledger is None:
        return None
    single = (options.noise_multiplier, options.sample_rate, options.steps)
    others = (options.phase, options.events, options.noised_count)
    if any(others) or any(value is not None for value in single):
        options.refuse(
            "--ledger must come without --noise-multiplier, --phase, --events and --noised-count"
        )
    return ledger_or_export(options.ledger)[1]


def _relation(options: argparse.Namespace, book: Book | None) -> Neighbouring:
    """The relation that the ledger states, or else the arguments; none exits with code 2.

    Raises:
        LedgerForeignError: if both state one, and they differ.
    """
    given = options.neighbouring
    if book is not None and isinstance(book.identity, Identity):
        stated = book.identity.neighbouring
        if given not in (None, stated):
            raise LedgerForeignError(
                f"--neighbouring must be the relation of the ledger {options.ledger}, "
                f"{stated.value!r}, got {given.value!r}: a budget of one relation says nothing "
                "about another; leave --neighbouring out"
            )
        return stated
    if given is None:
        why = "" if book is None else ": a ledger of the first version states no relation"
        options.refuse(f"--neighbouring must be given{why}")
    return Neighbouring(given)


def _events(options: argparse.Namespace) -> list[Event]:
    """All events that the arguments name, together; none, or half a phase, exits with code 2."""
    single = (options.noise_multiplier, options.sample_rate, options.steps)
    given = [value is not None for value in single]
    if any(given) and not all(given):
        options.refuse("--noise-multiplier, --sample-rate and --steps must come together")
    phases = [*options.phase, *([single] if all(given) else [])]
    if not phases and not options.events and not options.noised_count:
        options.refuse("give a schedule by --noise-multiplier, --phase or --events, or a --ledger")
    events: list[Event] = [
        PoissonGaussian(noise_multiplier=sigma, sample_rate=rate, steps=steps)
        for sigma, rate, steps in phases
    ]
    events.extend(_noised_counts(options))
    for path in options.events:
        events.extend(events_of_file(path))
    return events


def _noised_counts(options: argparse.Namespace) -> list[NoisedCount]:
    return [NoisedCount(epsilon=value) for value in options.noised_count]


def _show_bounds(
    options: argparse.Namespace,
    events: Iterable[Event],
    relation: Neighbouring,
    book: Book | None,
    name: str,
    bounds: EpsilonBounds | DeltaBounds,
    *,
    at: str,
) -> None:
    """Both bounds on epsilon at a delta, or on delta at an epsilon, and what they rest on."""
    given: float = getattr(options, at)
    record = basis(events, relation, options.group_size) | {
        at: given,
        name: plain(bounds.upper),
        f"{name}_lower": plain(bounds.lower),
        "method": bounds.method,
    }
    rows = [
        (name, f"at most {rounded_up(bounds.upper)}, at {at} {given!r}"),
        ("", f"no analysis of these events can go below {rounded_down(bounds.lower)}"),
        ("method", bounds.method),
        *assumptions(relation, options.group_size),
    ]
    if book is not None:
        anchor = book.anchor()
        record["ledger"] = {"id": book.id, **book.identity.to_json(), **anchor.to_json()}
        whose = f"{book.identity.client!r}, {book.identity.dataset!r}, {anchor.length} entries"
        rows.append(("ledger", f"{whose}; reserved rounds count in full; {ROLLBACK}"))
    show(record, rows, as_json=options.json)


def _names(book: Book) -> Rows:
    """Whose releases these are; one of the first version has no id."""
    names = ({} if book.id is None else {"id": book.id}) | book.identity.to_json()
    return [(name, repr(value)) for name, value in names.items()]


def _inherited(book: Book) -> Rows:
    """One row per ledger of an earlier version that was joined."""
    return [
        ("joined", f"the earlier ledger of {each.identity.to_json()}, anchor {each.anchor}")
        for each in book.inherited.values()
    ]


def _runs(book: Book) -> Rows:
    """One row per run: how many of its rounds are committed, and how many still count in full."""
    rows = []
    for run in book.runs():
        rounds = [r.id for r in book.reservations.values() if r.run == run]
        committed = sum(id_ in book.commits for id_ in rounds)
        rows.append(
            ("run", f"{run!r}: {committed} committed, {len(rounds) - committed} only reserved")
        )
    return rows or [("runs", "none")]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
