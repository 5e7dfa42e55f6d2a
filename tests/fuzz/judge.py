"""The oracle: why a message must be refused, or that it may be accepted.

It knows the parties' public keys, the round's terms and the documented structure of each kind of
message, and shares no code with what it judges.
"""

import hashlib
import re

from tests.fuzz.envelopes import (
    DOMAIN,
    Draft,
    agreement_to,
    canonical,
    signed_by,
    to_sign,
    well_formed,
)
from tests.fuzz.worlds import ABSENT, CLIENTS, MIN_CLIENTS, PARAMS

REPLIES = {
    "round-key": ({"key_id", "software"}, {"public_key"}),
    "challenge": ({"seed", "sum", "contributors"}, ()),
    "result": ({"contributors"}, {"sums"}),
}
"""What the key holder's replies state beside the terms, and their blobs."""


class Judge:
    """Says why a message must be refused, or None if it may be accepted."""

    def __init__(self, world):
        self.world = world

    def genuine(self, raw, senders):
        """The message if one of `senders` signed exactly this, otherwise the reason."""
        parsed = well_formed(raw)
        if parsed is None:
            return "it is not well-formed"
        sender = parsed.value["sender"]
        if sender not in self.world.keys:
            return "its sender is not enrolled"
        digest = DOMAIN + hashlib.sha256(parsed.text).digest()
        if not signed_by(self.world.keys[sender], digest, parsed.signature):
            return "forged: its sender did not sign it"
        return parsed if sender in senders else f"{sender!r} must not send this"

    def message(self, raw, *, senders, kind, terms, own, blobs=None):
        """The message if it also states the terms and `own` values; otherwise the reason."""
        parsed = self.genuine(raw, senders)
        if isinstance(parsed, str):
            return parsed
        value = parsed.value
        if (value["run"], value["round"], value["kind"]) != (terms.run, terms.round, kind):
            return "it is of another run, round or kind"
        stated = {key: new for key, new in value["manifest"].items() if key not in own}
        if canonical(stated) != canonical(dict(terms.manifest)):
            return "its terms are others, or it states more than is documented"
        if missing := set(own) - set(value["manifest"]):
            return f"it does not state {sorted(missing)}"
        if blobs is not None and set(parsed.blobs) != set(blobs):
            return f"it has other blobs than {sorted(blobs)}"
        return parsed

    def reply(self, raw, kind, terms, also=()):
        """The key holder's reply if it states what its kind must, otherwise the reason."""
        own, blobs = REPLIES[kind]
        return self.message(
            raw, senders=("holder",), kind=kind, terms=terms, own={*own, *also}, blobs=blobs
        )

    def contributors(self, parsed):
        """Why a challenge or result names nobody who could have contributed, or None."""
        names = parsed.value["manifest"]["contributors"]
        if not isinstance(names, list) or len(names) < MIN_CLIENTS:
            return "it has too few contributors"
        if any(name not in (*CLIENTS, ABSENT) for name in names) or names != sorted(set(names)):
            return "its contributors are not different enrolled clients"
        return None

    def update(self, kind, raw, terms):
        names = {"shared": {"ciphertexts", "seeds"}, "ckks": {"ciphertexts", "seeds"},
                 "holder": {"ciphertexts"}, "plain": {"values"}}[kind]  # fmt: skip
        parsed = self.message(
            raw, senders=CLIENTS, kind="update", terms=terms, own={"ledger"}, blobs=names
        )
        if isinstance(parsed, str):
            return parsed
        ledger = parsed.value["manifest"]["ledger"]
        if not isinstance(ledger, dict) or set(ledger) != {"length", "head"}:
            return "its ledger is no anchor"
        if type(ledger["length"]) is not int or ledger["length"] < 2:
            return "its ledger is too short"
        if not re.fullmatch("[0-9a-f]{64}", str(ledger["head"])):
            return "the head of its ledger is no digest"
        return None if self._sizes(kind, parsed.blobs, "upload") else "a blob has another length"

    def _sizes(self, kind, blobs, direction):
        if kind == "plain":
            return len(blobs["values"]) == 4 * PARAMS
        parameters = self.world.parameters[kind]
        bits = parameters.upload_bits if direction == "upload" else parameters.sum_bits
        count = parameters.num_ciphertexts
        sizes = {name: 64 * count for name in blobs if name.startswith("seeds")}
        sizes["ciphertexts"] = count * sum(4096 * each // 8 for each in bits)
        return all(len(blob) == sizes[name] for name, blob in blobs.items())

    def sum(self, kind, raw, terms):
        """The names of the contributors if it may be accepted, otherwise the reason."""
        seeded = kind in ("shared", "ckks")
        own = {"contributions", "agreed"} if seeded else {"contributions"}
        parsed = self.message(raw, senders=("server",), kind="sum", terms=terms, own=own)
        if isinstance(parsed, str):
            return parsed
        stated = parsed.value["manifest"]
        listed = stated["contributions"]
        names = self._listed(listed, terms)
        if isinstance(names, str):
            return names
        if seeded and (reason := self._agreement(stated["agreed"], listed, names, terms)):
            return reason
        return self._sum_blobs(kind, parsed, listed, names)

    def _listed(self, listed, terms):
        if not isinstance(listed, list) or not MIN_CLIENTS <= len(listed) <= len(CLIENTS):
            return "it has too few or too many contributions"
        for entry in listed:
            if not isinstance(entry, dict) or set(entry) != {
                "client", "ledger", "blobs", "signature"
            }:  # fmt: skip
                return "a contribution has other fields"
            if reason := self._contribution(entry, terms):
                return reason
        names = [entry["client"] for entry in listed]
        return names if names == sorted(set(names)) else "contributors repeat or are not sorted"

    def _agreement(self, signatures, listed, names, terms):
        if not isinstance(signatures, dict) or sorted(signatures) != names:
            return "others than its contributors agreed to it"
        own = agreement_to(listed)
        if all(self._signed(n, terms, "agreed", own, [], signatures[n]) for n in names):
            return None
        return "forged: a contributor did not agree to it"

    def _sum_blobs(self, kind, parsed, listed, names):
        seeded = kind in ("shared", "ckks")
        blobs = {"values"} if kind == "plain" else {"ciphertexts"}
        blobs |= {f"seeds/{name}" for name in names} if seeded else set()
        if set(parsed.blobs) != blobs:
            return "it has other blobs than its contributors' seeds"
        for entry in listed if seeded else ():
            block = parsed.blobs[f"seeds/{entry['client']}"]
            if ["seeds", len(block), hashlib.sha256(block).hexdigest()] not in entry["blobs"]:
                return "forged: seeds that their client did not sign"
        return names if self._sizes(kind, parsed.blobs, "sum") else "a blob has another length"

    def _contribution(self, entry, terms):
        name = entry["client"]
        if name not in (*CLIENTS, ABSENT):
            return "a contributor is no enrolled client"
        own = {"ledger": entry["ledger"]}
        if self._signed(name, terms, "update", own, entry["blobs"], entry["signature"]):
            return None
        return "forged: its client did not sign a contribution"

    def _signed(self, name, terms, kind, own, blobs, signature):
        if not isinstance(signature, str) or not re.fullmatch("[0-9a-f]{128}", signature):
            return False
        message = to_sign(terms, name, kind, own, blobs)
        return signed_by(self.world.keys[name], message, bytes.fromhex(signature))

    def genuine_contributions(self, raw, original):
        """Whether all contributions of a sum are the round's own, so that its value is known."""
        ours = Draft.of(original).value["manifest"]["contributions"]
        return all(e in ours for e in Draft.of(raw).value["manifest"]["contributions"])
