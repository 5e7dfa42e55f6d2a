"""Homomorphic aggregation with NVFlare's settings: the peers of our own encrypted sums.

    python benchmarks/encryption_peers.py [--json] [--quick]
    python benchmarks/encryption_peers.py --peak whole_vector --params 4000000

The calls that NVFlare makes, written anew: CKKS with N = 8192, primes of 60, 40 and 40 bits, scale
2^40, symmetric encryption, relinearisation keys, one secret key for all clients (defaults of
nvflare/lighter/impl/he.py). NVFlare itself is not installed, and its messaging is not measured.

`whole_vector` encrypts an update as one vector: the best that these settings can do.
`per_tensor` does what nvflare/app_opt/he does with a state dict. Upwards, every tensor is a vector
of its own and carries the whole context with it (decomposers.py); the tensors here have the 6144
values of a LoRA matrix of rank 8 and width 768. Downwards, vectors travel without context
(learnable_to_shareable in model_shareable_generator.py). NVFlare's server multiplies the sum by
1/count before it sends it, which drops a prime; the figures give both sizes.

Times are CPU seconds of one thread. Opening a context tests primes with numbers from
std::random_device, slow on some processors: hence a figure of its own. Keys are fresh in each
call; the data are always the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tenseal as ts

Result = TypeVar("Result")
Frame = tuple[bytes, bytes]
"""One vector as sent: the ciphertexts, then the context or nothing."""

MILLION = 1_000_000
UPDATE_SCALE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How an update travels to the server.

    Attributes:
        tensor_size: values in one encrypted vector; None for the whole update.
        sends_context: whether each vector carries the context, relinearisation keys and all.
        most_params: a longer update is measured on its first so many values.
    """

    tensor_size: int | None
    sends_context: bool
    most_params: int | None


PEERS = {
    "whole_vector": Peer(tensor_size=None, sends_context=False, most_params=None),
    "per_tensor": Peer(tensor_size=6144, sends_context=True, most_params=8 * 6144),
}


def main() -> None:
    """Measure both peers, or the memory of one, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--params", type=int, default=MILLION)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--peak", choices=PEERS, help="print this peer's peak memory alone")
    options = parser.parse_args()
    if options.peak:
        peak = peak_of_this_process(PEERS[options.peak], options.params)
        print(json.dumps({"peer": options.peak, "num_params": options.params, "peak_mb": peak}))
        return
    result = {
        peer: measure(
            peer,
            num_params=options.params,
            num_clients=options.clients,
            repeats=1 if options.quick else 3,
        )
        for peer in PEERS
    }
    if options.json:
        print(json.dumps(result))
        return
    for peer, figures in result.items():
        for name, value in figures.items():
            print(f"{peer:14}{name:40}{value:.4g}")


def measure(peer: str, *, num_params: int, num_clients: int, repeats: int) -> dict[str, float]:
    """Cost and error of one encrypted mean.

    Standard output is closed meanwhile, because TenSEAL writes a warning to it.

    Args:
        peer: a key of `PEERS`.
        num_params: values in one update. `per_tensor` measures at most 49,152 of them, since
            its cost is the same for every tensor; `measured_params` says how many.
        num_clients: updates in the sum; >= 2, so that something is added.
        repeats: how often to do everything; each figure is the median over these.

    Returns:
        Bytes per parameter: of one client's upload, of its part that is context, of the sum, and
        of the mean after the server's multiplication. CPU seconds per million parameters: of one
        client (encrypt, serialise), of the server for one client (deserialise, add), of its part
        that opens contexts, of a receiver (deserialise, decrypt). The largest absolute and the
        relative L2 error of the mean; the sum is divided after decryption, so that the noise of
        the server's multiplication is not in it.

    Raises:
        ValueError: if a count is too small.
    """
    if num_params < 1 or num_clients < 2 or repeats < 1:
        raise ValueError(
            "num_params and repeats must be >= 1 and num_clients >= 2, "
            f"got {num_params}, {repeats} and {num_clients}"
        )
    chosen = PEERS[peer]
    measured = min(num_params, chosen.most_params or num_params)
    with silent_stdout():
        rounds = [one_round(chosen, measured, num_clients) for _ in range(repeats)]
    return {
        "num_params": num_params,
        "measured_params": measured,
        "num_clients": num_clients,
        "repeats": repeats,
        **{name: statistics.median(each[name] for each in rounds) for name in rounds[0]},
    }


def one_round(peer: Peer, num_params: int, num_clients: int) -> dict[str, float]:
    """Every client sends, the server adds as they come, one client decrypts."""
    generator = np.random.default_rng(0)
    client, server = provision()
    exact = np.zeros(num_params)
    client_s, opening_s, adding_s = [], [], []
    total: list[Any] = []
    for _ in range(num_clients):
        update = random_update(generator, num_params)
        exact += update
        seconds, frames = timed(partial(send, client, update, peer))
        client_s.append(seconds)
        seconds, contexts = timed(partial(open_contexts, server, frames))
        opening_s.append(seconds)
        seconds, total = timed(partial(receive, contexts, frames, total))
        adding_s.append(seconds)
    server_s = [sum(pair) for pair in zip(opening_s, adding_s, strict=True)]
    message = [vector.serialize() for vector in total]
    decrypt_s, values = timed(partial(decrypt, client, message))
    exact /= num_clients
    error = values / num_clients - exact
    return {
        "upload_bytes_per_param": sum(len(v) + len(c) for v, c in frames) / num_params,
        "upload_context_bytes_per_param": sum(len(c) for _, c in frames) / num_params,
        "download_bytes_per_param": sum(map(len, message)) / num_params,
        "download_mean_bytes_per_param": mean_bytes(total, num_clients) / num_params,
        "client_s_per_million": statistics.median(client_s) * MILLION / num_params,
        "server_s_per_million": statistics.median(server_s[1:]) * MILLION / num_params,
        "server_contexts_s_per_million": statistics.median(opening_s[1:]) * MILLION / num_params,
        "decrypt_s_per_million": decrypt_s * MILLION / num_params,
        "max_abs_error_of_mean": float(np.abs(error).max()),
        "rel_l2_error": float(np.linalg.norm(error) / np.linalg.norm(exact)),
    }


def provision() -> tuple[Any, Any]:
    """Contexts of a client, with the secret key, and of the server, as their files hold them."""
    made = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    made.global_scale = 2**40
    client = made.serialize(save_secret_key=True, save_galois_keys=False)
    server = made.serialize(save_public_key=False, save_galois_keys=False)
    return ts.context_from(client), ts.context_from(server)


def send(client: Any, update: np.ndarray, peer: Peer) -> list[Frame]:
    """Encrypt all tensors, then serialise them, as a filter and then a message encoder do."""
    size = peer.tensor_size or len(update)
    vectors = [
        ts.ckks_vector(client, update[start : start + size])
        for start in range(0, len(update), size)
    ]
    return [
        (vector.serialize(), vector.context().serialize() if peer.sends_context else b"")
        for vector in vectors
    ]


def open_contexts(server: Any, frames: list[Frame]) -> list[Any]:
    """The context of each vector: the one that came with it, else the server's own."""
    return [ts.context_from(context) if context else server for _, context in frames]


def receive(contexts: list[Any], frames: list[Frame], total: list[Any]) -> list[Any]:
    """Deserialise an upload and add it to `total`, which the first upload becomes.

    In place, which is cheaper than NVFlare's new sum for every client.
    """
    vectors = [
        ts.ckks_vector_from(context, vector)
        for context, (vector, _) in zip(contexts, frames, strict=True)
    ]
    for vector, other in zip(total, vectors, strict=bool(total)):
        vector.add_(other)
    return total or vectors


def decrypt(client: Any, message: list[bytes]) -> np.ndarray:
    """Deserialise and decrypt a sum, shape (params,)."""
    key = client.secret_key()
    return np.concatenate([ts.ckks_vector_from(client, sent).decrypt(key) for sent in message])


def mean_bytes(total: list[Any], num_clients: int) -> int:
    """Size of the sum after one multiplication by 1 / num_clients."""
    return sum(len((vector * (1 / num_clients)).serialize()) for vector in total)


def random_update(generator: np.random.Generator, num_params: int) -> np.ndarray:
    """Normal values of the size of a fine-tuning update, float32, shape (params,)."""
    return generator.standard_normal(num_params, dtype=np.float32) * np.float32(UPDATE_SCALE)


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds of a call, and what it returned."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def peak_mb(peer: str, num_params: int) -> float:
    """Most memory that a client needs to encrypt and serialise one update, in 10^6 bytes.

    Counted above what a fresh process holds with the update and the keys loaded; Linux only.
    """
    command = [sys.executable, __file__, "--peak", peer, "--params", str(num_params)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(answer)["peak_mb"])


def peak_of_this_process(peer: Peer, num_params: int) -> float:
    """Growth of the resident set while a client prepares its message.

    Not getrusage's ru_maxrss: a child inherits that from its parent, so that a large caller would
    hide the growth (getrusage(2)). Writing 5 to clear_refs resets the peak (proc(5)).
    """
    update = random_update(np.random.default_rng(0), num_params)
    client, _ = provision()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident_bytes("VmRSS")
    with silent_stdout():
        message = send(client, update, peer)
    growth = resident_bytes("VmHWM") - before
    del message
    return growth / 1e6


def resident_bytes(field: str) -> int:
    """Resident set of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Send file descriptor 1 to nowhere: TenSEAL's warning of long vectors comes from C++."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


if __name__ == "__main__":
    main()
