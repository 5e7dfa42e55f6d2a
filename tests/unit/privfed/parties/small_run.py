"""All parties of a small run in this process, and the aggregator's messages to the clients."""

from dataclasses import replace

import pytest

from privfed.engines.play import Play
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import ABANDON, MISSING, REASON, SUM, TRAIN
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import RoundPlan
from privfed.reports.round_record import Reason


class Clients:
    """All clients of a small run, and the aggregator's messages to them."""

    def __init__(self, running):
        running.begin([])
        self.running = running
        self.aggregator = running.aggregator
        self.programs = running.clients
        self.runs = {name: program.membership.run for name, program in running.clients.items()}
        self.one = self.runs["client-0"]
        self.summing = running.aggregator.summing
        self.range = running.record.public_range

    def plan(self, number=1, base=None):
        base = base or self.one.progress.base
        return RoundPlan(run=self.summing.run_terms.run, round=number, base_digest=base)

    def train(self, number=1, *, base=None, identity=None, terms=None):
        terms = terms or self.summing.terms(self.plan(number, base), self.range)
        return signed_message(identity or self.summing.identity, terms, TRAIN)

    def abandon(self, number=1, **about):
        about = {REASON: Reason.TOO_FEW, MISSING: ["client-3"], **about}
        terms = self.summing.terms_of_run(number)
        return signed_message(self.summing.identity, terms, ABANDON, manifest=about)

    def ending(self, number=1):
        """What ends a round that all play, and the list that they agreed to."""
        exchange, asked = [], self._round(number)

        def carried(messages):
            exchange.append(dict(messages))
            if statement_of(next(iter(messages.values()))).kind == SUM:
                raise Stop
            return {name: self.runs[name].handle(message) for name, message in messages.items()}

        with pytest.raises(Stop):
            replace(asked, exchange=carried).play()
        return exchange[-1]["client-0"], exchange[-2]["client-0"]

    def _round(self, number):
        play = Play(self.programs, stacked_clients=1, on_client=lambda _: None)
        self.aggregator._agreed.setdefault(number, set())
        return replace(self.aggregator._round(number), exchange=play.exchange)


class Stop(Exception):
    """The sum is about to be sent."""
