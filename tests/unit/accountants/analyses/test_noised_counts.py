"""The epsilon of a released size is added to everything else, whatever was chosen from it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from accountants import (
    AdaptiveFilter,
    Budget,
    BudgetExceededError,
    DiscreteGaussian,
    Gaussian,
    Ledger,
    Neighbouring,
    NoisedCount,
    OnlineOdometer,
    PoissonGaussian,
    PureDP,
    ScheduleFilter,
    UnsupportedAnalysisError,
    ZeroConcentratedFilter,
    batch_size_within,
    certified,
    noise_multiplier,
    sample_rate_within,
    selection,
    steps_within,
    tradeoff,
    trajectory,
    what_if,
)
from accountants.__main__ import main
from accountants.analyses import renyi

ADD = Neighbouring.ADD_REMOVE
COUNT = NoisedCount(epsilon=0.3)
DP_SGD = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
examples = settings(max_examples=60, deadline=None, derandomize=True)


def gaussian_delta(sigma, epsilon):
    """Balle & Wang 2018, Theorem 8."""
    a, b = 0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma
    return norm.cdf(a) - math.exp(epsilon) * norm.cdf(b)


def hockey_stick(p, q, epsilon):
    """The larger of the two deltas of a pair of discrete distributions."""
    ratio = math.exp(epsilon)
    return max(np.maximum(p - ratio * q, 0).sum(), np.maximum(q - ratio * p, 0).sum())


def epsilon_of(p, q, delta):
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if hockey_stick(p, q, middle) > delta else (low, middle)
    return low


def counts(epsilon, shift=1, reach=400):
    """Two discrete Laplace distributions of scale 1 / epsilon that many apart, as arrays."""
    places = np.arange(-reach, reach + shift + 1)
    weight = math.tanh(epsilon / 2)
    p = weight * np.exp(-epsilon * np.abs(places - shift))
    return p, weight * np.exp(-epsilon * np.abs(places))


# epsilon


def test_the_epsilon_of_a_count_is_added_to_that_of_a_gaussian():
    """Golden: Balle & Wang 2018, sigma = 1, delta = 1e-5 gives 4.377178."""
    bounds = certified.epsilon([COUNT, Gaussian(noise_multiplier=1.0)], 1e-5, ADD)
    assert 4.677178 <= bounds.upper <= 4.677179
    assert 4.377178 <= bounds.lower <= 4.377179
    assert certified.COUNTS in bounds.method
    assert certified.CLOSED_FORM in bounds.method


@pytest.mark.parametrize(
    "rest",
    [
        [DP_SGD],
        [PureDP(epsilon=0.5, neighbouring=ADD, steps=9)],
        [DP_SGD, Gaussian(noise_multiplier=9.0)],
    ],
)
@pytest.mark.parametrize("size", [1, 3])
def test_nothing_is_gained_over_the_sum(rest, size):
    alone = certified.epsilon(rest, 1e-6, ADD, group_size=size)
    two = certified.epsilon([*rest, COUNT, NoisedCount(epsilon=0.2)], 1e-6, ADD, group_size=size)
    assert two.upper == pytest.approx(alone.upper + size * 0.5, rel=1e-12)
    assert two.upper >= alone.upper + size * 0.5
    assert two.lower == alone.lower


def test_renyi_only_events_take_the_sum_too():
    event = DiscreteGaussian(standard_deviation=40.0, sensitivity=10.0)
    alone = certified.epsilon([event], 1e-5, ADD)
    assert certified.epsilon([event, COUNT], 1e-5, ADD).upper == pytest.approx(alone.upper + 0.3)
    at = certified.delta([event, COUNT], 1.3, ADD)
    assert at.upper == pytest.approx(certified.delta([event], 1.0, ADD).upper, rel=1e-9)


@examples
@given(epsilon=st.floats(0.02, 3), delta=st.floats(1e-6, 0.4), size=st.integers(1, 3))
def test_a_count_alone_lies_between_its_bounds(epsilon, delta, size):
    p, q = counts(epsilon, size, reach=int(60 / epsilon))
    truth = epsilon_of(p, q, delta)
    bounds = certified.epsilon([NoisedCount(epsilon=epsilon)], delta, ADD, group_size=size)
    assert bounds.lower <= truth + 1e-9
    assert truth <= bounds.upper
    assert bounds.upper == pytest.approx(size * epsilon, rel=1e-12)
    if size == 1:
        assert bounds.lower == pytest.approx(truth, abs=1e-7)
        at = certified.delta([NoisedCount(epsilon=epsilon)], truth / 2, ADD)
        assert at.lower <= hockey_stick(p, q, truth / 2) <= at.upper * (1 + 1e-9)
        assert at.upper == pytest.approx(at.lower, rel=1e-9)


def test_pure_epsilons_add_up_at_delta_zero():
    events = [NoisedCount(epsilon=0.25, steps=2), PureDP(epsilon=0.5, neighbouring=ADD)]
    bounds = certified.epsilon(events, 0.0, ADD)
    assert bounds.lower <= 1.0 <= bounds.upper <= 1.0 + 1e-12
    assert certified.delta(events, bounds.upper, ADD).upper == 0
    assert certified.epsilon([*events, Gaussian(noise_multiplier=9.0)], 0.0, ADD).upper == math.inf


# Why it is added


def test_composing_by_privacy_losses_would_report_too_little():
    """Counts above 0 lead to a Gaussian release, the others to one that rarely shows everything.

    Each is (2, 1e-3)-DP, and chosen as a client might that sets noise and sampling rate from the
    count. A brute force over all outcomes finds the sum of both epsilons; composing the count with
    what followed, by either path, is below it.
    """
    count, rest, delta, rarely = 0.8, 2.0, 1e-3, 0.99e-3
    sigma = _sigma_with(rest, delta)
    p_count, q_count = counts(count)
    cuts = np.append(np.linspace(-12 * sigma, 12 * sigma, 40001), np.inf)
    q_sum = np.diff(norm.cdf(cuts / sigma), prepend=0.0)
    p_sum = np.diff(norm.cdf((cuts - 1) / sigma), prepend=0.0)
    favoured = p_count > q_count
    pairs = [
        (p_count[favoured].sum() * p_sum, q_count[favoured].sum() * q_sum),
        (
            p_count[~favoured].sum() * np.array([1 - rarely, rarely]),
            [q_count[~favoured].sum(), 0.0],
        ),
    ]
    p, q = (np.concatenate(each) for each in zip(*pairs, strict=True))
    assert p.sum() == pytest.approx(1)
    assert q.sum() == pytest.approx(1)
    truth = epsilon_of(p, q, delta)
    composed = [
        certified.epsilon([PureDP(epsilon=count, neighbouring=ADD), event], delta, ADD).upper
        for event in (
            Gaussian(noise_multiplier=sigma),
            PoissonGaussian(noise_multiplier=0.05, sample_rate=rarely, steps=1),
        )
    ]
    assert max(composed) < truth - 0.05
    bounds = certified.epsilon(
        [NoisedCount(epsilon=count), Gaussian(noise_multiplier=sigma)], delta, ADD
    )
    assert truth <= bounds.upper == pytest.approx(truth, abs=1e-2)


def _sigma_with(epsilon, delta):
    low, high = 0.1, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) > delta else (low, middle)
    return high


# delta


@examples
@given(
    count=st.floats(0.05, 2),
    sigma=st.floats(0.5, 5),
    epsilon=st.floats(0, 4),
    more=st.floats(0.01, 1),
)
def test_delta_holds_where_the_rest_is_fixed_and_where_it_follows_the_count(
    count, sigma, epsilon, more
):
    """For a fixed Gaussian the truth is the mean over both losses of the count."""
    events = [NoisedCount(epsilon=count), Gaussian(noise_multiplier=sigma)]
    bounds = certified.delta(events, epsilon, ADD)
    likely = 1 / (1 + math.exp(-count))
    fixed = likely * gaussian_delta(sigma, epsilon - count)
    fixed += (1 - likely) * gaussian_delta(sigma, epsilon + count)
    assert bounds.lower <= fixed * (1 + 1e-9) + 1e-15
    assert fixed <= bounds.upper * (1 + 1e-9) + 1e-15
    assert certified.delta(events, epsilon + more, ADD).upper <= bounds.upper * (1 + 1e-9)
    if epsilon > count:
        assert bounds.upper == pytest.approx(gaussian_delta(sigma, epsilon - count), rel=1e-6)


@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_delta_undoes_epsilon(delta):
    events = [COUNT, DP_SGD]
    bounds = certified.epsilon(events, delta, ADD)
    assert certified.delta(events, bounds.upper, ADD).upper <= delta * (1 + 1e-2)
    assert certified.delta(events, bounds.lower, ADD).upper >= delta


def test_delta_does_not_jump_where_the_epsilon_of_the_counts_is_reached():
    near = [certified.delta([COUNT, DP_SGD], 0.3 + step, ADD).upper for step in (-1e-9, 0.0, 1e-9)]
    assert near == sorted(near, reverse=True)
    assert near[0] == pytest.approx(near[2], rel=1e-6)


# What must not be asked


@pytest.mark.parametrize("relation", [Neighbouring.REPLACE_ONE, Neighbouring.ZERO_OUT])
@pytest.mark.parametrize("ask", [certified.epsilon, certified.delta])
def test_other_relations_are_refused_by_name(ask, relation):
    with pytest.raises(UnsupportedAnalysisError, match=f"NoisedCount .*under {relation.value}"):
        ask([Gaussian(noise_multiplier=2.0), COUNT], 0.5, relation)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: renyi.rdp([DP_SGD, COUNT], ADD),
        lambda: renyi.epsilon([COUNT], 1e-5, ADD),
        lambda: OnlineOdometer(2, 1e-5, ADD).add([0], COUNT),
        lambda: selection.epsilon_of_selection(
            selection.RepeatAndSelect(
                events=[COUNT], mean_tries=3, tries=selection.Tries.GEOMETRIC
            ),
            1e-5,
            ADD,
        ),
        lambda: AdaptiveFilter(
            budget=Budget(epsilon=3.0, delta=1e-5), order=10.0, neighbouring=ADD
        ).admit([COUNT], [Gaussian(noise_multiplier=9.0)]),
        lambda: ZeroConcentratedFilter(
            budget=Budget(epsilon=3.0, delta=1e-5), neighbouring=ADD
        ).admit([COUNT], [Gaussian(noise_multiplier=9.0)]),
    ],
)
def test_sums_of_divergences_refuse_a_count_and_say_who_takes_it(ask):
    with pytest.raises(UnsupportedAnalysisError, match=r"NoisedCount\(epsilon=0.3.*is added"):
        ask()


# What is left of a budget


BUDGET = Budget(epsilon=2.0, delta=1e-5)
LESS = Budget(epsilon=1.7, delta=1e-5)


def test_noise_is_calibrated_to_what_a_count_leaves():
    after = noise_multiplier(BUDGET, 0.01, 1000, [COUNT], neighbouring=ADD)
    assert after == pytest.approx(noise_multiplier(LESS, 0.01, 1000, neighbouring=ADD), rel=1e-3)
    plan = PoissonGaussian(noise_multiplier=after, sample_rate=0.01, steps=1000)
    assert 1.99 <= certified.epsilon([COUNT, plan], 1e-5, ADD).upper <= 2.0
    alone = certified.epsilon([plan], 1e-5, ADD)
    assert alone.upper <= 1.7 * (1 + 1e-9)


def test_steps_rates_and_batches_are_searched_beside_a_count():
    steps = steps_within(BUDGET, 1.0, 0.01, [COUNT], neighbouring=ADD)
    assert abs(steps - steps_within(LESS, 1.0, 0.01, neighbouring=ADD)) <= 1
    rate = sample_rate_within(BUDGET, 1.0, 1000, [COUNT], neighbouring=ADD)
    wanted = sample_rate_within(LESS, 1.0, 1000, neighbouring=ADD)
    assert rate == pytest.approx(wanted, rel=2e-3)
    batch = batch_size_within(BUDGET, 1.0, 1000, 5000, [COUNT], neighbouring=ADD)
    assert batch == int(5000 * rate)


def test_a_count_that_takes_the_whole_budget_is_said_so():
    with pytest.raises(BudgetExceededError) as caught:
        noise_multiplier(BUDGET, 0.01, 1000, [NoisedCount(epsilon=2.0)], neighbouring=ADD)
    assert caught.value.epsilon == pytest.approx(2.0)
    assert steps_within(BUDGET, 1.0, 0.01, [NoisedCount(epsilon=2.0)], neighbouring=ADD) == 0


def test_a_calibrated_schedule_is_admitted_beside_a_count_to_its_last_round():
    sigma = noise_multiplier(BUDGET, 0.02, 300, [COUNT], neighbouring=ADD)
    step = PoissonGaussian(noise_multiplier=sigma, sample_rate=0.02, steps=100)
    planned = PoissonGaussian(noise_multiplier=sigma, sample_rate=0.02, steps=300)
    admission = ScheduleFilter(budget=BUDGET, schedule=[planned], neighbouring=ADD)
    history = [COUNT]
    for _ in range(3):
        after = admission.admit(history, [step])
        history.append(step)
    assert 1.99 <= after <= 2.0
    with pytest.raises(BudgetExceededError):
        admission.admit(history, [step])
    assert admission.claim([COUNT], [step]) == pytest.approx(after, rel=1e-12)


def test_scenarios_and_trajectories_start_from_the_count():
    (one,) = what_if(
        1e-5,
        noise_multipliers=[1.0],
        sample_rates=[0.01],
        steps=[1000],
        history=[COUNT],
        neighbouring=ADD,
    )
    assert one.bounds == certified.epsilon([COUNT, DP_SGD], 1e-5, ADD)
    found = trajectory([[COUNT], [COUNT, DP_SGD]], 1e-5, ADD)
    assert found == [pytest.approx(0.3), one.bounds.upper]


# What an attacker may reach, ledgers, command line


def test_no_attack_does_better_than_the_curve_with_a_count():
    """The best attack on a fixed Gaussian and a count, by brute force over its outcomes."""
    sigma, count = 1.5, 0.6
    rates = [1e-3, 1e-2, 1e-1]
    found = tradeoff.curve(
        [NoisedCount(epsilon=count), Gaussian(noise_multiplier=sigma)], rates, ADD
    )
    # (N(1, sigma^2), loss +-count) against (N(0, sigma^2), the reverse): Neyman and Pearson.
    likely = 1 / (1 + math.exp(-count))
    for rate, most in zip(rates, found.true_positive_rates, strict=True):
        best = 0.0
        for log_ratio in np.linspace(-3, 12, 1501):
            places = [0.5 + sigma**2 * (log_ratio - loss) for loss in (count, -count)]
            false = (1 - likely) * norm.sf(places[0] / sigma) + likely * norm.sf(places[1] / sigma)
            if false <= rate:
                true = likely * norm.sf((places[0] - 1) / sigma)
                best = max(best, true + (1 - likely) * norm.sf((places[1] - 1) / sigma))
        assert best <= most
        assert most <= 2.5 * best


def test_a_ledger_keeps_a_count(tmp_path):
    whose = {"client": "a", "dataset": "notes", "unit": "one note", "neighbouring": ADD}
    ledger = Ledger.create(tmp_path / "ledger", **whose)
    reservation = ledger.reserve("size", 0, [COUNT], lambda *_: None)
    ledger.commit(reservation.id, [COUNT], b"1187")
    assert ledger.events() == (COUNT,)


def test_the_command_line_adds_counts(capsys, tmp_path):
    terms = ["--neighbouring", "add_remove", "--delta", "1e-5", "--json"]
    schedule = ["--noise-multiplier", "1.0", "--sample-rate", "0.01", "--steps", "1000"]
    assert main(["epsilon", *schedule, "--noised-count", "0.3", *terms]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["epsilon"] == certified.epsilon([COUNT, DP_SGD], 1e-5, ADD).upper
    file = tmp_path / "events.json"
    file.write_text(json.dumps(shown["events"]))
    assert main(["epsilon", "--events", str(file), *terms]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == shown["epsilon"]
    plan = ["--epsilon", "2", "--sample-rate", "0.01", "--steps", "1000"]
    assert main(["calibrate", *plan, "--noised-count", "0.3", *terms]) == 0
    calibrated = json.loads(capsys.readouterr().out)
    assert calibrated["noise_multiplier"] == noise_multiplier(
        BUDGET, 0.01, 1000, [COUNT], neighbouring=ADD
    )
    assert calibrated["events"][0] == {"type": "noised_count", "epsilon": 0.3, "steps": 1}
    with pytest.raises(SystemExit):
        main(["epsilon", "--ledger", "file", "--noised-count", "0.3", *terms])
