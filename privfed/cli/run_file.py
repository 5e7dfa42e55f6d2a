"""From a TOML file to a federation. Every key is known; an unknown or missing one is named.

See `docs/run.toml` in the repository for a commented example.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from privfed.agreement import Declaration
from privfed.cli.run_file_bases import base_of, bases_of
from privfed.cli.run_file_data import clients_and_held_out
from privfed.cli.run_file_settings import (
    computation_of,
    encryption_of,
    method_of,
    privacy_of,
    seed_of,
    training_of,
)
from privfed.cli.toml_section import Section, parsed
from privfed.data.public_size import NoisySize
from privfed.errors import ConfigError
from privfed.federation import Federation
from privfed.identity.enrolment import Enrolment
from privfed.models.adapters import Adapter, LoRA, PeftAdapter
from privfed.models.classification import Classification
from privfed.models.houlsby import Houlsby
from privfed.models.in_place import InPlace
from privfed.models.prompt_generator import PromptGenerator
from privfed.models.sparse_update import SparseUpdate
from privfed.models.tasks import CausalLanguageModel, Task

_OF_FEDERATION = ("rounds", "min_clients", "clients_per_round", "device")
_TASKS: Mapping[str, type[Classification | CausalLanguageModel]] = {
    "classification": Classification,
    "causal-lm": CausalLanguageModel,
}
_ADAPTERS: Mapping[str, Callable[[Section], Adapter]] = {
    "lora": lambda section: section.build(LoRA),
    "houlsby": lambda section: section.build(Houlsby),
    "prompt-tuning": lambda section: PeftAdapter.prompt_tuning(_num_tokens(section)),
    "prefix-tuning": lambda section: PeftAdapter.prefix_tuning(_num_tokens(section)),
    "p-tuning": lambda section: PeftAdapter.p_tuning(
        _num_tokens(section), section.take("width", int)
    ),
    "prompt-generator": lambda section: section.build(PromptGenerator),
    "ia3": lambda section: PeftAdapter.ia3(
        section.take_all("target_modules", str), section.take_all("feedforward_modules", str, ())
    ),
    "sparse-update": lambda section: section.build(SparseUpdate),
    "bias": lambda _: InPlace.biases(),
    "last-layers": lambda section: InPlace(last_layers=section.take("count", int)),
}


def load_federation(path: Path, state_folder: Path | None = None) -> Federation:
    """Read a run configuration and the data that it names.

    Args:
        path: of the TOML file; relative paths of data and base model are relative to its folder.
        state_folder: where ledgers live; None takes the user's state folder.

    Raises:
        ConfigError: for a file, table, key or value that cannot be used.
        DataError: for data that cannot be used.
    """
    root = parsed(path)
    task, seed, bases = task_of(root, path.parent), seed_of(root), bases_of(root, path.parent)
    privacy, own = privacy_of(root)
    clients, held_out, source = clients_and_held_out(
        root.section("data"), task, seed, path.parent, own
    )
    result = Federation(
        model=task,
        bases=bases.places,
        clients=bases.declared(clients),
        privacy=privacy,
        held_out=held_out,
        held_out_source=source,
        public_size_source=size_source(clients),
        seed=seed,
        state_folder=state_folder,
        enrolment=_enrolment(root.optional("parties"), path.parent),
        start=_start(root, path.parent),
        **others_of(root, path),
    )
    root.end()
    return result


def start_from_sparse(config: Path, folder: Path) -> tuple[Path, float]:
    """Write the file that a configuration names as `start`, from a sparse update that was trained.

    Args:
        config: of the second run of SLoRA, with LoRA.
        folder: the `adapter` folder of the first run, with a sparse update.

    Returns:
        The file, and the share of the norm of the update that the rank leaves out.

    Raises:
        ConfigError: if `config` names no `start`, one that is there, or another adapter.
        ModelError: if `folder` holds no sparse update that was trained, or of other modules, or of
            another base model than that of `config`.
    """
    from privfed.models.slora import start_lora_from_sparse_update

    root = parsed(config)
    named: str | None = root.take("start", str, None)
    lora = _adapter(root.section("adapter"))
    if named is None:
        raise ConfigError(f'{config} must name the file that is to be written: start = "FILE"')
    if not isinstance(lora, LoRA):
        raise ConfigError(f'{config} must have [adapter] kind = "lora", got {lora!r:.80}')
    if not (folder / "privfed.json").is_file():
        raise ConfigError(f"{folder} must be the folder `adapter` in that of a run; it holds none")
    file = config.parent / named
    if file.exists():
        raise ConfigError(f"{file} is already there; remove it, or name another file as start")
    if not file.parent.is_dir():
        raise ConfigError(f"start must lie in a folder that is there; {file.parent} is not")
    base = base_of(root.section("model").take("base", str), config.parent)
    return file, start_lora_from_sparse_update(folder, lora, file, base=base)


def _start(root: Section, folder: Path) -> Path | None:
    """The key `start`: a file, relative to the folder of the configuration."""
    named: str | None = root.take("start", str, None)
    if named is None:
        return None
    file = folder / named
    if not file.is_file():
        raise ConfigError(
            f"start must be a file with an initial adapter; there is none at {file}. For SLoRA, "
            "`privfed start-from-sparse` writes it"
        )
    return file


def others_of(root: Section, path: Path) -> dict[str, Any]:
    """Fields of the settings that neither data nor keys of anybody decide, by their names.

    Args:
        root: the whole file; what is read is taken.
        path: of the file.
    """
    federation = root.section("federation")
    found = {
        "adapter": _adapter(root.section("adapter")),
        "training": training_of(root.section("training")),
        "computation": computation_of(root),
        "encryption": encryption_of(root.section("encryption", {})),
        "method": method_of(root),
        "title": root.take("title", str, path.stem),
        **federation.values(Federation, _OF_FEDERATION),
    }
    federation.end()
    return found


def task_of(root: Section, folder: Path) -> Task:
    """The table [model]; a folder with the base model is relative to that of the file."""
    section = root.section("model")
    kind = section.choose("task", _TASKS)
    task: Task = section.build(kind, base=base_of(section.take("base", str), folder))
    section.end()
    return task


def size_source(clients: Sequence[Declaration]) -> str:
    """Where the public sizes come from, for the report."""
    declared = "declared in the configuration"
    if not any(isinstance(client.public_size, NoisySize) for client in clients):
        return declared
    return f"{declared}, or the true number released once under noise that the budget counts"


def _num_tokens(section: Section) -> int:
    return int(section.take("num_virtual_tokens", int))


def _adapter(section: Section) -> Adapter:
    adapter = section.choose("kind", _ADAPTERS)(section)
    section.end()
    return adapter


def _enrolment(section: Section | None, folder: Path) -> Enrolment | None:
    if section is None:
        return None
    files = Enrolment(
        roster=folder / section.take("roster", str),
        authority=section.take("authority", str),
        identities=folder / section.take("identities", str),
    )
    section.end()
    return files
