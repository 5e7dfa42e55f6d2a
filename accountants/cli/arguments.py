"""The arguments of `python -m accountants`: commands, options, and how their text is read."""

import argparse
from pathlib import Path
from typing import Any

from accountants.errors import InvalidValueError
from accountants.guarantees import Neighbouring
from accountants.ledger.chain import Anchor

_RELATION_NAMES = ", ".join(each.value for each in Neighbouring)


def parser() -> argparse.ArgumentParser:
    """What can be typed; `command` of the result is the name of the command."""
    whole = argparse.ArgumentParser(
        prog="python -m accountants",
        description="What was released, what it cost, and whether its ledger is whole.",
        allow_abbrev=False,
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_epsilon(commands)
    _add_delta(commands)
    _add_calibrate(commands)
    _add_verify(commands)
    _add_export(commands)
    _add_assign(commands)
    return whole


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    return parser


def _add_epsilon(commands: Any) -> None:
    parser = _add(commands, "epsilon", "bound the epsilon of a schedule")
    _add_schedule(parser)
    parser.add_argument("--delta", type=float, required=True, help="in [0, 1)")
    _add_group_size(parser)
    _add_relation(parser, required=False)


def _add_delta(commands: Any) -> None:
    parser = _add(commands, "delta", "bound the delta of a schedule at an epsilon")
    _add_schedule(parser)
    parser.add_argument("--epsilon", type=float, required=True, help="0 or above")
    _add_group_size(parser)
    _add_relation(parser, required=False)


def _add_calibrate(commands: Any) -> None:
    text = "find the noise multiplier of a Poisson-sampled schedule for a budget"
    parser = _add(commands, "calibrate", text)
    parser.add_argument("--epsilon", type=float, required=True, help="of the budget, above 0")
    parser.add_argument("--delta", type=float, required=True, help="of the budget, in (0, 1)")
    parser.add_argument("--sample-rate", type=float, required=True, help="in (0, 1]")
    parser.add_argument("--steps", type=int, required=True, help="1 or more")
    _add_noised_count(parser)
    _add_relation(parser, required=True)


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
    _add_noised_count(parser)
    parser.add_argument(
        "--ledger",
        type=Path,
        metavar="FILE",
        help="in place of all these: what a ledger file, or an export of one, counts as released",
    )
    parser.set_defaults(refuse=parser.error)


def _add_noised_count(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--noised-count",
        type=float,
        action="append",
        default=[],
        metavar="EPSILON",
        help="a released number of records, from which noise and rates may have been chosen; its "
        "epsilon is added; may be repeated",
    )


def _add_group_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-size",
        type=int,
        default=1,
        metavar="K",
        help="units that may differ together, as the records of one person do (default: 1)",
    )


def _add_relation(parser: argparse.ArgumentParser, *, required: bool) -> None:
    unless = "" if required else "; not needed with --ledger, which states it"
    parser.add_argument(
        "--neighbouring",
        type=_relation,
        required=required,
        metavar="RELATION",
        help=f"which data sets are neighbours: one of {_RELATION_NAMES}{unless}",
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")


def _add_verify(commands: Any) -> None:
    text = "check that a ledger file or an export is whole and unchanged"
    parser = _add(commands, "verify", text)
    parser.add_argument("path", type=Path, metavar="LEDGER_OR_EXPORT")
    parser.add_argument(
        "--anchor",
        type=_anchor,
        metavar="LENGTH:HEAD",
        help="kept elsewhere since an earlier look; shows a rollback",
    )


def _add_export(commands: Any) -> None:
    parser = _add(commands, "export", "write a ledger file as JSON")
    parser.add_argument("path", type=Path, metavar="LEDGER")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="a new file; by default standard output"
    )


def _add_assign(commands: Any) -> None:
    text = "say whose releases a ledger of the first version counts, so that today's joins it"
    parser = _add(commands, "assign", text)
    parser.add_argument("paths", type=Path, nargs="+", metavar="EARLIER_LEDGER")
    parser.add_argument("--client", metavar="NAME", help="by default, the client that it names")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="as runs name it today")
    parser.add_argument("--unit", required=True, metavar="WORDS", help="what one record is")
    parser.add_argument(
        "--neighbouring",
        type=_relation,
        required=True,
        metavar="RELATION",
        help=f"one of {_RELATION_NAMES}",
    )


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
        return Anchor.parse(text)
    except InvalidValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
