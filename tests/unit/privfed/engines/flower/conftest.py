"""What Flower keeps for a whole process, put back after the tests of a file."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _some_task():
    """Who this process is to Flower, which every message states; a link writes it anew."""
    from privfed.engines.flower.internals_hub import TaskIdentity

    with pytest.MonkeyPatch.context() as patched:
        for name, number in (("_run_id", 3), ("_node_id", 1), ("_task_id", 5)):
            patched.setattr(TaskIdentity, name, number)
        yield


def pytest_collection_modifyitems(items):
    """Flower's migration of its own database warns; of all other warnings none is allowed."""
    ignored = "ignore:No path_separator found in configuration:DeprecationWarning"
    for item in items:
        if "/engines/flower/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings(ignored))
