"""Every kind of message and every key that messages state, once; and the order of messages.

Before the first round, and again whenever a client was lost or restarted:

    C                              A
    |  <-  hello                   |
    |  ready                   ->  |  who is here, with which facts, and how far it has come
    |  <-  make-key                |  to one of them, where the clients hold the key
    |  shared-key              ->  |
    |  <-  start (all `ready`, shared-key)
    |  started                 ->  |  the digest of what all hold the same

What one `start` begins is an epoch: it has a key of its own, and every `ready` in it holds a fresh
number of its client, so that no client takes up an old key. The first epoch's name is that of the
run. A client that missed a round gets the adapter from another: A relays `fetch-state` and the
`state` that comes, which only the client it is wrapped to can read.

One round, seen from a client (C), the aggregator (A) and a key holder (H), where there is one. All
messages are signed envelopes.

    C                              A                               H
    |                              |  open-round              ->   |
    |                              |  <-              round-key    |
    |  <-  train (with round-key)  |                               |
    |  update (or absent)      ->  |  adds what it cannot read     |
    |                              |  sum                     ->   |
    |                              |  <-              challenge    |
    |  <-  listing / challenge     |                               |
    |  agreed / answer         ->  |  answers                 ->   |
    |                              |  <-                 result    |
    |  <-  sum / result            |                               |
    |  opened                  ->  |  the quorum's digest          |

Without a key holder, the clients hold the key: `listing` is A's list of contributions, which each
contributor signs once in a round (`agreed`) before any client opens the `sum`. With one, its
`challenge` and the contributors' `answer` stand in that place, and its `result` ends the round.
`absent` says that a client does not take part, and nothing of why; `opened` states the digest of
the adapter that the client came to, and what it may say in public. A round that cannot be ended is
given up: `abandon`, which every remaining client records before it says `abandoned`.

After the last round, `finish` asks every client for what it guarantees (`closed`). What a party
will not do with a public message it answers with a `refusal`.
"""

from typing import Final

HELLO: Final = "hello"
READY: Final = "ready"
MAKE_KEY: Final = "make-key"
SHARED_KEY: Final = "shared-key"
START: Final = "start"
STARTED: Final = "started"
FETCH_STATE: Final = "fetch-state"
STATE: Final = "state"
OPEN_ROUND: Final = "open-round"
ROUND_KEY: Final = "round-key"
TRAIN: Final = "train"
UPDATE: Final = "update"
ABSENT: Final = "absent"
SUM: Final = "sum"
LISTING: Final = "listing"
AGREED: Final = "agreed"
CHALLENGE: Final = "challenge"
ANSWER: Final = "answer"
ANSWERS: Final = "answers"
RESULT: Final = "result"
OPENED: Final = "opened"
ABANDON: Final = "abandon"
ABANDONED: Final = "abandoned"
FINISH: Final = "finish"
CLOSED: Final = "closed"
REFUSAL: Final = "refusal"

PROPOSAL: Final = "proposal"
"""SHA-256 (hex) of what all parties were given before a run."""
FACTS: Final = "facts"
"""What a client brings to a run; it stays the same while the run lasts."""
STANDING: Final = "standing"
"""How far a client has come in a run; null where it is in none."""
NONCE: Final = "nonce"
"""Fresh random number (hex) of a client that is ready."""
EPOCH: Final = "epoch"
"""SHA-256 (hex) of the `ready` messages that an epoch begins with."""
AGREEMENT: Final = "agreement"
"""SHA-256 (hex) of what all parties agreed on."""
ENCRYPTION: Final = "encryption"
"""Parameters of the encryption."""
ROSTER: Final = "roster"
"""Digest (hex) of the roster."""
LEFT_OUT: Final = "left_out"
"""Enrolled clients that take no part in the run, or no further part."""
BASE: Final = "base"
"""SHA-256 (hex) of the global adapter that a round starts from."""
PUBLIC_RANGE: Final = "public_range"
"""To which updates are clipped."""
KEY_ID: Final = "key_id"
"""Name of the key: the run's, or with a key holder the round's."""
SOFTWARE: Final = "software"
"""Versions of what made the key."""
LEDGER: Final = "ledger"
"""Length and head digest of the sender's ledger."""
CONTRIBUTIONS: Final = "contributions"
"""The proofs of all contributions to a sum, sorted by client."""
CONTRIBUTORS: Final = "contributors"
"""Their names, sorted."""
SEED: Final = "seed"
"""Of a challenge (hex)."""
VALUES: Final = "values"
"""Of an answer; and the blob of an update that is not encrypted."""
NEXT_BASE: Final = "next_base"
"""SHA-256 (hex) of the global adapter that a round came to."""
RELEASED: Final = "released"
"""SHA-256 (hex) of the adapter that the run leaves if it ends here."""
CLIENT: Final = "client"
"""Name of a client that another message is about."""
NEXT_RANGE: Final = "next_range"
"""Public range of the next round."""
METRIC_VALUE: Final = "metric_value"
"""Of the adapter on held-out text."""
SIGNAL_TO_NOISE: Final = "signal_to_noise"
"""Norm of the released mean update over that of its noise; or null."""
FIGURES: Final = "figures"
"""What the method shows of the released state of a round: numbers by readable names."""
EPSILON: Final = "epsilon"
"""Upper bound on what the sender's ledger counts, at its delta."""
NOTE: Final = "note"
"""What the released mean shows to be wrong with the public range; or null."""
OF: Final = "of"
"""SHA-256 (hex) of the message that is refused."""
REASON: Final = "reason"
"""Of a refusal, or why a round is given up."""
MISSING: Final = "missing"
"""Clients that a round lacked, sorted."""

NO_RUN: Final = "no run is open here"
"""Reason of a client that was restarted, so that the aggregator begins a new epoch."""

ROUNDS: Final = "rounds"
"""Numbers of the complete rounds of a run."""
GIVEN_UP: Final = "given_up"
"""The rounds of a run that were given up."""

CIPHERTEXTS: Final = "ciphertexts"
SEEDS: Final = "seeds"
PUBLIC_KEY: Final = "public_key"
SUMS: Final = "sums"
ADAPTER: Final = "adapter"
REPORT: Final = "report"


def seeds_of(client: str) -> str:
    """Name of the blob with one contributor's seeds in a sum."""
    return f"{SEEDS}/{client}"


def ready_of(client: str) -> str:
    """Name of the blob with one client's `ready`."""
    return f"{READY}/{client}"


def opened_by(client: str) -> str:
    """Name of the blob with one client's `opened`."""
    return f"{OPENED}/{client}"
