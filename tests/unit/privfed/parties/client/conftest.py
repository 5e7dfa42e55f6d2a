"""Clients that run apart, and train what their names give."""

import pytest

from privfed import BFV
from privfed.parties.client.node import ClientNode
from tests.unit.privfed.parties.apart import Apart, update_of


@pytest.fixture
def make_apart(make_federation, monkeypatch):
    """A function that makes clients with this way to sum their updates."""

    def update(node, plan, state, start):
        return update_of(node.id, plan.round)

    monkeypatch.setattr(ClientNode, "update", update)
    made = []

    def make(**changes):
        made.append(Apart(make_federation(**changes)))
        return made[-1]

    yield make
    for apart in made:
        for files in apart.files.values():
            files.release()


@pytest.fixture
def apart(make_apart):
    """Under encryption, with a key that the clients share."""
    return make_apart(encryption=BFV())
