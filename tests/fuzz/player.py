"""The player: feeds recipes to all targets of one world, in this process, and counts.

A message must be refused with a documented error or rightly accepted, in time, without a word on
standard output or a swallowed failure in the log, and a refused one must leave the state as it was.
"""

import logging
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.recipes import built, targets_of
from tests.fuzz.target import MOST_SECONDS
from tests.fuzz.worlds import World

REAL_PER_CPU = 10
CHECK_EVERY = 40


class TooSlowError(BaseException):
    """One message took more than its time; not an Exception, so that nothing swallows it."""


@dataclass
class Tally:
    """What happened, by target."""

    messages: int = 0
    refused: Counter = field(default_factory=Counter)
    accepted: Counter = field(default_factory=Counter)
    resigned_accepted: Counter = field(default_factory=Counter)
    checked: Counter = field(default_factory=Counter)
    forgeries: int = 0
    slowest: float = 0.0
    growth: int = 0
    defects: list = field(default_factory=list)
    outcomes: list = field(default_factory=list)

    def to_json(self):
        names = sorted({*self.refused, *self.accepted})
        counts = {
            name: {
                "refused": self.refused[name],
                "accepted": self.accepted[name],
                "accepted changed": self.resigned_accepted[name],
                "state checked": self.checked[name],
            }
            for name in names
        }
        return {
            "messages": self.messages,
            "targets": counts,
            "forgeries accepted": self.forgeries,
            "slowest_s": round(self.slowest, 3),
            "memory growth": self.growth,
            "defects": self.defects,
            "outcomes of the given": self.outcomes,
        }


class _Logged(logging.Handler):
    """The key holder's log: a traceback in it is a failure that its loop swallowed."""

    def __init__(self):
        super().__init__()
        self.failure = None

    def emit(self, record):
        record.getMessage()
        if record.exc_info:
            self.failure = record.exc_info[1]


class Player:
    """Plays recipes against all targets of one world."""

    def __init__(self, folder, note=lambda recipe: None, printed=lambda: 0):
        self.world = World(folder)
        self.targets = targets_of(self.world)
        self.tally = Tally()
        self.note, self.printed = note, printed
        self.log = _Logged()
        logger = logging.getLogger("privfed.key_holder")
        logger.addHandler(self.log)
        logger.propagate = False
        self.start_memory = None

    def play(self, recipe, check=False):
        """One recipe; returns "refused", "accepted", or the reason why it is a defect."""
        target = self.targets[recipe["target"]]
        self.note(recipe)
        self.log.failure = None
        raw = built(recipe, target, self.world)
        self.tally.messages += 1
        before, talk = target.print(), self.printed()
        outcome, reason = self._fed(target, recipe, raw)
        if self.log.failure is not None:
            reason = reason or f"swallowed in the loop: {self.log.failure!r}"
        if self.printed() != talk:
            reason = reason or "something was printed"
        if outcome == "refused" and target.print() != before:
            reason = reason or "a refused message changed the state"
        check = check or self.tally.refused[target.name] % CHECK_EVERY == 1
        if outcome == "refused" and check and reason is None:
            reason = self._still_works(target)
        if outcome != "refused" or reason:
            target.renew()
        if self.tally.messages % 500 == 0:
            self._weigh()
        if reason is not None:
            self._defect(recipe, reason)
            return reason
        return outcome

    def _fed(self, target, recipe, raw):
        began = time.process_time()
        try:
            result = _timed(target.feed, raw, target.seconds(raw))
            outcome = "accepted"
        except target.errors as error:
            result, outcome = error, "refused"
        except TooSlowError:
            return "slow", "it took too long"
        except RecursionError as error:
            return "failed", f"untyped: {error!r}"
        except Exception as error:  # noqa: BLE001 any other is what the fuzzer looks for
            return "failed", f"untyped: {error!r:.300}"
        spent = time.process_time() - began
        self.tally.slowest = max(self.tally.slowest, spent * MOST_SECONDS / target.seconds(raw))
        if spent > target.seconds(raw):
            return "slow", f"it took {spent:.1f} s"
        return outcome, self._judged(target, recipe, raw, outcome, result)

    def _judged(self, target, recipe, raw, outcome, result):
        name = target.name
        if outcome == "refused":
            self.tally.refused[name] += 1
            reason = target.judge_refusal(raw, result)
            target.recovered(raw, result)
            return reason
        self.tally.accepted[name] += 1
        changed = raw != target.message(recipe["base"])
        self.tally.resigned_accepted[name] += changed
        reason = target.judge(raw, result)
        self.tally.forgeries += isinstance(reason, str) and "forged" in reason
        return f"accepted, though {reason}" if reason else None

    def _still_works(self, target):
        self.tally.checked[target.name] += 1
        try:
            result = target.feed(target.message(target.valid))
        except Exception as error:  # noqa: BLE001 whatever it is, the state is damaged
            return f"afterwards the valid message is refused: {error!r:.300}"
        reason = target.judge(target.message(target.valid), result)
        target.renew()
        return f"afterwards the valid message is misread: {reason}" if reason else None

    def _weigh(self):
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if self.start_memory is None:
            self.start_memory = memory
        self.tally.growth = max(self.tally.growth, memory - self.start_memory)

    def _defect(self, recipe, reason):
        self.tally.defects.append({**recipe, "why": reason})


def _timed(feed, raw, seconds):
    def stop(number, frame):
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * REAL_PER_CPU)
    try:
        return feed(raw)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
