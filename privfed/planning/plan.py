"""The question of a plan: public sizes, a target, and what is already decided.

Nothing private is read and nothing is spent. Every epsilon and every noise multiplier comes from
the accountant that a run calibrates with, and is the run's own number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from accountants import Budget, Event, Neighbouring
from privfed.agreement import Declaration
from privfed.checks import MOST, is_number, require_count, require_positive, require_type
from privfed.data.public_size import check_public_size
from privfed.encryption.parameters import MAX_CLIENTS
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg
from privfed.methods.method import Method
from privfed.planning import choosing, printing
from privfed.planning.answer import Answer
from privfed.planning.curves import Curves, curves_of
from privfed.settings.encryption import BFV, Summation
from privfed.settings.privacy import Clipping, FlatClipping, OwnPrivacy, PrivacyConfig
from privfed.settings.training import TrainingConfig

UNIT = "one record"
"""What a record is called where nobody said what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is given of a federation, and what is open (None).

    Epsilon and delta are each client's, for each of its records (neighbours by adding or removing
    one record), over everything released on its data set. Open numbers are solved for:

    * rounds and batch: the noise that the target asks for; both are chosen if neither is given,
      by rules that the answer names;
    * with `noise_multiplier`, the most rounds (or the largest batch) in which no client needs more;
    * with noise, batch and rounds, the least epsilon.

    Attributes:
        sizes: public size of each client, by its name.
        epsilon: target of each client, > 0; None only if all else is given.
        delta: target of each client, in (0, 1).
        expected_batch_size: B; None is open.
        rounds: None is open.
        noise_multiplier: the most noise that any client may need (sigma); None is open.
        steps_per_round: private steps between two sums.
        clipping_norm: C.
        clipping: how a record's gradient comes to at most C.
        clients_per_round: how many train in a round; None is all.
        minimum: clients with a smaller public size are left out.
        min_clients: fewest contributions that a run sums.
        own: budgets and steps of single clients.
        histories: what was released before on a client's data set.
        dataset: public name of the data set.
        parameters: how many numbers a client trains and sends in a round; None if not known.
        seconds_per_example: measured seconds of one example's private gradient; None if not known.
        examples_per_record: most examples of one record that are read.
        record: what one record is, in words; None if a run is not to be written.
        training: how clients move; no number of it changes epsilon.
        method: what is trained and sent.
        encryption: how updates are summed.

    Example:
        >>> plan = Plan(sizes={"north": 1500, "south": 1500, "west": 900}, epsilon=3, delta=1e-5,
        ...             expected_batch_size=300, rounds=8)
        >>> plan.answer().noise_multipliers
        {'north': 1.2761, 'south': 1.2761, 'west': 1.7155}
    """

    sizes: Mapping[str, int]
    delta: float
    epsilon: float | None = None
    expected_batch_size: int | None = None
    rounds: int | None = None
    noise_multiplier: float | None = None
    steps_per_round: int = 1
    clipping_norm: float = 1.0
    clipping: Clipping = field(default_factory=FlatClipping)
    clients_per_round: int | None = None
    minimum: int = 1
    min_clients: int = 3
    own: Mapping[str, OwnPrivacy] = field(default_factory=dict)
    histories: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    dataset: str = "records"
    parameters: int | None = None
    seconds_per_example: float | None = None
    examples_per_record: int = 1
    record: str | None = None
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=1.0))
    method: Method = field(default_factory=FedAvg)
    encryption: Summation = field(default_factory=BFV)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: for a field that no run could have, or too much that is given.
        """
        self._check_clients()
        counts = {
            "expected_batch_size": self.expected_batch_size,
            "parameters": self.parameters,
            "clients_per_round": self.clients_per_round,
        }
        require_count(**{name: one for name, one in counts.items() if one is not None})
        require_count(
            MOST,
            steps_per_round=self.steps_per_round,
            examples_per_record=self.examples_per_record,
        )
        require_count(minimum=self.minimum, min_clients=self.min_clients)
        if self.rounds is not None:
            require_count(MOST, rounds=self.rounds)
        for name in ("noise_multiplier", "seconds_per_example"):
            if (one := getattr(self, name)) is not None:
                require_positive(**{name: one})
        self._check_target()
        self._check_open()
        self.privacy(self.expected_batch_size or 1, self.epsilon or 1.0)

    def _check_clients(self) -> None:
        require_type(Mapping, sizes=self.sizes, own=self.own, histories=self.histories)
        if not 1 <= len(self.sizes) <= MAX_CLIENTS:
            raise ConfigError(f"sizes must name 1 to {MAX_CLIENTS} clients, got {len(self.sizes)}")
        for name, size in self.sizes.items():
            require_type(str, name=name)
            if not isinstance(check_public_size(name, size), int):
                raise ConfigError(
                    f"the public size of client {name!r} is released when a run begins, and a plan "
                    "needs a number; give a guess, and leave room in the budget for the release"
                )
        for what, named in (("own", self.own), ("histories", self.histories)):
            if strange := sorted(set(named).difference(self.sizes)):
                raise ConfigError(f"{what} names {strange}, which sizes does not")

    def _check_target(self) -> None:
        epsilon, delta = self.epsilon, self.delta
        if epsilon is not None and not (is_number(epsilon) and 0 < epsilon < math.inf):
            raise ConfigError(
                f"epsilon must be a finite number above 0, got {epsilon!r}; 1 to 10 is usual"
            )
        if not is_number(delta) or not 0 < delta < 1:
            raise ConfigError(
                f"delta must be above 0 and below 1, got {delta!r}; take one well below "
                f"1 / (largest public size) = {1 / max(self.sizes.values()):.2g}"
            )

    def _check_open(self) -> None:
        given = {
            "expected_batch_size": self.expected_batch_size,
            "rounds": self.rounds,
            "noise_multiplier": self.noise_multiplier,
        }
        whole = None not in given.values()
        if self.epsilon is None and not whole:
            missing = [name for name, one in given.items() if one is None]
            raise ConfigError(
                f"without epsilon all of {', '.join(given)} must be given, and {missing} are not; "
                "give an epsilon, and leave open what follows from it"
            )
        if self.epsilon is not None and whole:
            raise ConfigError(
                "epsilon, noise_multiplier, rounds and expected_batch_size cannot all be given, "
                "since three decide the fourth; leave one of them out"
            )
        if self.epsilon is None and self.own:
            raise ConfigError("without epsilon no client may have a budget or steps of its own")

    def privacy(self, expected_batch_size: int, epsilon: float) -> PrivacyConfig:
        """The table [privacy] of a run, with this batch and epsilon."""
        return PrivacyConfig(
            budget=Budget(epsilon=epsilon, delta=self.delta),
            neighbouring=Neighbouring.ADD_REMOVE,
            record=UNIT if self.record is None else self.record,
            expected_batch_size=expected_batch_size,
            clipping_norm=self.clipping_norm,
            clipping=self.clipping,
            steps_per_round=self.steps_per_round,
        )

    def declarations(self, smallest: int) -> tuple[Declaration, ...]:
        """The clients of at least this public size, in the order of `sizes`."""
        return tuple(
            Declaration(
                id=name,
                public_size=size,
                dataset=self.dataset,
                budget=self.own.get(name, OwnPrivacy()).budget,
                steps_per_round=self.own.get(name, OwnPrivacy()).steps_per_round,
            )
            for name, size in self.sizes.items()
            if size >= max(smallest, self.minimum)
        )

    def answer(self) -> Answer:
        """The plan with nothing left open.

        Raises:
            ConfigError: if no client is left, or a method cannot play these rounds.
            accountants.BudgetExceededError: if no noise keeps a budget; it names the client.
        """
        return choosing.answer_of(self)

    def table(self) -> str:
        """The answer as text of at most 100 columns; errors as of `answer`."""
        return printing.table(self.answer())

    def curves(self) -> Curves:
        """Epsilon against rounds, and noise against batch; errors as of `answer`."""
        return curves_of(self.answer())
