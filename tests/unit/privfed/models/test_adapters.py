"""What is trained: weights from the public seed, A frozen and orthonormal for FFA-LoRA."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import ConfigError, ModelError
from privfed.models.adapters import LoRA, PeftAdapter, freeze_orthonormal_a, lora_a_factors
from privfed.models.classification import Classification
from privfed.models.load import load_pretrained
from privfed.models.tasks import CausalLanguageModel
from privfed.models.vector import read_vector, trainable
from privfed.settings.computation import BaseWeights

QV = LoRA(rank=2, target_modules=("query", "value"))


@pytest.fixture
def encoder(bert_folder):
    """A function that builds the untrained classifier anew."""
    return Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12).build


@pytest.fixture
def language_model(llama_folder):
    """A function that builds the language model anew."""
    return CausalLanguageModel(base=llama_folder, max_length=12).build


def names(model):
    return [name for name, _ in trainable(model)]


class TestLoRA:
    def test_factors_and_head_are_trained_and_nothing_else(self, encoder):
        model = QV.attach(encoder(), ("head",), 0)
        found = names(model)
        assert len(found) == 2 * 2 * 2 + 2
        assert all("lora_" in name or ".head.modules_to_save." in name for name in found)

    def test_only_the_named_layers_are_adapted(self, encoder):
        adapter = LoRA(rank=2, target_modules=("query",), layers=(1,))
        found = [name for name in names(adapter.attach(encoder(), ("head",), 0)) if "lora_" in name]
        assert len(found) == 2
        assert all(".layer.1." in name for name in found)

    def test_it_starts_as_the_base_model(self, encoder):
        batch = {
            "input_ids": torch.tensor([[2, 8, 9, 3]]),
            "attention_mask": torch.ones(1, 4, dtype=torch.long),
        }
        base = encoder().eval()
        with torch.no_grad():
            base.head.weight.fill_(0.1)
            base.head.weight[0] = torch.linspace(-1, 1, 32)
        with torch.inference_mode():
            expected = base(**batch)
            found = QV.attach(base, ("head",), 0).eval()(**batch)
        assert torch.allclose(found, expected, atol=1e-6)

    def test_the_product_is_scaled_by_alpha_over_rank(self):
        for alpha, scale in [(None, 1.0), (6.0, 3.0)]:
            adapter = LoRA(rank=2, target_modules=("linear",), alpha=alpha)
            model = adapter.attach(Small(width=4, out=3), ("unused",), 0)
            a, b = torch.randn(2, 4), torch.randn(3, 2)
            set_factors(model, a, b)
            x = torch.randn(5, 4)
            with torch.inference_mode():
                moved = model(x) - x @ model.get_base_model().linear.base_layer.weight.T
            assert torch.allclose(moved, scale * x @ (b @ a).T, atol=1e-5)

    def test_the_same_seed_gives_the_same_weights_and_another_seed_others(self, encoder):
        first, again, other = (
            read_vector(QV.attach(encoder(), ("head",), seed)) for seed in (4, 4, 5)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_the_global_random_state_neither_enters_nor_changes(self, encoder):
        models = [encoder(), encoder()]
        torch.manual_seed(1)
        first = read_vector(QV.attach(models[0], ("head",), 4))
        torch.manual_seed(2)
        before = torch.random.get_rng_state()
        again = read_vector(QV.attach(models[1], ("head",), 4))
        assert np.array_equal(first, again)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_dropout_is_off(self, encoder):
        model = QV.attach(encoder(), ("head",), 0)
        assert all(m.p == 0.0 for m in model.modules() if isinstance(m, nn.Dropout))

    @pytest.mark.parametrize("module", ["no_such_layer", "quer"])
    def test_modules_that_the_model_lacks_are_named(self, encoder, module):
        with pytest.raises(ModelError, match=rf"'{module}'"):
            LoRA(rank=2, target_modules=(module,)).attach(encoder(), ("head",), 0)

    def test_layers_that_the_model_lacks_are_refused(self, encoder):
        adapter = LoRA(rank=2, target_modules=("query",), layers=(7,))
        with pytest.raises(ModelError, match="query"):
            adapter.attach(encoder(), ("head",), 0)

    @pytest.mark.parametrize("rank", [0, -1, 1.5, True, "2"])
    def test_a_rank_that_is_no_count_is_refused(self, rank):
        with pytest.raises(ConfigError, match="rank"):
            LoRA(rank=rank, target_modules=("query",))

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
    def test_an_alpha_out_of_range_is_refused(self, alpha):
        with pytest.raises(ConfigError, match="alpha"):
            LoRA(rank=1, target_modules=("query",), alpha=alpha)

    def test_no_modules_are_refused(self):
        with pytest.raises(ConfigError, match="target_modules"):
            LoRA(rank=1, target_modules=())

    def test_no_layers_are_refused(self):
        """PEFT would adapt all of them, and the report would refuse the gap after the run."""
        with pytest.raises(ConfigError, match="layers"):
            LoRA(rank=1, target_modules=("query",), layers=())

    def test_its_description_is_json_and_tells_settings_apart(self):
        described = LoRA(rank=2, target_modules=("q", "v"), layers=(1,)).describe()
        assert json.loads(json.dumps(described)) == {
            "adapter": "lora",
            "rank": 2,
            "alpha": 2.0,
            "target_modules": ["q", "v"],
            "layers": [1],
            "dropout": 0.0,
            "rank_stabilized": False,
            "dora": False,
        }
        assert QV.describe()["layers"] == "all"


class TestDoRA:
    DORA = LoRA(rank=2, target_modules=("linear",), alpha=6.0, dora=True)

    def test_the_output_by_hand(self):
        """Rows (3, 4) and (0, 2) of W; 3 B A adds (6, 6) to the second: (6, 8), of norm 10."""
        base = Small(width=2, out=2)
        with torch.no_grad():
            base.linear.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        model = self.DORA.attach(base, ("unused",), 0)
        magnitude = next(p for n, p in model.named_parameters() if "magnitude" in n)
        assert magnitude.tolist() == [5.0, 2.0]
        set_factors(model, torch.eye(2), torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
        with torch.no_grad():
            magnitude.copy_(torch.tensor([10.0, 30.0]))
            found = model(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        assert torch.allclose(found, torch.tensor([[6.0, 18.0], [8.0, 24.0]]), atol=1e-5)

    def test_it_starts_as_the_base_model(self):
        base, x = Small(width=4, out=3), torch.randn(5, 4)
        with torch.inference_mode():
            expected = base(x)
            found = self.DORA.attach(base, ("unused",), 0)(x)
        assert torch.allclose(found, expected, atol=1e-6)

    def test_a_frozen_factor_is_refused(self, encoder):
        adapter = LoRA(rank=2, target_modules=("query",), dora=True)
        with pytest.raises(ModelError, match=r"norm that depends on B.* leave out dora"):
            freeze_orthonormal_a(adapter.attach(encoder(), ("head",), 0), 7)

    def test_it_is_told_from_plain_lora(self):
        assert self.DORA.describe()["dora"] is True

    def test_what_is_no_truth_value_is_refused(self):
        with pytest.raises(ConfigError, match="dora must be bool, got 'yes'"):
            LoRA(rank=2, target_modules=("query",), dora="yes")


class Small(nn.Module):
    """One linear layer without bias."""

    config = SimpleNamespace(model_type="small", get=lambda *a: None)

    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(x)


def set_factors(model, a, b):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(a)
            if ".lora_B." in name:
                parameter.copy_(b)


class TestFrozenA:
    def test_rows_are_orthonormal_and_frozen_in_every_layer(self, encoder):
        model = QV.attach(encoder(), ("head",), 0)
        freeze_orthonormal_a(model, 7)
        factors = list(lora_a_factors(model))
        assert len(factors) == 4
        for _, factor in factors:
            assert not factor.requires_grad
            assert torch.allclose(factor @ factor.T, torch.eye(2), atol=1e-6)
        assert not torch.allclose(factors[0][1], factors[1][1]), "each layer has an A of its own"
        assert not any(".lora_A." in name for name in names(model))
        assert any(".lora_B." in name for name in names(model))

    def test_the_seed_decides_and_the_starting_value_does_not(self, encoder):
        def factors(seed, start):
            model = QV.attach(encoder(), ("head",), start)
            freeze_orthonormal_a(model, seed)
            return torch.cat([factor for _, factor in lora_a_factors(model)])

        assert torch.equal(factors(7, 0), factors(7, 1))
        assert not torch.allclose(factors(7, 0), factors(8, 0))

    def test_the_global_random_state_is_left_alone(self, encoder):
        model = QV.attach(encoder(), ("head",), 0)
        before = torch.random.get_rng_state()
        freeze_orthonormal_a(model, 7)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_a_rank_of_the_whole_width_works_and_more_is_refused(self):
        whole = LoRA(rank=4, target_modules=("linear",)).attach(Small(4, 3), ("unused",), 0)
        freeze_orthonormal_a(whole, 0)
        ((_, factor),) = lora_a_factors(whole)
        assert torch.allclose(factor @ factor.T, torch.eye(4), atol=1e-6)
        more = LoRA(rank=5, target_modules=("linear",)).attach(Small(4, 3), ("unused",), 0)
        with pytest.raises(ModelError, match="rank 5 for width 4"):
            freeze_orthonormal_a(more, 0)

    def test_an_adapter_without_factors_is_refused(self, language_model):
        model = PeftAdapter.prefix_tuning(2).attach(language_model(), (), 0)
        with pytest.raises(ModelError, match="has none"):
            freeze_orthonormal_a(model, 0)


class TestPeftAdapter:
    @pytest.mark.parametrize("make", [PeftAdapter.prefix_tuning, PeftAdapter.prompt_tuning])
    def test_only_the_virtual_tokens_are_trained(self, language_model, make):
        model = make(3).attach(language_model(), (), 0)
        (name,) = names(model)
        assert "prompt_encoder" in name

    def test_the_same_seed_gives_the_same_weights_and_another_seed_others(self, language_model):
        first, again, other = (
            read_vector(PeftAdapter.prefix_tuning(3).attach(language_model(), (), seed))
            for seed in (4, 4, 5)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_modules_to_save_are_trained_too(self, encoder):
        from peft import LoraConfig

        adapter = PeftAdapter(config=LoraConfig(r=1, target_modules=["query"]))
        found = names(adapter.attach(encoder(), ("head",), 0))
        assert sum(".head.modules_to_save." in name for name in found) == 2

    @pytest.mark.parametrize("count", [0, -1, 2.0, True])
    @pytest.mark.parametrize("make", [PeftAdapter.prefix_tuning, PeftAdapter.prompt_tuning])
    def test_a_number_of_tokens_that_is_no_count_is_refused(self, make, count):
        with pytest.raises(ConfigError, match="num_virtual_tokens"):
            make(count)

    def test_an_adapter_of_another_kind_of_model_is_refused(self, encoder):
        with pytest.raises(ModelError, match="train a causal language model"):
            PeftAdapter.prefix_tuning(3).attach(encoder(), ("head",), 0)

    def test_descriptions_tell_settings_apart(self):
        """A resume compares descriptions: other settings must not pass for the same."""
        described = [
            PeftAdapter.prefix_tuning(3).describe(),
            PeftAdapter.prefix_tuning(4).describe(),
            PeftAdapter.prompt_tuning(3).describe(),
        ]
        texts = {json.dumps(values, sort_keys=True) for values in described}
        assert len(texts) == 3


class TestLoading:
    def test_a_weight_that_is_not_finite_is_named(self, bert_folder):
        from transformers import AutoModel

        def broken(base, dtype, **report):
            model, found = AutoModel.from_pretrained(base, dtype=dtype, **report)
            with torch.no_grad():
                model.encoder.layer[1].attention.self.key.bias[3] = float("inf")
            return model, found

        with pytest.raises(ModelError, match=r"layer\.1\.attention\.self\.key\.bias"):
            load_pretrained(broken, bert_folder, BaseWeights.FLOAT32)
