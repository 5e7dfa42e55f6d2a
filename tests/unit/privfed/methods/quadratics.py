"""Two clients whose losses are quadratics, trained by the very code that corrects private steps.

Client i has h_i / 2 (x - b_i)^2 with h = (1, 10) and b = (0, 1), weights are equal, 20 steps at
learning rate 0.02 make a round. The optimum of their mean is 10 / 11.
"""

import numpy as np
import torch

from privfed.methods.method import Trained
from privfed.private_step.correcting import Corrector
from tests.unit.privfed.methods import vectors

CLIENTS = {"flat": (1.0, 0.0), "steep": (10.0, 1.0)}
OPTIMUM = 10 / 11
RATE = 0.02


def round_of(number, steps=20, weights=None, rate=RATE):
    weights = weights or dict.fromkeys(CLIENTS, 1.0)
    return vectors.round_of(number, weights, length=1, steps=steps, learning_rate=rate)


def fixed_point(method, *, steps=20, rounds=600, rate=RATE, away=lambda number: (), largest=np.inf):
    """Where the rounds of a method come to rest.

    Args:
        method: without noise.
        steps: of each client in a round, or a mapping.
        rounds: to play.
        rate: of learning.
        away: whose update is not in the sum of a round, by its number; they train all the same.
        largest: to which updates are clipped before they are summed.
    """
    state, kept = method.begin(np.zeros(1, np.float32)), {}
    weights = method.weights(dict.fromkeys(CLIENTS, 1), round_of(1, steps).steps)
    for number in range(1, rounds + 1):
        round_ = round_of(number, steps, weights, rate)
        sums, there = {}, [name for name in CLIENTS if name not in away(number)]
        for name in CLIENTS:
            vectors = _trained(method, state, kept, name, round_, largest)
            if name in there:
                for what, vector in vectors.items():
                    sums[what] = sums.get(what, 0.0) + weights[name] * vector
        state = method.next(state, sums, sorted(there), round_)
    return float(state.adapter[0])


def _trained(method, state, kept, name, round_, largest):
    steepness, lowest = CLIENTS[name]
    value = torch.from_numpy(method.start(state, kept.get(name), name, round_).copy())
    correction = method.correction(state, kept.get(name), name, round_)
    corrector = Corrector([value], [correction], [round_.learning_rate])
    for _ in range(round_.steps[name]):
        before = corrector.before_step()
        value -= round_.learning_rate * steepness * (value - lowest)
        corrector.after_step(before)
    delta = value.numpy().astype(np.float64) - state.adapter
    trained = Trained(received=state, delta=delta, kept=kept.get(name))
    vectors = method.local(trained, name, round_)
    sent = {what: np.clip(vector, -largest, largest) for what, vector in vectors.items()}
    kept[name] = method.keeps(trained, sent, name, round_)
    return sent
