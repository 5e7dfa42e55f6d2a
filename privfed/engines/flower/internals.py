"""What privfed takes from Flower of messages and their objects.

Flower's public interface starts a process for every message, runs code that the hub ships, and
serves an interface without authentication beside the one that nodes need. So privfed uses the parts
below that interface: the Fleet API, by which nodes fetch and send messages (`internals_node.py`),
and the state behind it (`internals_hub.py`). They may change with any minor version of Flower: the
extra pins one, nothing of Flower is imported but in these three files, and
`tests/unit/privfed/engines/flower/test_internals.py` fails loudly if anything of it changed.
"""

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_tree,
)
from google.protobuf.message import DecodeError

__all__ = [
    "ConfigRecord",
    "DecodeError",
    "InflatableObject",
    "Message",
    "ObjectTree",
    "RecordDict",
    "get_all_nested_objects",
    "get_object_body",
    "get_object_tree",
    "remove_content_from_message",
]
