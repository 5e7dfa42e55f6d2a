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

from privfed import DoubleSketch, FedSVD
from privfed.methods.method import Round
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
    """Of the state after a round of each method."""
    found = []
    for method in (DoubleSketch(width=12), FedSVD()):
        state = method.begin(quotients(LAYOUT.length, 1).astype(np.float32))
        sums = {one.name: 0.1 * quotients(one.length, 2) for one in method.uploads(ROUND)}
        found.append(method.next(state, sums, list(WEIGHTS), ROUND).digest())
    return found


GOLDEN = [
    "90c4cbb296e307c03ca927222779a431a2b201ff1778de8c8d284794e4791eba",
    "97d98415ac20d1e917dc032f692eb3c60fe340d8f0500f1e2444fe135a5e61ad",
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
