"""What is protected: the unit of the guarantee, and which data sets are neighbours."""

from enum import Enum


class Unit(Enum):
    """What one unit of the guarantee is: what may be added, removed or replaced."""

    RECORD = "record"
    CLIENT = "client"


class Neighbouring(Enum):
    """Which data sets must be hard to tell apart.

    ADD_REMOVE: one holds a unit more. REPLACE_ONE: one unit differs, so the sensitivity of a sum
    of clipped contributions is twice the clipping norm. ZERO_OUT: the contributions of one unit
    are zeros in one of them, which leaves its place in a stream or a matrix.
    """

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"
    ZERO_OUT = "zero_out"
