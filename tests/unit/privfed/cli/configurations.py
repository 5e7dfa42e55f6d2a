"""Configurations of runs as nested tables, and how a test changes one."""

import copy
import json

TOPICS = ("sport", "money", "culture")


def as_toml(values, name=""):
    """TOML text of nested tables; values as JSON writes them, which TOML reads."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            path = f"{name}.{json.dumps(key)}" if name else json.dumps(key)
            lines += ["", f"[{path}]", as_toml(value, path)]
    return "\n".join(lines).replace("NaN", "nan").replace("Infinity", "inf") + "\n"


MISSING = object()


def changed(values, path, value):
    """The settings with one value set, or removed; tables on the way are made."""
    settings = copy.deepcopy(values)
    *tables, key = path.split("/")
    table = settings
    for name in tables:
        table = table.setdefault(name, {})
    if value is MISSING:
        del table[key]
    else:
        table[key] = value
    return settings


def texts(records):
    return {record.text for record in records}
