"""A plan with nothing left open: who takes part, in how many rounds, with what noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accountants import Event, certified
from privfed.agreement import Declaration, budget_of, sample_rate_of, steps_of
from privfed.methods.method import Method
from privfed.planning.calibration import calibrate, releases_of_run
from privfed.settings.encryption import Summation
from privfed.settings.privacy import PrivacyConfig
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What `Plan.answer` found. A run of these settings calibrates these very numbers.

    Attributes:
        clients: who takes part, with their public sizes.
        left_out: public sizes of those who cannot, or are not to.
        privacy: of all, with the expected batch.
        rounds: of the run.
        rounds_of: in how many each client trains; where clients are drawn for each round, the
            most that the draw can give.
        noise_multipliers: sigma of each client.
        histories: what was released before on the same data, of each client.
        method: what is trained and sent.
        training: how clients move.
        encryption: how updates are summed.
        clients_per_round: how many train in a round; None is all.
        parameters: how many numbers a client trains and sends in a round; None if not stated.
        seconds_per_example: as measured by whoever asks; None if not stated.
        examples_per_record: most examples of one record that are read.
        min_clients: fewest contributions that a run sums.
        why: for each number that the plan chose itself, by which rule.
    """

    clients: tuple[Declaration, ...]
    left_out: Mapping[str, int]
    privacy: PrivacyConfig
    rounds: int
    rounds_of: Mapping[str, int]
    noise_multipliers: Mapping[str, float]
    histories: Mapping[str, Sequence[Event]]
    method: Method
    training: TrainingConfig
    encryption: Summation
    clients_per_round: int | None
    parameters: int | None
    seconds_per_example: float | None
    examples_per_record: int
    min_clients: int
    why: Mapping[str, str]

    @property
    def expected_batch_size(self) -> int:
        """B."""
        return self.privacy.expected_batch_size

    @property
    def per_round(self) -> int:
        """How many clients train in a round."""
        return min(self.clients_per_round or len(self.clients), len(self.clients))

    @property
    def noisiest(self) -> Declaration:
        """The client with the largest noise multiplier; the first of them."""
        return max(self.clients, key=lambda client: self.noise_multipliers[client.id])

    def steps(self) -> dict[str, int]:
        """Private steps of each client in a round."""
        return {client.id: steps_of(client, self.privacy) for client in self.clients}

    def sample_rates(self) -> dict[str, float]:
        """Q of each client, in (0, 1]."""
        return {client.id: sample_rate_of(client, self.privacy) for client in self.clients}

    def epsilons(self) -> dict[str, float]:
        """Certified upper bound on what each client will have spent, history included."""
        return {
            client.id: self.epsilon_after(client, self.rounds_of[client.id])
            for client in self.clients
        }

    def epsilon_after(self, client: Declaration, rounds: int) -> float:
        """Certified upper bound on a client's epsilon after so many rounds in which it trains."""
        noise, events = self.noise_multipliers[client.id], tuple(self.histories[client.id])
        if rounds:
            events += tuple(releases_of_run(client, self.method, self.privacy, rounds, noise))
        delta = budget_of(client, self.privacy).delta
        return certified.epsilon(events, delta, self.privacy.neighbouring).upper

    def noise_with(self, *, rounds: int) -> float:
        """Noise multiplier of the noisiest client for another number of rounds, at the same batch.

        Raises:
            accountants.BudgetExceededError: if that does not fit a budget.
        """
        client = self.noisiest
        times = {client.id: most_rounds(rounds, self.per_round, self.clients)}
        found = calibrated((client,), self.histories, self.method, self.privacy, times)
        return found[client.id]


def most_rounds(rounds: int, per_round: int, clients: Sequence[Declaration]) -> int:
    """In how many rounds a client trains at most: draws are even, to one round."""
    return -(-rounds * per_round // len(clients))


def calibrated(
    clients: Sequence[Declaration],
    histories: Mapping[str, Sequence[Event]],
    method: Method,
    privacy: PrivacyConfig,
    rounds_of: Mapping[str, int],
) -> dict[str, float]:
    """`calibrate`, once for clients that differ in name alone; arguments and errors are its own."""
    first: dict[tuple[object, ...], str] = {}
    like: dict[str, str] = {}
    for client in clients:
        history = tuple(histories[client.id])
        decides = (client.size, budget_of(client, privacy), steps_of(client, privacy), history)
        like[client.id] = first.setdefault((*decides, rounds_of[client.id]), client.id)
    different = [client for client in clients if like[client.id] == client.id]
    found = calibrate(different, histories, method, privacy, rounds_of)
    return {client.id: found[like[client.id]] for client in clients}
