"""Rounds of adapters that are one vector."""

from privfed.methods.method import Round
from privfed.protocol.layout import Layout


def vector(length):
    return Layout((("weight", (length,)),))


def round_of(number, weights, *, length, steps=3, learning_rate=0.125, noise=None):
    return Round(
        number=number,
        steps=steps,
        learning_rate=learning_rate,
        weights=weights,
        layout=vector(length),
        noise=noise,
    )
