"""A whole client as the unit: noise that many clients add in shares, and what is left of it.

Each of n clients clips its update to norm C and adds a share of noise; only the sum is seen. What
hides one client's update is the noise in that sum that the observer does not know: of n clients, d
drop out and c tell the observer their shares, which leaves those of n - d - c (Dwork et al. 2006,
Our Data, Ourselves; Agarwal, Kairouz & Liu 2021, arXiv:2110.04995). Shares are therefore designed
for the most drop-outs and colluders that are to be withstood, not for all clients.

This is another guarantee than the local, record-level one of `federation.py`: it assumes things of
other clients, and fails for whoever sees single updates. The two are never mixed in one ledger or
reported as one number.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from accountants import checks
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import DiscreteGaussian, Gaussian, PoissonGaussian, Skellam
from accountants.guarantees import Neighbouring, Unit, neighbouring_of

Share = Gaussian | PoissonGaussian | Skellam
"""Noise of which a sum of independent shares is noise of the same kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseShares:
    """Noise that is added in equal shares by clients of which some drop out or collude.

    Attributes:
        share: the release that one client's message would be if it were seen alone, with that
            client's share of the noise; its `steps` are rounds. `PoissonGaussian` is for clients
            that each toss a secret coin whether to contribute, and send zeros and their noise
            if not.
        clients: how many send in every round (n), >= 1.
        dropouts: how many of them at most fail to send (d), >= 0.
        colluders: how many of them at most tell the observer their noise (c), >= 0.

    Raises:
        InvalidValueError: for a value out of range, or if nobody's noise is left.
        UnsupportedAnalysisError: for noise of which no sum is known here, such as discrete
            Gaussian noise.

    What happened, beside what was designed for, is `dataclasses.replace(shares, dropouts=1)`.

    >>> shares = NoiseShares(
    ...     share=Gaussian(noise_multiplier=2.0, steps=100), clients=7, dropouts=2, colluders=1
    ... )
    >>> shares.protecting(Neighbouring.ZERO_OUT)
    Gaussian(noise_multiplier=4.0, steps=100)
    """

    share: Share
    clients: int
    dropouts: int
    colluders: int

    unit: ClassVar[Unit] = Unit.CLIENT

    def __post_init__(self) -> None:
        _refuse_unless_it_sums(self.share)
        object.__setattr__(self, "clients", checks.count(clients=self.clients))
        object.__setattr__(self, "dropouts", checks.index(dropouts=self.dropouts))
        object.__setattr__(self, "colluders", checks.index(colluders=self.colluders))
        if self.remaining < 1:
            raise InvalidValueError(
                f"clients must outnumber dropouts and colluders, got {self.clients} clients, "
                f"{self.dropouts} dropouts and {self.colluders} colluders: no noise would be left"
            )

    @classmethod
    def for_total(
        cls, total: Share, *, clients: int, dropouts: int, colluders: int
    ) -> "NoiseShares":
        """The smallest shares that still sum to `total` in the worst case.

        Args:
            total: what should protect a client when `dropouts` dropped out and `colluders` told.
            clients: as in the class.
            dropouts: as in the class.
            colluders: as in the class.

        Raises:
            InvalidValueError: as the class.
            UnsupportedAnalysisError: as the class.

        >>> total = Gaussian(noise_multiplier=4.0)
        >>> NoiseShares.for_total(total, clients=7, dropouts=2, colluders=1).share
        Gaussian(noise_multiplier=2.0, steps=1)
        """
        whole = cls(share=total, clients=clients, dropouts=dropouts, colluders=colluders)
        return replace(whole, share=_part(total, whole.remaining))

    @property
    def remaining(self) -> int:
        """Clients whose noise is in the sum and unknown to the observer (n - d - c)."""
        return self.clients - self.dropouts - self.colluders

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What must hold, for a report."""
        sampled = isinstance(self.share, PoissonGaussian) and self.share.sample_rate < 1
        return (
            "Only the sum over the clients is seen; a single update is protected by the share of "
            "its own client alone.",
            f"Of {self.clients} clients at most {self.dropouts} drop out of a round, for causes "
            "that do not depend on their data.",
            f"At most {self.colluders} clients tell the observer their updates or their noise.",
            "All others draw their shares independently and in secret, and do add them; neither "
            "the server nor other clients can check that (honest but curious).",
            "A client that is taken out still takes part, with zeros and its noise.",
            *((_SECRET_COINS,) if sampled else ()),
        )

    def protecting(self, neighbouring: Neighbouring) -> Share:
        """The release of the sum: what hides one client from the observer.

        Args:
            neighbouring: ZERO_OUT, or REPLACE_ONE, where a client moves the sum by 2C. With
                ADD_REMOVE a client would take its share of the noise with it, and the change
                of the variance would give it away: refused.

        Returns:
            The event, its noise rounded down.

        Raises:
            UnsupportedAnalysisError: for ADD_REMOVE.
            InvalidValueError: if the noise leaves the range of floating point.
        """
        if neighbouring_of(neighbouring) is Neighbouring.ADD_REMOVE:
            raise UnsupportedAnalysisError(
                "NoiseShares has no sound analysis under add_remove: without a client its share "
                "of the noise would be missing too; use zero_out or replace_one"
            )
        return _sum(self.share, self.remaining)


_ABOVE = 1 + 2**-50
"""More than the rounding of a root and a product; exact arithmetic finds the last digits."""

_SECRET_COINS = (
    "Every client sends in every round, and whether it contributed an update or zeros is known to "
    "nobody else."
)


def _refuse_unless_it_sums(share: object) -> None:
    if isinstance(share, DiscreteGaussian):
        raise UnsupportedAnalysisError(
            "NoiseShares needs noise whose sums are of the same kind, got DiscreteGaussian: a sum "
            "of discrete Gaussians is no discrete Gaussian; use Skellam shares"
        )
    if not isinstance(share, Share):
        raise UnsupportedAnalysisError(
            "NoiseShares needs noise whose sums are of the same kind, got "
            f"{type(share).__name__}; use Gaussian, PoissonGaussian or Skellam shares"
        )


def _sum(share: Share, clients: int) -> Share:
    """The event with the noise of so many independent shares: their variances add up."""
    if isinstance(share, Skellam):
        return replace(share, variance=_added(share.variance, clients, power=1))
    return replace(share, noise_multiplier=_added(share.noise_multiplier, clients, power=2))


def _part(total: Share, clients: int) -> Share:
    """The smallest share of which so many have at least the noise of `total`."""
    if isinstance(total, Skellam):
        return replace(total, variance=_divided(total.variance, clients, power=1))
    return replace(total, noise_multiplier=_divided(total.noise_multiplier, clients, power=2))


def _added(noise: float, clients: int, *, power: int) -> float:
    """The largest float x with x^power <= clients * noise^power."""
    limit = clients * Fraction(noise) ** power
    rough = noise * math.pow(clients, 1 / power) * _ABOVE
    found = math.nextafter(checks.non_negative(noise_of_the_sum=rough), math.inf)
    while Fraction(found) ** power > limit:
        found = math.nextafter(found, 0.0)
    return found


def _divided(noise: float, clients: int, *, power: int) -> float:
    """The smallest float x with clients * x^power >= noise^power."""
    limit = Fraction(noise) ** power
    found = noise / math.pow(clients, 1 / power) / _ABOVE
    while clients * Fraction(found) ** power < limit:
        found = math.nextafter(found, math.inf)
    return found
