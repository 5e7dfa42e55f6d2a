"""One private step by hand: what is clipped, what is added, what moves, and what is refused."""

import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import ConfigError, GateError
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.clipping import MARGIN, AdaptiveBound
from privfed.private_step.dpsgd import (
    HiddenNoiseOptimizer,
    follow_quantile,
    half_votes,
    layer_numbers,
    noise_of_sum,
    plain_optimizer,
    private_optimizer,
    private_step,
    train_round,
)
from privfed.private_step.randomness import SecureNoise
from privfed.settings.privacy import FlatClipping, PerLayerClipping, QuantileClipping
from privfed.settings.training import SGD, AdamW
from tests.contracts.private_steps import (
    CPU,
    Silence,
    config,
    made_up,
    released_sum,
    stream,
)
from tests.unit.privfed.private_step.toy import toy


class Steady:
    """A stream of one number, which tells what it was asked for."""

    def __init__(self, value):
        self.value = value
        self.asked = []

    def normal(self, count, device):
        self.asked.append(count)
        return torch.full((count,), self.value, dtype=torch.float64, device=device)


# --- Settings


@pytest.mark.parametrize("name", ["noise_multiplier", "clipping_norm", "learning_rate"])
@pytest.mark.parametrize("value", [0, -1.5, math.nan, math.inf, "1", None])
def test_a_number_that_is_not_above_zero_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be a finite number above 0"):
        config(**{name: value})


@pytest.mark.parametrize("name", ["expected_batch_size", "steps", "physical_batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_a_number_that_is_no_count_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be a whole number of at least 1"):
        config(**{name: value})


@pytest.mark.parametrize("value", [0, -0.25, 1.0000001, 20, math.nan])
def test_a_rate_that_is_no_chance_is_refused(value):
    with pytest.raises(ConfigError, match=r"sample_rate must be in \(0, 1\].*probability per step"):
        config(sample_rate=value)


def test_a_count_that_costs_the_whole_step_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="count_noise"):
        config(noise_multiplier=3.0, clipping=QuantileClipping(count_noise=1.5))


def test_another_learning_rate_changes_nothing_else():
    settings = config(clipping=PerLayerClipping(), optimizer=SGD(momentum=0.25), steps=3)
    moved = settings.with_learning_rate(0.75)
    assert moved.learning_rate == 0.75
    assert moved.with_learning_rate(settings.learning_rate) == settings


# --- Parts of a step


def test_noise_of_a_sum_by_hand():
    """Sigma 2, C 3: six times the stream. C is that of the client, not the configured one."""
    settings = config(noise_multiplier=2.0, clipping_norm=9.0)
    bound = AdaptiveBound(initial=9.0, current=3.0)
    added = noise_of_sum(settings, bound, Steady(0.5), 4, CPU)
    assert added.dtype == torch.float64
    assert added.tolist() == [3.0] * 4


def test_noise_beside_a_count_is_larger():
    """1 / z^2 = 1 / z_gradient^2 + 1 / (2 s)^2: for z = 0.6 and s = 0.5, z_gradient is 0.75."""
    settings = config(noise_multiplier=0.6, clipping=QuantileClipping(count_noise=0.5))
    added = noise_of_sum(settings, AdaptiveBound.starting(2.0), Steady(1.0), 1, CPU)
    assert added.item() == pytest.approx(2 * 0.75)


def test_votes_by_hand():
    """A norm of exactly C is within it; a row that fills up does not vote."""
    norms = torch.tensor([0.5, 2.0, 2.5, 0.1], dtype=torch.float64)
    assert half_votes(norms, 2.0, None).tolist() == [0.5, 0.5, -0.5, 0.5]
    present = torch.tensor([True, False, True, False])
    assert half_votes(norms, 2.0, present).tolist() == [0.5, 0.0, -0.5, 0.0]


def test_the_quantile_is_followed_by_the_noised_votes():
    """Votes 3 and noise -0.5 * 4: 1 of 10 expected, so a share of 0.6, 0.4 above the quantile."""
    rule = QuantileClipping(count_noise=4.0, quantile=0.2, learning_rate=0.25)
    settings = config(noise_multiplier=0.5, clipping=rule, expected_batch_size=10)
    bound, noise = AdaptiveBound(initial=5.0, current=2.0), Steady(-0.5)
    follow_quantile(settings, bound, noise, votes=3.0)
    assert noise.asked == [1]
    assert bound.current == pytest.approx(2.0 * math.exp(-0.25 * 0.4))


def test_a_fixed_bound_follows_nothing_and_draws_nothing():
    bound, noise = AdaptiveBound(initial=5.0, current=2.0), Steady(1.0)
    follow_quantile(config(clipping=FlatClipping()), bound, noise, votes=3.0)
    assert (bound.current, noise.asked) == (2.0, [])


def test_parameters_of_one_layer_share_its_number():
    names = ["b.first.weight", "b.first.bias", "a.weight", "b.second.weight", "a.bias", "scale"]
    assert layer_numbers(names) == [0, 0, 1, 2, 1, 3]


def test_what_moves_the_parameters_is_as_configured():
    parameters = [nn.Parameter(torch.zeros(2))]
    plain = plain_optimizer(parameters, config(learning_rate=0.3, optimizer=SGD(momentum=0.7)))
    assert isinstance(plain, torch.optim.SGD)
    assert (plain.defaults["lr"], plain.defaults["momentum"]) == (0.3, 0.7)
    chosen = AdamW(beta1=0.6, beta2=0.8, epsilon=1e-5, weight_decay=0.02)
    adam = plain_optimizer(parameters, config(learning_rate=0.3, optimizer=chosen))
    assert isinstance(adam, torch.optim.AdamW)
    found = [adam.defaults[name] for name in ("lr", "betas", "eps", "weight_decay")]
    assert found == [0.3, (0.6, 0.8), 1e-5, 0.02]


# --- A whole step


def optimizer_of(samples, noise, **changes):
    """With zero for every parameter, and these per-example gradients."""
    parameters = [nn.Parameter(torch.zeros(sample.shape[1:])) for sample in samples]
    for parameter, sample in zip(parameters, samples, strict=True):
        parameter.grad_sample = sample
    settings = config(**changes)
    return HiddenNoiseOptimizer(plain_optimizer(parameters, settings), settings, noise)


SAMPLES = [torch.tensor([[3.0, 0.0], [0.0, 0.5], [30.0, 0.0]]), torch.tensor([[4.0], [0.0], [0.0]])]
"""Three records of norms 5, 0.5 and 30 over two parameters together."""


def test_a_step_by_hand():
    """C = 2: factors 0.4, 1 and 1/15. Sigma C = 3, B = 5, learning rate 10: times 2 at the end."""
    optimizer = optimizer_of(
        SAMPLES,
        Steady(0.1),
        noise_multiplier=1.5,
        clipping_norm=2.0,
        expected_batch_size=5,
        learning_rate=10.0,
    )
    optimizer.step()
    moved = [parameter.tolist() for parameter in optimizer.params]
    expected = [[1.2 + 2.0 + 0.3, 0.5 + 0.3], [1.6 + 0.3]]
    for found, sums in zip(moved, expected, strict=True):
        assert found == pytest.approx([-2 * total for total in sums], rel=1e-6)


def test_rows_that_fill_up_are_no_records():
    optimizer = optimizer_of(SAMPLES, Silence(), clipping_norm=2.0)
    optimizer.set_present(torch.tensor([True, True, False]))
    optimizer.clip_and_accumulate()
    assert optimizer.params[0].summed_grad.tolist() == pytest.approx([1.2, 0.5])
    assert optimizer.params[1].summed_grad.tolist() == pytest.approx([1.6])


def test_clipped_sums_are_float64_and_stay_below_c():
    optimizer = optimizer_of([sample[2:] for sample in SAMPLES], Silence(), clipping_norm=2.0)
    optimizer.clip_and_accumulate()
    summed = torch.cat([parameter.summed_grad for parameter in optimizer.params])
    assert summed.dtype == torch.float64
    assert float(summed.norm()) == pytest.approx(2.0 * (1 - MARGIN), rel=1e-12)


def test_each_layer_has_its_share_of_c():
    """Two layers: C / sqrt(2) each, so that the record of norms 3 and 4 gives that twice."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    for parameter, sample in zip(parameters, SAMPLES, strict=True):
        parameter.grad_sample = sample[:1]
    settings = config(clipping=PerLayerClipping(), clipping_norm=2.0)
    for layers, expected in (([0, 1], [2**0.5, 2**0.5]), ([0, 0], [1.2, 1.6])):
        plain = plain_optimizer(parameters, settings)
        optimizer = HiddenNoiseOptimizer(plain, settings, Silence(), layers=layers)
        optimizer.clip_and_accumulate()
        found = [float(parameter.summed_grad.norm()) for parameter in parameters]
        assert found == pytest.approx(expected, rel=1e-6)
        optimizer.zero_grad()
        for parameter, sample in zip(parameters, SAMPLES, strict=True):
            parameter.grad_sample = sample[:1].clone()


def vectors(count=7):
    torch.manual_seed(0)
    return toy(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), count)


def test_an_empty_batch_is_a_step_of_noise_alone():
    model, encoded = vectors()
    before = read_vector(model.adapter)
    settings = config(
        noise_multiplier=2.0, clipping_norm=3.0, expected_batch_size=4, learning_rate=0.5
    )
    noise = Steady(0.25)
    optimizer = private_optimizer(model, settings, noise)
    private_step(model, optimizer, encoded, torch.tensor([], dtype=torch.long), 2)
    assert noise.asked == [before.size]
    np.testing.assert_allclose(read_vector(model.adapter), before - 0.5 * 1.5 / 4, rtol=1e-6)


def test_noise_is_drawn_once_for_a_batch_in_parts():
    model, encoded = vectors()
    noise = Steady(0.25)
    optimizer = private_optimizer(model, config(), noise)
    private_step(model, optimizer, encoded, torch.arange(5), 2)
    assert noise.asked == [read_vector(model.adapter).size]


def test_a_round_takes_its_steps_and_leaves_nothing_behind():
    model, encoded = vectors()
    noise = Steady(0.0)
    settings = config(steps=3, sample_rate=0.75)
    train_round(model, encoded, settings, sampling=stream(1), noise=noise)
    assert noise.asked == [read_vector(model.adapter).size] * 3
    for _, parameter in model.parameters():
        assert parameter.grad is None
        assert parameter.grad_sample is None
        assert parameter.summed_grad is None


# --- What is not one row for each record is refused.


def optimizer_with(*samples, clipping_norm=1.0):
    parameters = [nn.Parameter(torch.zeros(3)) for _ in samples]
    for parameter, sample in zip(parameters, samples, strict=True):
        parameter.grad_sample = sample
    settings = config(clipping_norm=clipping_norm)
    return HiddenNoiseOptimizer(torch.optim.SGD(parameters, lr=1.0), settings, Silence())


@pytest.mark.parametrize(
    "samples",
    [
        (torch.ones(4, 3), torch.ones(1, 3)),
        (torch.ones(4, 3), [torch.ones(4, 3)]),
        (torch.ones(4, 3), None),
        (torch.ones(4, 3), torch.ones(4, 1, 3)),
    ],
)
def test_samples_that_are_not_one_row_for_each_record_are_refused(samples):
    with pytest.raises(GateError, match="one row for every record"):
        optimizer_with(*samples).clip_and_accumulate()


def test_one_row_for_a_batch_of_several_is_refused():
    optimizer = optimizer_with(torch.ones(1, 3))
    optimizer.set_present(torch.tensor([True, True]))
    with pytest.raises(GateError, match="one row for every record"):
        optimizer.clip_and_accumulate()


def test_a_second_step_on_the_same_gradients_is_refused():
    """It would add every record once more, at the same noise."""
    optimizer = optimizer_with(torch.ones(2, 3))
    optimizer.step()
    with pytest.raises(GateError, match="used by an earlier step"):
        optimizer.step()


def test_gradients_of_an_earlier_step_are_not_kept_alive():
    optimizer = optimizer_with(torch.ones(2, 3))
    sample = weakref.ref(optimizer.params[0].grad_sample)
    optimizer.step()
    optimizer.zero_grad()
    assert sample() is None


def test_the_noised_sum_is_rounded_once():
    """Rounded to float32 apart, sum and noise leave traces of each other in the last bits."""
    drawn = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Fixed:
        def normal(self, count, device):
            return drawn[:count].to(device)

    parameter = nn.Parameter(torch.zeros(1000))
    parameter.grad_sample = torch.linspace(-1e-3, 1e-3, 1000).unsqueeze(0)
    optimizer = HiddenNoiseOptimizer(torch.optim.SGD([parameter], lr=0.1), config(), Fixed())
    optimizer.clip_and_accumulate()
    total = parameter.summed_grad
    optimizer.add_noise()
    noise = config().noise_multiplier * config().clipping_norm * drawn
    assert torch.equal(parameter.grad, (total + noise).float())
    assert not torch.equal(parameter.grad, total.float() + noise.float())


def test_norms_of_millions_of_entries_are_not_underestimated():
    """A float32 norm of 4M equal entries falls short; the clipped row must not exceed C."""
    parameter = nn.Parameter(torch.zeros(4_000_000))
    generator = torch.Generator().manual_seed(1)
    parameter.grad_sample = torch.rand((1, 4_000_000), generator=generator)
    optimizer = HiddenNoiseOptimizer(torch.optim.SGD([parameter], lr=0.1), config(), Silence())
    optimizer.clip_and_accumulate()
    assert 0.9999 < float(parameter.summed_grad.double().norm()) <= 1.0


# --- Quantile clipping: count and sum share the price of one release.


@pytest.mark.parametrize(("multiplier", "count_noise"), [(1.0, 5.0), (0.7, 0.6), (3.0, 2.0)])
def test_count_and_gradients_cost_together_what_the_step_is_charged_for(
    multiplier, count_noise, built
):
    """1 / z^2 = 1 / z_gradient^2 + 1 / (2 s)^2, measured on what is released."""
    private = built("bert lora q,v")
    rule = QuantileClipping(count_noise=count_noise)
    settings = config(noise_multiplier=multiplier, clipping=rule)
    released = released_sum(private, made_up(private), (), settings, SecureNoise(stream(7)))
    unit = SecureNoise(stream(7)).normal(len(released), CPU)
    measured = float(released.norm() / unit.norm())
    assert 1 / measured**2 + 1 / (2 * count_noise) ** 2 == pytest.approx(multiplier**-2, rel=1e-5)
    assert measured > multiplier


class Counted:
    """Silence, but for the single number that is the count's noise."""

    def __init__(self, value):
        self.value = value
        self.asked = []

    def normal(self, count, device):
        self.asked.append(count)
        return torch.full((count,), self.value if count == 1 else 0.0, dtype=torch.float64)


def bound_after(private, drawn, value=0.0, **changes):
    rule = QuantileClipping(count_noise=5.0, quantile=0.5, learning_rate=0.2)
    settings = config(clipping=rule, expected_batch_size=5, **changes)
    bound = AdaptiveBound.starting(settings.clipping_norm)
    before = read_vector(private.adapter)
    private.forget()
    noise = Counted(value)
    optimizer = private_optimizer(private, settings, noise, bound)
    private_step(private, optimizer, made_up(private), torch.tensor(drawn, dtype=torch.long), 4)
    write_vector(private.adapter, before)
    private.forget()
    assert noise.asked.count(1) == 1
    return bound.current / settings.clipping_norm


def test_the_bound_follows_the_share_of_records_within_it(built):
    private = built("bert lora q,v")
    everyone = list(range(5))
    assert bound_after(private, everyone, clipping_norm=1e6) == pytest.approx(math.exp(-0.1))
    assert bound_after(private, everyone, clipping_norm=1e-6) == pytest.approx(math.exp(0.1))
    assert bound_after(private, [], clipping_norm=1.0) == 1.0
    assert bound_after(private, [2], clipping_norm=1e6) == pytest.approx(math.exp(-0.02))


def test_the_count_carries_its_noise(built):
    """5 records within C give +5/2; noise of -0.4 * 5 takes 2 off: share 0.6."""
    moved = bound_after(built("bert lora q,v"), list(range(5)), value=-0.4, clipping_norm=1e6)
    assert moved == pytest.approx(math.exp(-0.2 * (0.6 - 0.5)))


def test_the_bound_of_a_step_scales_its_noise(built):
    """What followed before is the C of this step: of its clipping and of its noise."""
    private = built("bert lora q,v")
    encoded = made_up(private)
    settings = config(clipping=QuantileClipping(count_noise=5.0), clipping_norm=1.0)
    before = read_vector(private.adapter)
    norms = {}
    for noise in (SecureNoise(stream(8)), Silence()):
        private.forget()
        bound = AdaptiveBound(initial=1.0, current=0.125)
        optimizer = private_optimizer(private, settings, noise, bound)
        released = []
        optimizer.attach_step_hook(
            lambda step, into=released: into.extend(p.grad.flatten() for p in step.params)
        )
        drawn = torch.tensor([] if isinstance(noise, SecureNoise) else [3], dtype=torch.long)
        private_step(private, optimizer, encoded, drawn, 4)
        norms[type(noise)] = float(torch.cat(released).norm())
        write_vector(private.adapter, before)
    unit = float(SecureNoise(stream(8)).normal(before.size, CPU).norm())
    expected = settings.clipping.gradient_noise_multiplier(1.0)
    assert norms[SecureNoise] / unit == pytest.approx(0.125 * expected, rel=1e-4)
    assert 0.1249 <= norms[Silence] <= 0.125
    private.forget()
