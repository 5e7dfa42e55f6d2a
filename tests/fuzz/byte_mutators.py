"""Changes that know nothing of what the bytes mean: flips, cuts, splices, noise, wrong lengths.

A mutator takes bytes, a source of chances, the world and its own arguments, and returns bytes.
What is left to chance can be said in a recipe instead, as most cases of the corpus do. How often a
mutator stands in a tuple of steps is how often random recipes choose it.
"""

import struct

from tests.fuzz.envelopes import MAGIC


def at(data, where):
    return min(int(where * len(data)), max(len(data) - 1, 0))


def flip(data, chance, world, where=None, count=1):
    changed = bytearray(data)
    for _ in range(count if changed else 0):
        place = at(data, chance.random() if where is None else where)
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flips(data, chance, world):
    return flip(data, chance, world, count=chance.randint(2, 64))


def flip_tail(data, chance, world):
    """Where statement, length and signature are."""
    back = min(len(data), chance.choice([64, 68, 72, 400, 2000]))
    where = (len(data) - 1 - chance.randrange(back)) / len(data) if data else 0
    return flip(data, chance, world, where=where)


def cut_end(data, chance, world, keep=None):
    keep = keep if keep is not None else chance.choice([chance.random(), 0.999, 0.001])
    return data[: at(data, keep)]


def cut_start(data, chance, world):
    return data[at(data, chance.choice([chance.random(), 0.001])) :]


def cut_middle(data, chance, world):
    first, last = sorted((at(data, chance.random()), at(data, chance.random())))
    return data[:first] + data[last:]


def extend(data, chance, world, where=None, content=None):
    content = chance.randbytes(chance.choice([1, 8, 64, 5000])) if content is None else content
    content = content.encode() if isinstance(content, str) else content
    place = chance.choice([0, len(data), at(data, chance.random())])
    place = place if where is None else int(where * len(data))
    return data[:place] + content + data[place:]


def other_message(chance, world, other=None):
    return world.messages[other or chance.choice(sorted(world.messages))]


def splice(data, chance, world):
    tail = other_message(chance, world)
    return data[: at(data, chance.random())] + tail[at(tail, chance.random()) :]


def append_message(data, chance, world):
    return data + other_message(chance, world)


def repeat_slice(data, chance, world):
    first, last = sorted((at(data, chance.random()), at(data, chance.random())))
    return data[:last] + data[first:last] + data[last:]


def swap_halves(data, chance, world):
    return data[len(data) // 2 :] + data[: len(data) // 2]


def noise(data, chance, world):
    return chance.randbytes(chance.choice([1, 7, 8, 75, 76, 77, 300, len(data)]))


def headed_noise(data, chance, world):
    return MAGIC + chance.randbytes(chance.choice([0, 67, 68, 69, 500]))


def empty(data, chance, world):
    return b""


def oversized(data, chance, world, mebibytes=None):
    mebibytes = mebibytes or chance.choice([1, 2, 4])
    place = chance.choice([8, len(data), max(len(data) - 68, 0)])
    # Zeros in a stream are so many empty messages, each of which gets its answer: too slow here.
    filling = b"\0" if data.startswith(MAGIC) else b"\xff"
    return data[:place] + filling * (mebibytes << 20) + data[place:]


def length_lie(data, chance, world, value=None):
    """Another length of the statement, or of the frame."""
    if value is None:
        value = chance.choice([0, 1, 2**22, 2**22 + 1, 2**31, 2**32 - 1, chance.randrange(2000)])
    if not data.startswith(MAGIC):
        return struct.pack("<Q", value * chance.choice([1, 2**31])) + data[8:]
    return data[:-68] + struct.pack("<I", value) + data[-64:]


BYTE_STEPS = (
    flip, flips, flip_tail, cut_end, cut_start, cut_middle, extend, splice,
    append_message, repeat_slice, swap_halves, noise, headed_noise, empty, length_lie,
)  # fmt: skip
