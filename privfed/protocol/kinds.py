"""Every kind of message and every key that messages state, once; and the order of messages.

A round with `shared_key`, where the clients open the sum, and with `key_holder`, which adds the
lines marked H. All messages are signed envelopes; A is the aggregator.

    client                         A                              key holder
      |        round-key         H |  open-round             H ->    |
      | <------------------------- | <------------- round-key H      |
      |  update                    |                                 |
      | -------------------------> |  adds                           |
      |        listing             |  sum                    H ->    |
      | <------------------------- | <------------- challenge H      |
      |  agreed  (or answer H)     |                                 |
      | -------------------------> |  answers                H ->    |
      |        sum                 |                                 |
      | <------------------------- | <------------- result H         |
      |  opens, moves the adapter  |                                 |

`listing` is A's list of contributions, which each contributor signs once in a round (`agreed`)
before any client opens the sum. With a key holder its `challenge` and the contributors' `answer`
stand in that place, and its `result` ends the round instead of the `sum`. Before the first round of
`shared_key`, one client sends the run's key, wrapped to every other (`shared-key`). What a key
holder will not do it answers with a `refusal`.
"""

from typing import Final

SHARED_KEY: Final = "shared-key"
OPEN_ROUND: Final = "open-round"
ROUND_KEY: Final = "round-key"
UPDATE: Final = "update"
SUM: Final = "sum"
LISTING: Final = "listing"
AGREED: Final = "agreed"
CHALLENGE: Final = "challenge"
ANSWER: Final = "answer"
ANSWERS: Final = "answers"
RESULT: Final = "result"
REFUSAL: Final = "refusal"

BASE: Final = "base"
"""SHA-256 (hex) of the global adapter that training starts from."""
BASE_MODEL: Final = "base_model"
"""Digest of the frozen parameters."""
LAYOUT: Final = "layout"
"""Digest of names and shapes of the trainable parameters."""
SETTINGS: Final = "settings"
"""Digest of what all parties agreed on."""
ENCRYPTION: Final = "encryption"
"""Parameters of the encryption."""
ROSTER: Final = "roster"
"""Digest (hex) of the roster."""
LEFT_OUT: Final = "left_out"
"""Enrolled clients that take no part in the run, or no further part."""
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
OF: Final = "of"
"""SHA-256 (hex) of the message that is refused."""
REASON: Final = "reason"
"""Of a refusal."""

CIPHERTEXTS: Final = "ciphertexts"
SEEDS: Final = "seeds"
PUBLIC_KEY: Final = "public_key"
SUMS: Final = "sums"


def seeds_of(client: str) -> str:
    """Name of the blob with one contributor's seeds in a sum."""
    return f"{SEEDS}/{client}"
