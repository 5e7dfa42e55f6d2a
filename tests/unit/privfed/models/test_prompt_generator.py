"""A prompt made from public text, by a generator that can be given another text."""

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from privfed import CausalLanguageModel, Classification, PromptGenerator
from privfed.errors import ConfigError, ModelError
from privfed.models.prompt_generator import GENERATOR_FILE, CrossAttentionPrompt
from privfed.models.start_file import names_added
from privfed.models.vector import num_trainable, read_vector, saved_tensors, write_vector

SPORT, MONEY = ("goal match team",), ("bank price", "stock")
TOKENS, WIDTH, HEADS, TOKEN_WIDTH = 3, 8, 2, 32


def generator(texts, **changes):
    settings = {"num_virtual_tokens": TOKENS, "width": WIDTH, "heads": HEADS}
    return PromptGenerator(task_text=texts, **{**settings, **changes})


@pytest.fixture
def base(gpt2_folder):
    return CausalLanguageModel(base=gpt2_folder, max_length=8).build


def shifted(model, seed=0):
    """Numbers in every trainable parameter that training might have put there."""
    before = read_vector(model)
    moved = np.random.default_rng(seed).normal(scale=0.3, size=before.size)
    write_vector(model, before + moved.astype(np.float32))
    return model


def prompt_of(model):
    """Shape (virtual tokens, token width)."""
    with torch.no_grad():
        return model.get_prompt(1)[0]


def by_hand(made, text, heads):
    """The formula in numpy, a head and a query at a time."""
    of = {name: value.detach().double().numpy() for name, value in made.state_dict().items()}
    keys, values = text @ of["key.weight"].T, text @ of["value.weight"].T
    queries = of["embedding.weight"]
    attended = np.zeros_like(queries)
    for part in np.split(np.arange(queries.shape[1]), heads):
        for row, query in enumerate(queries[:, part]):
            weights = np.exp(keys[:, part] @ query / math.sqrt(len(part)))
            attended[row, part] = weights @ values[:, part] / weights.sum()
    states = queries + attended
    states = states - states.mean(axis=1, keepdims=True)
    states = states / np.sqrt(states.var(axis=1, keepdims=True) + 1e-5)
    states = states * of["norm.weight"] + of["norm.bias"]
    hidden = states @ of["hidden.weight"].T + of["hidden.bias"]
    active = np.array([[x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in row] for row in hidden])
    return active @ of["output.weight"].T + of["output.bias"]


def test_it_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    text = torch.randn(5, 7)
    made = CrossAttentionPrompt(text, num_virtual_tokens=4, width=6, heads=3)
    with torch.no_grad():
        made.norm.weight.copy_(torch.linspace(0.5, 1.5, 6))
        made.norm.bias.copy_(torch.linspace(-0.2, 0.3, 6))
        found = made(torch.arange(4).expand(2, -1))
    assert found.shape == (2, 4, 7)
    expected = by_hand(made, text.double().numpy(), heads=3)
    assert np.allclose(found[0].numpy(), expected, atol=1e-5)
    assert np.allclose(found[1].numpy(), expected, atol=1e-5)


def test_the_text_is_read_as_the_base_model_embeds_it(base):
    model = base()
    attached = generator(SPORT).attach(model, (), 0)
    task = CausalLanguageModel(base=model.name_or_path, max_length=8)
    numbers = task.tokenizer()("goal match team", add_special_tokens=False).input_ids
    rows = model.get_input_embeddings().weight[numbers].detach().numpy().astype(np.float64)
    rows = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(
        rows.var(axis=1, keepdims=True) + 1e-5
    )
    assert rows.shape == (3, TOKEN_WIDTH)
    found = prompt_of(shifted(attached)).numpy()
    expected = by_hand(attached.prompt_encoder["default"], rows, HEADS)
    assert np.allclose(found, expected, atol=1e-4)


def test_another_text_is_another_prompt_and_its_order_does_not_matter(base):
    sport, money, turned = (
        prompt_of(generator(texts).attach(base(), (), 4))
        for texts in (SPORT, MONEY, ("stock", "bank price"))
    )
    assert torch.allclose(money, turned, atol=1e-6)
    assert float((sport - money).abs().max()) > 1e-3


def test_the_generator_alone_is_trained_and_added(base):
    model = base()
    before = {id(tensor) for _, tensor in saved_tensors(model)}
    attached = generator(SPORT).attach(model, (), 0)
    sizes = {name: tuple(t.shape) for name, t in attached.named_parameters() if t.requires_grad}
    start = "prompt_encoder.default."
    assert sizes == {
        f"{start}embedding.weight": (TOKENS, WIDTH),
        f"{start}key.weight": (WIDTH, TOKEN_WIDTH),
        f"{start}value.weight": (WIDTH, TOKEN_WIDTH),
        f"{start}norm.weight": (WIDTH,),
        f"{start}norm.bias": (WIDTH,),
        f"{start}hidden.weight": (WIDTH, WIDTH),
        f"{start}hidden.bias": (WIDTH,),
        f"{start}output.weight": (TOKEN_WIDTH, WIDTH),
        f"{start}output.bias": (TOKEN_WIDTH,),
    }
    assert names_added(attached, before) == tuple(sorted(sizes))
    assert num_trainable(attached) == sum(math.prod(size) for size in sizes.values())


def test_it_runs_for_every_record(base):
    attached = generator(SPORT).attach(base(), (), 0)
    made = attached.prompt_encoder["default"]
    read = []
    for layer in (made.embedding, made.key, made.value, made.norm, made.hidden, made.output):
        layer.register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0])))
    attached.get_prompt(5)
    assert read == [5] * 6


def test_the_seed_alone_decides_where_it_starts(base):
    torch.manual_seed(1)
    first = read_vector(generator(SPORT).attach(base(), (), 4))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = read_vector(generator(SPORT).attach(base(), (), 4))
    assert torch.equal(before, torch.random.get_rng_state())
    other = read_vector(generator(SPORT).attach(base(), (), 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_peft_reads_the_prompt_that_was_saved(base, tmp_path):
    model = shifted(generator(SPORT).attach(base(), (), 0)).eval()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.allclose(saved["prompt_embeddings"], prompt_of(model))
    read = PeftModel.from_pretrained(base(), tmp_path).eval()
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        found, expected = read(input_ids=ids).logits, model(input_ids=ids).logits
        without = base()(input_ids=ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert float((expected[:, -3:] - without).abs().max()) > 1e-3


def test_a_trained_generator_makes_a_prompt_for_another_text(base, tmp_path):
    """Also where its own run was about something else, as in the paper."""
    trained = shifted(generator(SPORT).attach(base(), (), 0))
    trained.save_pretrained(tmp_path)
    other = generator(MONEY).attach_trained(base(), tmp_path / GENERATOR_FILE)
    assert np.array_equal(read_vector(other), read_vector(trained))
    expected = shifted(generator(MONEY).attach(base(), (), 0))  # the same numbers, this text
    assert torch.allclose(prompt_of(other), prompt_of(expected))
    assert float((prompt_of(other) - prompt_of(trained)).abs().max()) > 1e-3
    other.save_pretrained(tmp_path / "for money")
    saved = load_file(tmp_path / "for money" / "adapter_model.safetensors")
    assert torch.allclose(saved["prompt_embeddings"], prompt_of(expected))


def test_a_generator_of_other_sizes_is_refused(base, tmp_path):
    generator(SPORT).attach(base(), (), 0).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of another adapter or base model"):
        generator(SPORT, width=6).attach_trained(base(), tmp_path / GENERATOR_FILE)


@pytest.mark.parametrize("texts", [("goal",), ("goal", "goal goal")])
def test_a_text_of_one_token_is_refused(texts, base):
    with pytest.raises(ModelError, match="at least two different tokens"):
        generator(texts).attach(base(), (), 0)


def test_a_classifier_takes_no_prompt(bert_folder):
    model = Classification(base=bert_folder, labels=("a", "b"), max_length=8).build()
    with pytest.raises(ModelError, match="train a causal language model"):
        generator(SPORT).attach(model, ("head",), 0)


def test_a_base_that_was_loaded_from_nowhere_has_no_tokenizer():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4))
    with pytest.raises(ModelError, match="no tokenizer"):
        generator(SPORT).attach(model, (), 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"texts": "goal match"}, "task_text"),
        ({"texts": ()}, "task_text"),
        ({"texts": ("goal", " ")}, "task_text"),
        ({"texts": (1,)}, "task_text"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens"),
        ({"width": 8.0}, "width"),
        ({"heads": 0}, "heads"),
        ({"width": 10, "heads": 4}, "width must be a multiple of heads, got 10 for 4"),
    ],
)
def test_settings_out_of_range_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        generator(changes.pop("texts", SPORT), **changes)


def test_its_description_is_json_with_the_text():
    assert json.loads(json.dumps(generator(MONEY).describe())) == {
        "adapter": "prompt-generator",
        "task_text": ["bank price", "stock"],
        "num_virtual_tokens": TOKENS,
        "width": WIDTH,
        "heads": HEADS,
    }
