"""Records of what was released: the only input of every accountant here.

`PoissonGaussian` is DP-SGD (Abadi et al. 2016, arXiv:1607.00133, Algorithm 1). In each of `steps`
(T) steps every record joins the batch independently with probability `sample_rate` (q), each
contribution is clipped to L2 norm C, and the sum is released with Gaussian noise of standard
deviation sigma * C, where sigma is `noise_multiplier`:

    M(D) = sum_{i in batch} clip(g_i, C) + N(0, sigma^2 C^2 I),   P[i in batch] = q.

The coins of the batch stay secret, an empty batch is a step, and later steps may depend on the
results of earlier ones. A batch that was shuffled, or has a fixed size, is another mechanism and
must not be recorded as this one. `sample_rate = 1` is the plain Gaussian mechanism.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from accountants import checks
from accountants.errors import InvalidValueError, UnsupportedAnalysisError

_TYPE = "poisson_gaussian"
_FIELDS = ("noise_multiplier", "sample_rate", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonGaussian:
    """`steps` releases of a Poisson-sampled, clipped sum with Gaussian noise.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm (sigma); unitless,
            >= 0, where 0 protects nothing.
        sample_rate: chance that a record joins a step (q), in (0, 1].
        steps: number of steps (T), >= 1.

    Raises:
        InvalidValueError: for a value out of range, NaN and infinity included.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        sigma = checks.non_negative(noise_multiplier=self.noise_multiplier)
        object.__setattr__(self, "noise_multiplier", sigma + 0.0)  # -0.0 becomes 0.0
        object.__setattr__(self, "sample_rate", checks.rate(sample_rate=self.sample_rate))
        object.__setattr__(self, "steps", checks.count(steps=self.steps))

    def to_json(self) -> dict[str, object]:
        """The event as a JSON object; floats keep all their digits."""
        return {"type": _TYPE} | {name: getattr(self, name) for name in _FIELDS}


def event_from_json(value: object) -> PoissonGaussian:
    """Read what `to_json` wrote.

    Raises:
        UnsupportedAnalysisError: for a type of event that this version does not know.
        InvalidValueError: for a missing, extra or invalid field.
    """
    if not isinstance(value, Mapping) or "type" not in value:
        raise InvalidValueError(f"an event must be a JSON object with a 'type', got {value!r}")
    if value["type"] != _TYPE:
        raise UnsupportedAnalysisError(
            f"an event must be of type {_TYPE!r}, got {value['type']!r}; "
            "use the version of the package that wrote it"
        )
    if set(value) != {"type", *_FIELDS}:
        raise InvalidValueError(f"an event must have the fields {_FIELDS}, got {sorted(value)}")
    return PoissonGaussian(**{name: value[name] for name in _FIELDS})


def canonical(events: Iterable[PoissonGaussian]) -> tuple[PoissonGaussian, ...]:
    """The same releases in one normal form: equal (sigma, q) merged, sorted by (sigma, q).

    Composition commutes, so histories with the same normal form cost the same epsilon.
    """
    total: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sample_rate)
        total[key] = total.get(key, 0) + event.steps
    return tuple(
        PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)
        for (sigma, q), steps in sorted(total.items())
    )


def is_within(ran: Iterable[PoissonGaussian], planned: Iterable[PoissonGaussian]) -> bool:
    """Whether `ran` has, at every (sigma, q), no more steps than `planned`."""
    limit = {(e.noise_multiplier, e.sample_rate): e.steps for e in canonical(planned)}
    return all(e.steps <= limit.get((e.noise_multiplier, e.sample_rate), 0) for e in canonical(ran))
