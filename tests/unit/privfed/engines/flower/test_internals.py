"""What is taken from Flower, below its public interface, is still as it was when it was taken.

Whoever raises the version of Flower reads here what changed: every name, method, parameter and
field that `link.py`, `pump.py` and `pieces.py` use is asked for, and every path that nodes reach.
"""

import inspect
import tomllib
from importlib import import_module
from importlib.metadata import requires, version
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="what carries bytes needs the extra privfed[flower]")

from packaging.requirements import Requirement
from starlette.middleware.base import BaseHTTPMiddleware

from privfed.engines.flower import internals, internals_hub, internals_node

ROOT = Path(__file__).parents[5]
FLOWER = ROOT / "privfed/engines/flower"
THREE = (internals, internals_hub, internals_node)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Flower's state on an empty file, as the link opens it."""
    database = tmp_path_factory.mktemp("flower") / "link.db"
    database.touch(mode=0o600)
    _, factory = internals_hub.get_objectstore_linkstate_factories(
        str(database), internals_hub.NoOpFederationManager()
    )
    return factory.state()


def parameters(function):
    """Names of the parameters, in their order."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


class TestTheVersion:
    def test_is_one_that_the_extra_allows(self):
        """It is pinned to one minor version: any other may have changed all that is below."""
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ]
        (pinned,) = [Requirement(line) for line in extras["flower"]]
        assert pinned.name == "flwr"
        assert pinned.specifier.contains(version("flwr"))
        assert sorted(one.operator for one in pinned.specifier) == ["<", ">="]
        lowest, highest = sorted(one.version for one in pinned.specifier)
        major, minor = map(int, lowest.split(".")[:2])
        assert highest == f"{major}.{minor + 1}"
        (tested,) = [line for line in extras["test"] if line.startswith("flwr")]
        assert Requirement(tested) == pinned

    def test_what_is_installed_says_the_same(self):
        stated = [Requirement(line) for line in requires("privfed") or ()]
        if not any(one.name == "flwr" for one in stated):
            pytest.skip("privfed itself is not installed with its extras")
        for one in stated:
            if one.name == "flwr":
                assert one.specifier.contains(version("flwr"))


@pytest.mark.parametrize("module", THREE, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_name_is_there(module):
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None, name


def test_nothing_else_imports_flower():
    """Of all of privfed these three files alone name it."""
    own = {Path(module.__file__).name for module in THREE}
    for path in (ROOT / "privfed").rglob("*.py"):
        lines = path.read_text().splitlines()
        importing = [line for line in lines if line.startswith(("import ", "from "))]
        if path.parent == FLOWER and path.name in own:
            assert any(" flwr" in line for line in importing), path
        else:
            assert not any(" flwr" in line for line in importing), path


class TestMessages:
    def test_a_message_is_made_as_it_is_here(self):
        assert {"content", "dst_node_id", "message_type", "ttl", "reply_to"} <= set(
            parameters(internals.Message.__init__)
        )
        first = internals.Message(internals.RecordDict({}), 7, "query", ttl=61.0)
        assert first.metadata.dst_node_id == 7
        assert first.metadata.message_type == "query"
        assert first.metadata.ttl == 61.0
        assert not first.has_error()
        for field in ("message_id", "reply_to_message_id", "run_id", "src_node_id"):
            assert hasattr(first.metadata, field), field
        assert "_message_id" in vars(first.metadata), "pieces.sealed writes it"
        assert len(first.object_id) == 64

    def test_what_takes_them_apart(self):
        assert parameters(internals.get_all_nested_objects) == ["obj"]
        assert parameters(internals.get_object_tree) == ["obj"]
        assert parameters(internals.get_object_body) == ["object_content", "cls"]
        assert parameters(internals.remove_content_from_message) == ["message"]
        assert set(internals.ObjectTree.DESCRIPTOR.fields_by_name) == {"object_id", "children"}
        for kind in (internals.ConfigRecord, internals.RecordDict, internals.Message):
            assert issubclass(kind, internals.InflatableObject)
            assert parameters(kind.deflate) == []
        assert parameters(internals.ConfigRecord.inflate)[0] == "object_content"
        assert issubclass(internals.DecodeError, Exception)

    def test_the_body_of_records_is_json_of_their_names(self):
        """Of a message its records are the only child; `pieces_of` reads what is in them."""
        records = internals.RecordDict({"one": internals.ConfigRecord({"piece": b"abc"})})
        message = internals.Message(records, 7, "query")
        tree = internals.get_object_tree(message)
        assert tree.object_id == message.object_id
        assert [child.object_id for child in tree.children] == [records.object_id]
        body = internals.get_object_body(records.deflate(), internals.RecordDict)
        assert body == b'{"one": "%s"}' % records["one"].object_id.encode()

    def test_a_piece_comes_back(self):
        deflated = internals.ConfigRecord({"piece": b"abc"}).deflate()
        assert internals.ConfigRecord.inflate(deflated).get("piece") == b"abc"


CALLED_BY_THE_PUMP = {
    "ActivateNode": (
        "ActivateNodeRequest",
        {"public_key", "heartbeat_interval"},
        {"node_id"},
    ),
    "DeactivateNode": ("DeactivateNodeRequest", {"node_id"}, set()),
    "SendNodeHeartbeat": ("SendNodeHeartbeatRequest", {"node", "heartbeat_interval"}, {"success"}),
    "PullMessages": (
        "PullMessagesRequest",
        {"node"},
        {"messages_list", "message_object_trees"},
    ),
    "PullObject": (
        "PullObjectRequest",
        {"node", "run_id", "object_id"},
        {"object_found", "object_available", "object_content"},
    ),
    "ConfirmMessageReceived": (
        "ConfirmMessageReceivedRequest",
        {"node", "run_id", "message_object_id"},
        set(),
    ),
    "PushMessages": (
        "PushMessagesRequest",
        {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
        {"objects_to_push", "session_id"},
    ),
    "PushObject": (
        "PushObjectRequest",
        {"node", "run_id", "object_id", "object_content", "session_id"},
        set(),
    ),
}


class TestTheClientOfTheFleetApi:
    @pytest.mark.parametrize("method", CALLED_BY_THE_PUMP)
    def test_a_method_with_its_fields(self, method):
        asked, given, read = CALLED_BY_THE_PUMP[method]
        request = getattr(internals_node, asked)
        called = getattr(internals_node.FleetHttpClient, method)
        signature = inspect.signature(called, eval_str=True)
        assert list(signature.parameters) == ["self", "request"]
        assert signature.parameters["request"].annotation is request
        assert given <= set(request.DESCRIPTOR.fields_by_name)
        assert read <= set(signature.return_annotation.DESCRIPTOR.fields_by_name)

    def test_no_other_method_is_called(self):
        source = (FLOWER / "pump.py").read_text()
        methods = {
            name
            for name, _ in inspect.getmembers(internals_node.FleetHttpClient, inspect.isfunction)
            if name[0].isupper()
        }
        assert {name for name in methods if f".{name}(" in source} == set(CALLED_BY_THE_PUMP)

    def test_it_is_made_from_an_address_and_a_certificate(self):
        made = internals_node.FleetHttpClient.from_server_address
        names = ["server_address", "insecure", "root_certificates", "interceptors"]
        assert parameters(made)[:4] == names
        for used in ("__enter__", "__exit__"):
            assert hasattr(internals_node.FleetHttpClient, used)

    def test_a_certificate_may_be_a_path(self):
        made = internals_node.FleetHttpClient.from_server_address
        assert made.__annotations__["root_certificates"] == "bytes | str | None"

    def test_how_a_node_proves_who_it_is(self):
        assert parameters(internals_node.NodeAuthHttpInterceptor.__init__) == [
            "private_key",
            "public_key",
        ]
        assert parameters(internals_node.public_key_to_bytes) == ["public_key"]
        assert set(internals_node.Node.DESCRIPTOR.fields_by_name) >= {"node_id"}

    def test_messages_pass_as_protobuf(self):
        assert len(parameters(internals_node.message_to_proto)) == 1
        assert len(parameters(internals_node.message_from_proto)) == 1


CALLED_BY_THE_LINK = {
    "create_node": ["owner_aid", "owner_name", "public_key", "heartbeat_interval"],
    "create_run": [
        "fab_id",
        "fab_version",
        "fab_hash",
        "override_config",
        "federation_id",
        "federation_config",
        "flwr_aid",
        "primary_task_type",
    ],
    "claim_task": ["task_id"],
    "activate_task": ["task_id"],
    "acknowledge_task_heartbeat": ["task_id"],
    "get_nodes": ["run_id"],
    "start_session": ["run_id"],
    "store_message_and_object_tree": ["message", "object_tree", "session_id"],
    "store_object": ["run_id", "session_id", "object_id", "object_content"],
    "get_object": ["run_id", "object_id"],
    "get_message_res": ["message_ids", "run_id"],
    "delete_messages": ["message_ins_ids"],
}


class TestTheState:
    @pytest.mark.parametrize("method", CALLED_BY_THE_LINK)
    def test_a_method_with_its_parameters(self, state, method):
        """What came after these has a default."""
        names = CALLED_BY_THE_LINK[method]
        found = inspect.signature(getattr(state, method)).parameters
        assert list(found)[: len(names)] == names
        for name in list(found)[len(names) :]:
            assert found[name].default is not inspect.Parameter.empty, name

    def test_no_other_method_is_called(self, state):
        source = (FLOWER / "link.py").read_text()
        called = {name for name in dir(type(state)) if f"self._state.{name}(" in source}
        assert called == {*CALLED_BY_THE_LINK, "get_run_info"}

    def test_a_run_has_a_task_which_is_claimed_and_kept_alive(self, state):
        run = state.create_run(
            None,
            None,
            None,
            {},
            internals_hub.NOOP_FEDERATION_ID,
            None,
            internals_hub.NOOP_FLWR_AID,
            internals_hub.TaskType.SERVER_APP,
        )
        (found,) = state.get_run_info(run_ids=[run])
        assert state.claim_task(found.primary_task_id) is not None
        assert state.activate_task(found.primary_task_id)
        assert state.acknowledge_task_heartbeat(found.primary_task_id)
        assert state.get_nodes(run) == set()

    def test_a_node_is_its_key(self, state):
        names = (internals_hub.NOOP_FLWR_AID, internals_hub.NOOP_ACCOUNT_NAME)
        number = state.create_node(*names, b"a key", 0)
        assert state.get_node_id_by_public_key(b"a key") == number
        with pytest.raises(ValueError, match="in use"):
            state.create_node(*names, b"a key", 0)

    def test_objects_lie_in_a_store_of_their_own(self, state):
        assert parameters(state.object_store.get_object_tree) == ["object_id"]
        assert parameters(state.object_store.delete) == ["object_id"]

    def test_what_an_object_that_is_not_there_looks_like(self, state):
        """None if nobody announced it; the link waits where it was announced, and is empty."""
        assert state.get_object(1, "ab" * 32) is None

    def test_who_this_process_is_stands_in_one_place(self):
        for number, name in enumerate(("run_id", "node_id", "task_id"), start=21):
            setattr(internals_hub.TaskIdentity, name, number)
            assert getattr(internals_hub.TaskIdentity, name) == number
        message = internals.Message(internals.RecordDict({}), 7, "query")
        assert (message.metadata.run_id, message.metadata.src_node_id) == (21, 22)


class TestTheFleetApi:
    def test_its_paths_are_these(self):
        """A new one would be served to nodes, and nobody here has read what it does."""
        routes = internals_hub.fleet_router.routes
        found = {(route.path, *sorted(route.methods)) for route in routes}
        names = {
            *("register-node", "activate-node", "deactivate-node", "unregister-node"),
            *("send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab"),
            *("push-object", "pull-object", "confirm-message-received"),
        }
        assert found == {(f"/v1/fleet/{name}", "POST") for name in names}

    @pytest.mark.parametrize("name", ["NodeAuthMiddleware", "ProtobufTranslationMiddleware"])
    def test_a_layer_in_front_of_it(self, name):
        layer = getattr(internals_hub, name)
        assert issubclass(layer, BaseHTTPMiddleware)
        assert inspect.iscoroutinefunction(layer.dispatch)

    def test_the_layer_that_hides_what_failed(self):
        assert inspect.iscoroutinefunction(internals_hub.http_error_translator)
        assert parameters(internals_hub.http_error_translator) == ["request", "call_next"]

    def test_what_handlers_read_of_the_app(self):
        """The two that `Link.app` sets, and no third."""
        router = import_module(internals_hub.fleet_router.routes[0].endpoint.__module__)
        assert "app.state.enable_supernode_auth" in inspect.getsource(router)
        linkstate = import_module("flwr.superlink.dependencies.linkstate")
        assert 'request.app.state, "linkstate_factory"' in inspect.getsource(linkstate)
