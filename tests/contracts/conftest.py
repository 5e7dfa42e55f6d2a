"""Every accepted adapter on its architecture."""

import pytest
import torch

from tests.contracts.private_steps import CASES


@pytest.fixture(autouse=True)
def _one_thread():
    """The models are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(CASES))
def accepted(request, built):
    """Every accepted adapter on its architecture, plainly computed."""
    return built(request.param)
