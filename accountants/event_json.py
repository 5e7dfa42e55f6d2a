"""Events as JSON objects, as ledgers hold them for years: no default fills a field in."""

from collections.abc import Mapping
from dataclasses import fields

from accountants import checks
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    Event,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    RandomAllocationGaussian,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.guarantees import Neighbouring

_TYPES: dict[str, type[Event]] = {
    "gaussian": Gaussian,
    "poisson_gaussian": PoissonGaussian,
    "fixed_size_gaussian": FixedSizeGaussian,
    "random_allocation_gaussian": RandomAllocationGaussian,
    "discrete_gaussian": DiscreteGaussian,
    "skellam": Skellam,
    "laplace": Laplace,
    "pure_dp": PureDP,
    "zero_concentrated": ZeroConcentrated,
    "tree_aggregation": TreeAggregation,
    "banded_matrix_factorization": BandedMatrixFactorization,
    "noised_count": NoisedCount,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def event_to_json(event: Event) -> dict[str, object]:
    """The event as a JSON object; floats keep all their digits."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    plain = {k: v.value if isinstance(v, Neighbouring) else v for k, v in values.items()}
    return {"type": _NAMES[type(event)], **plain}


def event_from_json(value: object) -> Event:
    """Read what `event_to_json` wrote.

    Raises:
        UnsupportedAnalysisError: for a type of event that this version does not know.
        InvalidValueError: for a missing, extra or invalid field.
    """
    if not isinstance(value, Mapping) or "type" not in value:
        raise InvalidValueError(
            f"an event must be a JSON object with a 'type', got {checks.shown(value)}"
        )
    kind = _TYPES.get(value["type"]) if isinstance(value["type"], str) else None
    if kind is None:
        raise UnsupportedAnalysisError(
            f"an event must be of a type in {sorted(_TYPES)}, got {checks.shown(value['type'])}; "
            "use the version of the package that wrote it"
        )
    names = [field.name for field in fields(kind)]
    if set(value) != {"type", *names}:
        raise InvalidValueError(
            f"a {value['type']!r} event must have the fields {names}, got "
            f"{checks.shown([key for key in value if key != 'type'])}"
        )
    return kind(**{name: value[name] for name in names})
