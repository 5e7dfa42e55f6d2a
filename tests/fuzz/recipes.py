"""Recipes, as Hypothesis draws and shrinks them: what is sent where, changed how, signed by whom.

A recipe is JSON. It names messages, and says by a seed where they are changed, so it fits messages
under fresh keys. What fails is printed as an entry for `corpus.json`.
"""

from hypothesis import strategies as st

from tests.fuzz.blob_mutators import CONTENTS
from tests.fuzz.protocol_mutators import HUGE, LISTINGS

HOSTILE_VALUES = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 10**4299,
    -(10**4000), 0.0, -0.0, 1.0, 1.5, 1e308, "", " ", "0", "1", "\0", "\ud800", "e\u0301", "\u0663",
    "\uff10", "x" * 5000, "../east", "/", "east", "holder", "server", "00" * 32, [], {}, [[]],
    [None], ["east", "east"], [1, 2, 3], {"": {}}, {"length": 1, "head": "00" * 32},
)  # fmt: skip
HOSTILE_TEXTS = (
    "NaN", "-Infinity", "1e999", "1" * 4301, "1" + "0" * 5000, "-0", "1.0", "1e0", '"\\ud800"',
    '"\\u0065\\u0061st"', "01", "+1", *("[" * deep + "]" * deep for deep in (31, 33, 900, 20000)),
    *('{"a":' * deep + "1" + "}" * deep for deep in (31, 33, 900, 20000)), "[" * 200000,
)  # fmt: skip
"""Values that only text can hold: NaN, infinity, deep nesting, many digits."""


def one(mutator, **arguments):
    """A strategy of steps: a mutator, each of its arguments one of these, a seed for the rest."""
    drawn = {name: st.sampled_from(values) for name, values in arguments.items()}
    seeds = st.integers(0, 2**32 - 1)
    return st.fixed_dictionaries({"do": st.just(mutator), "seed": seeds, **drawn})


BYTES = st.one_of(
    one("flip", count=(1, 1, 3, 64), last=(None, 64, 68, 72, 400, 2000)),
    one("splice", filling=("", "", "noise", "message", "own")),
    one("cut_end", keep=(0.999, 0.5, 0.001)),
    one("swap_halves"),
    one("empty"),
    one("length_lie", value=(0, 1, 77, 700, 2**22, 2**22 + 1, 2**31, 2**32 - 1)),
)
FORMS = st.one_of(
    one("json_delete"),
    one("json_set", value=HOSTILE_VALUES),
    one("json_text", text=HOSTILE_TEXTS),
    one("json_add", key=("x", "", "key_id", "values"), value=(0, None, "x", {}, "00" * 32)),
    one("json_double"),
    one("json_retype"),
    one("json_swap"),
    one("json_foreign"),
    one("json_form", form=("indent", "spaces", "reverse", "raw", "bom", "newline", "utf16")),
    one("derived", num_clients=(1, 3, 4, 1000), num_params=(1, 24, 10**6, *HUGE)),
)
FIELD = one("field_lie")
CONTENT = one("blob_content", how=sorted(CONTENTS))
BLOBS = st.one_of(
    one("blob_names", how=("rename", "swap", "double", "drop", "add", "many", "unsorted")),
    one("blob_lie", how=("length", "negative", "huge", "shift", "digest", "upper", "float")),
    one("blob_foreign"),
    one("seeds_repeat"),
)
SUMS = st.one_of(
    one("contributions", how=sorted(LISTINGS)),
    one("extraction"),
    one("add_constant", steps=(1, 2)),
)
OVERSIZED = one("oversized", mebibytes=(1, 2, 4))
SIGNATURE = one(
    "signature", how=("remove", "zero", "swap", "malleate", "noise", "digest", "identity")
)
SIGNERS = st.sampled_from(
    ["sender"] * 5 + ["kept", "stated", "east", "server", "holder", "stranger"]
)
DOCUMENT = (BYTES, FORMS, FORMS, FIELD)
STATEMENT = (*DOCUMENT, CONTENT, BLOBS)
INNER = st.fixed_dictionaries(
    {
        "do": st.just("inner_message"),
        "seed": st.just(0),
        "steps": st.sampled_from(STATEMENT).flatmap(st.tuples),
        "signer": SIGNERS,
    }
)
EVERYTHING = (*STATEMENT, SUMS, INNER)
"""What a target may say that its steps are drawn from; one step in so many of each."""


@st.composite
def recipes(draw, name, target, messages):
    """A recipe for one target, mostly from a message that it is meant for."""
    base = draw(st.sampled_from(draw(st.sampled_from([target.bases] * 11 + [messages]))))
    count = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 3]))
    steps = [draw(draw(st.sampled_from(target.steps))) for _ in range(count)]
    steps += [draw(OVERSIZED)] if draw(st.integers(0, 499)) == 499 else []
    recipe = {"target": name, "base": base, "steps": steps, "signer": draw(SIGNERS)}
    return {**recipe, "after": [draw(SIGNATURE)]} if draw(st.integers(0, 11)) == 11 else recipe
