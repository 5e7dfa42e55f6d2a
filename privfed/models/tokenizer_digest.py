"""What a tokenizer makes of texts, as a digest: all clients of a run must read alike.

Two tokenizers of one name may differ by version. What is compared is their vocabulary and what they
make of texts that show how they treat case, accents, digits, spaces and unknown characters.
"""

import hashlib
from typing import Any, Final

from privfed.canonical import canonical_json

_PROBES: Final = (
    "River stones, 12 of them.",
    "ÉCOLE naïve Straße",
    "x1y2 3.14 1,000,000",
    "  two  spaces\tand a tab\n",
    "\u4f60\u597d \U0001f30a",
    "[CLS] <s> </s> <|endoftext|>",
)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (hex) of a tokenizer's vocabulary and of what it makes of some public texts.

    Args:
        tokenizer: of Hugging Face.
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    read = [list(tokenizer(text)["input_ids"]) for text in _PROBES]
    return hashlib.sha256(canonical_json([vocabulary, read])).hexdigest()
