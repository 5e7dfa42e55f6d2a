"""Changes of the JSON in a message or file that know its form but not its meaning.

Values are deleted, replaced, retyped, doubled, swapped, or written in another form with the same
meaning. Each is a mutator as in `byte_mutators`.
"""

import json
import struct
import unicodedata

from tests.fuzz.byte_mutators import other_message
from tests.fuzz.envelopes import MAGIC, Draft, dumped


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

        def write(value, text=None):
            text = dumped(value) if text is None else text
            return data[:85] + struct.pack("<I", len(text)) + text + data[-32:]

        return json.loads(data[89:-32]), write
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


def json_node(data, chance, where=None):
    value, write = document(data)
    paths = list(paths_of(value))
    return value, write, tuple(where) if where is not None else chance.choice(paths)


def json_delete(data, chance, world, where=None):
    found, write, path = json_node(data, chance, where)
    if path:
        del within(found, path[:-1])[path[-1]]
    return write(found)


def json_set(data, chance, world, value, where=None):
    found, write, path = json_node(data, chance, where)
    return write(replaced(found, path, value))


def json_text(data, chance, world, text, where=None):
    found, write, path = json_node(data, chance, where)
    old = dumped(replaced(found, path, "@@"))
    return write(found, old.replace(b'"@@"', text.encode(), 1))


def json_add(data, chance, world, key, value, where=None):
    found, write, path = json_node(data, chance, where)
    node = within(found, path)
    if isinstance(node, dict):
        node[key] = value
    elif isinstance(node, list):
        node.insert(chance.randint(0, len(node)), value)
    return write(found)


def json_double(data, chance, world, where=None):
    """A list's entry twice; or an object's key twice, in the text."""
    found, write, path = json_node(data, chance, where)
    if not path:
        return write(found)
    node = within(found, path[:-1])
    if isinstance(node, list):
        node.insert(path[-1], node[path[-1]])
        return write(found)
    text, key = dumped(found), dumped(path[-1]) + b":"
    return write(found, text.replace(key, key + b"0," + key, 1))


def json_retype(data, chance, world):
    found, write, path = json_node(data, chance)
    old = within(found, path)
    forms = [str(old), [old], {"value": old}, bool(old)]
    if isinstance(old, int | float):
        forms += [float(old) if abs(old) < 1e300 else 0.0, -old, str(old) + " "]
    if isinstance(old, str):
        forms += [old.upper(), old + "\0", unicodedata.normalize("NFD", old), list(old)]
        forms += [old.translate({i: i + 0xFEE0 for i in range(33, 127)})]
        forms += [int(old)] if old.isdecimal() and len(old) < 4300 else []
    return write(replaced(found, path, chance.choice(forms)))


def json_swap(data, chance, world):
    found, write = document(data)
    first, second = chance.sample([path for path in paths_of(found) if path], 2)
    one, two = within(found, first), within(found, second)
    if first[: len(second)] == second or second[: len(first)] == first:
        return write(replaced(found, first, None))
    return write(replaced(replaced(found, first, two), second, one))


def json_foreign(data, chance, world):
    """A field of another message of the same form."""
    found, write = document(data)
    foreign, _ = document(other_message(chance, world))
    theirs = set(paths_of(foreign))
    path = chance.choice([path for path in paths_of(found) if path and path in theirs])
    return write(replaced(found, path, within(foreign, path)))


def json_form(data, chance, world, form):
    """The same meaning in another form."""
    found, write = document(data)
    plain = dumped(found)
    if form == "reverse" and isinstance(found, dict):
        found = dict(sorted(found.items(), reverse=True))
    texts = {
        "indent": json.dumps(found, sort_keys=True, indent=1).encode(),
        "spaces": json.dumps(found, sort_keys=True).encode(),
        "reverse": json.dumps(found, separators=(",", ":")).encode(),
        "raw": plain.replace(b"s", b"\\u0073", 1),
        "bom": b"\xef\xbb\xbf" + plain,
        "newline": plain + b"\n",
        "utf16": plain.decode().encode("utf-16"),
    }
    return write(found, texts[form])
