"""Every kind of message and every key that messages state, once; and the order of messages.

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

Before the first round of `shared_key`, one client sends the run's key, wrapped to every other
(`shared-key`). What a party will not do with a public message it answers with a `refusal`.
"""

from typing import Final

SHARED_KEY: Final = "shared-key"
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
REFUSAL: Final = "refusal"
CLOSED: Final = "closed"

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
NEXT_RANGE: Final = "next_range"
"""Public range of the next round."""
FIGURE: Final = "figure"
"""Of the adapter on held-out text."""
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

CIPHERTEXTS: Final = "ciphertexts"
SEEDS: Final = "seeds"
PUBLIC_KEY: Final = "public_key"
SUMS: Final = "sums"


def seeds_of(client: str) -> str:
    """Name of the blob with one contributor's seeds in a sum."""
    return f"{SEEDS}/{client}"
