"""Changes of the JSON in a message or file that know its form but not its meaning.

Values are deleted, replaced, retyped, doubled, swapped, or written in another form with the same
meaning. Each is a mutator as in `byte_mutators`.
"""

import json
import struct
import unicodedata

from tests.fuzz.byte_mutators import other_message
from tests.fuzz.envelopes import MAGIC, Draft, dumped

HOSTILE_VALUES = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 10**4299, 10**5000,
    -(10**4000), 0.0, -0.0, 1.0, 1.5, 1e308, "", " ", "0", "1", "\0", "\ud800", "e\u0301", "\u0663",
    "\uff10", "x" * 5000, "../east", "/", "east", "holder", "server", "00" * 32, [], {}, [[]],
    [None], ["east", "east"], [1, 2, 3], {"": {}}, {"length": 1, "head": "00" * 32},
)  # fmt: skip


def document(data):
    """The JSON value in a message or file, and how to write it back."""
    if data.startswith(MAGIC):
        draft = Draft.of(data)
        draft.honest = False

        def write(value, text=None):
            draft.value = value
            return draft.to_bytes(text)

        return draft.value, write
    if data.startswith(b"privfed-identity\n"):
        value = json.loads(data[89:-32])

        def write(value, text=None):
            text = dumped(value) if text is None else text
            return data[:85] + struct.pack("<I", len(text)) + text + data[-32:]

        return value, write
    return json.loads(data), lambda value, text=None: (text or dumped(value)) + b"\n"


def paths_of(value, prefix=()):
    yield prefix
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from paths_of(inner, (*prefix, key))


def within(value, path):
    for key in path:
        value = value[key]
    return value


def replaced(value, path, new):
    if not path:
        return new
    within(value, path[:-1])[path[-1]] = new
    return value


def nested(depth, inner=0):
    for _ in range(depth):
        inner = [inner]
    return inner


def json_node(data, chance, world, where=None):
    value, write = document(data)
    paths = list(paths_of(value))
    path = tuple(where) if where is not None else chance.choice(paths)
    return value, write, path


def json_delete(data, chance, world, where=None):
    value, write, path = json_node(data, chance, world, where)
    if path:
        del within(value, path[:-1])[path[-1]]
    return write(value)


def json_set(data, chance, world, where=None, **given):
    value, write, path = json_node(data, chance, world, where)
    new = given["value"] if "value" in given else chance.choice(HOSTILE_VALUES)
    return (
        write(replaced(value, path, new)) if _writable(new) else _written(value, path, new, write)
    )


def _writable(new):
    return not (isinstance(new, int) and abs(new) >= 10**4300)


def _written(value, path, new, write):
    """Numbers that Python itself does not write out."""
    text = dumped(replaced(value, path, "@@")).replace(b'"@@"', b"1" + b"0" * 5000)
    return write(value, text)


def json_text(data, chance, world, where=None, text=None):
    """A value that only text can hold: NaN, infinity, deep nesting, many digits."""
    value, write, path = json_node(data, chance, world, where)
    deep = chance.choice([31, 33, 900, 20000, 200000])
    choices = ["NaN", "-Infinity", "1e999", "1" * 4301, "-0", "1.0", "1e0", "[" * deep + "]" * deep]
    choices += ['{"a":' * deep + "1" + "}" * deep, '"\\ud800"', '"\\u0065\\u0061st"', "01", "+1"]
    text = chance.choice(choices) if text is None else text
    old = dumped(replaced(value, path, "@@"))
    return write(value, old.replace(b'"@@"', text.encode(), 1))


def json_add(data, chance, world, where=None, key=None, **given):
    value, write, path = json_node(data, chance, world, where)
    node = within(value, path)
    new = given["value"] if "value" in given else chance.choice([0, None, "x", {}, "00" * 32])
    if isinstance(node, dict):
        node[chance.choice(["x", "", "key_id", "values"]) if key is None else key] = new
    elif isinstance(node, list):
        node.insert(chance.randint(0, len(node)), new)
    return write(value)


def json_double(data, chance, world, where=None):
    """A list's entry twice; or an object's key twice, in the text."""
    value, write, path = json_node(data, chance, world, where)
    if not path:
        return write(value)
    node = within(value, path[:-1])
    if isinstance(node, list):
        node.insert(path[-1], node[path[-1]])
        return write(value)
    text, key = dumped(value), dumped(path[-1]) + b":"
    return write(value, text.replace(key, key + b"0," + key, 1))


def json_retype(data, chance, world):
    value, write, path = json_node(data, chance, world)
    old = within(value, path)
    forms = [str(old), [old], {"value": old}, bool(old)]
    if isinstance(old, int | float):
        forms += [float(old) if abs(old) < 1e300 else 0.0, -old, str(old) + " "]
    if isinstance(old, str):
        forms += [old.upper(), old + "\0", unicodedata.normalize("NFD", old), list(old)]
        forms += [old.translate({i: i + 0xFEE0 for i in range(33, 127)})]
        forms += [int(old)] if old.isdecimal() and len(old) < 4300 else []
    return write(replaced(value, path, chance.choice(forms)))


def json_swap(data, chance, world):
    value, write = document(data)
    paths = [path for path in paths_of(value) if path]
    if len(paths) < 2:
        return write(value)
    first, second = chance.sample(paths, 2)
    one, two = within(value, first), within(value, second)
    if first[: len(second)] == second or second[: len(first)] == first:
        return write(replaced(value, first, None))
    return write(replaced(replaced(value, first, two), second, one))


def json_foreign(data, chance, world):
    """A field of another message of the same form."""
    value, write = document(data)
    foreign, _ = document(other_message(chance, world))
    common = [p for p in paths_of(value) if p and p in set(paths_of(foreign))]
    if not common:
        return write(value)
    path = chance.choice(common)
    return write(replaced(value, path, within(foreign, path)))


def json_form(data, chance, world, form=None):
    """The same meaning in another form."""
    value, write = document(data)
    form = form or chance.choice(["indent", "spaces", "reverse", "raw", "bom", "newline", "utf16"])
    if form == "indent":
        text = json.dumps(value, sort_keys=True, indent=1).encode()
    elif form == "spaces":
        text = json.dumps(value, sort_keys=True).encode()
    elif form == "reverse":
        ordered = dict(sorted(value.items(), reverse=True)) if isinstance(value, dict) else value
        text = json.dumps(ordered, separators=(",", ":")).encode()
    elif form == "raw":
        text = dumped(value).replace(b"s", b"\\u0073", 1)
    elif form == "bom":
        text = b"\xef\xbb\xbf" + dumped(value)
    elif form == "newline":
        text = dumped(value) + b"\n"
    else:
        text = dumped(value).decode().encode("utf-16")
    return write(value, text)


FORM_STEPS = (
    json_delete, json_set, json_set, json_text, json_add, json_double, json_retype,
    json_retype, json_swap, json_foreign, json_form,
)  # fmt: skip
