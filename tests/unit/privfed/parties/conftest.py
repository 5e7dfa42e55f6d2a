"""A run that has been prepared and not begun."""

import pytest

from privfed import BFV, Plain
from privfed.engines.simulation import Simulation
from privfed.storage.run_folder import RunFolder
from tests.unit.privfed.parties.small_run import Clients


@pytest.fixture
def clients(make_federation, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim()

    def start(encryption):
        federation = make_federation(encryption=encryption)
        running = Simulation.prepared(federation, federation.clients, folder, None, ())
        return Clients(running)

    yield start
    folder.release()


@pytest.fixture
def plain(clients):
    return clients(Plain())


@pytest.fixture
def encrypted(clients):
    return clients(BFV())
