"""The compose files keep apart what the page says they keep apart; no Docker daemon is needed."""

import re
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"


def services(name):
    return yaml.safe_load((DEPLOY / name).read_text())["services"]


@pytest.fixture(scope="module")
def node():
    return services("compose.node.yml")["node"]


@pytest.fixture(scope="module")
def pump():
    return services("compose.node.yml")["pump"]


def mounts(service):
    """Source, place and mode of each."""
    split = [volume.split(":") for volume in service["volumes"]]
    return {one[0]: (one[1], one[2] if len(one) == 3 else "rw") for one in split}


def test_the_node_has_no_network(node):
    assert node["network_mode"] == "none"
    assert not {"ports", "networks", "links"} & set(node)


def test_text_is_mounted_into_the_node_alone_and_cannot_be_written(node, pump):
    for source in ("./letters.jsonl", "./model", "./north", "./secrets/node"):
        assert mounts(node)[source][1] == "ro"
        assert source not in mounts(pump)
    for source in ("state", "anchors", "./results"):
        assert mounts(node)[source][1] == "rw"
        assert source not in mounts(pump)


def test_the_pump_has_a_key_a_certificate_and_the_socket(node, pump):
    assert mounts(pump) == {
        "./north/hub.crt": ("/etc/privfed/hub.crt", "ro"),
        "./secrets/pump": ("/run/secrets-of-pump", "ro"),
        "socket": ("/run/privfed", "rw"),
    }
    assert set(mounts(node)) & set(mounts(pump)) == {"socket"}
    assert "ports" not in pump, "nothing comes in at a hospital"


def test_whatever_the_pump_is_told_to_read_is_mounted(pump):
    given = dict(word.lstrip("-").split("=") for word in pump["command"] if "=" in word)
    assert given.pop("hub") == "hub.example.org:8443"
    places = [place for place, _ in mounts(pump).values()]
    for path in given.values():
        assert any(Path(path).is_relative_to(place) for place in places), path


def test_ledger_and_anchors_outlive_the_project():
    volumes = yaml.safe_load((DEPLOY / "compose.node.yml").read_text())["volumes"]
    assert volumes["state"]["external"] is volumes["anchors"]["external"] is True
    assert volumes["state"]["name"] != volumes["anchors"]["name"]


def test_the_hub_has_one_port_and_neither_text_nor_model():
    (hub,) = services("compose.hub.yml").values()
    assert hub["ports"] == ["8443:8443"]
    assert set(mounts(hub)) == {"./hub", "./secrets/hub", "./runs"}
    assert hub["restart"] == "no", "each try could cost the clients a round"


@pytest.mark.parametrize("file", ["compose.node.yml", "compose.hub.yml"])
def test_what_every_container_gives_up(file):
    for service in services(file).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001", "the socket opens to the node's own user"
        assert "privileged" not in service


def stages():
    """The Dockerfile's stages, by name."""
    text = (DEPLOY / "Dockerfile").read_text()
    return dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S))


def test_the_images_have_the_targets_that_compose_names():
    images = {
        service["image"]
        for file in ("compose.node.yml", "compose.hub.yml")
        for service in services(file).values()
    }
    assert images == {f"privfed-{name}" for name in stages() if name != "base"}


def test_what_carries_bytes_is_installed_without_what_opens_them():
    found = stages()["transport"]
    assert "--no-deps /tmp/wheel/privfed-" in found
    installs = re.findall(r"pip install (.*?)(?:&&|\n[A-Z])", found, re.S)
    assert not {"torch", "tenseal", "transformers", "opacus"} & set(" ".join(installs).split())


def test_no_image_runs_as_root():
    for name, text in stages().items():
        assert name == "base" or "USER 10001:10001" in text
