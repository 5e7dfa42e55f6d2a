"""What the clients of a made-up run state and sign when their part is over."""

import json
from dataclasses import dataclass, replace

from accountants import Anchor
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.kinds import CLOSED, EPSILON, LEDGER, OPENED
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import RunTerms
from privfed.reports.assembling import assemble
from privfed.reports.closed import EXPORT, REPORT, closed_message
from privfed.reports.making import client_report
from tests.unit.privfed.made_up_run import MOMENT, RUN, made_up_run


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A run whose parties ran apart, with everybody's keys."""

    run: object
    identities: dict
    authority: Identity
    roster: Roster

    @property
    def names(self):
        return self.run.ids

    def terms(self, rounds=3, run=RUN, **changes):
        values = {
            "run": run,
            "agreement": self.run.facts.agreement.digest(),
            "encryption": {},
            "roster": self.roster.digest().hex(),
            "left_out": (),
        }
        return replace(RunTerms(**values | changes).of_run(), round=rounds)

    def report(self, client, *, moment=MOMENT, **settings):
        """The client's own report; `settings` are those that are its own."""
        mine = replace(self.run.settings, **settings)
        export = self.run.exports[client]
        return client_report(mine, self.run.facts, self.run.record, export, moment, client=client)

    def closed(self, client, *, report=None, export=True, **changes):
        """Its honest statement, or one with another report."""
        own = report or self.report(client)
        exported = self.run.exports[client] if export else None
        return closed_message(self.identities[client], self.terms(**changes), own, exported)

    def forged(self, client, *, values=None, export=None, terms=None, kind=CLOSED, blobs=None):
        """What only a deviating client signs: `values` of its report are changed."""
        text = json.loads(self.report(client).to_json())
        for path, value in (values or {}).items():
            *outer, last = path.split(".")
            place = text
            for part in outer:
                place = place[int(part) if part.isdigit() else part]
            place[last] = value
        content = {REPORT: json.dumps(text).encode()}
        if export is not None:
            content[EXPORT] = json.dumps(export).encode()
        return signed_message(
            self.identities[client],
            terms or self.terms(),
            kind,
            blobs=content if blobs is None else blobs,
        )

    def opened(self, client, *, round=1, epsilon=None, anchor=None, **changes):
        """What it stated after a round, when its ledger counted one round."""
        entry = self.run.exports[client]["entries"][2]
        anchor = anchor or Anchor(length=3, head=entry["digest"])
        epsilon = self.run.spent(client, 1).upper if epsilon is None else epsilon
        manifest = {EPSILON: epsilon, LEDGER: anchor.to_json()}
        terms = self.terms(rounds=round, **changes)
        return signed_message(self.identities[client], terms, OPENED, manifest=manifest)

    def assembled(self, closed=None, opened=None, clients=None):
        """The federation's report, of all honest statements unless said otherwise."""
        given = {name: self.closed(name) for name in self.names} if closed is None else closed
        return assemble(given, opened or {}, self.roster, run=RUN, clients=clients or self.names)


def made_up_statements(settings, folder):
    """Clients that played the made-up run as programs of their own."""
    run = made_up_run(settings, folder)
    roles = dict.fromkeys(run.ids, Role.CLIENT) | {"hub": Role.AGGREGATOR, "other": Role.CLIENT}
    identities = {name: Identity.generate(name, role) for name, role in roles.items()}
    authority = Identity.generate("ministry", Role.AUTHORITY)
    roster = Roster.signed("wards", [each.party for each in identities.values()], authority)
    facts = replace(
        run.facts,
        roster=roster.digest().hex(),
        simulated_keys=False,
        in_one_process=False,
    )
    return Signed(
        run=replace(run, facts=facts), identities=identities, authority=authority, roster=roster
    )
