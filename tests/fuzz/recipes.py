"""Recipes: which entry point gets which valid message, changed how, and signed by whom.

A recipe is JSON. It names messages and positions relative to lengths and carries seeds, so it fits
messages under fresh keys; the same seed gives the same recipes in every world.
"""

import random

from tests.fuzz.aggregator_targets import AggregatorTarget, EnvelopeTarget, LinkTarget
from tests.fuzz.byte_mutators import BYTE_STEPS, oversized
from tests.fuzz.client_targets import KeyTarget, OpenTarget, RoundKeyTarget, UpdateAnswerTarget
from tests.fuzz.envelopes import MAGIC
from tests.fuzz.file_targets import file_targets
from tests.fuzz.holder_targets import HolderTarget, HugeTarget, StreamTarget
from tests.fuzz.mutators import prepared, signature
from tests.fuzz.worlds import HolderRound

COSTLY = {f"key_holder/{state}" for state in ("opened", "committed", "finished")}
COSTLY |= {"serving.answer/committed"}
"""Targets whose state takes a whole round to make anew; they get half as many messages."""


def targets_of(world):
    every = sorted(name for name, raw in world.messages.items() if raw.startswith(MAGIC))
    made = [EnvelopeTarget(world, "envelope", every, "shared/sum")]
    made += [AggregatorTarget(world, kind) for kind in ("shared", "holder", "ckks", "plain")]
    made += [OpenTarget(world, kind) for kind in ("shared", "ckks", "plain")]
    made += [OpenTarget(world, "shared", later=True)]
    made += [KeyTarget(world, kind) for kind in ("shared", "ckks")]
    made += [RoundKeyTarget(world, method) for method in ("accept_key", "answer", "open")]
    made += [UpdateAnswerTarget(world)]
    made += [HolderTarget(world, state) for state in HolderRound.STATES]
    made += [HolderTarget(world, state, served=True) for state in ("new", "committed")]
    made += [HugeTarget(world)]
    made += [LinkTarget(world, step) for step in ("begin", "challenge", "result")]
    made += [StreamTarget(world), *file_targets(world)]
    return {target.name: target for target in made}


def recipes(count, seed, targets, world):
    """So many recipes, the same for every world."""
    chance = random.Random(seed)
    names, everything = sorted(targets), sorted(world.messages)
    names += [name for name in names if name not in COSTLY]
    for _ in range(count):
        target = targets[chance.choice(names)]
        foreign = chance.random() < 0.08
        base = chance.choice(everything if foreign else target.bases)
        plain = chance.random()
        pool = BYTE_STEPS if plain < 0.25 else target.steps
        steps = [_step(chance, pool) for _ in range(chance.choice([0, 1, 1, 1, 1, 1, 2, 2, 3]))]
        if chance.random() < 0.002:
            steps.append(_step(chance, [oversized]))
        signers = ["kept", "sender", "sender", "sender", "stated", "east", "server", "holder"]
        recipe = {"target": target.name, "base": base, "steps": steps,
                  "signer": chance.choice([*signers, "sender", "stranger"])}  # fmt: skip
        if chance.random() < 0.08:
            recipe["after"] = [_step(chance, [signature])]
        yield recipe


def _step(chance, pool):
    return {"do": chance.choice(pool).__name__, "seed": chance.randrange(1 << 32)}


def built(recipe, target, world):
    base = target.message(recipe["base"])
    return prepared(world, base, recipe["steps"], recipe["signer"], recipe.get("after", ()))
