"""A hub and three nodes in one process: what carries their bytes is a function."""

from pathlib import Path

from privfed import Plain
from privfed.engines.machines.hub import REACHED, Hub
from privfed.engines.machines.node import Node
from privfed.errors import ConfigError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.kept_run import ReachedFile
from privfed.parties.aggregator.run import Following

NAMES = ("client-0", "client-1", "client-2")
SHARING = "client-2"
"""Whose operator lets the export of its ledger leave."""


class Carrying:
    """The way to the nodes; who is away is not reached."""

    def __init__(self, nodes):
        self.nodes, self.away, self.carried = nodes, set(), []

    def present(self):
        return sorted(set(self.nodes).difference(self.away))

    def exchange(self, messages):
        self.carried.append(messages)
        return {
            name: self.nodes[name].answer(message)
            for name, message in messages.items()
            if name not in self.away
        }


class Beside:
    """All parties of a run of two rounds.

    Args:
        make_federation: see the fixture.
        folder: new.
        names: of the clients.
        settings: of the federation.
    """

    def __init__(self, make_federation, folder, names=NAMES, **settings):
        self.folder, self.names = folder, names
        settings = {"encryption": Plain(), "rounds": 2, **settings}
        self.settings = make_federation(num_clients=len(names), **settings)
        roles = dict.fromkeys([*names, "other"], Role.CLIENT)
        roles |= {"hub": Role.AGGREGATOR, "keys": Role.KEY_HOLDER}
        self.identities = {name: Identity.generate(name, role) for name, role in roles.items()}
        authority = Identity.generate("ministry", Role.AUTHORITY)
        parties = [identity.party for identity in self.identities.values()]
        self.roster = Roster.signed("wards", parties, authority)
        self.told = {name: [] for name in names}
        self.nodes, self.rounds, self.refused = {}, [], []
        self.carrying = Carrying(self.nodes)

    def node(self, name, **changes):
        """A node that was not prepared; one that was there before is ended."""
        if name in self.nodes:
            self.nodes.pop(name).files.release()
        (client,) = [one for one in self.settings.clients if one.id == name]
        values = {
            "client": client,
            "settings": self.settings,
            "identity": self.identities[name],
            "roster": self.roster,
            "share_ledger": name == SHARING,
            "results": self.results(name),
            "told": self.told[name].append,
        }
        self.nodes[name] = Node(**{**values, **changes})
        return self.nodes[name]

    def results(self, name) -> Path:
        return self.folder / f"results-{name}"

    def prepared(self):
        """All nodes, prepared."""
        for name in self.names:
            self.node(name).prepare()
        return self.nodes

    def hub(self, **changes):
        """The hub."""
        values = {
            "identity": self.identities["hub"],
            "roster": self.roster,
            "proposal": self.settings.proposal(),
            "carried": self.carrying,
            "folder": self.folder / "hub",
            "following": self._following,
            "connect": None,
        }
        (self.folder / "hub").mkdir(exist_ok=True)
        return Hub(**{**values, **changes})

    def _following(self, hub):
        return Following(
            keep=ReachedFile(hub.folder / REACHED).save,
            on_refused=lambda name, error: self.refused.append((name, error)),
            on_round=self.rounds.append,
            patience_s=0.0,
        )

    def close(self):
        for node in self.nodes.values():
            node.files.release()


def begun(hub):
    """A hub that waited for nobody and began."""

    def waiting(names):
        raise ConfigError(f"nobody waits here for {names}")

    hub.wait(waiting)
    hub.begin()
    return hub
