"""Which clients train in a round, where not all do: drawn in public, and known before the run.

Everybody works it out from what all were given, so a client knows how often it will be drawn before
it calibrates its noise, and trains in no other round. Nobody claims that the draw hides anything:
epsilon is that of every round in which a client trained.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from privfed.canonical import canonical_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """The draw of a run.

    Each round takes those who were drawn least so far, in an order that a hash gives: after any
    round, two clients were drawn equally often, or one of them once more.

    Attributes:
        names: of all that are asked to take part.
        per_round: how many train in a round; None is all.
        rounds: planned.
        seed: public: the digest of what all were given.
    """

    names: tuple[str, ...]
    per_round: int | None
    rounds: int
    seed: str

    @property
    def takes_all(self) -> bool:
        """Whether every client trains in every round."""
        return self.per_round is None or self.per_round >= len(self.names)

    def of(self, round_number: int) -> frozenset[str]:
        """Who trains in a round, counted from 1; after the last planned one, everybody would."""
        if self.takes_all or round_number > self.rounds:
            return frozenset(self.names)
        return self._drawn()[round_number - 1]

    def rounds_of(self, client: str) -> int:
        """In how many of the planned rounds a client trains."""
        if self.takes_all:
            return self.rounds
        return sum(client in drawn for drawn in self._drawn())

    def _drawn(self) -> Sequence[frozenset[str]]:
        return _draw(self.names, self.per_round, self.rounds, self.seed)


@lru_cache(maxsize=4)
def _draw(
    names: tuple[str, ...], per_round: int | None, rounds: int, seed: str
) -> Sequence[frozenset[str]]:
    times, drawn = dict.fromkeys(names, 0), []
    for number in range(1, rounds + 1):
        order = {name: _position(seed, number, name) for name in names}
        chosen = sorted(names, key=lambda name: (times[name], order[name]))
        drawn.append(frozenset(chosen[:per_round]))
        for name in drawn[-1]:
            times[name] += 1
    return drawn


def _position(seed: str, number: int, name: str) -> bytes:
    return hashlib.sha256(canonical_json([seed, number, name])).digest()
