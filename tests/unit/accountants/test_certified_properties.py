"""What every certified bound must satisfy, whatever the events are."""

import math

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from accountants import Neighbouring, certified
from accountants.events import (
    BandedMatrixFactorization,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    TreeAggregation,
)

ADD, REPLACE, ZERO = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE, Neighbouring.ZERO_OUT

several = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
some = settings(several, max_examples=12)

noise = st.floats(0.5, 20)
rates = st.floats(-3, 0).map(lambda power: 10.0**power)
counts = st.integers(1, 300)
deltas = st.floats(-20, -1).map(lambda power: 10.0**power)
factors = st.floats(1.05, 3)


def poisson(noise_multiplier, sample_rate, steps=1):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)


sampled = st.builds(poisson, noise, rates, counts)
plain = st.builds(Gaussian, noise_multiplier=noise, steps=counts)
bounded = st.builds(Laplace, noise_multiplier=st.floats(0.5, 30), steps=st.integers(1, 20))
pure = st.builds(
    PureDP, epsilon=st.floats(0.01, 2), neighbouring=st.just(ADD), steps=st.integers(1, 20)
)
fixed = st.builds(
    FixedSizeGaussian,
    noise_multiplier=st.floats(1, 20),
    batch_size=st.integers(1, 10),
    dataset_size=st.integers(10, 1000),
    steps=counts,
)
trees = st.builds(TreeAggregation, noise_multiplier=st.floats(2, 20), leaves=st.integers(1, 100))
banded = st.builds(
    BandedMatrixFactorization,
    noise_multiplier=st.floats(2, 20),
    bands=st.integers(1, 9),
    participations=st.integers(1, 9),
)
sizes = st.builds(NoisedCount, epsilon=st.floats(0.01, 2), steps=st.integers(1, 3))
added = st.lists(sampled | plain | bounded | pure | sizes, min_size=1, max_size=3)
replaced = st.lists(
    sampled | plain | bounded | pure | fixed | trees | banded, min_size=1, max_size=3
)
histories = st.tuples(added, st.just(ADD)) | st.tuples(replaced, st.just(REPLACE))


@several
@given(history=histories, delta=deltas)
def test_lower_is_at_most_upper_and_both_are_numbers(history, delta):
    events, relation = history
    bounds = certified.epsilon(events, delta, relation)
    assert 0 <= bounds.lower <= bounds.upper < math.inf


@several
@given(history=histories, delta=deltas, order=st.randoms(use_true_random=False))
def test_order_and_splitting_do_not_matter(history, delta, order):
    events, relation = history
    parts = [type(e)(**{**fields(e), "steps": 1}) for e in events]
    rest = [type(e)(**{**fields(e), "steps": e.steps - 1}) for e in events if e.steps > 1]
    shuffled = parts + rest
    order.shuffle(shuffled)
    assert certified.epsilon(shuffled, delta, relation) == certified.epsilon(
        events, delta, relation
    )


def fields(event):
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


@several
@given(history=histories, delta=deltas)
def test_the_whole_costs_at_least_each_part(history, delta):
    events, relation = history
    whole = certified.epsilon(events, delta, relation)
    for event in events:
        assert certified.epsilon([event], delta, relation).lower <= whole.upper * (1 + 1e-12)


@some
@given(history=histories, delta=deltas)
def test_answers_of_every_gap_agree(history, delta):
    events, relation = history
    found = [
        certified.epsilon(events, delta, relation, relative_gap=width)
        for width in (1e-1, 1e-2, 1e-3)
    ]
    assert max(each.lower for each in found) <= min(each.upper for each in found)


@several
@given(sigma=noise, q=rates, steps=counts, delta=deltas, factor=factors)
@example(sigma=0.5, q=1.0, steps=10, delta=1e-5, factor=1.05)
def test_more_noise_costs_less(sigma, q, steps, delta, factor):
    for relation in (ADD, REPLACE):
        harder = certified.epsilon([poisson(sigma, q, steps)], delta, relation)
        easier = certified.epsilon([poisson(sigma * factor, q, steps)], delta, relation)
        assert easier.lower <= harder.upper


@several
@given(sigma=noise, q=rates, steps=counts, delta=deltas, factor=factors)
def test_rarer_sampling_costs_less(sigma, q, steps, delta, factor):
    for relation in (ADD, REPLACE):
        harder = certified.epsilon([poisson(sigma, q, steps)], delta, relation)
        easier = certified.epsilon([poisson(sigma, q / factor, steps)], delta, relation)
        assert easier.lower <= harder.upper


@several
@given(event=sampled | bounded, delta=deltas, more=st.integers(1, 50))
def test_more_steps_cost_more(event, delta, more):
    longer = type(event)(**{**fields(event), "steps": event.steps + more})
    assert (
        certified.epsilon([event], delta, ADD).lower
        <= certified.epsilon([longer], delta, ADD).upper
    )


@several
@given(history=histories, delta=deltas, factor=st.floats(1.1, 1000))
def test_a_larger_delta_costs_less(history, delta, factor):
    events, relation = history
    assume(delta * factor < 1)
    harder = certified.epsilon(events, delta, relation)
    easier = certified.epsilon(events, delta * factor, relation)
    assert easier.lower <= harder.upper


@some
@given(sigma=st.floats(1, 20), q=rates, steps=counts, delta=deltas, size=st.integers(1, 4))
def test_larger_units_cost_more(sigma, q, steps, delta, size):
    events = [poisson(sigma, q, steps)]
    one = certified.epsilon(events, delta, ADD, group_size=size)
    more = certified.epsilon(events, delta, ADD, group_size=size + 1)
    assert one.lower <= more.upper


@some
@given(sigma=st.floats(1, 20), q=rates, steps=counts, delta=deltas)
def test_replacing_costs_at_least_as_much_as_adding(sigma, q, steps, delta):
    events = [poisson(sigma, q, steps)]
    adding = certified.epsilon(events, delta, ADD)
    assert adding.lower <= certified.epsilon(events, delta, REPLACE).upper
    assert certified.epsilon(events, delta, ZERO) == adding


@some
@given(sigma=noise, q=rates, steps=counts, delta=deltas)
def test_sampling_costs_no_more_than_taking_all(sigma, q, steps, delta):
    plain_bounds = certified.epsilon([Gaussian(noise_multiplier=sigma, steps=steps)], delta, ADD)
    for q_now in (q, min(q, 0.999)):
        bounds = certified.epsilon([poisson(sigma, q_now, steps)], delta, ADD)
        assert bounds.upper <= plain_bounds.upper * (1 + 1e-12)


@several
@given(history=histories, delta=st.floats(-12, -1).map(lambda power: 10.0**power))
def test_delta_undoes_epsilon(history, delta):
    """At the upper epsilon the true delta is at most delta; at the lower one at least that."""
    events, relation = history
    bounds = certified.epsilon(events, delta, relation)
    at_upper = certified.delta(events, bounds.upper, relation)
    assert 0 <= at_upper.lower <= at_upper.upper <= 1
    assert at_upper.lower <= delta
    if bounds.lower > 0:
        at_lower = certified.delta(events, bounds.lower, relation)
        assert at_lower.upper >= delta


@some
@given(history=histories, epsilon=st.floats(0, 10), more=st.floats(0.01, 5))
def test_delta_falls_with_epsilon(history, epsilon, more):
    events, relation = history
    near = certified.delta(events, epsilon, relation)
    far = certified.delta(events, epsilon + more, relation)
    assert far.lower <= near.upper


@some
@given(event=sampled, gap=st.sampled_from([1e-2, 1e-3]), power=st.floats(-8, -3))
def test_the_gap_asked_for_is_kept_in_common_cases(event, gap, power):
    assume(event.sample_rate >= 0.003)
    assume(event.steps >= 20)
    bounds = certified.epsilon([event], 10.0**power, ADD, relative_gap=gap)
    assert bounds.upper - bounds.lower <= gap * bounds.upper * (1 + 1e-9)
