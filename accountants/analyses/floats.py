"""Arrays of floating-point numbers, and the unit in which their rounding is counted."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

ULP = 2.0**-52
"""The distance from 1 to the next larger number; one rounding errs by half of it at most."""
