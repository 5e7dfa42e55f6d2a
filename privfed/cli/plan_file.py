"""What a run configuration says that a plan needs: no text is read, no model is loaded.

A batch or a number of rounds that the file leaves out is open in the plan.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from accountants import Event, NoisedCount
from accountants.cli.input_files import ledger_of_file
from privfed.cli.run_file_partition import Rule, read_rule
from privfed.cli.run_file_settings import encryption_of, method_of, privacy_of, training_of
from privfed.cli.run_file_sizes import Sizes, declared_sizes, require_declared, sizes_of
from privfed.cli.toml_section import Section, parsed
from privfed.data.public_size import NoisySize
from privfed.errors import ConfigError
from privfed.planning.plan import Plan
from privfed.storage.state_folder import default_state_folder, ledger_path

_OPEN: Final = {"privacy": "expected_batch_size", "federation": "rounds"}
"""Keys that may be missing, by their tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """What a configuration says.

    Attributes:
        plan: with what the file leaves out open.
        by_column: whether clients are the values of a column, and not dealt from one pool.
        guesses: sizes of clients whose sizes are yet to be released.
    """

    plan: Plan
    by_column: bool
    guesses: Mapping[str, int]


def plan_of_file(
    path: Path, state: Path | None = None, guesses: Mapping[str, int] | None = None
) -> PlannedFile:
    """The plan of a run configuration, with what its ledgers on this machine count as released.

    Args:
        path: of the TOML file.
        state: where ledgers live, which are read and not touched; None takes the user's folder.
        guesses: sizes of clients whose sizes are released when the run begins.

    Raises:
        ConfigError: for a key or value that cannot be used.
        accountants.LedgerError: for a damaged ledger.
    """
    root = parsed(path)
    missing = _fill_open(root)
    data = root.section("data")
    sizes, rule = _sizes(data, root.section("model", {}))
    dataset = data.take("dataset", str)
    plan = Plan(
        sizes=_numbers(sizes, guesses or {}),
        minimum=1 if rule is None or rule.deal else rule.minimum,
        histories=_histories(sizes, state or default_state_folder(), dataset),
        dataset=dataset,
        training=training_of(root.section("training")),
        method=method_of(root),
        encryption=encryption_of(root.section("encryption", {})),
        **_of_privacy(root, sizes, missing),
        **_of_federation(root.section("federation"), missing),
    )
    by_column = rule is not None and rule.deal is None
    return PlannedFile(plan=plan, by_column=by_column, guesses=dict(guesses or {}))


def _of_privacy(root: Section, sizes: Sizes, missing: Collection[str]) -> dict[str, Any]:
    """Fields of a plan that the table [privacy] decides."""
    privacy, own = privacy_of(root)
    require_declared("privacy.clients", own, sizes)
    return {
        "epsilon": privacy.budget.epsilon,
        "delta": privacy.budget.delta,
        "expected_batch_size": None if "privacy" in missing else privacy.expected_batch_size,
        "steps_per_round": privacy.steps_per_round,
        "clipping_norm": privacy.clipping_norm,
        "clipping": privacy.clipping,
        "examples_per_record": privacy.examples_per_record,
        "record": privacy.record,
        "own": own,
    }


def _of_federation(section: Section, missing: Collection[str]) -> dict[str, Any]:
    """Fields of a plan that the table [federation] decides."""
    rounds = section.take("rounds", int)
    return {
        "rounds": None if "federation" in missing else rounds,
        "clients_per_round": section.take("clients_per_round", int, None),
        "min_clients": section.take("min_clients", int, 3),
    }


def _fill_open(root: Section) -> set[str]:
    """Let what is missing be 1, and tell in which tables that was."""
    return {table for table, key in _OPEN.items() if root.fill(table, key, 1)}


def _sizes(data: Section, model: Section) -> tuple[Sizes, Rule | None]:
    """The public sizes; and whose a row is, which a run between machines does not say."""
    partition = data.optional("partition")
    if partition is None:
        return declared_sizes(data), None
    labels: Any = model.take("labels", list, None)
    rule = read_rule(partition, labels)
    return sizes_of(data, rule), rule


def _numbers(sizes: Sizes, guesses: Mapping[str, int]) -> dict[str, int]:
    released = {name for name, size in sizes.items() if isinstance(size, NoisySize)}
    if wrong := sorted(set(guesses).difference(released)):
        raise ConfigError(
            f"--size names {wrong}, whose sizes the configuration declares or does not know; "
            "change them there"
        )
    if open_ := sorted(released.difference(guesses)):
        raise ConfigError(
            f"the public sizes of {open_} are released when the run begins, and a plan needs "
            f"numbers; give guesses, such as --size {open_[0]}=1000"
        )
    return {
        name: guesses[name] if isinstance(size, NoisySize) else size for name, size in sizes.items()
    }


def _histories(sizes: Sizes, state: Path, dataset: str) -> dict[str, tuple[Event, ...]]:
    """What ledgers count, and the release of a size that is still to come."""
    found: dict[str, tuple[Event, ...]] = {}
    for name, size in sizes.items():
        path = ledger_path(state, name, dataset)
        past = ledger_of_file(path).events() if path.is_file() else ()
        if isinstance(size, NoisySize) and not any(isinstance(e, NoisedCount) for e in past):
            past = (*past, NoisedCount(epsilon=size.noise_epsilon))
        if past:
            found[name] = tuple(past)
    return found
