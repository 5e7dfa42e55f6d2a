"""Changes of a message's blobs: other contents, names, lengths, digests, seeds, ciphertexts.

All are honestly announced except by `blob_lie`. Each is a mutator as in `byte_mutators`.
"""

import numpy as np

from privfed.encryption import residues
from privfed.encryption.noise import COEFF_MODULUS
from tests.fuzz.byte_mutators import flip, other_message, swap_halves
from tests.fuzz.envelopes import Draft
from tests.fuzz.worlds import CLIENTS

CONTENTS = {
    "zero": lambda old, chance: bytes(len(old)),
    "maximal": lambda old, chance: b"\xff" * len(old),
    "zero part": lambda old, chance: bytes(len(old) // 2) + old[len(old) // 2 :],
    "maximal end": lambda old, chance: old[:-64] + b"\xff" * len(old[-64:]),
    "empty": lambda old, chance: b"",
    "flip one": lambda old, chance: flip(old, chance, None),
    "flip": lambda old, chance: flip(old, chance, None, count=32),
    "short": lambda old, chance: old[:-1],
    "long": lambda old, chance: old + b"\0",
    "twice": lambda old, chance: old + old,
    "noise": lambda old, chance: chance.randbytes(len(old)),
    "halves": lambda old, chance: swap_halves(old, chance, None),
    "repeat": lambda old, chance: old[: len(old) // 2] * 2 + old[len(old) // 2 * 2 :],
}


def picked(draft, chance, blob):
    """The index of a blob, its name and content."""
    if blob is not None:
        index = next(i for i, (name, _) in enumerate(draft.blobs) if name == blob)
    else:
        index = chance.randrange(len(draft.blobs))
    return index, *draft.blobs[index]


def blob_content(data, chance, world, how, blob=None):
    draft = Draft.of(data)
    index, name, old = picked(draft, chance, blob)
    draft.blobs[index] = (name, CONTENTS[how](old, chance))
    return draft.to_bytes()


def blob_names(data, chance, world, how, blob=None):
    draft = Draft.of(data)
    if how == "add":
        draft.blobs.append((chance.choice(["", "seeds/zeta", "zz"]), b"more"))
    elif how == "many":
        draft.blobs += [(f"zz{index}", b"") for index in range(3000)]
    elif how != "unsorted":
        index, name, content = picked(draft, chance, blob)
        if how == "rename":
            new = chance.choice(["", "x", name.upper(), name + "\0", "seeds/" + name, *CLIENTS])
            draft.blobs[index] = (new, content)
        elif how == "double":
            draft.blobs.insert(index, (name, content))
        elif how == "drop":
            del draft.blobs[index]
        else:
            other, theirs, foreign = picked(draft, chance, None)
            draft.blobs[index], draft.blobs[other] = (name, foreign), (theirs, content)
    draft.blobs.sort(reverse=how == "unsorted")
    return draft.to_bytes()


def blob_lie(data, chance, world, how):
    """Lengths and digests that are not those of the blobs."""
    draft = Draft.of(data)
    draft.honest = False
    entries = draft.value["blobs"]
    entry = chance.choice(entries)
    if how == "shift" and len(entries) > 1:
        entries[0][1] += 8
        entries[1][1] -= 8
    elif how in ("digest", "upper"):
        entry[2] = entry[2].upper() if how == "upper" else "00" * 32
    else:
        lies = {"negative": -entry[1], "huge": 2**63, "float": float(entry[1])}
        entry[1] = lies.get(how, entry[1] + chance.choice([-1, 1, 64]))
    return draft.to_bytes()


def blob_foreign(data, chance, world, other=None, blob=None):
    """A blob of the same name from another message."""
    draft, theirs = Draft.of(data), dict(Draft.of(other_message(chance, world, other)).blobs)
    index, name, _ = picked(draft, chance, blob)
    draft.blobs[index] = (name, theirs.get(name, theirs[min(theirs)]))
    return draft.to_bytes()


def seeds_repeat(data, chance, world):
    """One seed in place of others, within a contribution or across two."""
    draft = Draft.of(data)
    blocks = [i for i, (name, _) in enumerate(draft.blobs) if name.startswith("seeds")]
    index, source = chance.choice(blocks), chance.choice(blocks)
    name, block = draft.blobs[index]
    seeds = draft.blobs[source][1][:64] * (len(block) // 64 + 1)
    draft.blobs[index] = (name, seeds[: len(block)])
    return draft.to_bytes()


def extraction(data, chance, world):
    """(0, floor(q/t)): the decryption of it is the secret key."""
    draft = Draft.of(data)
    stated = draft.value["manifest"]["encryption"]
    if stated.get("scheme") != "BFV" or not draft.blobs:
        return data
    parameters = world.parameters["holder" if stated["custody"] == "key_holder" else "shared"]
    index = next((i for i, (name, _) in enumerate(draft.blobs) if name == "ciphertexts"), 0)
    bits = parameters.sum_bits if draft.value["kind"] == "sum" else parameters.upload_bits
    polynomials = [np.zeros((1, 4096), dtype=np.uint64) for _ in bits]
    polynomials[-1][0, 0] = COEFF_MODULUS // parameters.plain_modulus
    draft.blobs[index] = (draft.blobs[index][0], residues.to_rows(polynomials, bits).tobytes())
    return draft.to_bytes()


def add_constant(data, chance, world, steps):
    """A known shift of a sum: steps of the slots' scale in the first coefficient."""
    draft = Draft.of(data)
    index, name, content = picked(draft, chance, "ciphertexts")
    stated = draft.value["manifest"]["encryption"]
    kind = {"key_holder": "holder", "shared_key": "shared"}.get(stated.get("custody"), "ckks")
    parameters = world.parameters[kind]
    bits = parameters.sum_bits
    rows = residues.rows_of(content, parameters.num_ciphertexts, bits)
    polynomials = residues.from_rows(rows, bits)
    shift = steps * (COEFF_MODULUS // getattr(parameters, "plain_modulus", 4))
    polynomials[0][0, 0] = (int(polynomials[0][0, 0]) + shift) % COEFF_MODULUS
    draft.blobs[index] = (name, residues.to_rows(polynomials, bits).tobytes())
    return draft.to_bytes()
