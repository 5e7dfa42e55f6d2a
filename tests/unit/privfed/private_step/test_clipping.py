import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import ConfigError
from privfed.private_step.clipping import (
    MARGIN,
    AdaptiveBound,
    clip_factors,
    gradient_noise_multiplier,
    scaled_sums,
    squared_norms,
)
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)

QUANTILE = QuantileClipping(count_noise=5.0, quantile=0.5, learning_rate=0.2)
RULES = [FlatClipping(), PerLayerClipping(), AutomaticClipping(), QUANTILE]


def clipped(rule, samples, layers, bound):
    """Every record's scaled gradients on their own, shape (records, params)."""
    factors = clip_factors(rule, squared_norms(samples), layers, bound)
    rows = []
    for record in range(len(samples[0])):
        parts = [
            scaled_sums(sample[record : record + 1], factor[None, record : record + 1]).flatten()
            for sample, factor in zip(samples, factors, strict=True)
        ]
        rows.append(torch.cat(parts))
    return torch.stack(rows).double()


def test_norms_by_hand():
    samples = [torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[[2.0]], [[1.0]]])]
    squared = squared_norms(samples)
    assert squared.dtype == torch.float64
    assert squared.tolist() == [[25.0, 1.0], [4.0, 1.0]]


def test_norms_of_no_records():
    assert squared_norms([torch.zeros(0, 3), torch.zeros(0, 2, 2)]).shape == (2, 0)


def test_norms_of_scalars_parameters():
    assert squared_norms([torch.tensor([2.0, -3.0])]).tolist() == [[4.0, 9.0]]


def test_norms_do_not_overflow_or_vanish():
    """Squares of these leave float32."""
    squared = squared_norms([torch.tensor([[1e30], [1e-30]])])
    assert squared[0].sqrt().tolist() == pytest.approx([1e30, 1e-30], rel=1e-6)


def test_flat_factors_by_hand():
    squared = torch.tensor([[9.0, 0.09, 0.0], [16.0, 0.16, 0.0]], dtype=torch.float64)
    factors = clip_factors(FlatClipping(), squared, [0, 1], 1.0)
    assert factors.tolist() == [[pytest.approx(0.2 * (1 - MARGIN)), 1.0, 1.0]] * 2


def test_layers_by_hand():
    """Two layers, the first of two parameters: 1 / sqrt 2 for each."""
    squared = torch.tensor([[9.0], [16.0], [0.01]], dtype=torch.float64)
    factors = clip_factors(PerLayerClipping(), squared, [0, 0, 1], 1.0)
    expected = (1 - MARGIN) / math.sqrt(2) / 5
    assert factors[:, 0].tolist() == pytest.approx([expected, expected, 1.0])


def test_automatic_factors_by_hand():
    squared = torch.tensor([[9.0, 0.0], [16.0, 0.0]], dtype=torch.float64)
    factors = clip_factors(AutomaticClipping(stability=0.5), squared, [0, 1], 2.0)
    assert factors[0].tolist() == pytest.approx([2 * (1 - MARGIN) / 5.5, 2 * (1 - MARGIN) / 0.5])


def test_the_scaled_sums_of_two_clients_by_hand():
    sample = torch.tensor([[[1.0, 2.0]], [[10.0, 20.0]], [[5.0, 6.0]], [[7.0, 8.0]]])
    factors = torch.tensor([[2.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    total = scaled_sums(sample, factors)
    assert total.tolist() == [[7.0, 14.0], [5.0, 6.0]]
    assert total.dtype == torch.float64


def test_scaled_sums_do_not_depend_on_the_blocks_they_are_taken_in(monkeypatch):
    sample, factors = torch.randn(6, 5, 7), torch.rand(2, 3, dtype=torch.float64)
    whole = scaled_sums(sample, factors)
    monkeypatch.setattr("privfed.private_step.clipping._BLOCK", 30)
    torch.testing.assert_close(scaled_sums(sample, factors), whole, rtol=1e-14, atol=0)


def test_the_scaled_sum_of_no_records_is_zero():
    total = scaled_sums(torch.zeros(0, 2, 3), torch.zeros(1, 0, dtype=torch.float64))
    assert total.tolist() == [[0.0] * 6]


def test_among_thousands_of_equal_records_one_moves_the_sum_by_its_norm_alone():
    """Summed in float32, it moved by 1.00003 C."""
    sample = torch.randn(1, 400).expand(4096, 400)
    factors = torch.full((1, 4096), 1 / float(sample[0].double().norm()), dtype=torch.float64)
    moved = scaled_sums(sample, factors) - scaled_sums(sample[1:], factors[:, 1:])
    assert float(moved.norm()) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(
    magnitude=st.floats(-30, 30),
    bound=st.floats(-3, 2),
    seed=st.integers(0, 1000),
)
def test_no_record_passes_the_bound(rule, magnitude, bound, seed):
    """Over all parameters together, for norms from 1e-30 to 1e30."""
    generator = np.random.default_rng(seed)
    scale = 10.0**magnitude
    shapes = ((3, 40), (3, 5, 7), (3, 1))
    samples = [
        torch.from_numpy((scale * generator.standard_normal(shape)).astype(np.float32))
        for shape in shapes
    ]
    norms = clipped(rule, samples, [0, 0, 1], 10.0**bound).norm(dim=1)
    assert bool((norms <= 10.0**bound).all())


@pytest.mark.parametrize("bound", [1e-3, 1e-6])
def test_no_record_passes_the_bound_close_to_the_largest_float32(bound):
    """There a factor has so few bits in float32 that rounding alone passes the margin."""
    signs = torch.where(torch.arange(1000) % 3 == 0, -1.0, 1.0)
    for magnitude in 2e38 * 0.9 ** np.arange(60):
        norm = float(clipped(FlatClipping(), [(float(magnitude) * signs)[None]], [0], bound).norm())
        assert norm <= bound, magnitude


def test_directions_are_kept():
    sample = torch.tensor([[30.0, -40.0]])
    row = clipped(FlatClipping(), [sample], [0], 1.0)[0]
    assert row.tolist() == pytest.approx([0.6, -0.8], rel=2e-5)


def test_quantile_clipping_clips_as_flat_at_its_bound():
    squared = torch.rand(3, 5, dtype=torch.float64)
    flat = clip_factors(FlatClipping(), squared, range(3), 0.4)
    assert torch.equal(flat, clip_factors(QUANTILE, squared, range(3), 0.4))


# --- The bound that follows a quantile


def test_the_bound_by_hand():
    """All of 10 within: share 1, C falls by exp(-0.2 / 2). None: it rises as much."""
    bound = AdaptiveBound.starting(2.0)
    bound.follow(QUANTILE, 5.0, 10)
    assert bound.current == pytest.approx(2 * math.exp(-0.1))
    bound.follow(QUANTILE, -5.0, 10)
    assert bound.current == pytest.approx(2.0)


def test_the_bound_finds_the_quantile_of_made_up_norms():
    """Log-normal norms: C ends at their 70% quantile, up to the count's noise."""
    generator = np.random.default_rng(1)
    rule = QuantileClipping(count_noise=3.0, quantile=0.7, learning_rate=0.1)
    bound = AdaptiveBound.starting(1.0)
    late = []
    for step in range(800):
        norms = np.exp(1.0 + 0.5 * generator.standard_normal(50))
        votes = np.where(norms <= bound.current, 0.5, -0.5).sum()
        bound.follow(rule, votes + 3.0 * generator.standard_normal(), 50)
        if step >= 200:
            late.append(bound.current)
    exact = math.exp(1.0 + 0.5 * 0.5244)
    assert np.median(late) == pytest.approx(exact, rel=0.05)


@given(st.lists(st.floats(allow_nan=False), max_size=30))
def test_the_bound_stays_close_to_the_configured_one(counts):
    bound = AdaptiveBound.starting(0.5)
    for count in counts:
        bound.follow(QUANTILE, count, 10)
        assert 0.05 <= bound.current <= 5.0


def test_the_bound_turns_at_its_limit():
    bound = AdaptiveBound.starting(1.0)
    for _ in range(100):
        bound.follow(QUANTILE, -1e9, 10)
    assert bound.current == 10.0
    bound.follow(QUANTILE, 1e9, 10)
    assert bound.current < 10.0


@given(
    multiplier=st.floats(0.3, 20),
    ratio=st.floats(0.51, 100),
)
def test_count_and_gradients_cost_together_what_is_stated(multiplier, ratio):
    """1 / z^2 = 1 / z_gradient^2 + 1 / (2 s)^2 (Andrew et al. 2021, theorem 1)."""
    rule = QuantileClipping(count_noise=ratio * multiplier)
    gradient = gradient_noise_multiplier(rule, multiplier)
    assert gradient**-2 + (2 * ratio * multiplier) ** -2 == pytest.approx(multiplier**-2)
    assert gradient > multiplier


def test_the_noise_multiplier_by_hand():
    """z = 1, s = 1: 1 = 1 / z_g^2 + 1/4, so z_g = sqrt(4 / 3)."""
    rule = QuantileClipping(count_noise=1.0)
    assert gradient_noise_multiplier(rule, 1.0) == pytest.approx(math.sqrt(4 / 3))


@pytest.mark.parametrize("rule", RULES[:3], ids=lambda rule: type(rule).__name__)
def test_other_rules_release_nothing_beside_the_sum(rule):
    assert gradient_noise_multiplier(rule, 1.3) == 1.3


@pytest.mark.parametrize("count_noise", [0.5, 0.1])
def test_a_count_that_costs_the_whole_step_is_refused(count_noise):
    with pytest.raises(ConfigError, match="count_noise must be above half"):
        gradient_noise_multiplier(QuantileClipping(count_noise=count_noise), 1.0)
