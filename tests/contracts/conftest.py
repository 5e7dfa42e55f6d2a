"""Models of every architecture, and each case built once."""

import pytest
import torch

from tests.contracts.private_steps import CASES, private_model


@pytest.fixture(autouse=True)
def _one_thread():
    """The models are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(bert_folder, llama_folder, gpt2_folder, tokenizer_folder, tmp_path_factory):
    """Folders of tiny random models by architecture."""
    from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

    from tests.conftest import _save

    roberta = RobertaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    distilbert = DistilBertConfig(
        vocab_size=64, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64
    )
    made = tmp_path_factory.mktemp
    return {
        "bert": bert_folder,
        "llama": llama_folder,
        "gpt2": gpt2_folder,
        "roberta": _save(RobertaModel, roberta, tokenizer_folder, made("roberta")),
        "distilbert": _save(DistilBertModel, distilbert, tokenizer_folder, made("distilbert")),
    }


@pytest.fixture(scope="session")
def _built():
    return {}


@pytest.fixture
def built(folders, _built):
    """A function that gives the private model of a named case; nobody may leave it changed."""

    def build(name):
        if name not in _built:
            _built[name] = private_model(CASES[name], folders)
        _built[name].forget()
        return _built[name]

    return build


@pytest.fixture(params=list(CASES))
def accepted(request, built):
    """Every accepted adapter on its architecture, plainly computed."""
    return built(request.param)
