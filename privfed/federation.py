"""Federate this model over these clients under this privacy with this encryption."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privfed import run_settings
from privfed.checks import require_items
from privfed.engines.callback import Callback
from privfed.engines.simulation import FederationResult, Simulation
from privfed.errors import RunFolderError
from privfed.parties.client.client import Client
from privfed.run_settings import FederationSettings
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import require_second_place


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation(FederationSettings):
    """A federation that is about to run; its fields are those of `FederationSettings`.

    Its clients bring their records.
    """

    clients: Sequence[Client]

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        require_items(Client, clients=self.clients)
        FederationSettings.__post_init__(self)

    def run(
        self,
        out: str | Path,
        *,
        resume: bool = False,
        without: Sequence[str] = (),
        callbacks: Sequence[Callback] = (),
    ) -> FederationResult:
        """Run all rounds and write the run folder.

        Args:
            out: run folder; must be new or empty unless resuming.
            resume: go on from the last complete round of the run in `out`.
            without: clients that a resumed run goes on without, for good; `min_clients` must stay.
            callbacks: told what happens, in order.

        Raises:
            PrivfedError: before any budget is spent, for settings, data or models that cannot be
                used; later, TooFewClientsError if a round gathers too few contributions, and
                TooFewClientsError or SpoiledSumError after two abandoned rounds in a row.
            accountants.AccountingError: for a budget too small, or a ledger that is missing,
                damaged, foreign, or shorter than the checkpoint says.
        """
        run_settings.check_clients(self.clients, self.privacy, self.min_clients)
        require_second_place(self.anchors, self.state, Path(out))
        folder = RunFolder(Path(out))
        checkpoint = folder.latest(self.describe()) if resume else None
        if not resume:
            folder.claim()
        elif checkpoint is not None and folder.is_complete():
            folder.release()
            raise RunFolderError(
                f"the run in {folder.path} is complete; there is nothing to resume"
            )
        try:
            running = Simulation.prepared(self, self.clients, folder, checkpoint, without)
            try:
                running.begin(callbacks)
                while running.record.over < self.rounds:
                    running.aggregator.play_round()
                return running.finish()
            except BaseException as error:
                running.stop(error)
                raise
            finally:
                running.close()
        except KeyboardInterrupt as error:
            raise error from None  # what a client was failing at may quote its text
        finally:
            folder.release()
