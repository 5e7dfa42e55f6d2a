"""What it costs that parties run on machines of their own, measured on one machine over TLS.

    python benchmarks/deployment.py            # a table
    python benchmarks/deployment.py --json     # one JSON object
    python benchmarks/deployment.py --quick    # the carriers alone, with small messages

The carriers alone: the process that serves the hub's messages and three that fetch them, around
nodes that answer with so many bytes; a proxy in between counts what crosses the wire. The rounds:
`privfed demo --machines` with about half a million trained parameters, and the same three clients
in one process; both on all cores of this machine. Goals and figures: benchmarks/RESULTS.md.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from privfed.engines.machines import sockets
from privfed.engines.machines.carried import Carried
from privfed.engines.machines.carrier import Carrier
from privfed.identity.keys import Identity, Role
from privfed.identity.transport import as_pem, new_transport_key, self_signed_certificate
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import Terms

SMALL, LARGE, LARGEST = 4_000, 1_000_000, 64_000_000
_TICKS = os.sysconf("SC_CLK_TCK")


class Proxy:
    """Passes bytes on to a port, and counts them."""

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._to = port
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # nobody listens there yet
                near.close()
                continue
            for source, sink, name in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pass, args=(source, sink, name), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, name: str) -> None:
        try:
            while piece := source.recv(1 << 16):
                setattr(self, name, getattr(self, name) + len(piece))
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Carriers:
    """A hub's carrier, and those of nodes that answer with so many bytes."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.names, self.answer_bytes = names, SMALL
        self.said: list[str] = []
        pem, _ = new_transport_key()
        now = datetime.now(UTC)
        (folder / "hub.crt").write_bytes(self_signed_certificate(pem, "hub", ["127.0.0.1"], 2, now))
        (folder / "hub.transport").write_bytes(pem)
        keys = {name: new_transport_key() for name in names}
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        self.started = time.perf_counter()
        self.link = Carrier(
            "privfed.engines.flower.link",
            {
                "host": "127.0.0.1",
                "port": port,
                "certificate": str(folder / "hub.crt"),
                "key": str(folder / "hub.transport"),
                "socket": str(folder / "link.sock"),
                "database": str(folder / "link.db"),
                "nodes": {name: as_pem(public).decode() for name, (_, public) in keys.items()},
            },
            folder,
            self.said.append,
        )
        self.link.start()
        self.proxy = Proxy(port)
        self.pumps = [self._pump(folder / name, keys[name][0]) for name in names]
        self.carried = Carried(folder / "link.sock", 600.0)
        while self.carried.present() != sorted(names):
            time.sleep(0.05)
        self.seconds_to_start = time.perf_counter() - self.started

    def _pump(self, folder: Path, pem: bytes) -> Carrier:
        folder.mkdir()
        (folder / "own.transport").write_bytes(pem)
        server = sockets.listening(folder / "node.sock")
        answer = lambda _: os.urandom(self.answer_bytes)  # noqa: E731
        threading.Thread(
            target=sockets.answer_all, args=(server, answer, lambda: False), daemon=True
        ).start()
        settings = {
            "hub": f"127.0.0.1:{self.proxy.port}",
            "certificate": str(folder.parent / "hub.crt"),
            "key": str(folder / "own.transport"),
            "socket": str(folder / "node.sock"),
        }
        carrier = Carrier("privfed.engines.flower.pump", settings, folder, self.said.append)
        carrier.start()
        return carrier

    def exchange(self, message: bytes) -> float:
        """Seconds until all have answered."""
        begun = time.perf_counter()
        replies = self.carried.exchange(dict.fromkeys(self.names, message))
        if sorted(replies) != sorted(self.names):
            raise RuntimeError(f"only {sorted(replies)} answered; {self.said[-5:]}")
        return time.perf_counter() - begun

    def close(self) -> None:
        """End all processes."""
        for carrier in (*self.pumps, self.link):
            carrier.stop()


def cpu_seconds(process: int | None) -> float:
    """That a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(process: int | None, key: str = "VmHWM") -> float:
    """The most that a process has had in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1000


def message_of(size: int) -> bytes:
    """A signed message of so many bytes."""
    identity = Identity.generate("hub", Role.AGGREGATOR)
    terms = Terms(run="", round=0, manifest={})
    return signed_message(identity, terms, "train", blobs={"rest": os.urandom(size)})


def carriers(*, quick: bool) -> dict[str, Any]:
    """The processes that carry messages, alone."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        made = Carriers(Path(name), ["north", "south", "west"])
        try:
            found["start_s"] = made.seconds_to_start
            found["exchange_small_s"] = _median(made, SMALL, 10)
            pumps = [pump.process_id for pump in made.pumps]
            before = [cpu_seconds(one) for one in (made.link.process_id, *pumps)]
            found["exchange_1MB_s"] = _median(made, LARGE, 5)
            after = [cpu_seconds(one) for one in (made.link.process_id, *pumps)]
            link, *rest = [(b - a) / 5 for a, b in zip(before, after, strict=True)]
            found["cpu_per_message_and_node_s"] = statistics.median(rest) + link / 3
            up, down = made.proxy.up, made.proxy.down
            made.exchange(message_of(LARGE))
            found["wire_over_content_up"] = (made.proxy.up - up) / (3 * LARGE)
            found["wire_over_content_down"] = (made.proxy.down - down) / (3 * LARGE)
            found["pump_mb"] = memory_mb(pumps[0])
            found["link_mb"] = memory_mb(made.link.process_id)
            time.sleep(15)  # until the pause between two questions is the longest
            up, begun = made.proxy.up, time.perf_counter()
            time.sleep(5 if quick else 30)
            rate = (made.proxy.up - up) / (time.perf_counter() - begun)
            found["idle_bytes_per_s_and_node"] = rate / 3
        finally:
            made.close()
    if not quick:
        found["link_mb_at_64MB"] = {count: _peak(count) for count in (3, 6)}
    return found


def _median(made: Carriers, size: int, count: int) -> float:
    made.answer_bytes = size
    message = message_of(size)
    return statistics.median(made.exchange(message) for _ in range(count))


def _peak(count: int) -> dict[str, float]:
    """Memory of the hub's carrier where so many nodes answer with 64 MB each, and seconds."""
    with tempfile.TemporaryDirectory() as name:
        made = Carriers(Path(name), [f"n{number}" for number in range(count)])
        try:
            made.answer_bytes = LARGEST
            seconds = made.exchange(message_of(SMALL))
            return {"mb": memory_mb(made.link.process_id), "seconds": seconds}
        finally:
            made.close()


def rounds(rank: int) -> dict[str, Any]:
    """Rounds of three organisations in processes of their own, and in one process."""
    from privfed.cli import demo_machines

    told: list[tuple[float, str]] = []

    def say(line: str) -> None:
        told.append((time.perf_counter(), line))
        print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory() as name:
        apart = Path(name) / "apart"
        demo_machines.play(apart, say, rank=rank)
        report = json.loads((apart / "hub/runs/run/report.json").read_text())
        together = _together(apart, Path(name) / "together")
    begun = next(when for when, line in told if line.startswith("run "))
    waited = max(when for when, line in told if line.startswith(("waiting for", "hub$ privfed s")))
    seconds = statistics.median(row["seconds"] for row in report["rounds"])
    return {
        "round_s": seconds,
        "round_in_one_process_s": together,
        "overhead_s": seconds - together,
        "bytes_up_per_round": report["rounds"][0]["bytes_up"],
        "last_node_to_first_train_s": begun - waited,
    }


def _together(apart: Path, out: Path) -> float:
    """Median seconds of a round of the same three clients in this process."""
    from dataclasses import replace

    from privfed import Federation
    from privfed.cli.node_file import load_node_file

    files = [load_node_file(apart / name / f"{name}.toml") for name in ("north", "south", "west")]
    settings = files[0].settings
    fields = {
        name: getattr(settings, name)
        for name in settings.__dataclass_fields__
        if name not in ("clients", "state_folder", "anchor_folder", "enrolment", "start")
    }
    federation = Federation(
        clients=[replace(file.client) for file in files],
        state_folder=out / "state",
        anchor_folder=out / "anchors",
        **fields,
    )
    result = federation.run(out / "run")
    return statistics.median(row.seconds for row in result.rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="the carriers alone, small messages")
    parser.add_argument("--rank", type=int, default=170, help="of LoRA, in the rounds")
    options = parser.parse_args()
    result: dict[str, Any] = {"carriers": carriers(quick=options.quick)}
    if not options.quick:
        result["rounds"] = rounds(options.rank)
    result["load"] = os.getloadavg()[0]
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, flwr {version('flwr')}"
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for part, values in result.items():
        if isinstance(values, dict):
            for name, value in values.items():
                print(f"{part:10} {name:32} {value if isinstance(value, dict) else f'{value:.4g}'}")
        else:
            print(f"{part:10} {values}")


if __name__ == "__main__":
    main()
