"""What one organisation brings to a federation."""

from dataclasses import dataclass, field

from accountants import Anchor, InvalidValueError
from privfed.agreement import Declaration
from privfed.checks import require_items
from privfed.data.records import Record, RecordGroup
from privfed.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Declaration):
    """A client's declaration, and what it keeps to itself.

    Attributes:
        records: private; they never leave. Each may be a group of examples.
        own_held_out: private too: at the end of a run the client's own model and the shared one are
            measured on it, for the client's eyes alone. Not among `records`.
        continues: anchor (LENGTH:HEAD) that an earlier report printed; the client's ledger must
            continue it. None trusts the anchors of this machine alone.
    """

    records: tuple[Record | RecordGroup, ...] = field(repr=False)
    own_held_out: tuple[Record, ...] = field(default=(), repr=False)
    continues: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        Declaration.__post_init__(self)
        require_items(Record | RecordGroup, **{f"records of client {self.id!r}": self.records})
        require_items(Record, **{f"own_held_out of client {self.id!r}": self.own_held_out})
        if set(self.own_held_out) & set(self.records):
            raise DataError(
                f"own_held_out of client {self.id!r} must not be among its records: what a model "
                "was trained on says little of how it does on other text"
            )
        if self.continues is not None:
            self._check_anchor(self.continues)
        if not self.records:
            raise DataError(f"client {self.id!r} holds no records; leave it out or give it data")

    def _check_anchor(self, text: str) -> None:
        try:
            Anchor.parse(text)
        except InvalidValueError as error:
            raise ConfigError(f"continues of client {self.id!r}: {error}") from error
