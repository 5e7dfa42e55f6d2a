import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from privfed import CausalLanguageModel, PeftAdapter
from privfed.models.prompt import embed_prompt_for_every_record

PROMPTS = {"prompt": PeftAdapter.prompt_tuning(3), "p-tuning": PeftAdapter.p_tuning(3, 8)}


@pytest.fixture(params=list(PROMPTS))
def prompted(request, gpt2_folder):
    task = CausalLanguageModel(base=gpt2_folder, max_length=8)
    return PROMPTS[request.param].attach(task.build(), (), 0)


def plain_class(model):
    return next(kind for kind in type(model).__mro__ if kind.__module__.startswith("peft."))


@pytest.mark.parametrize("records", [1, 2, 5])
def test_prompts_have_the_values_of_pefts(prompted, records):
    prompts = prompted.get_prompt(records)
    expected = plain_class(prompted).get_prompt(prompted, records)
    assert prompts.shape == expected.shape == (records, 3, 32)
    assert torch.allclose(prompts, expected, atol=1e-6)


def test_tokens_are_embedded_for_every_record(prompted):
    """What PEFT does not, for which a batch would be clipped as one record."""
    read = []
    encoder = prompted.prompt_encoder["default"]
    encoder.embedding.register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0].shape))
    prompted.get_prompt(4)
    plain_class(prompted).get_prompt(prompted, 4)
    assert read == [(4, 3), (1, 3)]


def test_the_model_gives_the_same_logits(prompted):
    ids = torch.randint(1, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = prompted(input_ids=ids).logits
        prompted.__class__ = plain_class(prompted)
        theirs = prompted(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_it_is_still_a_peft_model_with_the_same_parameters(prompted):
    assert isinstance(prompted, PeftModel)
    trained = [name for name, parameter in prompted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("prompt_encoder.default.") for name in trained)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_saved_prompt_is_read_by_peft(prompted, gpt2_folder, tmp_path):
    prompted.save_pretrained(tmp_path)
    task = CausalLanguageModel(base=gpt2_folder, max_length=8)
    read = PeftModel.from_pretrained(task.build(), tmp_path)
    prompted.eval()
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        assert torch.allclose(
            read.eval()(input_ids=ids).logits, prompted(input_ids=ids).logits, atol=1e-5
        )


def test_inference_takes_what_peft_stored(prompted):
    prompted.active_peft_config.inference_mode = True
    with torch.no_grad():
        assert prompted.get_prompt(2).shape == (2, 3, 32)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_other_adapters_keep_their_class(gpt2_folder):
    task = CausalLanguageModel(base=gpt2_folder, max_length=8)
    settings = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")
    model = get_peft_model(task.build(), settings)
    before = type(model)
    embed_prompt_for_every_record(model)
    assert type(model) is before
