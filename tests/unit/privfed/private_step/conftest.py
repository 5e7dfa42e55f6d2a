"""Every accepted adapter, and one thread, as in tests/contracts."""

from tests.contracts.conftest import accepted  # noqa: F401 - pytest finds them here
