"""`privfed plan`: from public sizes and a budget to rounds, batch and noise, in two seconds.

Nothing private is read and nothing is spent. Libraries that train are not loaded.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from privfed.errors import ConfigError

if TYPE_CHECKING:
    from privfed.cli.plan_file import PlannedFile
    from privfed.planning.answer import Answer
    from privfed.planning.plan import Plan

_FEWEST: Final = 3
_OPEN: Final = {
    "rounds": "rounds",
    "batch": "expected_batch_size",
    "epsilon": "epsilon",
}

Config = Annotated[
    Path | None,
    typer.Argument(help="TOML file of a run; batch and rounds that it leaves out are open."),
]
Size = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="[NAME=]N",
        help="Public size of a client: of each one, not of all together (may be repeated). With "
        "CONFIG: a guess NAME=N where the size is released when the run begins.",
    ),
]
Clients = Annotated[
    int | None, typer.Option("--clients", help="How many clients of the one --size there are.")
]
Epsilon = Annotated[
    float | None, typer.Option("--epsilon", help="Of each client, for its own records.")
]
Delta = Annotated[float | None, typer.Option("--delta", help="Of each client.")]
Rounds = Annotated[int | None, typer.Option("--rounds", help="Rounds; default: open.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Expected batch; default: open.")]
Noise = Annotated[
    float | None,
    typer.Option("--noise", help="Most noise multiplier of a client: solves for what is open."),
]
Steps = Annotated[int | None, typer.Option("--steps-per-round", help="Private steps; default 1.")]
Norm = Annotated[float | None, typer.Option("--clipping-norm", help="C; default 1.0.")]
PerRound = Annotated[
    int | None, typer.Option("--clients-per-round", help="Clients drawn per round; default: all.")
]
Minimum = Annotated[
    int | None, typer.Option("--minimum", help="Leave clients with fewer records out.")
]
Parameters = Annotated[
    int | None,
    typer.Option("--parameters", help="Numbers that a client trains and sends in a round."),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds-per-example", help="As you measured it: of one private gradient."),
]
Words = Annotated[
    str | None, typer.Option("--record", help="What one record is, in words, for --write.")
]
Reopened = Annotated[
    list[str] | None,
    typer.Option("--open", help="With CONFIG: solve for this anew: rounds, batch or epsilon."),
]
Ledgers = Annotated[
    Path | None,
    typer.Option("--state", help="With CONFIG: where ledgers are read (default: user folder)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exact numbers as JSON.")]
Drawn = Annotated[
    Path | None,
    typer.Option(
        "--curves",
        metavar="FILE.svg",
        help="Also epsilon against rounds and noise against batch, drawn into this new file; - "
        "for the table alone.",
    ),
]
Write = Annotated[
    Path | None, typer.Option("--write", help="A new configuration with the plan's numbers.")
]
Notebook = Annotated[
    Path | None, typer.Option("--notebook", help="A new notebook that shows how they follow.")
]


def plan(
    config: Config = None,
    size: Size = None,
    clients: Clients = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    rounds: Rounds = None,
    batch: Batch = None,
    noise: Noise = None,
    steps_per_round: Steps = None,
    clipping_norm: Norm = None,
    clients_per_round: PerRound = None,
    minimum: Minimum = None,
    parameters: Parameters = None,
    seconds_per_example: Seconds = None,
    record: Words = None,
    open_: Reopened = None,
    state: Ledgers = None,
    as_json: AsJson = False,
    curves: Drawn = None,
    write: Write = None,
    notebook: Notebook = None,
) -> None:
    """Say which rounds, batch and noise keep an epsilon, before anything is spent.

    From CONFIG, or from numbers alone: privfed plan --size 1500 --epsilon 3 --delta 1e-5
    """
    flags: dict[str, Any] = {
        "epsilon": epsilon,
        "delta": delta,
        "rounds": rounds,
        "expected_batch_size": batch,
        "noise_multiplier": noise,
        "steps_per_round": steps_per_round,
        "clipping_norm": clipping_norm,
        "clients_per_round": clients_per_round,
        "minimum": minimum,
        "parameters": parameters,
        "seconds_per_example": seconds_per_example,
        "record": record,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if config is None:
        read, question = None, _asked(size or (), clients, given)
    else:
        if clients is not None:
            raise ConfigError("--clients goes with --size alone; CONFIG names the clients")
        read = _read(config, state, size or ())
        question = replace(read.plan, **{**_opened(open_ or ()), **given})
    answer = question.answer()
    _show(answer, as_json=as_json, curves=curves, assumed=_assumed(config, size, clients))
    if write is not None:
        _write(write, config, read, answer)
    if notebook is not None:
        source = None if config is None or read is None else (config, state, read)
        _write_notebook(notebook, source, question, answer)


def _asked(sizes: Sequence[str], clients: int | None, given: Mapping[str, Any]) -> "Plan":
    """The plan of flags alone."""
    from privfed.planning.plan import Plan

    if not sizes:
        raise ConfigError(
            "a plan needs public sizes: give a configuration, or --size for each client, such as "
            "--size 1500 --clients 8"
        )
    if "delta" not in given:
        raise ConfigError("a plan needs --delta, below 1 / (largest public size), such as 1e-5")
    return Plan(sizes=_named_sizes(sizes, clients), **given)


def _named_sizes(sizes: Sequence[str], clients: int | None) -> dict[str, int]:
    """Sizes by name; without names client-1, client-2, ..."""
    if clients is not None and len(sizes) != 1:
        raise ConfigError(f"--clients goes with one --size, got {len(sizes)} sizes")
    if clients is not None and clients < 1:
        raise ConfigError(f"--clients must be at least 1, got {clients}")
    many = clients or (_FEWEST if len(sizes) == 1 and "=" not in sizes[0] else 1)
    found: dict[str, int] = {}
    for text in [*sizes] * many:
        name, number = _named_size(text, f"client-{len(found) + 1}")
        if name in found:
            raise ConfigError(f"--size names {name!r} twice; names of clients must differ")
        found[name] = number
    return found


def _named_size(text: str, otherwise: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    try:
        return (name if equals else otherwise), int(number)
    except ValueError:
        raise ConfigError(
            f"--size must be a whole number, or NAME=N with the name of a client, got {text!r}"
        ) from None


def _read(config: Path, state: Path | None, sizes: Sequence[str]) -> "PlannedFile":
    from privfed.cli.plan_file import plan_of_file

    if bare := [text for text in sizes if "=" not in text]:
        raise ConfigError(
            f"with a configuration --size must name a client whose size is still to be released, "
            f"as NAME=N, got {bare[0]!r}"
        )
    return plan_of_file(config, state, dict(_named_size(text, "") for text in sizes))


def _opened(names: Sequence[str]) -> dict[str, Any]:
    if wrong := sorted(set(names).difference(_OPEN)):
        raise ConfigError(f"--open must be one of {list(_OPEN)}, got {wrong[0]!r}")
    return {_OPEN[name]: None for name in names}


def _assumed(config: Path | None, sizes: Sequence[str] | None, clients: int | None) -> str | None:
    if config is not None or clients is not None or len(sizes or ()) != 1:
        return None
    return (
        f"One size was given and no --clients: {_FEWEST} clients of this size are taken, the "
        "fewest that a\nrun may have. Epsilon and noise of a client do not depend on how many "
        "there are.\n"
    )


def _show(answer: "Answer", *, as_json: bool, curves: Path | None, assumed: str | None) -> None:
    from privfed.planning.configuration import write_new
    from privfed.planning.curves import curves_of
    from privfed.planning.printing import curves_table, table, to_json

    drawn = None if curves is None else curves_of(answer)
    if drawn is not None and str(curves) != "-":
        from privfed.planning.picture import curves_picture

        write_new(Path(str(curves)), curves_picture(drawn).svg)
    if as_json:
        typer.echo(json.dumps(to_json(answer, drawn), indent=1, allow_nan=False))
        return
    if assumed is not None:
        typer.echo(assumed)
    typer.echo(table(answer))
    if drawn is not None:
        typer.echo("\n" + curves_table(drawn))


def _write(path: Path, config: Path | None, read: "PlannedFile | None", answer: "Answer") -> None:
    from privfed.planning.configuration import new_configuration, with_numbers, write_new

    if len(answer.clients) < answer.min_clients:
        raise ConfigError(
            f"a run needs at least {answer.min_clients} clients, and this plan has "
            f"{len(answer.clients)}; nothing is written"
        )
    if config is None or read is None:
        write_new(path, new_configuration(answer, answer.clients[0].dataset))
        return
    if path.resolve().parent != config.resolve().parent:
        raise ConfigError(
            f"{path} must lie beside {config}, whose paths are relative to its own folder"
        )
    text = config.read_text(encoding="utf-8")
    write_new(path, with_numbers(text, answer, by_column=read.by_column))


def _write_notebook(
    path: Path,
    source: "tuple[Path, Path | None, PlannedFile] | None",
    plan: "Plan",
    answer: "Answer",
) -> None:
    from privfed.planning.configuration import write_new
    from privfed.planning.notebook import Source, notebook

    of = None
    if source is not None:
        config, state, read = source
        of = Source(
            config=os.path.relpath(config, path.resolve().parent),
            state=None if state is None else str(state),
            guesses=read.guesses,
        )
    write_new(path, notebook(plan, answer, of))
