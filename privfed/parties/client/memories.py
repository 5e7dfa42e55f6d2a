"""Where one client remembers whose sums it agreed to: in the second place, a file for each run."""

from collections.abc import Sequence
from pathlib import Path

from privfed.custody.opened_rounds import OpenedRounds
from privfed.storage.state_folder import opened_path


class Memories:
    """The memories of one client, opened when they are first asked for.

    Args:
        anchors: the second place.
        client: its name.
    """

    def __init__(self, anchors: Path, client: str) -> None:
        self._anchors = anchors
        self._client = client
        self._open: dict[str, OpenedRounds] = {}

    def resume(self, run: str) -> OpenedRounds:
        """The memory of a run that goes on.

        Raises:
            EncryptionError: if it is missing, cannot be written, or is damaged.
        """
        if run not in self._open:
            self._open[run] = OpenedRounds.resume(self._path(run))
        return self._open[run]

    def __call__(self, run: str, clients: Sequence[str]) -> OpenedRounds:
        """The memory of a run; one is begun where this process knows none.

        Args:
            run: identifier.
            clients: who may contribute.

        Raises:
            EncryptionError: if there is one already, or it cannot be written.
        """
        if run not in self._open:
            self._open[run] = OpenedRounds.create(self._path(run), clients)
        return self._open[run]

    def _path(self, run: str) -> Path:
        return opened_path(self._anchors, run, self._client)
