"""Rounds of adapters that are one vector; `steps` are those of all clients, or a mapping."""

from privfed.methods.method import Round
from privfed.protocol.layout import Layout


def vector(length):
    return Layout((("weight", (length,)),))


def round_of(number, weights, *, length, steps=3, learning_rate=0.125, noise=None):
    return Round(
        number=number,
        steps=dict.fromkeys(weights, steps) if isinstance(steps, int) else steps,
        learning_rate=learning_rate,
        weights=weights,
        layout=vector(length),
        noise=noise,
    )
