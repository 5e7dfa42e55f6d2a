"""Methods that turn the basis of LoRA come to the same bits, whatever the processor can do.

BLAS is made to take the kernels of other processors, and numpy to leave out wide registers. On
x86-64 each of these gives other last bits of a plain product of two such matrices.
"""

import hashlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from privfed import DoubleSketch
from privfed.methods.factors import pairs_of, product_svd, read_all
from privfed.methods.method import Round
from privfed.methods.sketches import balanced_factors
from privfed.protocol.layout import Layout

WEIGHTS = {"north": 1.0, "south": 0.5, "west": 0.125}
LAYOUT = Layout(
    tuple(
        parameter
        for name, inputs, outputs in (("q", 513, 300), ("k", 513, 300), ("v", 211, 700))
        for parameter in (
            (f"{name}.lora_A.default.weight", (4, inputs)),
            (f"{name}.lora_B.default.weight", (outputs, 4)),
        )
    )
)
ROUND = Round(
    number=2,
    steps=dict.fromkeys(WEIGHTS, 3),
    learning_rate=0.5,
    weights=WEIGHTS,
    layout=LAYOUT,
)


def quotients(count, seed):
    """The same everywhere: quotients of whole numbers that look like noise."""
    numbers = np.frombuffer(hashlib.shake_256(bytes([seed])).digest(4 * count), dtype="<u2")
    return (numbers[:count] - 32768.0) / (1.0 + numbers[count:])


def state_digests():
    """Of a round of each method, before float32 hides the last bits."""
    start = quotients(LAYOUT.length, 1)
    method, found = DoubleSketch(width=12), (hashlib.sha256(), hashlib.sha256())
    state = method.begin(start.astype(np.float32))
    sums = {one.name: 0.1 * quotients(one.length, 2) for one in method.uploads(ROUND)}
    for pairs, left, right, lost in method.products(state, sums, list(WEIGHTS), ROUND):
        _, a = read_all(pairs, start)
        for values in (left, right, lost, *balanced_factors(left, right, a)):
            found[0].update(values.astype("<f8").tobytes())
    for pair in pairs_of(LAYOUT, "fedsvd"):
        for values in product_svd(*pair.read(start)):
            found[1].update(values.astype("<f8").tobytes())
    return [digest.hexdigest() for digest in found]


GOLDEN = [
    "4afff5a2e11030c76c11ea25cfe8816d0d56abdccc32bb19a0fe86ba9df52212",
    "31520b883f83fd7143ae4abd8f91f86409d5184e603884458575951deca98619",
]


def test_the_states_are_these():
    assert state_digests() == GOLDEN


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels of x86-64")
@pytest.mark.parametrize("kernels", ["Prescott", "Nehalem", "Sandybridge"])
def test_they_are_the_same_on_older_processors(kernels):
    code = "from tests.contracts.test_same_bits import state_digests; print(*state_digests())"
    found = subprocess.run(
        [sys.executable, "-W", "ignore::ImportWarning", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OPENBLAS_CORETYPE": kernels,
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        },
    )
    assert found.stdout.split() == GOLDEN
