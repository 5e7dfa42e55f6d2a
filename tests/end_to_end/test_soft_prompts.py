"""Federations of soft prompts: what is sent, that they learn at epsilon 8, and what they leave."""

import shutil

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accountants import Budget
from privfed import (
    CausalLanguageModel,
    Client,
    Neighbouring,
    PeftAdapter,
    Plain,
    PrivacyConfig,
    PromptGenerator,
    Record,
    TrainingConfig,
    load_adapter,
)
from privfed.models.prompt_generator import GENERATOR_FILE

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

SPORT = ("goal", "match", "team", "coach", "league", "score")
EPSILON = 8.0
WIDTH, HEADS_WIDTH, LAYERS = 32, 16, 2
"""Of the base model: tokens, keys of all heads of a layer, and its blocks."""
GENERATOR = PromptGenerator(
    task_text=("match team", "bank price"), num_virtual_tokens=5, width=8, heads=2
)
ADAPTERS = {
    "prompt": (PeftAdapter.prompt_tuning(4), 4 * WIDTH),
    "prefix": (PeftAdapter.prefix_tuning(3), 3 * LAYERS * 2 * HEADS_WIDTH),
    "p-tuning": (
        PeftAdapter.p_tuning(4, 20),
        4 * WIDTH + (WIDTH * 20 + 20) + (20 * 20 + 20) + (20 * WIDTH + WIDTH),
    ),
    "prompt generator": (
        GENERATOR,
        5 * 8 + 2 * 8 * WIDTH + 2 * 8 + (8 * 8 + 8) + (8 * WIDTH + WIDTH),
    ),
}


@pytest.fixture(scope="module")
def decided_folder(tokenizer_folder, tmp_path_factory):
    """A random Llama whose next word depends much on what came before, as a trained one's does."""
    folder = tmp_path_factory.mktemp("decided")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    for path in tokenizer_folder.iterdir():
        shutil.copy(path, folder)
    return folder


def sentences(count, seed):
    """Six words about sport: six of 64 words are likely, which the base model does not know."""
    drawn = np.random.default_rng(seed).choice(SPORT, size=(count, 6))
    return tuple(Record(" ".join(words)) for words in drawn)


@pytest.fixture
def federation(make_federation, decided_folder):
    """A function that makes a federation of three clients with sentences about sport."""

    def make(adapter, learning_rate=6.0, rounds=3, **changes):
        sizes = {f"client-{index}": 200 + 10 * index for index in range(3)}
        return make_federation(
            model=CausalLanguageModel(base=decided_folder, max_length=11),
            adapter=adapter,
            clients=[
                Client(id=name, records=sentences(size, size), public_size=size, dataset="sport")
                for name, size in sizes.items()
            ],
            privacy=PrivacyConfig(
                budget=Budget(epsilon=EPSILON, delta=1e-4),
                neighbouring=Neighbouring.ADD_REMOVE,
                record="one made-up sentence",
                expected_batch_size=50,
                clipping_norm=0.5,
                steps_per_round=6,
            ),
            training=TrainingConfig(learning_rate=learning_rate, physical_batch_size=64),
            encryption=Plain(),
            rounds=rounds,
            held_out=sentences(40, seed=99),
            **changes,
        )

    return make


def perplexity(task, model):
    batch = task.collate(task.tokenizer(), sentences(40, seed=99))
    with torch.no_grad():
        return task.metric_value(*task.metric_parts(model.eval(), batch))


@pytest.mark.parametrize("kind", ADAPTERS)
def test_it_learns_at_epsilon_8_and_sends_its_own_parameters_alone(kind, federation, tmp_path):
    """All 64 words alike would be a perplexity of 64, the six alike one of 6 and a little."""
    adapter, parameters = ADAPTERS[kind]
    made = federation(adapter)
    before = perplexity(made.model, adapter.attach(made.model.build(), (), made.seed))
    result = made.run(tmp_path / "run")
    assert before > 85
    assert result.rounds[-1].value < 58
    assert all(0.9 * EPSILON < spent <= EPSILON for spent in result.rounds[-1].epsilon.values())
    assert result.report.mechanism.num_params == parameters
    task, model = load_adapter(result.adapter)
    assert perplexity(task, model) == pytest.approx(result.rounds[-1].value, rel=1e-3)


@pytest.mark.filterwarnings("ignore:the public range")  # of a run that is not to move
def test_a_run_can_start_from_a_trained_generator_with_another_text(
    federation, decided_folder, tmp_path
):
    trained = federation(GENERATOR).run(tmp_path / "run")
    path = trained.adapter / GENERATOR_FILE
    other = PromptGenerator(
        task_text=("film actor", "stage"), num_virtual_tokens=5, width=8, heads=2
    )
    task = CausalLanguageModel(base=decided_folder, max_length=11)
    expected = perplexity(task, other.attach_trained(task.build(), path))
    still = federation(
        other, learning_rate=1e-9, rounds=1, start=path, state_folder=tmp_path / "other"
    )
    value = still.run(tmp_path / "second").rounds[-1].value
    assert value == pytest.approx(expected, rel=1e-4)
    assert value != pytest.approx(trained.rounds[-1].value, rel=1e-3)
