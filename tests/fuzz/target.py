"""What an entry point is to the fuzzer: a state, a way to feed it bytes, and a judgement of it.

`feed` gives bytes to the entry point; `judge` says why what it accepted should not have been, or
None. The entry points themselves are in the modules whose names end in `_targets`.
"""

from privfed.errors import MessageError
from tests.fuzz.judge import Judge
from tests.fuzz.recipes import STATEMENT

MOST_SECONDS = 2.0


class Target:
    """One entry point with its state.

    Attributes:
        bases: names of the messages that it is meant for.
        valid: the one that it must accept at any time.
        errors: those it is documented to raise.
        steps: draws the changes that fit its bytes.
    """

    errors = (MessageError,)
    steps = STATEMENT

    def __init__(self, world, bases, valid):
        self.world, self.judge_of = world, Judge(world)
        self.bases, self.valid = bases, valid
        self.own_messages = {}
        self.renew()

    def renew(self):
        """A fresh state, after something was accepted."""

    def message(self, name):
        """The base of that name; a target may have its own of a fresh key."""
        return self.own_messages.get(name) or self.world.messages[name]

    def print(self):
        """What a refused message must leave as it was."""
        return None

    def recovered(self, raw, error):
        """Bring back a state that a refusal is documented to end."""

    def judge_refusal(self, raw, error):
        """A reason why even a refusal was wrong."""
        return None

    def seconds(self, raw):
        """How long it may take."""
        return MOST_SECONDS
