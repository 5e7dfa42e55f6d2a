"""Changes that know nothing of what the bytes mean: flips, cuts, splices, noise, wrong lengths.

A mutator takes bytes, a source of chances, the world and its own arguments, and returns bytes. The
arguments say what is done, the chances where: a table at the end of each module names, for every
mutator that Hypothesis may draw, the values of the arguments that it chooses from.
"""

import struct

from tests.fuzz.envelopes import MAGIC


def at(data, where):
    return min(int(where * len(data)), max(len(data) - 1, 0))


def flip(data, chance, world, where=None, count=1, last=None):
    """Bits: anywhere, or among the last bytes, where statement, length and signature are."""
    changed = bytearray(data)
    for _ in range(count if changed else 0):
        place = at(data, chance.random() if where is None else where)
        if last is not None:
            place = len(data) - 1 - chance.randrange(min(last, len(data)))
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def other_message(chance, world, other=None):
    return world.messages[other or chance.choice(sorted(world.messages))]


def splice(data, chance, world, filling=""):
    """A stretch replaced, or nothing, by bytes from elsewhere: cut, grown, doubled or headless."""
    first, last = sorted(_place(data, chance) for _ in range(2))
    other = {"message": other_message(chance, world), "own": data}.get(filling, b"")
    start, stop = sorted(_place(other, chance) for _ in range(2))
    noise = chance.randbytes(chance.choice([1, 8, 68, 76, 300, 5000, len(data)]))
    return data[:first] + (noise if filling == "noise" else other[start:stop]) + data[last:]


def _place(data, chance):
    ends = [0, 0, 8, len(data) - 1, len(data), len(data)]
    return max(0, min(len(data), chance.choice([*ends, *(at(data, chance.random()),) * 6])))


def cut_end(data, chance, world, keep):
    return data[: at(data, keep)]


def extend(data, chance, world, where, content):
    place = int(where * len(data))
    return data[:place] + content.encode() + data[place:]


def swap_halves(data, chance, world):
    return data[len(data) // 2 :] + data[: len(data) // 2]


def empty(data, chance, world):
    return b""


def oversized(data, chance, world, mebibytes):
    place = chance.choice([8, len(data), max(len(data) - 68, 0)])
    # Zeros in a stream are so many empty messages, each of which gets its answer: too slow here.
    filling = b"\0" if data.startswith(MAGIC) else b"\xff"
    return data[:place] + filling * (mebibytes << 20) + data[place:]


def length_lie(data, chance, world, value):
    """Another length of the statement, or of the frame."""
    if not data.startswith(MAGIC):
        return struct.pack("<Q", value * chance.choice([1, 2**31])) + data[8:]
    return data[:-68] + struct.pack("<I", value) + data[-64:]
