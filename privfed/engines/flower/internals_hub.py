"""What the hub's link takes from Flower: the Fleet API and the state behind it.

See `internals.py`.
"""

from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TIMESTAMP_HEADER
from flwr.supercore import sql_mixin
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.error.http import http_error_translator
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "FLEET_HTTP_SIGNATURE_HEADER",
    "NOOP_ACCOUNT_NAME",
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "TIMESTAMP_HEADER",
    "NoObjectInStoreError",
    "NoOpFederationManager",
    "NodeAuthMiddleware",
    "ProtobufTranslationMiddleware",
    "TaskIdentity",
    "TaskType",
    "bytes_to_public_key",
    "fleet_router",
    "get_objectstore_linkstate_factories",
    "http_error_translator",
    "sql_mixin",
    "verify_signature",
]
