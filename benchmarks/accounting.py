"""How fast and how tight the accountants are, beside other libraries in the same process.

    python benchmarks/accounting.py            # a table
    python benchmarks/accounting.py --json     # one JSON object
    python benchmarks/accounting.py --quick    # within a minute, fewer peers and repetitions
    python benchmarks/accounting.py --sweep    # 2,000 random schedules: the slowest, and the gaps

Times are medians over repetitions with emptied caches; peers run interleaved with our own. Golden
values are those of tests/golden/accounting_values.json.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from accountants import Budget, Event, Neighbouring, PoissonGaussian, certified
from accountants.analyses import divergences
from accountants.calibration.noise import noise_multiplier
from accountants.odometer import ABSENT, trajectories

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "accounting_values.json"
HUNDRED_ROUNDS = "H04"
PEER_CASES = ("P03", "P06", "P18")
CLIENTS, ROUNDS, DELTA = 100, 1000, 1e-5
SCHEDULES = 2000
RELATION = Neighbouring.ADD_REMOVE


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--sweep", action="store_true", help="random schedules instead")
    options = parser.parse_args()
    repetitions = 3 if options.quick else 9
    result = sweep() if options.sweep else measure(repetitions=repetitions, quick=options.quick)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str) else json.dumps(value)}")


def measure(*, repetitions: int, quick: bool) -> dict[str, Any]:
    """All figures."""
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
    queries = {case["id"]: seconds(query(case), repetitions) for case in cases}
    bounds = {case["id"]: query(case)() for case in cases}
    slowest = max(queries, key=lambda name: queries[name])
    excess = {case["id"]: bounds[case["id"]].upper / case["upper"] - 1 for case in cases}
    gaps = {name: (b.upper - b.lower) / b.upper for name, b in bounds.items()}
    hundred = next(case for case in cases if case["id"] == HUNDRED_ROUNDS)
    return {
        "query_ms_median": 1e3 * statistics.median(queries.values()),
        "query_ms_slowest": {slowest: 1e3 * queries[slowest]},
        "rounds100_s": seconds(query(hundred), repetitions),
        **odometers(repetitions, rates=25 if quick else CLIENTS),
        **({} if quick else many_clients()),
        "calibrate_s": seconds(calibrate, repetitions),
        "calibrated_noise_multiplier": calibrate(),
        "import_s": import_seconds("import accountants"),
        "import_epsilon_s": import_seconds("from accountants import epsilon"),
        "max_relative_excess": max(excess.values()),
        "max_relative_gap": max(gaps.values()),
        "peers": peers(cases, repetitions, quick=quick),
        "query_ms": {name: round(1e3 * value, 2) for name, value in queries.items()},
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy "
        f"{version('numpy')}, scipy {version('scipy')}",
    }


def sweep() -> dict[str, Any]:
    """CPU seconds and gap of one epsilon, over schedules whose logarithms are uniform."""
    rows = []
    for sigma, q, steps, delta in random_schedules():
        event = PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)
        began = time.process_time()
        bounds = certified.epsilon([event], delta, RELATION)
        taken = time.process_time() - began
        gap = 1 - bounds.lower / bounds.upper if bounds.upper else 0.0
        rows.append((taken, gap, (sigma, q, steps, delta)))
    times, gaps = sorted(row[0] for row in rows), sorted(row[1] for row in rows)
    slowest, widest = max(rows), max(rows, key=lambda row: row[1])
    return {
        "schedules": len(rows),
        "cpu_s_median": statistics.median(times),
        "cpu_s_99th_percentile": times[len(times) * 99 // 100],
        "cpu_s_largest": slowest[0],
        "slowest": dict(zip(("sigma", "q", "steps", "delta"), slowest[2], strict=True)),
        "over_3_s": sum(taken > 3 for taken in times),
        "gap_median": statistics.median(gaps),
        "gap_99th_percentile": gaps[len(gaps) * 99 // 100],
        "gap_largest": widest[1],
        "widest": dict(zip(("sigma", "q", "steps", "delta"), widest[2], strict=True)),
    }


def random_schedules() -> Iterator[tuple[float, float, int, float]]:
    """Noise 0.3 to 20, rate 1e-5 to 1, 1 to 1e5 steps, delta 1e-15 to 1e-3; always the same."""
    generator = np.random.default_rng(12)
    ranges = np.log([(0.3, 20.0), (1e-5, 1.0), (1.0, 1e5), (1e-15, 1e-3)])
    shares = generator.random((SCHEDULES, len(ranges)))
    values = np.exp(ranges[:, 0] + shares * (ranges[:, 1] - ranges[:, 0]))
    for sigma, q, steps, delta in values:
        yield float(sigma), min(float(q), 1.0), round(float(steps)), float(delta)


def seconds(work: Callable[[], object], repetitions: int) -> float:
    """Median wall time of one call, caches of epsilon emptied before each."""
    times = []
    for _ in range(repetitions):
        certified._epsilon.cache_clear()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def events_of(case: dict[str, Any]) -> list[Event]:
    """The phases of a golden case."""
    return [
        PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)
        for sigma, q, steps in case["phases"]
    ]


def query(case: dict[str, Any]) -> Callable[[], certified.EpsilonBounds]:
    """Lower and upper bound of a golden case, default settings."""
    return lambda: certified.epsilon(events_of(case), case["delta"], Neighbouring.ADD_REMOVE)


def calibrate() -> float:
    """Noise for epsilon 2 at delta 1e-5, q 0.01, 1000 steps."""
    return noise_multiplier(
        Budget(epsilon=2.0, delta=DELTA), 0.01, 1000, neighbouring=Neighbouring.ADD_REMOVE
    )


def odometers(repetitions: int, rates: int) -> dict[str, float]:
    """Epsilon of 100 clients over 1000 rounds, with so many sampling rates and four noise levels.

    Every client takes part in nine rounds of ten, so that no two histories are equal. "Exact" is
    the certified bound of all final states.
    """
    events, histories = heterogeneous(CLIENTS, ROUNDS, rates)
    relation = RELATION
    divergences.one_step.cache_clear()
    began = time.perf_counter()
    trajectories(histories[:, :1], events, DELTA, relation)
    build = time.perf_counter() - began
    online = seconds(lambda: trajectories(histories, events, DELTA, relation), repetitions)
    finals = [history(row, events) for row in histories]
    exact = seconds(
        lambda: [certified.epsilon(final, DELTA, relation) for final in finals],
        min(repetitions, 3),
    )
    return {
        "odometer_build_s": build,
        "odometer_online_s": online,
        "odometer_exact_s": exact,
    }


def many_clients() -> dict[str, float]:
    """10,000 clients over 1000 rounds online, and the most memory that this process ever held."""
    events, histories = heterogeneous(10_000, ROUNDS, rates=25)
    taken = seconds(lambda: trajectories(histories, events, DELTA, Neighbouring.ADD_REMOVE), 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"odometer_10000_clients_s": taken, "process_peak_mib": peak}


def import_seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs one import, less that of an empty one."""
    times = {}
    for code in (statement, "pass"):
        command = [sys.executable, "-c", code]
        runs = [seconds(partial(subprocess.run, command, check=True), 1) for _ in range(5)]
        times[code] = statistics.median(runs)
    return times[statement] - times["pass"]


def heterogeneous(clients: int, rounds: int, rates: int) -> tuple[list[Event], np.ndarray]:
    """Distinct releases, and which of them each client made in each round."""
    generator = np.random.default_rng(0)
    noises = (1.4, 1.2, 1.0, 0.9)
    events: list[Event] = [
        PoissonGaussian(noise_multiplier=sigma, sample_rate=float(q), steps=1)
        for q in np.geomspace(0.001, 0.05, rates)
        for sigma in noises
    ]
    phase = np.arange(rounds) * len(noises) // rounds
    histories = (np.arange(clients) % rates)[:, None] * len(noises) + phase[None, :]
    return events, np.where(generator.random((clients, rounds)) < 0.9, histories, ABSENT)


def history(row: np.ndarray, events: list[Event]) -> list[Event]:
    """The releases of one client."""
    return [events[index] for index in row if index != ABSENT]


def peers(cases: list[dict[str, Any]], repetitions: int, *, quick: bool) -> dict[str, Any]:
    """Other accountants on the same cases: seconds, and how far above our upper bound they are."""
    chosen = [case for case in cases if case["id"] in PEER_CASES]
    found: dict[str, Any] = {}
    for name, peer in available_peers().items():
        ours, theirs, ratios = [], [], []
        for case in chosen:
            for _ in range(1 if quick else min(repetitions, 3)):
                ours.append(seconds(query(case), 1))
                theirs.append(seconds(partial(peer, case), 1))
            ratios.append(
                peer(case)
                / certified.epsilon(events_of(case), case["delta"], Neighbouring.ADD_REMOVE).upper
            )
        found[name] = {
            "seconds_median": statistics.median(theirs),
            "ours_seconds_median": statistics.median(ours),
            "times_slower": statistics.median(t / o for t, o in zip(theirs, ours, strict=True)),
            "epsilon_over_ours_largest": max(ratios),
        }
    if not quick:
        hundred = next(case for case in cases if case["id"] == HUNDRED_ROUNDS)
        found["dp_accounting PLD 1e-4"]["rounds100_s"] = seconds(lambda: dp_pld(hundred), 1)
    found["cases"] = list(PEER_CASES)
    return found


def available_peers() -> dict[str, Callable[[dict[str, Any]], float]]:
    """Accountants that are installed here."""
    known = {"dp_accounting PLD 1e-4": dp_pld, "dp_accounting RDP": dp_rdp}
    try:
        import opacus.accountants  # noqa: F401
    except ImportError:
        return known
    return {**known, "opacus PRV": opacus_prv}


def dp_pld(case: dict[str, Any]) -> float:
    """dp-accounting, connect-the-dots on a grid of 1e-4."""
    from dp_accounting.pld import PLDAccountant

    return composed(PLDAccountant(value_discretization_interval=1e-4), case)


def dp_rdp(case: dict[str, Any]) -> float:
    """dp-accounting, Renyi divergences at its own orders."""
    from dp_accounting.rdp import RdpAccountant

    return composed(RdpAccountant(), case)


def composed(accountant: Any, case: dict[str, Any]) -> float:
    """The epsilon of a dp-accounting accountant."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    for sigma, q, steps in case["phases"]:
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)
    return float(accountant.get_epsilon(case["delta"]))


def opacus_prv(case: dict[str, Any]) -> float:
    """Opacus, PRV with its default error of 0.01."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [tuple(phase) for phase in case["phases"]]
    return float(accountant.get_epsilon(case["delta"]))


if __name__ == "__main__":
    sys.exit(main())
