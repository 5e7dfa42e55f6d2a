"""What the tests of whole runs share."""

import pytest

from tests.end_to_end.apart import Nursery


@pytest.fixture(scope="session")
def nursery():
    """Starts clients and key holders as processes; it has imported all that they need."""
    found = Nursery()
    yield found
    found.close()
