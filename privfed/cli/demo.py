"""The two demonstrations, on real models and real text that install as packages."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Final

from accountants import Budget, Neighbouring
from privfed.data import packaged
from privfed.data.partition import dirichlet
from privfed.data.records import Record, hold_out
from privfed.federation import Federation
from privfed.methods.averaging import FFALoRA
from privfed.models.adapters import LoRA
from privfed.models.classification import Classification
from privfed.models.load import convert_gguf_llama
from privfed.models.tasks import CausalLanguageModel
from privfed.parties.client.client import Client
from privfed.settings.computation import Computation
from privfed.settings.encryption import BFV, Plain
from privfed.settings.privacy import PrivacyConfig
from privfed.settings.training import TrainingConfig
from privfed.storage.state_folder import default_state_folder

SEED: Final = 2026
_SIZE_SOURCE: Final = "declared by this demonstration"
_NEWS: Final = "bbc-news"
_NEWSROOMS: Final = {
    "client-01": 210,
    "client-02": 300,
    "client-03": 160,
    "client-04": 190,
    "client-05": 310,
    "client-06": 155,
    "client-07": 150,
    "client-08": 180,
}
"""Public size of each client to which the articles are dealt."""
_SUBJECTS: Final = {
    "business": "companies, banks, shares, oil prices, jobs and the economy",
    "entertainment": "films, music, television, actors, singers and awards",
    "politics": "the government, parliament, elections, parties and ministers",
    "sports": "football, rugby, tennis, athletics, matches, players and coaches",
    "tech": "computers, the internet, software, mobile phones and video games",
}
"""What articles of each topic are about: written from common knowledge, not from the articles."""
_SENDERS: Final = {
    "842e34da-02f5-4904-ace0-fe96083a3a1c": 2900,
    "60576dcf-5b39-4420-a850-33ff7d108047": 2950,
    "20a5e75d-5e36-4408-9073-bafa4ccd7974": 2940,
    "5e5f6bde-85ca-492e-8c7c-dfd1dbf39580": 2930,
    "6dd41fff-8b63-44be-bae7-524ce4ca5796": 2700,
    "d6e03ccc-4e40-40ea-9abb-131c62ed2bf6": 2650,
    "912875dc-b127-4fc7-9b8f-2d933a441ca4": 2600,
    "70501b84-2434-46da-a0b9-6f1dc3dd62c0": 2250,
}
"""Public size of each sender who is a client, by the name in the collection."""
_HELD_OUT_MESSAGES: Final = 256


def bbc_topics(
    folder: Path, *, encrypted: bool = True, resume: bool = False, rounds: int = 6
) -> Federation:
    """The main job: topics of BBC news, eight clients with label skew, epsilon <= 2.

    Args:
        folder: run folder; decides where the demo's own ledgers lie.
        encrypted: False sums in clear.
        resume: whether the run in `folder` goes on.
        rounds: fewer for a trial; the noise is calibrated to this number.
    """
    texts, topics = packaged.bbc_news()
    labels = tuple(sorted(set(topics)))
    records = [Record(t, labels.index(topic)) for t, topic in zip(texts, topics, strict=True)]
    kept, held = hold_out(texts, 0.2, _NEWS)
    parts = dirichlet(
        [labels.index(topics[row]) for row in kept],
        len(_NEWSROOMS),
        alpha=1.0,
        minimum=160,
        seed=SEED,
    )
    clients = [
        Client(
            id=client,
            records=tuple(records[kept[row]] for row in rows),
            public_size=_NEWSROOMS[client],
            dataset=_NEWS,
            description=f"BBC news, Dirichlet(1.0) over 8 clients, seed {SEED}",
        )
        for client, rows in parts.items()
    ]
    return Federation(
        title="MiniLM on BBC news topics",
        model=Classification(
            base=packaged.minilm_folder(),
            labels=labels,
            max_length=128,
            logit_scale=8.0,
            label_texts=tuple(f"A news article about {_SUBJECTS[label]}." for label in labels),
            label_scale=1.5,
        ),
        clients=clients,
        adapter=LoRA(rank=1, target_modules=("value",), layers=(5,)),
        privacy=PrivacyConfig(
            budget=Budget(epsilon=2.0, delta=1e-4),
            neighbouring=Neighbouring.ADD_REMOVE,
            record="one news article",
            expected_batch_size=150,
            clipping_norm=1.0,
        ),
        training=TrainingConfig(learning_rate=4.0),
        computation=Computation(cache_frozen_layers=True),
        encryption=BFV() if encrypted else Plain(),
        method=FFALoRA(),
        rounds=rounds,
        held_out=[records[row] for row in held],
        held_out_source=f"{len(held)} articles, taken out before the split",
        public_size_source=_SIZE_SOURCE,
        seed=SEED,
        state_folder=_demo_state(folder, resume=resume),
        fresh_ledgers=True,
    )


def chat_messages(
    folder: Path, *, encrypted: bool = True, resume: bool = False, rounds: int = 3
) -> Federation:
    """SmolLM2-135M on chat messages, one client per real sender, epsilon <= 4.

    Few numbers are trained, in the last two blocks. The untouched model is worst at how a message
    begins and ends. The settings were chosen on messages of eight other senders and on held-out
    people who are none of those below; `benchmarks/chat_gap.py` compares with no noise.

    Args:
        folder: run folder; decides where the demo's own ledgers lie.
        encrypted: False sums in clear.
        resume: whether the run in `folder` goes on.
        rounds: fewer for a trial; the noise is calibrated to this number.
    """
    messages, others = packaged.chitchat(tuple(_SENDERS), minimum_words=3, seed=SEED)
    base = convert_gguf_llama(packaged.smollm2_gguf(), "smollm2-135m-instruct")
    clients = [
        Client(
            id=sender,
            records=tuple(records),
            public_size=size,
            dataset="chitchat",
            description="Chit-Chat, messages in the sender's own words",
        )
        for (sender, records), size in zip(messages.items(), _SENDERS.values(), strict=True)
    ]
    return Federation(
        title="SmolLM2-135M on chat messages",
        model=CausalLanguageModel(base=base, max_length=32),
        clients=clients,
        adapter=LoRA(rank=8, target_modules=("v_proj",), layers=(28, 29)),
        privacy=PrivacyConfig(
            budget=Budget(epsilon=4.0, delta=1e-4),
            neighbouring=Neighbouring.ADD_REMOVE,
            record="one message, not one person",
            expected_batch_size=16,
            clipping_norm=0.06,
            steps_per_round=4,
        ),
        training=TrainingConfig(
            learning_rate=400.0, final_learning_rate=100.0, physical_batch_size=8
        ),
        encryption=BFV() if encrypted else Plain(),
        method=FFALoRA(),
        rounds=rounds,
        held_out=others[:_HELD_OUT_MESSAGES],
        held_out_source=f"one message each of {_HELD_OUT_MESSAGES} people who are no clients",
        public_size_source=_SIZE_SOURCE,
        seed=SEED,
        state_folder=_demo_state(folder, resume=resume),
        fresh_ledgers=True,
    )


def new_folder(name: str) -> Path:
    """A run folder named by the time of day."""
    return Path("runs") / f"demo-{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _demo_state(folder: Path, *, resume: bool) -> Path:
    """Fresh ledgers for every new run of a demo; those of the same run for a resume."""
    parent = default_state_folder() / "demos"
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    taken = len(list(parent.glob(f"{name}-*")))
    return parent / f"{name}-{taken if resume and taken else taken + 1}"
