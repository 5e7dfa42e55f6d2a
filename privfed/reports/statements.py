"""The sentences of the report that explain the numbers, for a reader who was not there."""

import math
from typing import Any, Final

from privfed.methods.tail_averaging import TailAveraging
from privfed.reports.budget import COMPLETE, RUNNING
from privfed.reports.figures import rounded_up
from privfed.settings.privacy import AutomaticClipping, Clipping, PerLayerClipping, QuantileClipping

_ONE_PROCESS: Final = (
    "All clients and the aggregator ran in one process on one machine: this was a simulation. "
    "Keys, text and ledgers lay on that machine, so the confidentiality described here is that of "
    "the protocol, not of this run. Epsilon does not depend on it."
)
_PROGRAMS: Final = (
    "The parties ran as programs of their own and sent each other signed messages. A client's "
    "program reads the text and the ledger of its own organisation and sends neither, but for the "
    "export of its ledger where its operator allows that. The confidentiality described here is "
    "that of the protocol, under the assumptions in the table of who could see what: which party "
    "pooled what it saw with which other is checked nowhere. Epsilon does not depend on it."
)

_SINGLE: Final = "the client's epsilon"
_RELEASED: Final = "the sums and the global adapter, every round"
_TRAFFIC: Final = "ciphertexts, their sizes and times, who took part"
_ALONE: Final = "an aggregator without a client on its side, whether it follows the protocol or not"
_KEY_SHARERS: Final = "the clients (they hold the key), the public"

View = tuple[str, str, str]
"""Who looks, what they see, what protects a record."""


def headline(
    *, epsilon: float, delta: float, private: bool, status: str, over: int, planned: int
) -> str:
    """The guarantee in one sentence; that a run was not finished comes first.

    Args:
        epsilon: of the federation; while the run goes on, with one more round.
        delta: the largest of the clients.
        private: whether coins were secret.
        status: of the report.
        over: rounds that were played or abandoned.
        planned: rounds.
    """
    progress = _progress(status, over, planned)
    if not private:
        return progress + (
            "NOT PRIVATE: the random numbers of this run were seeded and can be repeated. The "
            "figures below describe what the same run would have guaranteed with secret coins."
        )
    return progress + (
        "Whatever anyone can conclude about one record from the updates that its client released "
        "and its ledger counts, they could conclude nearly as well had that record never taken "
        f"part. How nearly: epsilon is at most {rounded_up(epsilon, 3)} at delta {delta:g}, for "
        "every client."
    )


def _progress(status: str, over: int, planned: int) -> str:
    if status == COMPLETE:
        return ""
    if status == RUNNING:
        return (
            f"NOT FINISHED: {over} of {planned} rounds were over when this was written, and round "
            f"{over + 1} is counted as begun; if the run was interrupted, resume it. "
        )
    return (
        f"NOT FINISHED: {over} of {planned} rounds are over, the run {status}. Rounds that were "
        "begun are counted. "
    )


def how_to_read(*, epsilon: float, delta: float) -> str:
    """What (epsilon, delta) bounds: an attacker's right accusations by the wrong ones.

    Reference:
        Wasserman & Zhou 2010, arXiv:0811.2501, Theorem 2.4; Kairouz, Oh & Viswanath 2015,
        arXiv:1311.0776, Theorem 2.1.
    """
    wrong = 0.01
    most = min(epsilon, -math.log(wrong))  # beyond it the bound says nothing, and exp overflows
    right = min(1.0, math.exp(most) * wrong + delta)
    return (
        "Somebody decides from the released updates whether a record took part. If they are wrong "
        "about a share a of the records that did not, they are right about at most "
        "exp(epsilon) a + delta of those that did (Wasserman and Zhou 2010; Kairouz, Oh and "
        f"Viswanath 2015). With a = 1 %: at most {math.ceil(1000 * right) / 10:g} %. Section 2 has "
        "closer bounds for every client. Epsilon of the federation is the largest of its clients, "
        "since their records are assumed to be different; it is no sum and no mean."
    )


def views(*, custody: str, approximate: bool, min_clients: int) -> tuple[View, ...]:
    """Who looks, what they see, what protects a record.

    Args:
        custody: "none", "shared_key" or "key_holder".
        approximate: whether sums are those of CKKS.
        min_clients: fewest contributions of a sum.
    """
    if custody == "none":
        return _views_in_clear()
    hidden = (
        f"single updates: 128-bit encryption, among at least {min_clients} contributions; "
        "the rest: the client's epsilon"
    )
    if approximate:
        return _views_approximate(hidden)
    return _views_shared_key(hidden) if custody == "shared_key" else _views_key_holder(hidden)


def _views_in_clear() -> tuple[View, ...]:
    return (
        (
            "the aggregator, and anyone who reads its traffic",
            "every single update in clear (no encryption was used), and who took part",
            _SINGLE,
        ),
        ("co-clients, public", _RELEASED, _SINGLE),
    )


def _views_approximate(hidden: str) -> tuple[View, ...]:
    return (
        (
            "an aggregator without a client on its side that follows the protocol and is shown "
            "neither sums nor global adapter",
            _TRAFFIC,
            hidden,
        ),
        (_KEY_SHARERS, _RELEASED, _SINGLE),
        (
            "an aggregator that is shown decrypted sums or global adapters, that deviates, or "
            "that colludes with any one client",
            "every single update; no protection is claimed",
            _SINGLE,
        ),
    )


def _views_shared_key(hidden: str) -> tuple[View, ...]:
    seen = f"{_TRAFFIC}; and every decrypted sum or global adapter that is given back to it"
    return (
        (_ALONE, seen, hidden),
        (_KEY_SHARERS, _RELEASED, _SINGLE),
        ("an aggregator that colludes with any one client", "every single update", _SINGLE),
    )


def _views_key_holder(hidden: str) -> tuple[View, ...]:
    return (
        (_ALONE, f"{_TRAFFIC}; and every sum, which it relays in clear", hidden),
        (
            "an aggregator that follows the protocol and pools what it saw with clients",
            "the sums, and what is left of a sum without those clients' own updates",
            hidden,
        ),
        ("the clients, the key holder, the public", _RELEASED, _SINGLE),
        (
            "the key holder together with the aggregator, or an aggregator together with a client "
            "that deviates (it answers falsely, or cancels others' ciphertexts)",
            "single updates",
            _SINGLE,
        ),
    )


_SHARED_KEY: Final = (
    "Any one client that colludes with the aggregator opens every update. Without such a client, "
    "an aggregator that changes, repeats, leaves out or adds contributions is refused: every "
    "contribution is signed by an enrolled client for its round, and decrypted sums carry tags "
    "that only the clients can make. No client opens a sum before all its contributors have signed "
    "its list of contributions, one in a round. None of this matters for epsilon."
)
_KEY_HOLDER: Final = (
    "Clients cannot decrypt. The key holder makes a new key for every round, verifies by a random "
    "challenge to every contributor that the sum is that of their signed ciphertexts, decrypts it "
    "once and destroys the key; a sum without the tags of well-made contributions is not shown. An "
    "aggregator with a deviating client on its side can defeat that check, since the client can "
    "answer falsely or cancel others' ciphertexts; a key holder that colludes with the aggregator "
    "opens every update. None of this matters for epsilon."
)


def encryption_statement(
    *,
    custody: str,
    exactness: str,
    num_clients: int,
    simulated_keys: bool,
    in_one_process: bool,
) -> dict[str, Any]:
    """Scheme, custody and consequence.

    Args:
        custody: "none", "shared_key" or "key_holder".
        exactness: "certain", "overwhelming" (but for 2^-128) or "approximate" (CKKS).
        num_clients: most contributions of a sum.
        simulated_keys: whether this process made everybody's keys.
        in_one_process: whether it also ran all clients and the aggregator.
    """
    setting = _ONE_PROCESS if in_one_process else _PROGRAMS
    keys = (
        "made by this process for the simulation"
        if simulated_keys
        else "read from identity files and a roster signed by its authority"
    )
    identities = f"Ed25519 signatures and X25519 keys of a signed roster, {keys}"
    if custody == "none":
        return {
            "scheme": "none (plain sum of fixed-point integers)",
            "custody": "no key",
            "consequence": "Updates were not encrypted. Only epsilon protects a record.",
            "identities": identities,
            "setting": setting,
        }
    shared = custody == "shared_key"
    approximate = exactness == "approximate"
    consequence = _APPROXIMATE if approximate else _SHARED_KEY if shared else _KEY_HOLDER
    return {
        "scheme": f"{'CKKS' if approximate else 'BFV'} homomorphic encryption (Microsoft SEAL "
        "through TenSEAL), additions only",
        "custody": "shared_key: every client holds the secret key of the run, the aggregator not"
        if shared
        else "key_holder: a separate party and process holds each round's secret key, neither "
        "clients nor aggregator do",
        "consequence": consequence,
        "keys": "one key for the run, made by one client and wrapped to each other's X25519 key; "
        "in memory only"
        if shared
        else "one key pair for every round, signed by the key holder with run, round and "
        "parameters; in memory only, destroyed after its one decryption",
        "identities": identities,
        "correctness": f"Sums of up to {num_clients} updates decrypt {_CORRECTNESS[exactness]}",
        "setting": setting,
    }


_APPROXIMATE: Final = (
    "Any one client that colludes with the aggregator opens every update. Approximate sums carry "
    "no tags: an aggregator can shift them by numbers that it knows. Decrypted sums, the adapter "
    "and this run folder must not be shown to anyone without the key who may hold ciphertexts of "
    "the run: no IND-CPA-D security is claimed. None of this matters for epsilon."
)
_CORRECTNESS: Final = {
    "certain": "exactly for certain: the worst-case noise stays below q / 2t.",
    "overwhelming": "exactly but for a chance of at most 2^-128 in a run of up to 2^40 "
    "coefficients, over the choice of the keys (a sub-Gaussian bound; no independence of clients "
    "is assumed).",
    "approximate": "approximately, with flooding noise added; they never wrap.",
}


def not_covered(
    *, earlier_ignored: bool, held_out_source: str, secure_noise: bool
) -> tuple[str, ...]:
    """What the numbers do not say."""
    items = [
        "Hyper-parameters (learning rate, adapter, rounds, clipping norm) that someone tuned on "
        "these data: such trials cost epsilon, and only trials in the ledgers are counted.",
        "More than one record of the same person: the guarantee is for one record; k records of "
        "a person are protected much less than one (not simply k times epsilon).",
        "The same record at two clients: their epsilons compose. That clients hold different "
        "records is assumed, and cannot be checked without showing them.",
        "What was published without noise (section 5): it has no epsilon, and what somebody learns "
        "from it is in no number here. That includes whether a client had any usable record, and "
        "a client's withdrawal by its operator.",
        f"Held-out text ({held_out_source}): it is evaluated in clear and has no guarantee. Where "
        "runs on one data set hold out different shares, or by another column, what one trained on "
        "another evaluates in clear.",
        "Releases counted elsewhere: a ledger is found by the names of client and data set and the "
        "state folder. Under another name, or in another state folder, counting starts at zero; "
        "and a state folder and its anchors that are both restored from one backup go unnoticed, "
        "unless the anchor of a report (section 7) is given as `continues`.",
        "The base model, its tokenizer and what they were trained on.",
        "Finite precision: "
        + (
            "the sum of four draws makes the noise resist known reconstruction from its "
            "floating-point form"
            if secure_noise
            else "single draws of noise do NOT resist reconstruction from their floating-point form"
        )
        + ", and physical batches have one size, but the analysis is of exact numbers.",
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


def published(*, sizes: str, held_out_source: str, encrypted: bool) -> tuple[tuple[str, str], ...]:
    """Everything that left the clients without noise, and where it came from.

    Args:
        sizes: where the public sizes come from.
        held_out_source: what the held-out text is.
        encrypted: whether single updates were.
    """
    return (
        ("names of clients and data sets, their descriptions, what one record is", "declared"),
        ("public sizes, and what follows from them: sampling rates, noise, weights", sizes),
        (
            "base model, tokenizer, label set, maximum length, initial adapter, all settings",
            "declared; the same for all clients",
        ),
        (
            "held-out figure before training and after every round, and the SHA-256 of the "
            "held-out text",
            f"computed in clear from the held-out text ({held_out_source})",
        ),
        (
            "who took part in which round, and rounds that were abandoned",
            "whether a client answered; failures that its records cause show here",
        ),
        (
            "seconds of every round",
            "measured; they depend on how many records all clients together drew",
        ),
        (
            "sizes of messages" if encrypted else "sizes of messages; who sent which update",
            "fixed by the public settings",
        ),
        (
            "length and head of every ledger",
            "how often the client reserved and committed; heads are digests of salted numbers",
        ),
    )


def clipping(rule: Clipping) -> str:
    """How one record's gradients are bounded."""
    if isinstance(rule, PerLayerClipping):
        return "each layer to C / sqrt(layers), so that all together stay within C"
    if isinstance(rule, AutomaticClipping):
        return f"all parameters together to just below C: C / (norm + {rule.stability:g})"
    if isinstance(rule, QuantileClipping):
        return (
            f"all parameters together to a C that follows the {rule.quantile:g} quantile of the "
            f"norms, by counts with noise of {rule.count_noise:g} records; count and gradients "
            "together are one Gaussian release of the stated noise multiplier, so that the "
            "gradients get a little more noise"
        )
    return "all parameters together to C"


def adapter_left(averaging: TailAveraging | None) -> str:
    """Which adapter the run leaves, and takes the held-out figures of."""
    if averaging is None:
        return "the newest"
    weights = "evenly" if averaging.decay == 1 else f"each weighs {averaging.decay:g} of the next"
    return (
        f"the average of those after each round from round {averaging.first_round} on, {weights}: "
        "post-processing of what is released anyway, so that it costs no epsilon"
    )


def randomness(*, secret: bool, seed: int, secure_noise: bool) -> dict[str, Any]:
    """Where coins came from."""
    source = (
        "ChaCha20 streams under fresh 256-bit keys from the operating system; never saved, "
        "never reused, not after a resume either"
        if secret
        else "NOT SECRET: streams injected by the caller; anyone who has the seed can repeat them"
    )
    noise = (
        source
        if secure_noise
        else f"a statistical generator, NOT a cryptographic one, under a key from: {source}"
    )
    return {
        "noise": noise,
        "rounding": source,
        "batch sampling": source + "; separate from the noise",
        "public seed": f"{seed}: fixes the split of the data, initial weights and frozen factors, "
        "nothing else",
    }
