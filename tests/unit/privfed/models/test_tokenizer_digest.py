"""Two tokenizers have one digest exactly if they read public texts alike."""

import hashlib
import json

import pytest

from privfed.models.tokenizer_digest import tokenizer_digest


class Letters:
    """A tokenizer that numbers characters; what it does not know is 0."""

    def __init__(self, vocabulary, fold=lambda text: text):
        self.vocabulary, self.fold = vocabulary, fold

    def get_vocab(self):
        return dict(self.vocabulary)

    def __call__(self, text):
        ids = [self.vocabulary.get(letter, 0) for letter in self.fold(text)]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}


KNOWN = {"R": 5, "e": 7, "É": 3, "1": 2, " ": 9, "\t": 4, "\u4f60": 6, "<": 8}


def test_by_hand():
    """One letter is known; it stands once in the first text and once in the fourth but one."""
    probes = (
        "River stones, 12 of them.",
        "ÉCOLE naïve Straße",
        "x1y2 3.14 1,000,000",
        "  two  spaces\tand a tab\n",
        "\u4f60\u597d \U0001f30a",
        "[CLS] <s> </s> <|endoftext|>",
    )
    read = [[5 if letter == "R" else 0 for letter in text] for text in probes]
    wanted = json.dumps([[["R", 5]], read], separators=(",", ":"))
    assert tokenizer_digest(Letters({"R": 5})) == hashlib.sha256(wanted.encode()).hexdigest()


def test_the_order_in_which_a_vocabulary_is_listed_is_nothing():
    assert tokenizer_digest(Letters(KNOWN)) == tokenizer_digest(
        Letters(dict(reversed(KNOWN.items())))
    )


@pytest.mark.parametrize(
    "other",
    [
        Letters({**KNOWN, "unseen": 99}),
        Letters({**KNOWN, "R": 7, "e": 5}),
        Letters({letter: number for letter, number in KNOWN.items() if letter != "\t"}),
        Letters(KNOWN, str.lower),
        Letters(KNOWN, lambda text: text.replace("É", "E")),
        Letters(KNOWN, lambda text: text.replace("1", "#")),
        Letters(KNOWN, lambda text: " ".join(text.split())),
        Letters(KNOWN, lambda text: text.replace("\u4f60", "")),
        Letters(KNOWN, lambda text: text.replace("<s>", "")),
    ],
    ids=[
        *("a word more", "other numbers", "a word less", "case", "accents", "digits", "spaces"),
        *("unknown characters", "special tokens"),
    ],
)
def test_another_tokenizer_has_another_digest(other):
    assert tokenizer_digest(other) != tokenizer_digest(Letters(KNOWN))


def test_one_of_hugging_face_reads_alike_each_time(tokenizer_folder):
    from transformers import AutoTokenizer

    first, second = (AutoTokenizer.from_pretrained(tokenizer_folder) for _ in range(2))
    first("something of the client's own")
    assert tokenizer_digest(first) == tokenizer_digest(second)
    second.add_tokens(["ward"])
    assert tokenizer_digest(first) != tokenizer_digest(second)
