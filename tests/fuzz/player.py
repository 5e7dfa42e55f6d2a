"""The player: feeds recipes to all targets of one world and says what is a defect.

A message must be refused with a documented error or rightly accepted, in time, without a word on
standard output or a swallowed failure in the log, and a refused one must leave the state as it was.
"""

import json
import logging
import os
import signal
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from tests.fuzz import file_targets
from tests.fuzz.holder_targets import HolderTarget, HugeTarget, StreamTarget
from tests.fuzz.mutators import prepared
from tests.fuzz.reply_targets import LinkTarget, ReplyTarget, UpdateAnswerTarget
from tests.fuzz.round_targets import AggregatorTarget, KeyTarget, OpenTarget
from tests.fuzz.worlds import HolderRound, World

JSON = ("parameters/shared", "parameters/holder", "parameters/ckks", "contribution")
TARGETS = {
    "envelope": file_targets.envelope_target,
    **{f"aggregator/{kind}": partial(AggregatorTarget, kind=kind)
       for kind in ("shared", "holder", "ckks", "plain")},
    **{f"open/{kind}": partial(OpenTarget, kind=kind) for kind in ("shared", "ckks", "plain")},
    "open/shared/later": partial(OpenTarget, kind="shared", later=True),
    **{f"receive_secret/{kind}": partial(KeyTarget, kind=kind) for kind in ("shared", "ckks")},
    **{f"client/{step}": partial(ReplyTarget, step=step) for step in ReplyTarget.KINDS},
    "client/answer/own update": UpdateAnswerTarget,
    **{f"link/{step}": partial(LinkTarget, step=step) for step in LinkTarget.KINDS},
    **{f"key_holder/{state}": partial(HolderTarget, state=state) for state in HolderRound.STATES},
    **{f"serving.answer/{state}": partial(HolderTarget, state=state, served=True)
       for state in ("new", "committed")},
    "key_holder/huge": HugeTarget,
    "serving.serve": StreamTarget,
    "roster": file_targets.roster_target,
    "identity": file_targets.identity_target,
    "party": file_targets.party_target,
    **{name: partial(file_targets.json_target, valid=name) for name in JSON},
    "frame": file_targets.frame_target,
    "wrapped": file_targets.wrapped_target,
}  # fmt: skip
"""Every entry point, made for a world."""

REAL_PER_CPU = 10


class TooSlowError(BaseException):
    """One message took more than its time; not an Exception, so that nothing swallows it."""


class DefectError(AssertionError):
    """A message was handled wrongly."""


class Player(logging.Handler):
    """Plays recipes; as a handler, it notes failures that the key holder's loop swallowed.

    Attributes:
        note: the file with the recipe that is played, which a native crash leaves behind.
        counts: by target, how many messages were refused, accepted, and accepted though changed,
            and how often it was seen to take its valid message after a refusal.
    """

    def __init__(self, folder):
        super().__init__()
        self.world, self.note = World(folder), Path(folder, "recipe.json")
        self.targets, self.counts = {}, defaultdict(Counter)

    def target(self, name):
        if name not in self.targets:
            self.targets[name] = TARGETS[name](self.world)
        return self.targets[name]

    def emit(self, record):
        record.getMessage()
        if record.exc_info:
            self.swallowed = record.exc_info[1]

    def play(self, recipe, check=True):
        """Play one recipe: "refused" or "accepted".

        Raises:
            DefectError: with the reason; `check` looks for harm to the state that came unseen.
        """
        target = self.target(recipe["target"])
        self.note.write_text(json.dumps(recipe))
        base = target.message(recipe["base"])
        after = recipe.get("after", ())
        raw = prepared(self.world, base, recipe["steps"], recipe["signer"], after)
        outcome, reason = self._fed(target, raw)
        counts = self.counts[recipe["target"]]
        if outcome == "refused" and check and reason is None:
            reason = self._still_works(target)
            counts["state checked"] += 1
        if outcome != "refused" or reason:
            target.renew()
        if reason is not None:
            raise DefectError(f"{reason}: {json.dumps(recipe)}")
        counts[outcome] += 1
        counts["accepted changed"] += outcome == "accepted" and raw != base
        return outcome

    def _fed(self, target, raw):
        """How the target took it, and the reason why that is a defect."""
        before, printed, self.swallowed = target.print(), printed_bytes(), None
        log = logging.getLogger("privfed.key_holder")
        log.addHandler(self)
        try:
            result, outcome = timed(target.feed, raw, target.seconds(raw)), "accepted"
        except target.errors as error:
            result, outcome = error, "refused"
        except TooSlowError:
            return "slow", "it took too long"
        except Exception as error:  # noqa: BLE001 any other is what the fuzzer looks for
            return "failed", f"untyped: {error!r:.300}"
        finally:
            log.removeHandler(self)
        if printed_bytes() != printed:
            return outcome, "something was printed"
        if self.swallowed is not None:
            return outcome, f"swallowed in the loop: {self.swallowed!r}"
        if outcome == "accepted":
            reason = target.judge(raw, result)
            return outcome, f"accepted, though {reason}" if reason else None
        reason = target.judge_refusal(raw, result)
        target.recovered(raw, result)
        if target.print() != before:
            reason = reason or "a refused message changed the state"
        return outcome, reason

    def _still_works(self, target):
        raw = target.message(target.valid)
        try:
            reason = target.judge(raw, target.feed(raw))
        except Exception as error:  # noqa: BLE001 whatever it is, the state is damaged
            return f"afterwards the valid message is refused: {error!r:.300}"
        target.renew()
        return f"afterwards the valid message is misread: {reason}" if reason else None


def printed_bytes():
    """So much was written to standard output and error, where pytest catches them in files."""
    return os.fstat(1).st_size + os.fstat(2).st_size


def timed(feed, raw, seconds):
    """What `feed` returns, unless it takes more CPU time, or waits for very long."""

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
