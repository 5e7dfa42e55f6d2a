"""`python -m accountants`: epsilon, noise and ledgers from the command line.

Arguments become events, a budget or a path, and results become text; everything is computed by the
functions of the package. What is printed is rounded to the safe side: upper bounds and noise up,
lower bounds down. Exit code 0 says that it worked, 1 that it was refused, with one line that says
why, 2 that the arguments cannot be read.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import Any

from accountants.book import Book
from accountants.bounds import DeltaBounds, EpsilonBounds
from accountants.chain import Anchor, damaged
from accountants.errors import AccountingError, InvalidValueError, UnsupportedAnalysisError
from accountants.events import Event, PoissonGaussian, event_from_json, event_to_json
from accountants.export import book_of_export
from accountants.ledger import Ledger
from accountants.relations import Neighbouring

# Accountants are imported by the commands that compute: they load scipy and dp-accounting.

RELATIONS = {
    Neighbouring.ADD_REMOVE: "one data set has one unit more than the other",
    Neighbouring.REPLACE_ONE: "one unit of a data set is another one; the size is public",
    Neighbouring.ZERO_OUT: "the contributions of one unit are zeros in one of the data sets",
}
"""What each relation compares, for a reader who does not know its name."""

UNIT = (
    "what is clipped, and sampled or not, as one contribution: in DP-SGD one record; "
    "a person with k records is protected less"
)
ASSUMES = (
    "a schedule fixed in advance; secret coins for noise and sampling; batches drawn as the "
    "events say (a shuffled epoch is no Poisson sample)"
)
NO_ANCHOR = (
    "not checked: without --anchor, a cut end, an older copy that was put back, or a ledger "
    "rewritten with fresh digests cannot be seen"
)

_RELATION_NAMES = ", ".join(each.value for each in Neighbouring)
_DIGITS = 6
_SQLITE_MAGIC = b"SQLite format 3\0"

Rows = list[tuple[str, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code, 0 or 1.

    Args:
        arguments: what follows the name of the program; by default those of this process.

    Raises:
        SystemExit: with code 2 for arguments that cannot be read, and 0 after a help text.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
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
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1
    return 0


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


def _rounded(value: float, rounding: str) -> str:
    if math.isinf(value):
        return "infinity"
    short = Decimal(repr(float(value))).normalize(Context(prec=_DIGITS, rounding=rounding))
    return f"{short:f}" if short == 0 or 1e-4 <= short < 1e15 else f"{short:e}"


# Commands


def _epsilon(options: argparse.Namespace) -> None:
    from accountants import certified

    events = _events(options)
    bounds = certified.epsilon(events, options.delta, options.neighbouring)
    _show_bounds(options, events, "epsilon", bounds, at="delta")


def _delta(options: argparse.Namespace) -> None:
    from accountants import certified

    events = _events(options)
    bounds = certified.delta(events, options.epsilon, options.neighbouring)
    _show_bounds(options, events, "delta", bounds, at="epsilon")


def _calibrate(options: argparse.Namespace) -> None:
    from accountants.budget import Budget
    from accountants.calibration import noise_multiplier

    budget = Budget(epsilon=options.epsilon, delta=options.delta)
    sigma = noise_multiplier(
        budget, options.sample_rate, options.steps, neighbouring=options.neighbouring
    )
    plan = PoissonGaussian(
        noise_multiplier=sigma, sample_rate=options.sample_rate, steps=options.steps
    )
    record = _claim(options, [plan]) | {
        "delta": options.delta,
        "epsilon": options.epsilon,
        "noise_multiplier": sigma,
    }
    rows = [
        ("noise multiplier", f"{rounded_up(sigma)}, times the clipping norm"),
        ("schedule", f"{options.steps} steps at sample rate {options.sample_rate!r}"),
        ("budget", f"epsilon {options.epsilon!r} at delta {options.delta!r}"),
        *_assumptions(options),
    ]
    _show(options, record, rows)


def _verify(options: argparse.Namespace) -> None:
    kind, exported = _ledger_or_export(options.path)
    book = book_of_export(exported)
    if options.anchor is not None:
        book.check_continues(options.anchor)
    anchor = book.anchor()
    rows = [
        ("whole", f"this {kind}: every entry follows from the one before it"),
        *((name, repr(value)) for name, value in book.identity.to_json().items()),
        ("entries", f"{anchor.length}"),
        ("head", anchor.head),
        *_runs(book),
        ("rollback", NO_ANCHOR if options.anchor is None else "none: it continues the anchor"),
        ("anchor", f"{anchor.length}:{anchor.head}"),
    ]
    _print_rows(rows)


def _export(options: argparse.Namespace) -> None:
    text = json.dumps(Ledger.inspect(options.path).export(), indent=1) + "\n"
    if options.output is None:
        sys.stdout.write(text)
        return
    with open(options.output, "x", encoding="utf-8") as file:  # never over a ledger
        file.write(text)


# What arguments and files say


def _events(options: argparse.Namespace) -> list[Event]:
    """All events that the arguments name, together; none, or half a phase, exits with code 2."""
    single = (options.noise_multiplier, options.sample_rate, options.steps)
    given = [value is not None for value in single]
    if any(given) and not all(given):
        options.refuse("--noise-multiplier, --sample-rate and --steps must come together")
    phases = [*options.phase, *([single] if all(given) else [])]
    if not phases and not options.events:
        options.refuse("a schedule must be given: --noise-multiplier, --phase or --events")
    events: list[Event] = [
        PoissonGaussian(noise_multiplier=sigma, sample_rate=rate, steps=steps)
        for sigma, rate, steps in phases
    ]
    for path in options.events:
        events.extend(_events_of_file(path))
    return events


def _events_of_file(path: Path) -> list[Event]:
    values = _json_of_file(path)
    if not isinstance(values, list):
        raise InvalidValueError(f"{path} must hold a JSON list of events")
    return [_event_of_file(path, index, value) for index, value in enumerate(values)]


def _event_of_file(path: Path, index: int, value: object) -> Event:
    try:
        return event_from_json(value)
    except (InvalidValueError, UnsupportedAnalysisError) as error:
        raise type(error)(f"event {index} of {path}: {error}") from error


def _ledger_or_export(path: Path) -> tuple[str, Any]:
    """What kind of file this is, and its contents as an export; a ledger file is verified."""
    with open(path, "rb") as file:
        start = file.read(len(_SQLITE_MAGIC))
    if start == _SQLITE_MAGIC:
        return "ledger", Ledger.inspect(path).export()
    try:
        return "export", _json_of_file(path)
    except InvalidValueError as error:
        raise damaged(f"{path} is neither a ledger file nor an export: {error}") from error


def _json_of_file(path: Path) -> Any:
    """The JSON value of a file; a key that comes twice is refused, as readers would differ."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{path} must hold JSON, and does not: {error}") from error


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key comes twice in an object with the keys {sorted(value)}")
    return value


def _phase(text: str) -> tuple[float, float, int]:
    """The argument SIGMA,Q,STEPS."""
    try:
        sigma, rate, steps = text.split(",")
        return float(sigma), float(rate), int(steps)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be SIGMA,Q,STEPS, such as 1.1,0.01,1000, got {text!r}"
        ) from None


def _relation(text: str) -> Neighbouring:
    """The name of a neighbouring relation."""
    try:
        return Neighbouring(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be one of {_RELATION_NAMES}, got {text!r}"
        ) from None


def _anchor(text: str) -> Anchor:
    """The argument LENGTH:HEAD."""
    try:
        length, head = text.split(":")
        return Anchor(length=int(length), head=head)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be LENGTH:HEAD, the number of entries and 64 hexadecimal digits, got {text!r}"
        ) from None


# What is printed


def _claim(options: argparse.Namespace, events: Iterable[Event]) -> dict[str, Any]:
    return {
        "events": [event_to_json(event) for event in events],
        "neighbouring": options.neighbouring.value,
        "neighbours": RELATIONS[options.neighbouring],
        "unit": UNIT,
        "assumes": ASSUMES,
    }


def _assumptions(options: argparse.Namespace) -> Rows:
    relation = options.neighbouring
    return [
        ("neighbours", f"{RELATIONS[relation]} ({relation.value})"),
        ("unit", UNIT),
        ("assumes", ASSUMES),
    ]


def _show_bounds(
    options: argparse.Namespace,
    events: Iterable[Event],
    name: str,
    bounds: EpsilonBounds | DeltaBounds,
    *,
    at: str,
) -> None:
    """Both bounds on epsilon at a delta, or on delta at an epsilon, and what they rest on."""
    given: float = getattr(options, at)
    record = _claim(options, events) | {
        at: given,
        name: _plain(bounds.upper),
        f"{name}_lower": _plain(bounds.lower),
        "method": bounds.method,
    }
    rows = [
        (name, f"at most {rounded_up(bounds.upper)}, at {at} {given!r}"),
        ("", f"no analysis of these events can go below {rounded_down(bounds.lower)}"),
        ("method", bounds.method),
        *_assumptions(options),
    ]
    _show(options, record, rows)


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


def _show(options: argparse.Namespace, record: dict[str, Any], rows: Rows) -> None:
    if options.json:
        print(json.dumps(record, indent=1, allow_nan=False))
    else:
        _print_rows(rows)


def _print_rows(rows: Rows) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _plain(value: float) -> float | str:
    """A number that JSON can hold; infinity as a word that no reader takes for 0."""
    return "infinity" if math.isinf(value) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# Arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accountants",
        description="What was released, what it cost, and whether its ledger is whole.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_epsilon(commands)
    _add_delta(commands)
    _add_calibrate(commands)
    _add_verify(commands)
    _add_export(commands)
    return parser


def _add(
    commands: Any, name: str, command: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    parser.set_defaults(command=command)
    return parser


def _add_epsilon(commands: Any) -> None:
    parser = _add(commands, "epsilon", _epsilon, "bound the epsilon of a schedule")
    _add_schedule(parser)
    parser.add_argument("--delta", type=float, required=True, help="in [0, 1)")
    _add_relation(parser)


def _add_delta(commands: Any) -> None:
    parser = _add(commands, "delta", _delta, "bound the delta of a schedule at an epsilon")
    _add_schedule(parser)
    parser.add_argument("--epsilon", type=float, required=True, help="0 or above")
    _add_relation(parser)


def _add_calibrate(commands: Any) -> None:
    text = "find the noise multiplier of a Poisson-sampled schedule for a budget"
    parser = _add(commands, "calibrate", _calibrate, text)
    parser.add_argument("--epsilon", type=float, required=True, help="of the budget, above 0")
    parser.add_argument("--delta", type=float, required=True, help="of the budget, in (0, 1)")
    parser.add_argument("--sample-rate", type=float, required=True, help="in (0, 1]")
    parser.add_argument("--steps", type=int, required=True, help="1 or more")
    _add_relation(parser)


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--noise-multiplier", type=float, help="noise over clipping norm of a Poisson phase"
    )
    parser.add_argument("--sample-rate", type=float, help="its sampling rate, in (0, 1]")
    parser.add_argument("--steps", type=int, help="its steps, 1 or more")
    parser.add_argument(
        "--phase",
        type=_phase,
        action="append",
        default=[],
        metavar="SIGMA,Q,STEPS",
        help="a further Poisson phase; may be repeated",
    )
    parser.add_argument(
        "--events",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a JSON list of events of any type; may be repeated",
    )
    parser.set_defaults(refuse=parser.error)


def _add_relation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--neighbouring",
        type=_relation,
        default=Neighbouring.ADD_REMOVE,
        metavar="RELATION",
        help=f"one of {_RELATION_NAMES} (default: {Neighbouring.ADD_REMOVE.value})",
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")


def _add_verify(commands: Any) -> None:
    text = "check that a ledger file or an export is whole and unchanged"
    parser = _add(commands, "verify", _verify, text)
    parser.add_argument("path", type=Path, metavar="LEDGER_OR_EXPORT")
    parser.add_argument(
        "--anchor",
        type=_anchor,
        metavar="LENGTH:HEAD",
        help="kept elsewhere since an earlier look; shows a rollback",
    )


def _add_export(commands: Any) -> None:
    parser = _add(commands, "export", _export, "write a ledger file as JSON")
    parser.add_argument("path", type=Path, metavar="LEDGER")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="a new file; by default standard output"
    )


if __name__ == "__main__":
    sys.exit(main())
