"""A small federation: an aggregator, a key holder, four clients, and the roster of all."""

import os
import stat
from dataclasses import dataclass

import pytest

from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import envelope_bytes
from privfed.protocol.terms import Terms
from tests.unit.privfed.made_up_statements import made_up_statements

CLIENTS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Company:
    """Secret identities by name, and the roster that pins them."""

    identities: dict[str, Identity]
    authority: Identity
    roster: Roster
    clients: tuple[str, ...] = CLIENTS

    def message(self, sender, kind, terms, *, manifest=None, blobs=None, key=None):
        """A signed message; `key` names who signs, if it is not the sender."""
        return envelope_bytes(
            self.identities[key or sender].sign,
            terms,
            sender=sender,
            kind=kind,
            manifest=manifest,
            blobs=blobs,
        )


@pytest.fixture(scope="session")
def company():
    roles = {"aggregator": Role.AGGREGATOR, "key_holder": Role.KEY_HOLDER}
    roles |= dict.fromkeys(CLIENTS, Role.CLIENT)
    identities = {name: Identity.generate(name, role) for name, role in roles.items()}
    authority = Identity.generate("ministry", Role.AUTHORITY)
    parties = [identity.party for identity in identities.values()]
    return Company(identities, authority, Roster.signed("wards", parties, authority))


@pytest.fixture(scope="session")
def round_terms(company):
    """What every message of round 3 states."""
    manifest = {
        "base": "00ff",
        "encryption": {"bits": 8, "scheme": "any"},
        "key_id": "k1",
        "public_range": 0.5,
        "roster": company.roster.digest().hex(),
        "software": {"numpy": "2.0", "tenseal": "0.3"},
        "nothing": None,
    }
    return Terms(run="run-1", round=3, manifest=manifest)


@pytest.fixture
def disk_steps(monkeypatch):
    """What was flushed and renamed so far, in order; a file with its size when it was flushed."""
    steps = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        status = os.fstat(descriptor)
        steps.append("folder" if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))
        fsync(descriptor)

    def watched_replace(source, target):
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return steps


@pytest.fixture
def signed(make_federation, tmp_path):
    """What the clients of a run sign whose parties ran apart."""
    return made_up_statements(make_federation(num_clients=4), tmp_path / "ledgers")


@pytest.fixture
def prepared(make_federation, tmp_path):
    """A function that prepares a small federation in this process, which has not begun.

    Keyword arguments replace its settings.
    """
    from privfed.engines.simulation import Simulation
    from privfed.storage.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    folder.claim()

    def prepare(**settings):
        federation = make_federation(**settings)
        return Simulation.prepared(federation, federation.clients, folder, None, ())

    yield prepare
    folder.release()
