"""Client, aggregator and key holder in processes of their own; the aggregator knows no secret."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.settings.encryption import Custody

SCRIPT = Path(__file__).with_name("separate_parties.py")
CLIENTS = ("east", "north", "west")


@pytest.fixture
def folder(tmp_path):
    """Identity files of everybody, and a roster that an authority signed."""
    authority = Identity.generate("board", Role.AUTHORITY)
    parties = [Identity.generate(name, Role.CLIENT) for name in CLIENTS]
    parties.append(Identity.generate("aggregator", Role.AGGREGATOR))
    parties.append(Identity.generate("holder", Role.KEY_HOLDER))
    for identity in parties:
        identity.save(tmp_path / f"{identity.party.name}.identity")
    Roster.signed("apart", [i.party for i in parties], authority).save(tmp_path / "roster.json")
    (tmp_path / "authority.hex").write_text(authority.party.signing_key.hex())
    return tmp_path


def start(role, folder, custody, ports):
    command = [sys.executable, str(SCRIPT), role, str(folder), custody.value, *map(str, ports)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nobody listens on {port}")


def memory_of(process):
    """Everything that a process can read, region by region."""
    with open(f"/proc/{process.pid}/mem", "rb") as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
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
def test_three_processes_play_a_round_and_the_aggregator_learns_no_secret(folder, custody):
    ports = free_ports(2)
    parties = {}
    try:
        if custody is Custody.KEY_HOLDER:
            parties["holder"] = start("holder", folder, custody, ports)
            wait_for(ports[1])
        parties["aggregator"] = start("aggregator", folder, custody, ports)
        assert parties["aggregator"].stdout.readline() == "ready\n"
        parties["clients"] = start("clients", folder, custody, ports)
        assert parties["clients"].stdout.readline() == "exact east north west\n"
        # No module of TenSEAL or of custody is named after "done".
        assert parties["aggregator"].stdout.readline() == "done\n"
        secrets = {}
        for path in folder.glob("known-by-*.json"):
            known = json.loads(path.read_text())
            secrets |= {name: bytes.fromhex(text) for name, text in known.items()}
        for name in (*CLIENTS, "holder"):
            secrets |= secret_halves(folder / f"{name}.identity")
        own = secret_halves(folder / "aggregator.identity")

        # The search finds what is there: the aggregator's own key, the clients' secrets.
        assert found_in(parties["aggregator"], own)
        assert {"update of north"} <= found_in(parties["clients"], secrets)
        if custody is Custody.SHARED_KEY:
            assert {"tag key", "secret key"} <= found_in(parties["clients"], secrets)

        assert found_in(parties["aggregator"], secrets) == set()
    finally:
        for party in parties.values():
            party.kill()
            party.communicate()
