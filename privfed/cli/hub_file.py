"""What a hub reads of a run: the agreement, and two tables of the public file. No model."""

import json
from pathlib import Path
from typing import Any

from privfed.agreement import Proposal
from privfed.checks import require_within
from privfed.cli.toml_section import parsed
from privfed.errors import ConfigError


def read_agreement(path: Path) -> Proposal:
    """What all parties are given.

    Raises:
        ConfigError: if the file is not there, or not as `privfed agreement` made it.
    """
    try:
        return Proposal.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} must lie beside the public file; whoever wrote that makes it with `privfed "
            "agreement run.toml`, once for all parties"
        ) from None
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} must be as `privfed agreement` made it ({type(error).__name__})"
        ) from error


def hub_of(path: Path) -> dict[str, Any]:
    """The tables [hub] and [parties] of the public file, read without a model.

    Raises:
        ConfigError: for a key or value that cannot be used.
    """
    root = parsed(path)
    hub, parties = root.section("hub"), root.section("parties")
    found: dict[str, Any] = {
        "address": hub.take("address", str),
        "certificate": path.parent / hub.take("certificate", str),
        "timeout_s": hub.take("timeout_s", float, 3600.0),
        "patience_s": hub.take("patience_s", float, 600.0),
        "key_holder": hub.take("key_holder", str, None),
        "roster": path.parent / parties.take("roster", str),
        "authority": parties.take("authority", str),
    }
    hub.end()
    require_within(1.0, 1e7, timeout_s=found["timeout_s"])
    require_within(0.0, 1e7, patience_s=found["patience_s"])
    return found
