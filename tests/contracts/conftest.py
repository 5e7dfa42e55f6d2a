"""Every accepted adapter on its architecture."""

import pytest

from tests.contracts.private_steps import CASES


@pytest.fixture(params=list(CASES))
def accepted(request, built):
    """Every accepted adapter on its architecture, plainly computed."""
    return built(request.param)
