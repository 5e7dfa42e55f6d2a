"""Every kind of adapter through a whole run: trained, saved, resumed, reported."""

import pytest
from peft import LoraConfig

from privfed import (
    Callback,
    CausalLanguageModel,
    Client,
    Houlsby,
    InPlace,
    LoRA,
    PeftAdapter,
    PromptGenerator,
    Record,
    SparseUpdate,
)
from privfed.errors import ConfigError, ModelError

CLASSIFIERS = {
    "lora": lambda: LoRA(rank=2, target_modules=("query", "value")),
    "dora": lambda: LoRA(rank=2, target_modules=("value", "output.dense"), dora=True),
    "houlsby": lambda: Houlsby(bottleneck=3, target_modules=("output.dense",)),
    "own configuration": lambda: PeftAdapter(
        config=LoraConfig(r=2, target_modules=["query"], modules_to_save=["LayerNorm"])
    ),
    "ia3": lambda: PeftAdapter.ia3(("key", "value")),
    "biases": InPlace.biases,
    "last layers": lambda: InPlace(last_layers=1),
    "sparse update": lambda: SparseUpdate(target_modules=("query", "value"), share=0.05),
}
LANGUAGE_MODELS = {
    "prompt": lambda: PeftAdapter.prompt_tuning(3),
    "prefix": lambda: PeftAdapter.prefix_tuning(3),
    "p-tuning": lambda: PeftAdapter.p_tuning(3, 8),
    "prompt generator": lambda: PromptGenerator(
        task_text=("goal match", "bank"), num_virtual_tokens=3, width=8, heads=2
    ),
}


class StopAfterOne(Callback):
    def on_round(self, record):
        raise KeyboardInterrupt


def stopped_and_resumed(make, folder):
    """As after a crash: the second run is built afresh, by the same calls."""
    with pytest.raises(KeyboardInterrupt):
        make().run(folder, callbacks=[StopAfterOne()])
    return make().run(folder, resume=True)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_is_trained_and_resumed(kind, make_federation, tmp_path):
    def make():
        return make_federation(adapter=CLASSIFIERS[kind](), rounds=2)

    result = stopped_and_resumed(make, tmp_path / "run")
    assert [record.round for record in result.rounds] == [1, 2]


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_language_model_is_trained_and_resumed(
    kind, make_federation, topic_records, llama_folder, tmp_path
):
    def make():
        records = {seed: texts(topic_records(20, seed=seed)) for seed in range(4)}
        clients = [
            Client(id=f"client-{seed}", records=mine, public_size=20, dataset="topics")
            for seed, mine in records.items()
        ]
        return make_federation(
            model=CausalLanguageModel(base=llama_folder, max_length=12),
            adapter=LANGUAGE_MODELS[kind](),
            clients=clients,
            held_out=texts(topic_records(4, seed=9)),
            rounds=2,
        )

    result = stopped_and_resumed(make, tmp_path / "run")
    assert [record.round for record in result.rounds] == [1, 2]


def test_a_configuration_stays_as_it_was_given(make_federation):
    given = LoraConfig(r=2, target_modules=["query"])
    adapter = PeftAdapter(config=given)
    before = adapter.describe()
    task = make_federation().model
    adapter.attach(task.build(), task.modules_to_save, 0)
    assert adapter.describe() == before
    assert given.modules_to_save is None


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (LoRA(rank=2, target_modules=("query", "vlaue")), r"\['vlaue'\] name no module"),
        (LoRA(rank=2, target_modules=("query",), layers=(0, 9)), r"layers \[9\]"),
        (
            Houlsby(bottleneck=3, target_modules=("output.dense", "output.dnese")),
            r"\['output.dnese'\] name no module in a block",
        ),
        (Houlsby(bottleneck=3, target_modules=("output.dense",), layers=(0, 9)), r"layers \[9\]"),
        (PeftAdapter.ia3(("key", "vlaue")), r"\['vlaue'\] name no module"),
        (InPlace(patterns=("*.bais", "*.bias")), r"matches \['\*\.bais'\]"),
        (SparseUpdate(target_modules=("query", "vlaue"), share=0.1), r"\['vlaue'\] name no linear"),
        (SparseUpdate(target_modules=("query",), share=0.1, layers=(0, 9)), r"layers \[9\]"),
        (PeftAdapter.prompt_tuning(3), "train a causal language model"),
        (
            PromptGenerator(task_text=("goal match",), num_virtual_tokens=3, width=8),
            "train a causal language model",
        ),
    ],
)
def test_names_that_fit_nothing_are_refused_before_anything_is_spent(
    adapter, named, make_federation, tmp_path
):
    with pytest.raises(ModelError, match=named):
        make_federation(adapter=adapter).run(tmp_path / "run")


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": "query"},
        {"target_modules": (1, 2)},
        {"target_modules": (("query",),)},
        {"layers": ("1",)},
        {"layers": ()},
    ],
)
def test_names_of_the_wrong_type_are_refused(values):
    with pytest.raises(ConfigError, match=f"{next(iter(values))} must be a tuple"):
        LoRA(**{"rank": 2, "target_modules": ("query",), **values})


def test_feedforward_modules_are_among_the_targets():
    with pytest.raises(ConfigError, match=r"\['output'\] are not"):
        PeftAdapter.ia3(("key",), ("output",))


def texts(records):
    """Without labels."""
    return tuple(Record(record.text) for record in records)
