"""Client, aggregator and key holder in processes of their own; the aggregator knows no secret."""

import re
import sys
from pathlib import Path

import pytest

from privfed.identity.keys import Identity
from privfed.settings.encryption import Custody
from tests.end_to_end.apart import Apart

CLIENTS = ("east", "north", "west")


def memory_of(process):
    """Everything that a process (its id) can read, region by region."""
    with open(f"/proc/{process}/mem", "rb") as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            begin, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if "r" not in mode or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            try:
                memory.seek(int(begin, 16))
                yield memory.read(int(end, 16) - int(begin, 16))
            except (OSError, ValueError, OverflowError):
                continue


def found_in(process, secrets):
    held = set()
    for region in memory_of(process):
        held |= {name for name, secret in secrets.items() if secret in region}
    return held


def secret_halves(path):
    """The two secret keys of an identity file: Ed25519 and X25519."""
    identity = Identity.load(path)
    return {
        f"signing key of {path.stem}": identity._signing.private_bytes_raw(),
        f"wrapping key of {path.stem}": identity._wrapping.private_bytes_raw(),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/mem")
@pytest.mark.parametrize("custody", list(Custody))
def test_a_run_of_separate_processes_and_the_aggregator_learns_no_secret(
    nursery, tmp_path, bert_folder, custody
):
    """No text, no update, no adapter, no key; no module of torch, TenSEAL or custody either."""
    federation = Apart(
        nursery, tmp_path, str(bert_folder), CLIENTS, custody.value, deaths={}, patience_s=30.0
    )
    try:
        assert federation.play() == "done", "no module is named after it"
        known, processes = federation.known(), {n: p for p, n in federation.alive.items()}
        secrets = {what: content for (_, what), content in known.items()}
        assert {f"text of {name}" for name in CLIENTS} <= set(secrets)
        assert {f"update of {name} in round 3" for name in CLIENTS} <= set(secrets)
        assert {"adapter after round 3", "left after round 3", "secret key"} <= set(secrets)
        assert len(set(secrets.values())) == len(secrets)
        for name in (*CLIENTS, "holder"):
            secrets |= secret_halves(tmp_path / f"{name}.identity")
        own = secret_halves(tmp_path / "aggregator.identity")

        # The search finds what is there: the aggregator's own key, the clients' secrets.
        aggregator = federation.aggregator.pid
        assert found_in(aggregator, own)
        of_north = {what: content for (who, what), content in known.items() if who == "north"}
        held = found_in(int(processes["north"]), of_north)
        assert {"text of north", "left after round 3"} <= held
        if custody is Custody.SHARED_KEY:
            assert {"tag key", "secret key"} <= held

        assert found_in(aggregator, secrets) == set()
    finally:
        federation.close()
