"""The systemd units keep apart what the page says they keep apart, and systemd reads them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "deploy"
NAMES = ("privfed-node", "privfed-pump", "privfed-hub")


def settings(name):
    """What [Service] says, by key; a key that comes again has the later value too."""
    found = {}
    _, _, service = (DEPLOY / f"{name}.service").read_text().partition("[Service]")
    for line in service.partition("[Install]")[0].splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_node_has_no_network():
    node = settings("privfed-node")
    assert node["PrivateNetwork"] == ["yes"]
    assert node["RestrictAddressFamilies"] == ["AF_UNIX"]


def test_the_pump_is_another_user_and_sees_none_of_the_nodes_files():
    node, pump = settings("privfed-node"), settings("privfed-pump")
    assert len({settings(name)["User"][0] for name in NAMES}) == len(NAMES)
    assert "root" not in {*node["User"], *pump["User"]}
    (hidden,) = pump["InaccessiblePaths"]
    for place in ("/etc/privfed/node", "/srv/privfed", *state_of(node)):
        assert f"-{place}" in hidden.split()
    assert "-/etc/privfed/pump" in node["InaccessiblePaths"][0].split()


def state_of(node):
    return [f"/var/lib/{name}" for name in node["StateDirectory"][0].split()]


def test_the_pump_reaches_the_socket_by_its_group_and_nobody_else_does():
    node, pump = settings("privfed-node"), settings("privfed-pump")
    assert pump["SupplementaryGroups"] == node["Group"] == ["privfed"]
    assert (node["RuntimeDirectory"], node["RuntimeDirectoryMode"]) == (["privfed"], ["0750"])
    socket = re.search(r"--socket (\S+)", pump["ExecStart"][0])[1]
    text = (DEPLOY / "privfed-node.service").read_text()
    assert f'socket = "{socket}", socket_group = "privfed"' in text
    assert node["UMask"] == ["0077"], "its group must not read what the node writes"
    assert node["StateDirectoryMode"] == ["0700"]


def test_ledger_and_anchors_lie_in_two_places():
    assert len(set(state_of(settings("privfed-node")))) == 2


def test_a_hub_that_stopped_for_a_reason_is_not_started_again():
    """Each try could cost the clients a round."""
    assert settings("privfed-hub")["Restart"] == ["on-abnormal"]


@pytest.mark.parametrize("name", NAMES)
def test_what_every_unit_gives_up(name):
    found = settings(name)
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID"):
        assert found[key] == ["yes"], key
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["LimitCORE"] == ["0"], "keys of the encryption live in memory"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_them(tmp_path):
    """With a program in place of privfed that is there on every machine."""
    for name in NAMES:
        text = (DEPLOY / f"{name}.service").read_text()
        text = text.replace("/opt/privfed/bin/privfed", shutil.which("true"))
        (tmp_path / f"{name}.service").write_text(text)
    for name in NAMES:
        done = subprocess.run(
            ["systemd-analyze", "--man=no", "verify", str(tmp_path / f"{name}.service")],
            capture_output=True,
            text=True,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if "privfed" in line]
        assert (done.returncode, said) == (0, []), done.stderr
