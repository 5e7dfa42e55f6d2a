"""A budget, and DP-SGD to plan with it."""

from accountants import Budget, Neighbouring, PoissonGaussian

ADD, REPLACE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
BUDGET = Budget(epsilon=2.0, delta=1e-4)


def event(noise_multiplier, sample_rate, steps):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)
