"""What encryption hides from whom, in sentences: they follow from who holds the key.

Custody is "none", "shared_key" or "key_holder". Sums are "certain" to be exact, "overwhelming"ly
so (but for 2^-128), or "approximate" (CKKS).
"""

from typing import Final

from privfed.reports.sections import View

_SINGLE: Final = "the client's epsilon"
_RELEASED: Final = "the sums and the global adapter, every round"
_TRAFFIC: Final = "ciphertexts, their sizes and times, who took part"
_ALONE: Final = "an aggregator without a client on its side, whether it follows the protocol or not"
_KEY_SHARERS: Final = "the clients (they hold the key), the public"

_Rows = tuple[tuple[str, str, str], ...]


def views(*, custody: str, approximate: bool, min_clients: int) -> tuple[View, ...]:
    """Who looks, what they see, what protects a record.

    Args:
        custody: who holds the key.
        approximate: whether sums are those of CKKS.
        min_clients: fewest contributions of a sum.
    """
    hidden = (
        f"single updates: 128-bit encryption, among at least {min_clients} contributions; "
        "the rest: the client's epsilon"
    )
    if custody == "none":
        rows = _IN_CLEAR
    elif approximate:
        rows = _views_approximate(hidden)
    else:
        rows = _views_shared_key(hidden) if custody == "shared_key" else _views_key_holder(hidden)
    return tuple(
        View(observer=observer, sees=sees, protection=protection)
        for observer, sees, protection in rows
    )


_IN_CLEAR: Final[_Rows] = (
    (
        "the aggregator, and anyone who reads its traffic",
        "every single update in clear (no encryption was used), and who took part",
        _SINGLE,
    ),
    ("co-clients, public", _RELEASED, _SINGLE),
)


def _views_approximate(hidden: str) -> _Rows:
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


def _views_shared_key(hidden: str) -> _Rows:
    seen = f"{_TRAFFIC}; and every decrypted sum or global adapter that is given back to it"
    return (
        (_ALONE, seen, hidden),
        (_KEY_SHARERS, _RELEASED, _SINGLE),
        ("an aggregator that colludes with any one client", "every single update", _SINGLE),
    )


def _views_key_holder(hidden: str) -> _Rows:
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


def scheme(*, custody: str, approximate: bool) -> str:
    """Name of the encryption, or that there is none."""
    if custody == "none":
        return "none (plain sum of fixed-point integers)"
    name = "CKKS" if approximate else "BFV"
    return f"{name} homomorphic encryption (Microsoft SEAL through TenSEAL), additions only"


def who_holds_the_key(custody: str) -> str:
    """Custody of the secret key."""
    return _CUSTODY[custody]


def consequence(*, custody: str, approximate: bool) -> str:
    """What custody means for who could see what, in running words."""
    return _APPROXIMATE if approximate else _CONSEQUENCE[custody]


def keys(custody: str) -> str | None:
    """How many keys there are, who made them and where they lie; None without encryption."""
    return _KEYS.get(custody)


def identities(*, simulated_keys: bool) -> str:
    """Whose signatures stand under messages.

    Args:
        simulated_keys: whether this process made everybody's keys.
    """
    keys = (
        "made by this process for the simulation"
        if simulated_keys
        else "read from identity files and a roster signed by its authority"
    )
    return f"Ed25519 signatures and X25519 keys of a signed roster, {keys}"


def correctness(*, custody: str, exactness: str, num_clients: int) -> str | None:
    """How sure it is that sums decrypt right; None without encryption.

    Args:
        custody: who holds the key.
        exactness: "certain", "overwhelming" or "approximate".
        num_clients: most contributions of a sum.
    """
    if custody == "none":
        return None
    return f"Sums of up to {num_clients} updates decrypt {_CORRECTNESS[exactness]}"


def setting(*, in_one_process: bool) -> str:
    """Where the parties ran, and what that means for confidentiality."""
    return _ONE_PROCESS if in_one_process else _PROGRAMS


_CUSTODY: Final = {
    "none": "no key",
    "shared_key": "shared_key: every client holds the secret key of the run, the aggregator not",
    "key_holder": "key_holder: a separate party and process holds each round's secret key, neither "
    "clients nor aggregator do",
}
_KEYS: Final = {
    "shared_key": "one key for the run, made by one client and wrapped to each other's X25519 key; "
    "in memory only",
    "key_holder": "one key pair for every round, signed by the key holder with run, round and "
    "parameters; in memory only, destroyed after its one decryption",
}
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
_CONSEQUENCE: Final = {
    "none": "Updates were not encrypted. Only epsilon protects a record.",
    "shared_key": _SHARED_KEY,
    "key_holder": _KEY_HOLDER,
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
_ONE_PROCESS: Final = (
    "All clients and the aggregator ran in one process on one machine: this was a simulation. "
    "Keys, text and ledgers lay on that machine, so the confidentiality described here is that of "
    "the protocol, not of this run. Epsilon does not depend on it."
)
_PROGRAMS: Final = (
    "The parties ran as programs of their own, as between separate machines, and sent each other "
    "signed messages; whether two of them shared a machine is not checked. A client's program "
    "reads the text and the ledger of its own organisation and sends neither, but for the export "
    "of its ledger where its operator allows that. The confidentiality described here is that of "
    "the protocol, under the assumptions in the table of who could see what: which party pooled "
    "what it saw with which other is checked nowhere. Epsilon does not depend on it."
)
