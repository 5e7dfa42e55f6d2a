"""The encrypted sum: bytes, CPU seconds, memory and exactness, beside the usual settings.

    python benchmarks/encryption.py [--json] [--quick]

One update is quantised, packed, encrypted, framed and signed; the aggregator checks the signature,
unpacks and adds; whoever holds the key verifies and decrypts. Every figure comes from whole signed
messages of the real protocol. Times are CPU seconds of one thread, medians over repetitions with
the peers interleaved. Memory is the peak of a process of its own above what it held before: of a
client, from the integers of its update, as its ledger holds them, to a message in a file; of the
aggregator, from files to the sum, less one message. MB are 10^6 bytes.
"""

import argparse
import ctypes
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import encryption_peers
import numpy as np
from numpy.typing import NDArray

from accountants import Anchor
from privfed.custody import key_exchange
from privfed.custody.keys import SharedSecret, shared_context
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption import frames
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.fixedpoint import FixedPointEncoding
from privfed.encryption.parameters import BFVParameters, derive
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import ClientsAgree, HolderOpens
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.private_step.randomness import SystemCoins
from privfed.protocol.ciphers import Cipher
from privfed.protocol.envelopes import write_envelope
from privfed.protocol.kinds import LEDGER, UPDATE
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody

MILLION = 1_000_000
SCALE = 1e-3
CLIP = 4 * SCALE
ANCHOR = Anchor(length=2, head="00" * 32)
NO_LEDGER = Anchor(length=1, head="00" * 32)


class Direct:
    """A key holder in this process, with the CPU seconds that it took."""

    def __init__(self, holder: KeyHolder) -> None:
        self._holder = holder
        self.seconds: list[float] = []
        self.replies: list[int] = []

    def ask(self, message: bytes) -> bytes:
        """Its answer."""
        started = time.process_time()
        reply = self._holder.receive(message)
        self.seconds.append(time.process_time() - started)
        self.replies.append(len(reply))
        return reply


@dataclass(slots=True)
class Federation:
    """Parties of one round under one custody.

    Attributes:
        custody: who holds the key.
        parameters: derived.
        identities: of the clients.
        ciphers: of the clients.
        aggregator: its identity.
        roster: of all.
        agreed: terms before the round has a key of its own.
        link: to the key holder, or None.
    """

    custody: Custody
    parameters: BFVParameters
    identities: list[Identity]
    ciphers: list[Cipher]
    aggregator: Identity
    roster: Roster
    agreed: Terms
    link: Direct | None

    @classmethod
    def build(
        cls, custody: Custody, *, num_params: int, clients: int, bits: int, folder: Path
    ) -> "Federation":
        """Keys, roster and ciphers."""
        parameters = derive(num_clients=clients, bits=bits, num_params=num_params, custody=custody)
        identities = [Identity.generate(f"client-{i:04d}", Role.CLIENT) for i in range(clients)]
        aggregator = Identity.generate("aggregator", Role.AGGREGATOR)
        holder = Identity.generate("key_holder", Role.KEY_HOLDER)
        authority = Identity.generate("authority", Role.AUTHORITY)
        parties = [identity.party for identity in [*identities, aggregator, holder]]
        roster = Roster.signed("benchmark", parties, authority)
        manifest = {
            "base": "00" * 32,
            "base_model": "00" * 32,
            "layout": "00" * 32,
            "public_range": CLIP,
            "encryption": parameters.to_json(),
            "roster": roster.digest().hex(),
        }
        terms = Terms(run="benchmark", round=0, manifest=manifest)
        first = Terms(run="benchmark", round=1, manifest=manifest)
        if custody is Custody.KEY_HOLDER:
            ciphers: list[Cipher] = [
                RoundKeyCipher(parameters, identity, roster, 3) for identity in identities
            ]
            link = Direct(KeyHolder(holder, roster, folder / os.urandom(8).hex()))
            return cls(custody, parameters, identities, ciphers, aggregator, roster, first, link)
        context, shape = shared_context(parameters), frames.ciphertext_shape(parameters)
        made = SharedSecret.generate(context, shape)
        message = key_exchange.share_secret(made, identities[0], roster, terms)
        ciphers = [SharedKeyCipher(parameters, made, roster, 3, None, identities[0])]
        for identity in identities[1:]:
            secret = key_exchange.receive_secret(
                message,
                identity,
                roster,
                terms,
                maker=identities[0].party.name,
                context=context,
                shape=shape,
            )
            ciphers.append(SharedKeyCipher(parameters, secret, roster, 3, None, identity))
        return cls(custody, parameters, identities, ciphers, aggregator, roster, first, None)

    def write_update(
        self, client: int, terms: Terms, update: NDArray[np.float32], sink: Any
    ) -> NDArray[np.int16]:
        """Quantise, pack, encrypt, frame and sign; the numbers that were sent."""
        numbers = encode(update, self.parameters.bits)
        identity = self.identities[client]
        write_envelope(
            sink,
            identity.sign,
            run=terms.run,
            round=terms.round,
            sender=identity.party.name,
            kind=UPDATE,
            manifest={**terms.manifest, LEDGER: ANCHOR.to_json()},
            blobs=self.ciphers[client].encrypt(terms, numbers),
        )
        return numbers

    def new_aggregator(self, terms: Terms) -> Aggregator:
        """The aggregator of the round."""
        names = [identity.party.name for identity in self.identities]
        return Aggregator(
            identity=self.aggregator,
            roster=self.roster,
            terms=terms,
            cohort=names,
            anchors=dict.fromkeys(names, NO_LEDGER),
            adder=CiphertextAdder(self.parameters),
            min_clients=3,
        )


def encode(update: NDArray[np.float32], bits: int) -> NDArray[np.int16]:
    """Quantise with secret coins, as a client does."""
    coins = SystemCoins().stream("benchmark", "rounding")
    return FixedPointEncoding(public_range=CLIP, bits=bits).encode(update, coins.uniform)


def play(
    custody: Custody, *, num_params: int, clients: int, bits: int, folder: Path
) -> dict[str, Any]:
    """One round through real messages: bytes, CPU seconds, and whether the sum is exact."""
    federation = Federation.build(
        custody, num_params=num_params, clients=clients, bits=bits, folder=folder
    )
    custodian = (
        ClientsAgree(federation.aggregator, federation.roster)
        if federation.link is None
        else HolderOpens(federation.link, federation.aggregator, federation.roster)
    )
    opening = custodian.begin(federation.agreed)
    aggregator = federation.new_aggregator(opening.terms)
    generator = np.random.default_rng(0)
    expected = np.zeros(num_params, dtype=np.int64)
    client_s, server_s, accept_s, messages = [], [], [], {}
    for index, identity in enumerate(federation.identities):
        update = generator.normal(0, SCALE, num_params).astype(np.float32)
        if opening.key is not None:
            _, seconds = timed(federation.ciphers[index].accept_key, opening.agreed, opening.key)
            accept_s.append(seconds)
        sink = io.BytesIO()
        numbers, seconds = timed(federation.write_update, index, opening.terms, update, sink)
        client_s.append(seconds)
        expected += numbers
        message = sink.getvalue()
        _, seconds = timed(aggregator.receive, message)
        server_s.append(seconds)
        messages[identity.party.name] = message
    total, total_s = timed(aggregator.total)
    answer_s: list[float] = []
    challenge_bytes = answer_bytes = 0

    def ask(challenge: bytes) -> dict[str, bytes]:
        nonlocal challenge_bytes, answer_bytes
        challenge_bytes = len(challenge)
        answers = {}
        for index, (name, sent) in enumerate(messages.items()):
            cipher = federation.ciphers[index]
            answers[name], seconds = timed(cipher.answer, opening.terms, challenge, sent)
            answer_s.append(seconds)
            answer_bytes = len(answers[name])
        return answers

    end = custodian.close(opening.terms, total, ask)
    opened, open_s = timed(federation.ciphers[0].open, opening.terms, end)
    down = len(end) + len(opening.key or b"") + challenge_bytes
    figures: dict[str, Any] = {
        "upload_bytes_per_param": (len(message) + answer_bytes) / num_params,
        "download_bytes_per_param": down / num_params,
        "client_s_per_million": per_million(client_s, num_params),
        "server_s_per_million": per_million(server_s, num_params),
        "server_total_s_per_million": total_s * MILLION / num_params,
        "open_s_per_million": open_s * MILLION / num_params,
        "exact": bool(np.array_equal(opened.values, expected)),
        "exactness": federation.parameters.exactness.value,
        "ciphertexts": federation.parameters.num_ciphertexts,
    }
    if federation.link is not None:
        verify_and_decrypt = sum(federation.link.seconds[1:])
        figures["sum_bytes_per_param"] = len(total) / num_params
        figures["accept_key_s"] = statistics.median(accept_s)
        figures["holder_s_per_million"] = verify_and_decrypt * MILLION / num_params
        figures["answer_s_per_million"] = per_million(answer_s, num_params)
    return figures


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Result and CPU seconds of a call."""
    started = time.process_time()
    result = call(*arguments)
    return result, time.process_time() - started


def per_million(seconds: list[float], num_params: int) -> float:
    """Median, for a million parameters."""
    return statistics.median(seconds) * MILLION / num_params


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every number; `exact` only if always."""
    merged: dict[str, Any] = {}
    for name, value in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(value, bool):
            merged[name] = all(values)
        else:
            merged[name] = value if isinstance(value, str) else statistics.median(values)
    return merged


# --- memory, each in a process of its own -----------------------------------------------------


def peak_above() -> Iterator[float]:
    """First the start of a measurement, then the peak in MB above it; for Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")
    base = memory("VmRSS")
    yield 0.0
    yield (memory("VmHWM") - base) * 1024 / 1e6


def memory(field: str) -> int:
    """A field of this process's status, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def client_peak(custody: Custody, num_params: int, clients: int, folder: Path) -> float:
    """Peak of a client above the integers of its update, writing its message to a file."""
    federation = Federation.build(
        custody, num_params=num_params, clients=clients, bits=12, folder=folder
    )
    terms = prepared(federation)
    update = np.random.default_rng(0).normal(0, SCALE, num_params).astype(np.float32)
    integers = encode(update, 12)
    del update
    with (folder / "client").open("wb") as sink:
        measurement = peak_above()
        next(measurement)
        identity = federation.identities[0]
        write_envelope(
            sink,
            identity.sign,
            run=terms.run,
            round=terms.round,
            sender=identity.party.name,
            kind=UPDATE,
            manifest={**terms.manifest, LEDGER: ANCHOR.to_json()},
            blobs=federation.ciphers[0].encrypt(terms, integers),
        )
        return next(measurement)


def server_peak(custody: Custody, num_params: int, clients: int, folder: Path) -> float:
    """Peak of the aggregator over all clients, above one message."""
    federation = Federation.build(
        custody, num_params=num_params, clients=clients, bits=12, folder=folder
    )
    terms = prepared(federation)
    update = np.random.default_rng(0).normal(0, SCALE, num_params).astype(np.float32)
    for index in range(clients):
        with (folder / str(index)).open("wb") as sink:
            federation.write_update(index, terms, update, sink)
    del update
    size = (folder / "0").stat().st_size
    measurement = peak_above()
    next(measurement)
    aggregator = federation.new_aggregator(terms)
    for index in range(clients):
        aggregator.receive((folder / str(index)).read_bytes())
    return next(measurement) - size / 1e6


def prepared(federation: Federation) -> Terms:
    """Terms of the round, once all clients have its key."""
    if federation.link is None:
        return federation.agreed
    custodian = HolderOpens(federation.link, federation.aggregator, federation.roster)
    opening = custodian.begin(federation.agreed)
    for cipher in federation.ciphers:
        cipher.accept_key(opening.agreed, opening.key)
    return opening.terms


def peak_in_subprocess(who: str, custody: Custody, num_params: int, clients: int) -> float:
    """Peak in MB of a fresh process."""
    command = [sys.executable, __file__, "--peak", who, "--custody", custody.value]
    command += ["--params", str(num_params), "--clients", str(clients)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_mb"])


# --- all of it --------------------------------------------------------------------------------


def measure(num_params: int, clients: int, *, quick: bool) -> dict[str, Any]:
    """All figures."""
    repeats = 1 if quick else 3
    rounds: dict[Custody, list[dict[str, Any]]] = {custody: [] for custody in Custody}
    peers: dict[str, list[dict[str, Any]]] = {name: [] for name in encryption_peers.PEERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for custody in Custody:  # opening contexts is done once in a process
            play(custody, num_params=30_000, clients=3, bits=12, folder=folder)
        for _ in range(repeats):
            for custody, rows in rounds.items():
                rows.append(
                    play(custody, num_params=num_params, clients=clients, bits=12, folder=folder)
                )
            for peer, rows in peers.items():
                rows.append(
                    encryption_peers.measure(
                        peer, num_params=num_params, num_clients=clients, repeats=1
                    )
                )
        found = {custody.value: medians(rows) for custody, rows in rounds.items()}
        shared, held = found["shared_key"], found["key_holder"]
        small = {
            f"{params} parameters, {count} clients": {
                custody.value: play(
                    custody, num_params=params, clients=count, bits=12, folder=folder
                )
                for custody in Custody
            }
            for params, count in ((4_997, 8), (73_728, 8))
        }
        linear = {}
        for params in (4 * MILLION,) if quick else (4 * MILLION, 40 * MILLION):
            linear[str(params)] = {
                custody.value: play(custody, num_params=params, clients=3, bits=12, folder=folder)
                for custody in Custody
            }
    most = (3,) if quick else (3, 10)
    peaks = {
        who: {
            custody.value: {
                str(count): peak_in_subprocess(who, custody, 4 * MILLION, count) for count in most
            }
            for custody in Custody
        }
        for who in ("client", "server")
    }
    return {
        "params": num_params,
        "clients": clients,
        "bits": 12,
        "upload_bytes_per_param": {name: found[name]["upload_bytes_per_param"] for name in found},
        "download_bytes_per_param": {
            "shared_key": shared["download_bytes_per_param"],
            "key_holder": held["download_bytes_per_param"],
            "key_holder_sum": held["sum_bytes_per_param"],
        },
        "client_s_per_million": {name: found[name]["client_s_per_million"] for name in found},
        "server_s_per_million": {name: found[name]["server_s_per_million"] for name in found},
        "holder_s_per_million": {
            "verify_and_decrypt": held["holder_s_per_million"],
            "answer_of_each_client": held["answer_s_per_million"],
        },
        "client_peak_mb": {name: max(peaks["client"][name].values()) for name in peaks["client"]},
        "server_peak_mb": {name: max(peaks["server"][name].values()) for name in peaks["server"]},
        "exact": shared["exact"] and held["exact"],
        "rounds": found,
        "peaks_at_4m_by_clients": peaks,
        "small_adapters": small,
        "linear": linear,
        "peers": {name: medians(rows) for name, rows in peers.items()},
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("tenseal", "numpy", "cryptography")},
        },
    }


def processor() -> str:
    """Name of the processor, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def on_one_thread() -> None:
    """Start this program again where numpy would use more than one thread."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    if any(os.environ.get(name) != "1" for name in names):
        environment = {**os.environ, **dict.fromkeys(names, "1")}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def main() -> int:
    """Command line."""
    on_one_thread()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--quick", action="store_true", help="once, within a minute")
    parser.add_argument("--params", type=int, default=MILLION)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--peak", choices=("client", "server"), help=argparse.SUPPRESS)
    parser.add_argument("--custody", type=Custody, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        call = {"client": client_peak, "server": server_peak}[arguments.peak]
        with tempfile.TemporaryDirectory() as name:
            peak = call(arguments.custody, arguments.params, arguments.clients, Path(name))
        print(json.dumps({"peak_mb": round(peak, 2)}))
        return 0
    figures = measure(arguments.params, arguments.clients, quick=arguments.quick)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return 0
    for name in (
        "upload_bytes_per_param",
        "download_bytes_per_param",
        "client_s_per_million",
        "server_s_per_million",
        "holder_s_per_million",
        "client_peak_mb",
        "server_peak_mb",
    ):
        values = ", ".join(f"{key} {value:.4g}" for key, value in figures[name].items())
        print(f"{name:26} {values}")
    print(f"{'exact':26} {figures['exact']}")
    for name, peer in figures["peers"].items():
        print(
            f"peer {name:21} upload {peer['upload_bytes_per_param']:.4g}, download "
            f"{peer['download_bytes_per_param']:.4g}, client {peer['client_s_per_million']:.3g} s, "
            f"server {peer['server_s_per_million']:.3g} s, decrypt "
            f"{peer['decrypt_s_per_million']:.3g} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
