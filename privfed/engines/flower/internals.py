"""All that privfed takes from Flower, most of it internal to Flower: one place, one test.

Flower's public interface starts a process for every message, runs code that the hub ships, and
serves an interface without authentication beside the one that nodes need. So privfed uses the parts
below that interface: the Fleet API, by which nodes fetch and send messages, and the state behind
it. They may change with any minor version of Flower: the extra pins one, and
`tests/unit/privfed/engines/flower/test_internals.py` fails loudly if one of them did.
"""

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error.http import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_tree,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

__all__ = [
    "NOOP_ACCOUNT_NAME",
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "ActivateNodeRequest",
    "ConfigRecord",
    "ConfirmMessageReceivedRequest",
    "DeactivateNodeRequest",
    "DecodeError",
    "FleetHttpClient",
    "InflatableObject",
    "Message",
    "NoOpFederationManager",
    "Node",
    "NodeAuthHttpInterceptor",
    "NodeAuthMiddleware",
    "ObjectTree",
    "ProtobufTranslationMiddleware",
    "PullMessagesRequest",
    "PullObjectRequest",
    "PushMessagesRequest",
    "PushObjectRequest",
    "RecordDict",
    "RuntimeVersionHttpInterceptor",
    "SendNodeHeartbeatRequest",
    "TaskIdentity",
    "TaskType",
    "fleet_router",
    "get_all_nested_objects",
    "get_object_body",
    "get_object_tree",
    "get_objectstore_linkstate_factories",
    "http_error_translator",
    "message_from_proto",
    "message_to_proto",
    "public_key_to_bytes",
    "remove_content_from_message",
]
