"""The oracle: why a message must be refused, or that it may be accepted.

It knows the parties' public keys, the round's terms and the documented structure of each kind of
message, and shares no code with what it judges.
"""

import hashlib
import re

from tests.fuzz.envelopes import DOMAIN, Draft, canonical, signed_by, well_formed
from tests.fuzz.worlds import ABSENT, CLIENTS, MIN_CLIENTS, PARAMS


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
        own = {"contributions"}
        parsed = self.message(raw, senders=("server",), kind="sum", terms=terms, own=own)
        if isinstance(parsed, str):
            return parsed
        listed = parsed.value["manifest"]["contributions"]
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
        if names != sorted(set(names)):
            return "contributors repeat or are not sorted"
        return self._sum_blobs(kind, parsed, listed, names)

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
        statement = {
            "schema": 2, "run": terms.run, "round": terms.round, "sender": name, "kind": "update",
            "manifest": {**terms.manifest, "ledger": entry["ledger"]}, "blobs": entry["blobs"],
        }  # fmt: skip
        digest = DOMAIN + hashlib.sha256(canonical(statement)).digest()
        if not isinstance(entry["signature"], str) or len(entry["signature"]) != 128:
            return "forged: a contribution without a signature"
        if not signed_by(self.world.keys[name], digest, bytes.fromhex(entry["signature"])):
            return "forged: its client did not sign a contribution"
        return None

    def genuine_contributions(self, raw, original):
        """Whether all contributions of a sum are the round's own, so that its value is known."""
        ours = Draft.of(original).value["manifest"]["contributions"]
        return all(e in ours for e in Draft.of(raw).value["manifest"]["contributions"])
