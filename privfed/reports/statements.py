"""The sentences of the report that explain the numbers, for a reader who was not there."""

import math
from typing import Any

from privfed.reports.figures import rounded_up

_SIMULATION = (
    "All parties ran in one process on one machine: this was a simulation. Keys, text and ledgers "
    "of all clients lay on that machine, so the confidentiality described here is that of the "
    "protocol, not of this run. Epsilon does not depend on it."
)


def headline(*, epsilon: float, delta: float, private: bool) -> str:
    """The guarantee in one sentence."""
    if not private:
        return (
            "NOT PRIVATE: the random numbers of this run were seeded and can be repeated. The "
            "figures below describe what the same run would have guaranteed with secret coins."
        )
    return (
        "Whatever anyone can conclude about one record from the updates that its client released "
        "and its ledger counts, they could conclude nearly as well had that record never taken "
        f"part. How nearly: epsilon is at most {rounded_up(epsilon, 3)} at delta {delta:g}, for "
        "every client."
    )


def how_to_read(*, epsilon: float, delta: float) -> str:
    """Epsilon as a change of odds."""
    certainty = math.ceil(1000 / (1 + math.exp(-epsilon))) / 10
    return (
        "Somebody who holds it for even odds (50 %) that a record took part gets by all they see "
        f"to at most {certainty:g} % certainty, but for events of probability about {delta:g}. "
        "Epsilon of the federation is the largest of its clients, since their records are assumed "
        "to be different; it is no sum and no mean."
    )


def views(*, encrypted: bool, min_clients: int) -> tuple[tuple[str, str, str], ...]:
    """Who looks, what they see, what protects a record."""
    single = "the client's epsilon"
    if not encrypted:
        return (
            (
                "the aggregator, and anyone who reads its traffic",
                "every single update in clear (no encryption was used), and who took part",
                single,
            ),
            ("co-clients, public", "the sums and the global adapter, every round", single),
        )
    return (
        (
            "an aggregator that follows the protocol",
            "ciphertexts, their sizes and times, who took part; and every decrypted sum or global "
            "adapter that is given back to it",
            f"single updates: 128-bit encryption, among at least {min_clients} contributions; "
            "the rest: the client's epsilon",
        ),
        (
            "the clients (they hold the key), the public",
            "the decrypted sums and the global adapter, every round",
            single,
        ),
        (
            "an aggregator that deviates from the protocol, or colludes with any one client",
            "every single update",
            single,
        ),
    )


def encryption_statement(*, encrypted: bool, num_clients: int) -> dict[str, Any]:
    """Scheme, custody and consequence."""
    if not encrypted:
        return {
            "scheme": "none (plain sum of fixed-point integers)",
            "custody": "no key",
            "consequence": "Updates were not encrypted. Only epsilon protects a record.",
            "setting": _SIMULATION,
        }
    return {
        "scheme": "BFV homomorphic encryption (Microsoft SEAL through TenSEAL), additions only",
        "custody": "shared_key: every client holds the secret key of the run, the aggregator not",
        "consequence": (
            "Any one client that colludes with the aggregator opens every update. Messages carry "
            "digests, not signatures: the aggregator is trusted to relay the clients' messages "
            "unchanged. The key serves one run and lies on the clients' disk until the run is "
            "complete. None of this matters for epsilon."
        ),
        "correctness": (
            f"Sums of up to {num_clients} updates decrypt exactly for certain: the worst-case "
            "noise stays below q / 2t."
        ),
        "setting": _SIMULATION,
    }


def not_covered(*, earlier_ignored: bool, held_out_source: str) -> tuple[str, ...]:
    """What the numbers do not say."""
    items = [
        "Hyper-parameters (learning rate, adapter, rounds, clipping norm) that someone tuned on "
        "these data: such trials cost epsilon, and only trials in the ledgers are counted.",
        "More than one record of the same person: the guarantee is for one record; k records of "
        "a person are protected much less than one (not simply k times epsilon).",
        "The same record at two clients: their epsilons compose. That clients hold different "
        "records is assumed, and cannot be checked without showing them.",
        "The public size of each client, who took part in which round, timing, and drop-outs "
        "that the data caused.",
        f"Held-out text ({held_out_source}): it is evaluated in clear and has no guarantee.",
        "Releases counted elsewhere: the names of client and data set and the state folder decide "
        "which ledger is used. Under a new name or folder, or after a ledger was deleted, counting "
        "starts at zero.",
        "The base model, its tokenizer and what they were trained on.",
        "Finite precision: the sum of four draws makes the noise resist known reconstruction from "
        "its floating-point form, and rounding in a gradient may depend on which records share a "
        "forward pass; the analysis is of exact numbers.",
        "Noise of a later run set after looking at results of an earlier one: composition is "
        "proved for schedules that were fixed without looking.",
    ]
    if earlier_ignored:
        items.insert(
            0,
            "Earlier runs on these data: this run began with fresh ledgers, so what earlier runs "
            "spent is not counted.",
        )
    return tuple(items)


def randomness(*, secret: bool, seed: int) -> dict[str, Any]:
    """Where coins came from."""
    source = (
        "ChaCha20 streams under fresh 256-bit keys from the operating system; never saved, "
        "never reused, not after a resume either"
        if secret
        else "NOT SECRET: streams injected by the caller; anyone who has the seed can repeat them"
    )
    return {
        "noise and rounding": source,
        "batch sampling": source + "; separate from the noise",
        "public seed": f"{seed}: fixes the split of the data, initial weights and frozen factors, "
        "nothing else",
    }
