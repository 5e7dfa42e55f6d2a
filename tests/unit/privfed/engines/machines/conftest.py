"""All parties of a run between machines, in one process."""

import pytest

from tests.unit.privfed.engines.machines.beside import Beside


@pytest.fixture
def beside(make_federation, tmp_path):
    """A function that makes them; keyword arguments replace settings of the federation."""
    made = []

    def make(**settings):
        made.append(Beside(make_federation, tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
