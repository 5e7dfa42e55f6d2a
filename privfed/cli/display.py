"""What a run prints: a line for each round, and a bar for the clients within it; or JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from privfed.engines.callback import Callback
from privfed.reports.round_record import Abandoned, RoundRecord, rounded_up

_LINE = "{:>5}  {:>7}  {:>11}  {:>10}  {:>12}  {:>10}  {:>10}  {:>7}   {}"


class RoundTable(Callback):
    """Prints the table of rounds and a progress bar.

    Args:
        console: where to print.
        metric: "accuracy" or "perplexity".
        logs: the log of each client that runs on this machine: it tells why a client failed.
    """

    def __init__(self, console: Console, metric: str, logs: Mapping[str, Path]) -> None:
        self._console = console
        self._metric = metric
        self._logs = logs
        self._round: int | None = None
        self._progress = Progress(
            TextColumn("round {task.fields[round]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("clients"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            auto_refresh=False,  # while a client trains, its log has the standard streams
        )
        self._task = self._progress.add_task("clients", round=0, visible=False)
        self._clients: Sequence[str] = ()

    def __enter__(self) -> "RoundTable":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def on_start(
        self,
        run: str,
        rounds: int,
        clients: Sequence[str],
        baseline: float,
        past: Sequence[RoundRecord],
    ) -> None:
        """Print the head of the table, and the rounds before a resume."""
        self._clients = clients
        self._round = 1
        self._print(
            f"run {run}: {len(clients)} clients, {rounds} rounds, held-out {self._metric} "
            f"{baseline:.4g} before training"
        )
        self._print(
            _LINE.format(
                "round",
                "clients",
                "max epsilon",
                self._metric,
                "signal/noise",
                "bytes up",
                "bytes down",
                "seconds",
                "epsilon per client",
            ),
            style="bold",
        )
        for record in past:
            self.on_round(record)

    def on_client(self, round_number: int, client: str) -> None:  # noqa: ARG002 - a bar counts
        """Move the bar."""
        self._round = round_number
        self._progress.update(
            self._task,
            round=round_number,
            total=len(self._clients),
            visible=True,
            advance=1,
            refresh=True,
        )

    def on_round(self, record: RoundRecord) -> None:
        """Print the line of a round."""
        self._round = record.round + 1
        self._progress.reset(self._task, round=record.round + 1, total=len(self._clients))
        ratio = "-" if record.signal_to_noise is None else f"{record.signal_to_noise:.3g}"
        spent = " ".join(rounded_up(record.epsilon[client], 2) for client in self._clients)
        self._print(
            _LINE.format(
                record.round,
                f"{len(record.clients)}/{len(self._clients)}",
                rounded_up(max(record.epsilon.values())),
                f"{record.value:.4g}",
                ratio,
                f"{record.bytes_up:,}",
                f"{record.bytes_down:,}",
                f"{record.seconds:.1f}",
                spent,
            )
        )
        for name, value in record.figures.items():
            self._print(f"       {name}: {value:.3g}")
        for client in record.absent:
            told = f": the cause is in {self._logs[client]}" if client in self._logs else ""
            self._print(f"       {client} did not take part{told}", style="yellow")

    def stopped(self) -> str:
        """How far the run had come, for one that was stopped and did not say so itself."""
        if self._round is None:
            return (
                "stopped before a round began; of the budgets this call spent nothing but what "
                "the ledgers count for public sizes that it released"
            )
        return f"stopped in round {self._round}; what is spent stands in the ledgers"

    def on_abandoned(self, abandoned: Abandoned) -> None:
        """Say which round was given up, and why."""
        self._progress.reset(self._task, round=abandoned.round + 1, total=len(self._clients))
        self._print(f"{abandoned.round:>5}  {abandoned}", style="yellow")

    def note(self, line: str) -> None:
        """Print what happened besides."""
        self._print(line)

    def _print(self, line: str, style: str | None = None) -> None:
        self._progress.console.print(
            line, style=style, highlight=False, markup=False, soft_wrap=True
        )


class JsonLines(Callback):
    """Prints a JSON object, on a line of its own, for each thing that happens.

    Args:
        out: where to print.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def on_start(
        self,
        run: str,
        rounds: int,
        clients: Sequence[str],
        baseline: float,
        past: Sequence[RoundRecord],
    ) -> None:
        """The run, and the rounds before a resume."""
        self.say("start", run=run, rounds=rounds, clients=list(clients), baseline=baseline)
        for record in past:
            self.on_round(record)

    def on_round(self, record: RoundRecord) -> None:
        """A complete round."""
        self.say("round", **asdict(record))

    def on_abandoned(self, abandoned: Abandoned) -> None:
        """A round that was given up."""
        self.say("abandoned", **abandoned.to_json())

    def note(self, line: str) -> None:
        """What happened besides."""
        self.say("note", text=line)

    def say(self, event: str, **values: Any) -> None:
        """One line."""
        print(json.dumps({"event": event, **values}), file=self._out, flush=True)
