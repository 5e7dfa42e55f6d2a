"""Changes that know the protocol: the lies of a party that follows it in all but one thing.

Fields with values that belong elsewhere, parameters that were derived for others, and what a
hostile aggregator would list as contributions. Each is a mutator as in `byte_mutators`.
"""

import contextlib
import hashlib

from privfed.encryption.parameters import derive
from privfed.errors import ConfigError
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.fuzz.envelopes import GROUP_ORDER, Draft, agreement_to, to_sign
from tests.fuzz.json_mutators import document, paths_of, replaced
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
    path = chance.choice([path for path in paths_of(value) if path in FIELDS])
    return write(replaced(value, path, chance.choice(FIELDS[path])))


def claim(data, chance, world, sender):
    """Another sender's name; who signs is said elsewhere."""
    value, write = document(data)
    value["sender"] = sender
    return write(value)


def derived(data, chance, world, num_clients, num_params):
    """Other parameters, which are those that `derive` gives, where it gives any."""
    value, write = document(data)
    stated = value["manifest"]["encryption"] if "manifest" in value else value
    stated |= {"num_clients": num_clients, "num_params": num_params}
    with contextlib.suppress(ConfigError):
        custody = Custody(stated["custody"])
        stated |= parameters_with(num_params, custody, num_clients).to_json()
    return write(value)


def parameters_with(num_params, custody, num_clients):
    return derive(num_clients=num_clients, bits=BITS, num_params=num_params, custody=custody)


def largest_parameters():
    """With as many parameters as `derive` allows, once as many as JSON can write."""
    for num_params in HUGE:
        with contextlib.suppress(ConfigError):
            return parameters_with(num_params, Custody.KEY_HOLDER, len(CLIENTS))
    raise AssertionError("not even a billion parameters are allowed")


def contributions(data, chance, world, how, client=None, other=None):
    """What a hostile aggregator, or one with hostile clients, would list; all agree to it."""
    draft = Draft.of(data)
    listed = draft.value["manifest"]["contributions"]
    index = chance.randrange(len(listed))
    if client is not None:
        index = next(i for i, entry in enumerate(listed) if entry["client"] == client)
    LISTINGS[how](draft, listed, index, chance, world, other)
    if "agreed" in draft.value["manifest"]:
        draft.value["manifest"]["agreed"] = _agreements(draft, listed, world)
    return draft.to_bytes()


def _drop(draft, listed, index, chance, world, other):
    draft.blobs = [b for b in draft.blobs if b[0] != f"seeds/{listed[index]['client']}"]
    del listed[index]


def _foreign(draft, listed, index, chance, world, other):
    """A contribution, with its seeds, to another sum."""
    sums = sorted(name for name in world.messages if name.endswith("/sum"))
    foreign = Draft.of(world.messages[other or chance.choice(sums)])
    theirs = foreign.value["manifest"]["contributions"]
    name, seeds = f"seeds/{listed[index]['client']}", dict(foreign.blobs)
    listed[index] = theirs[index % len(theirs)]
    draft.blobs = [(n, seeds.get(n, blob) if n == name else blob) for n, blob in draft.blobs]


def _signature(draft, listed, index, chance, world, other):
    old = bytes.fromhex(listed[index]["signature"])
    scalar = int.from_bytes(old[32:], "little") + GROUP_ORDER
    malleated = (old[:32] + scalar.to_bytes(32, "little")).hex()
    signatures = [entry["signature"] for entry in listed] + ["00" * 64, "ff" * 64, malleated]
    listed[index]["signature"] = chance.choice(signatures)


def _rename(draft, listed, index, chance, world, other):
    listed[index]["client"] = chance.choice([*CLIENTS, ABSENT, "server", "holder", "stranger"])


def _resign(draft, listed, index, chance, world, other, name=None):
    """A contribution that its client signed anew, with seeds of its choice."""
    entry = listed[index]
    old, name = f"seeds/{entry['client']}", name or entry["client"]
    block = dict(draft.blobs).get(old)
    entry["client"] = name
    if block is not None:
        block = chance.choice([block, chance.randbytes(len(block)), b"", bytes(len(block))])
        draft.blobs = sorted([b for b in draft.blobs if b[0] != old] + [(f"seeds/{name}", block)])
        entry["blobs"][-1] = ["seeds", len(block), hashlib.sha256(block).hexdigest()]
    entry["ledger"] = chance.choice([entry["ledger"], None, [[[[]]]], {"length": 9}])
    own = {"ledger": entry["ledger"]}
    message = to_sign(_terms_of(draft), name, "update", own, entry["blobs"])
    entry["signature"] = world.identities[name].sign(message).hex()


def _zeta(draft, listed, index, chance, world, other):
    """An enrolled client that is not of this round."""
    _resign(draft, listed, index, chance, world, other, name=ABSENT)
    listed.sort(key=lambda entry: str(entry["client"]))


LISTINGS = {
    "drop": _drop, "foreign": _foreign, "signature": _signature, "rename": _rename,
    "resign": _resign, "zeta": _zeta, "none": lambda draft, listed, *rest: listed.clear(),
    "double": lambda draft, listed, index, *rest: listed.insert(index, listed[index]),
    "reorder": lambda draft, listed, *rest: listed.reverse(),
}  # fmt: skip


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
