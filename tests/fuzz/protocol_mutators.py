"""Changes that know the protocol: the lies of a party that follows it in all but one thing.

Fields with values that belong elsewhere, blobs that are honestly announced but others, parameters
that were derived for others, contributions that a hostile aggregator would list, and ciphertexts
whose decryption would give the key away. Each is a mutator as in `byte_mutators`.
"""

import contextlib
import hashlib

import numpy as np

from privfed.encryption import residues
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import derive
from privfed.errors import ConfigError
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.fuzz.byte_mutators import flip, flips, other_message, swap_halves
from tests.fuzz.envelopes import GROUP_ORDER, Draft, agreement_to, to_sign
from tests.fuzz.json_mutators import FORM_STEPS, document, nested, replaced, within
from tests.fuzz.worlds import ABSENT, BITS, CLIENTS

FIELDS = {
    ("round",): (0, 2, 3, 10**30), ("run",): ("other run", "", "FUZZED"),
    ("kind",): ("update", "sum", "answers", "open-round", "result", "challenge", "round-key",
                "answer", "shared-key", "refusal", "listing", "agreed", "nothing"),
    ("sender",): (*CLIENTS, ABSENT, "server", "holder", "stranger", "East", "e\u0430st"),
    ("schema",): (1, 2, 5.0, "5", True),
    ("manifest", "base"): ("11" * 32, "00" * 31, None), ("manifest", "roster"): ("11" * 32,),
    ("manifest", "key_id"): ("00" * 16, ""), ("manifest", "encryption", "num_clients"): (1000, 5),
    ("manifest", "encryption", "num_params"): (1, 10**30, 10**4299, 10**4300 - 1),
    ("manifest", "encryption", "bits"): (16, 10**6, -1),
    ("manifest", "encryption", "custody"): ("shared_key", "key_holder", "nobody"),
    ("manifest", "encryption", "plain_modulus"): (65537,),
    ("manifest", "encryption", "scheme"): ("CKKS", "none"),
    ("manifest", "software"): ({"tenseal": "0.3.16", "seal": "4.1"}, {}, None),
    ("manifest", "ledger", "length"): (0, 1, -1, 3, 10**300, True, 2.0),
    ("manifest", "contributors"): ([], ["east"], ["east"] * 4, ["zeta", *CLIENTS], [{}, {}, {}]),
    ("manifest", "seed"): ("", "00" * 31, "00" * 33, "zz" * 32, 5, "\u0660" * 64),
    ("manifest", "values"): ([], ["1"], ["-1", "1"], [1, 2], ["9" * 5000, "1"], ["\u0661", "2"]),
    ("manifest", "challenge"): ("00" * 32, None), ("manifest", "of"): ("00" * 32,),
    ("manifest", "agreed"): ({}, [], dict.fromkeys(CLIENTS, "00" * 64), {"east": "00" * 64}),
    ("manifest", "listing"): ("00" * 32, "", None),
}  # fmt: skip
HUGE = (10**4300 - 1, 10**4299, 10**30, 1 << 36, 10**9)


def field_lie(data, chance, world):
    """A field of the protocol with a value that belongs elsewhere."""
    value, write = document(data)
    known = [path for path in FIELDS if _has(value, path)]
    path = chance.choice(known) if known else ()
    return write(replaced(value, path, chance.choice(FIELDS[path]))) if path else data


def _has(value, path):
    try:
        within(value, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def claim(data, chance, world, sender=None):
    """Another sender's name; who signs is said elsewhere."""
    value, write = document(data)
    value["sender"] = sender or chance.choice([*CLIENTS, ABSENT, "server", "holder", "stranger"])
    return write(value)


def picked(draft, chance, blob):
    if blob is not None:
        return next(i for i, (name, _) in enumerate(draft.blobs) if name == blob)
    return chance.randrange(len(draft.blobs))


def blob_content(data, chance, world, blob=None, how=None):
    """Another content, honestly announced."""
    draft = Draft.of(data)
    if not draft.blobs:
        return data
    index = picked(draft, chance, blob)
    name, old = draft.blobs[index]
    new = {
        "zero": lambda: bytes(len(old)),
        "maximal": lambda: b"\xff" * len(old),
        "zero part": lambda: bytes(len(old) // 2) + old[len(old) // 2 :],
        "maximal end": lambda: old[:-64] + b"\xff" * len(old[-64:]),
        "empty": lambda: b"",
        "flip": lambda: flips(old, chance, world),
        "flip one": lambda: flip(old, chance, world),
        "short": lambda: old[:-1],
        "long": lambda: old + b"\0",
        "twice": lambda: old + old,
        "noise": lambda: chance.randbytes(len(old)),
        "halves": lambda: swap_halves(old, chance, world),
        "repeat": lambda: old[: len(old) // 2] * 2 + old[len(old) // 2 * 2 :],
    }
    draft.blobs[index] = (name, new[how or chance.choice(sorted(new))]())
    return draft.to_bytes()


def blob_names(data, chance, world, how=None, blob=None):
    draft = Draft.of(data)
    how = how or chance.choice(["rename", "swap", "double", "drop", "add", "many", "unsorted"])
    if how == "add":
        draft.blobs.append((chance.choice(["", "seeds/zeta", "zz"]), b"more"))
    elif how == "many":
        draft.blobs += [(f"zz{index}", b"") for index in range(3000)]
    elif how == "unsorted":
        draft.blobs.reverse()
        return draft.to_bytes()
    elif draft.blobs:
        index = picked(draft, chance, blob)
        name, content = draft.blobs[index]
        if how == "rename":
            new = chance.choice(["", "x", name.upper(), name + "\0", "seeds/" + name, *CLIENTS])
            draft.blobs[index] = (new, content)
        elif how == "double":
            draft.blobs.insert(index, (name, content))
            return draft.to_bytes()
        elif how == "drop":
            del draft.blobs[index]
        else:
            other = chance.randrange(len(draft.blobs))
            theirs, foreign = draft.blobs[other]
            draft.blobs[index], draft.blobs[other] = (name, foreign), (theirs, content)
    draft.blobs.sort()
    return draft.to_bytes()


def blob_lie(data, chance, world, how=None):
    """Lengths and digests that are not those of the blobs."""
    draft = Draft.of(data)
    if not draft.blobs:
        return data
    draft.honest = False
    entry = chance.choice(draft.value["blobs"])
    how = how or chance.choice(["length", "negative", "huge", "shift", "digest", "upper", "float"])
    if how == "shift" and len(draft.value["blobs"]) > 1:
        draft.value["blobs"][0][1] += 8
        draft.value["blobs"][1][1] -= 8
    elif how in ("digest", "upper"):
        entry[2] = entry[2].upper() if how == "upper" else "00" * 32
    else:
        lies = {"negative": -entry[1], "huge": 2**63, "float": float(entry[1])}
        entry[1] = lies.get(how, entry[1] + chance.choice([-1, 1, 64]))
    return draft.to_bytes()


def blob_foreign(data, chance, world, other=None, blob=None):
    """A blob of the same name from another message."""
    draft, foreign = Draft.of(data), Draft.of(other_message(chance, world, other))
    theirs = dict(foreign.blobs)
    if not draft.blobs or not theirs:
        return data
    index = picked(draft, chance, blob)
    name = draft.blobs[index][0]
    draft.blobs[index] = (name, theirs.get(name, theirs[sorted(theirs)[0]]))
    return draft.to_bytes()


def derived(data, chance, world, num_clients=None, num_params=None):
    """Other parameters, which are those that `derive` gives, where it gives any."""
    value, write = document(data)
    stated = value["manifest"]["encryption"] if "manifest" in value else value
    clients = num_clients or chance.choice([1, 3, 4, 1000])
    params = num_params or chance.choice([1, 24, 10**6, *HUGE])
    stated |= {"num_clients": clients, "num_params": params}
    with contextlib.suppress(ConfigError):
        stated |= parameters_with(params, Custody(stated["custody"]), clients).to_json()
    return write(value)


def parameters_with(num_params, custody, num_clients):
    return derive(num_clients=num_clients, bits=BITS, num_params=num_params, custody=custody)


def largest_parameters():
    """With as many parameters as `derive` allows, once as many as JSON can write."""
    for num_params in HUGE:
        with contextlib.suppress(ConfigError):
            return parameters_with(num_params, Custody.KEY_HOLDER, len(CLIENTS))
    raise AssertionError("not even a billion parameters are allowed")


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


def add_constant(data, chance, world, steps=1):
    """A known shift of a sum: one step of the slots' scale in the first coefficient."""
    draft = Draft.of(data)
    index = picked(draft, chance, "ciphertexts")
    stated = draft.value["manifest"]["encryption"]
    kind = {"key_holder": "holder", "shared_key": "shared"}.get(stated.get("custody"), "ckks")
    parameters = world.parameters[kind]
    bits = parameters.sum_bits
    rows = residues.rows_of(draft.blobs[index][1], parameters.num_ciphertexts, bits)
    polynomials = residues.from_rows(rows, bits)
    shift = steps * (COEFF_MODULUS // getattr(parameters, "plain_modulus", 4))
    polynomials[0][0, 0] = (int(polynomials[0][0, 0]) + shift) % COEFF_MODULUS
    content = residues.to_rows(polynomials, bits).tobytes()
    draft.blobs[index] = ("ciphertexts", content)
    return draft.to_bytes()


def seeds_repeat(data, chance, world):
    """One seed in place of others, within a contribution or across two."""
    draft = Draft.of(data)
    blocks = [i for i, (name, _) in enumerate(draft.blobs) if name.startswith("seeds")]
    if not blocks:
        return data
    index, source = chance.choice(blocks), chance.choice(blocks)
    name, block = draft.blobs[index]
    draft.blobs[index] = (
        name,
        (draft.blobs[source][1][:64] * (len(block) // 64 + 1))[: len(block)],
    )
    return draft.to_bytes()


def contributions(data, chance, world, how=None, client=None, other=None):
    """What a hostile aggregator, or one with hostile clients, would list; all agree to it."""
    draft = Draft.of(data)
    listed = draft.value["manifest"].get("contributions")
    if not isinstance(listed, list) or not listed:
        return data
    ways = ["drop", "double", "reorder", "foreign", "signature", "rename", "resign", "none", "zeta"]
    how = how or chance.choice(ways)
    index = chance.randrange(len(listed))
    if client is not None:
        index = next(i for i, entry in enumerate(listed) if entry["client"] == client)
    entry = listed[index]
    if how == "drop":
        del listed[index]
        draft.blobs = [b for b in draft.blobs if b[0] != f"seeds/{entry['client']}"]
    elif how == "double":
        listed.insert(index, entry)
    elif how == "reorder":
        listed.reverse()
    elif how == "foreign":
        sums = sorted(name for name in world.messages if name.endswith("/sum"))
        foreign = Draft.of(world.messages[other or chance.choice(sums)])
        theirs = foreign.value["manifest"]["contributions"]
        listed[index] = theirs[index % len(theirs)]
        seeds = dict(foreign.blobs)
        draft.blobs = [
            (name, seeds.get(name, blob) if name == f"seeds/{entry['client']}" else blob)
            for name, blob in draft.blobs
        ]
    elif how == "signature":
        signatures = [e["signature"] for e in listed] + ["00" * 64, "ff" * 64, malleated(entry)]
        entry["signature"] = chance.choice(signatures)
    elif how == "rename":
        entry["client"] = chance.choice([*CLIENTS, ABSENT, "server", "holder", "stranger"])
    elif how == "none":
        listed.clear()
    else:
        _resigned(draft, entry, chance, world, ABSENT if how == "zeta" else entry["client"])
    listed.sort(key=lambda e: str(e["client"])) if how == "zeta" else None
    if "agreed" in draft.value["manifest"]:
        draft.value["manifest"]["agreed"] = _agreements(draft, listed, world)
    return draft.to_bytes()


def _agreements(draft, listed, world):
    own, terms = agreement_to(listed), _terms_of(draft)
    names = [entry["client"] for entry in listed if entry["client"] in world.identities]
    messages = {name: to_sign(terms, name, "agreed", own, []) for name in names}
    return {name: world.identities[name].sign(messages[name]).hex() for name in names}


def _terms_of(draft):
    """The terms that a sum or a listing states."""
    own = ("contributions", "agreed")
    manifest = {key: new for key, new in draft.value["manifest"].items() if key not in own}
    return Terms(run=draft.value["run"], round=draft.value["round"], manifest=manifest)


def malleated(entry):
    signature = bytes.fromhex(entry["signature"])
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return (signature[:32] + scalar.to_bytes(32, "little")).hex()


def _resigned(draft, entry, chance, world, name):
    """A contribution that its client signed anew, with seeds of its choice."""
    old = f"seeds/{entry['client']}"
    block = dict(draft.blobs).get(old)
    entry["client"] = name
    if block is not None:
        block = chance.choice([block, chance.randbytes(len(block)), b"", bytes(len(block))])
        draft.blobs = sorted([b for b in draft.blobs if b[0] != old] + [(f"seeds/{name}", block)])
        entry["blobs"][-1] = ["seeds", len(block), hashlib.sha256(block).hexdigest()]
    entry["ledger"] = chance.choice([entry["ledger"], None, nested(20), {"length": 9}])
    own = {"ledger": entry["ledger"]}
    message = to_sign(_terms_of(draft), name, "update", own, entry["blobs"])
    entry["signature"] = world.identities[name].sign(message).hex()


JSON_STEPS = (*FORM_STEPS, field_lie, derived)
STATEMENT_STEPS = (
    *JSON_STEPS, field_lie, field_lie, claim, blob_content, blob_content, blob_content,
    blob_names, blob_lie, blob_foreign, seeds_repeat,
)  # fmt: skip
SUM_STEPS = (derived, contributions, contributions, extraction, add_constant)
