"""One message of privfed as a message of Flower: its bytes in pieces, each an object of its own."""

from collections.abc import Callable
from typing import Any, Final

from privfed.engines.flower.internals import (
    ConfigRecord,
    Message,
    ObjectTree,
    RecordDict,
    get_all_nested_objects,
    get_object_tree,
    inflate_object_from_contents,
    iterate_object_tree,
    remove_content_from_message,
)
from privfed.errors import MessageError

PIECE_BYTES: Final = 4 << 20
MOST_REQUEST_BYTES: Final = PIECE_BYTES + (1 << 20)
"""Of one request over HTTP: a piece and what Flower writes around it."""
_PIECE: Final = "piece"


def in_pieces(content: bytes) -> RecordDict:
    """The bytes of a message as Flower's records."""
    starts = range(0, len(content), PIECE_BYTES)
    return RecordDict(
        {
            f"{number:06}": ConfigRecord({_PIECE: content[start : start + PIECE_BYTES]})
            for number, start in enumerate(starts)
        }
    )


def whole(records: RecordDict) -> bytes:
    """The inverse of `in_pieces`.

    Raises:
        MessageError: for any other records.
    """
    names = [f"{number:06}" for number in range(len(records))]
    if set(records) != set(names):
        raise MessageError("a message must be numbered pieces")
    pieces = [records[name].get(_PIECE) for name in names]
    if not all(isinstance(piece, bytes) for piece in pieces):
        raise MessageError("a piece of a message must be bytes")
    return b"".join(pieces)


def sealed(message: Message) -> tuple[Message, ObjectTree, dict[str, bytes]]:
    """A message without its content, the tree of its objects, and these by their names."""
    message.metadata.__dict__["_message_id"] = message.object_id
    objects = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
    return remove_content_from_message(message), get_object_tree(message), objects


def opened(message_id: str, tree: ObjectTree, pull: Callable[[str], bytes]) -> bytes:
    """The bytes of a message whose objects are pulled by their names.

    Raises:
        MessageError: for anything but the pieces of a message.
    """
    names = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
    contents = {name: pull(name) for name in names}
    message: Any = inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message) or not message.has_content():
        raise MessageError("no message of privfed came")
    return whole(message.content)
