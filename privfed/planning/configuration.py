"""The configuration of a plan, for `privfed run`: a given one with the numbers, or a new one."""

import json
import re
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from privfed.errors import ConfigError
from privfed.planning.answer import Answer
from privfed.planning.plan import UNIT
from privfed.reports.round_record import rounded_up

Changes = Mapping[tuple[str, str], tuple[float, str]]
"""By table and key the number and why it is that."""

_WIDTH: Final = 100
_HEADER: Final = re.compile(r"^\s*\[([^\[\]]+)\]\s*(#.*)?$")
_DEFAULTS: Final = {("privacy", "clipping_norm"): 1.0, ("privacy", "steps_per_round"): 1}
_CALIBRATED: Final = "# A run calibrates noise multiplier {noise} for {who}: epsilon {epsilon}."


def changes_of(answer: Answer) -> Changes:
    """The numbers of a plan by the keys that hold them, and why each is what it is."""
    privacy, why = answer.privacy, answer.why
    given, batch = "given to the plan, or its default", answer.expected_batch_size
    found: dict[tuple[str, str], tuple[float, str]] = {
        ("privacy", "epsilon"): (privacy.budget.epsilon, given),
        ("privacy", "delta"): (privacy.budget.delta, given),
        ("privacy", "expected_batch_size"): (batch, why.get("expected_batch_size", given)),
        ("privacy", "clipping_norm"): (privacy.clipping_norm, given),
        ("privacy", "steps_per_round"): (privacy.steps_per_round, given),
        ("federation", "rounds"): (answer.rounds, why.get("rounds", given)),
    }
    if answer.clients_per_round is not None:
        found["federation", "clients_per_round"] = (answer.clients_per_round, given)
    if answer.left_out:
        smallest = max(batch, max(answer.left_out.values()) + 1)
        named = "clients with fewer records are left out"
        found["data.partition", "minimum"] = (smallest, named)
    return found


def with_numbers(text: str, answer: Answer, *, by_column: bool) -> str:
    """A configuration with the numbers of a plan; all else stays as it is, comments too.

    Raises:
        ConfigError: if a table or a key of it is written in a way that cannot be changed safely,
            or clients must be left out that are dealt from one pool.
    """
    changes = _differing(tomllib.loads(text), answer)
    if ("data.partition", "minimum") in changes and not by_column:
        raise ConfigError(
            "clients with fewer records than the batch cannot be left out of a pool that is dealt; "
            "lower the batch, or deal to fewer clients"
        )
    lines = text.splitlines()
    for (table, key), (value, why) in changes.items():
        _change(lines, table, key, value, why)
    whole = "\n".join([*_head(answer), *lines]) + "\n"
    wanted = tomllib.loads(text)
    for (table, key), (value, _) in changes.items():
        _put(wanted, table, key, value)
    if tomllib.loads(whole) != wanted:
        raise ConfigError(
            "the configuration cannot be changed safely as it is written; give each table a "
            "header of its own and each key a line"
        )
    return whole


def _differing(values: Mapping[str, Any], answer: Answer) -> Changes:
    """Of the numbers of a plan those that a configuration does not say, and are no default."""
    found = {}
    for place, change in changes_of(answer).items():
        said = _value(values, *place)
        if (_DEFAULTS.get(place) if said is None else said) != change[0]:
            found[place] = change
    return found


def new_configuration(answer: Answer, dataset: str) -> str:
    """A whole configuration, in which the reader fills in model, text and learning rate.

    Raises:
        ConfigError: if nobody said what one record is.
    """
    privacy = answer.privacy
    if privacy.record == UNIT:
        raise ConfigError(
            "a configuration must say what one record is, in the words of the report; give it, "
            "such as --record 'one letter, not one patient'"
        )
    lines = [*_head(answer), *_YOURS.format(dataset=json.dumps(dataset)).splitlines()]
    if answer.left_out:
        lines.append("minimum = 1")
    lines += ["", "[data.public_sizes]"]
    everybody = {client.id: client.size for client in answer.clients} | dict(answer.left_out)
    lines += [f"{json.dumps(name)} = {size}" for name, size in everybody.items()]
    lines += ["", "[privacy]", 'neighbouring = "add_remove"']
    lines += [f"record = {json.dumps(privacy.record)}", "", *_REST.splitlines()]
    for (table, key), (value, why) in reversed(list(changes_of(answer).items())):
        _change(lines, table, key, value, why)
    return "\n".join(lines) + "\n"


def write_new(path: Path, text: str) -> None:
    """Write a file where none is.

    Raises:
        ConfigError: if there is one, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already and is not overwritten; give another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _head(answer: Answer) -> list[str]:
    """Comments above everything: whose numbers these are."""
    spent = answer.epsilons()
    alike: dict[tuple[float, float], list[str]] = {}
    for name, noise in answer.noise_multipliers.items():
        alike.setdefault((noise, spent[name]), []).append(name)
    lines = ["# Numbers of this file that `privfed plan` put in say why in a comment."]
    for (noise, epsilon), names in list(alike.items())[:20]:
        who = json.dumps(names[0]) + (f" and {len(names) - 1} others" if len(names) > 1 else "")
        lines.append(_CALIBRATED.format(noise=f"{noise:g}", who=who, epsilon=rounded_up(epsilon)))
    return lines


def _change(lines: list[str], table: str, key: str, value: float, why: str) -> None:
    """Put a number in the place of that of a key, or first in its table; its reason beside it."""
    found = [f"{key} = {value!r} # {why}"]
    if len(found[0]) > _WIDTH:
        reason = textwrap.wrap(f"{key}: {why}", _WIDTH - 2)
        found = [*(f"# {line}" for line in reason), f"{key} = {value!r}"]
    header = next((at for at, text in enumerate(lines) if _header(text) == table), None)
    if header is None:
        raise ConfigError(f"the configuration needs a table [{table}] to write {key} into")
    for at in range(header + 1, len(lines)):
        if _header(lines[at]) is not None:
            break
        if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", lines[at]):
            lines[at : at + 1] = found
            return
    lines[header + 1 : header + 1] = found


def _header(line: str) -> str | None:
    """The name of the table that begins here, without quotes; None if none does."""
    found = _HEADER.match(line)
    return None if found is None else re.sub(r"[\s\"']", "", found.group(1))


def _value(values: Mapping[str, Any], table: str, key: str) -> Any:
    for name in table.split("."):
        values = values.get(name, {})
    return values.get(key)


def _put(values: dict[str, Any], table: str, key: str, value: float) -> None:
    for name in table.split("."):
        values = values.setdefault(name, {})
    values[key] = value


_YOURS: Final = '''title = "A planned federation" # yours
seed = 1 # public: fixes held-out split and initial weights, never noise

[model] # yours
task = "classification"
base = "sentence-transformers/all-MiniLM-L6-v2"
labels = ["first", "second"]

[data] # yours: lines such as {{"text": "...", "label": "first", "client": "client-1"}}
source = "records.jsonl"
text = "text"
label = "label"
dataset = {dataset}
held_out = 0.1

[data.partition]
rule = "column"
column = "client"'''

_REST: Final = """[adapter] # yours
kind = "lora"
rank = 1
target_modules = ["query", "value"]

[training]
learning_rate = 1.0 # yours; no number here changes epsilon

[encryption]
kind = "bfv"

[federation]"""
