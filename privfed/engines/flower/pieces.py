"""One message of privfed as a message of Flower: its bytes in pieces, each an object of its own."""

import json
from collections.abc import Callable, Iterator
from typing import Final

from privfed.engines.flower.internals import (
    ConfigRecord,
    DecodeError,
    InflatableObject,
    Message,
    ObjectTree,
    RecordDict,
    get_all_nested_objects,
    get_object_body,
    get_object_tree,
    remove_content_from_message,
)
from privfed.errors import MessageError
from privfed.protocol.streams import MOST_BYTES

PIECE_BYTES: Final = 4 << 20
MOST_REQUEST_BYTES: Final = PIECE_BYTES + (1 << 20)
"""Of one request over HTTP: a piece and what Flower writes around it."""
MOST_OBJECTS: Final = MOST_BYTES // PIECE_BYTES + 2
"""Of the longest message: its pieces, their list, and itself."""
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


def sealed(message: Message) -> tuple[Message, ObjectTree, dict[str, InflatableObject]]:
    """A message without its content, the tree of its objects, and these by their names."""
    message.metadata.__dict__["_message_id"] = message.object_id
    objects = get_all_nested_objects(message)
    return remove_content_from_message(message), get_object_tree(message), objects


def pieces_of(tree: ObjectTree, pull: Callable[[str], bytes]) -> Iterator[bytes]:
    """The pieces of a message, in their order, each fetched when it is read.

    Args:
        tree: of the objects of a message: it, its records, and of these each piece.
        pull: fetches one object by its name.

    Raises:
        MessageError: for anything but the pieces of a message.
    """
    for records in tree.children:
        for name in _listed_in(pull(records.object_id)):
            yield _piece_in(pull(name))


def names_in(tree: ObjectTree) -> list[str]:
    """Names of all objects of a message, each once."""
    found = dict.fromkeys([tree.object_id])
    for child in tree.children:
        found.update(dict.fromkeys(names_in(child)))
    return list(found)


def _listed_in(records: bytes) -> list[str]:
    """Names of the pieces in the records of a message, in their order."""
    try:
        listed = json.loads(get_object_body(records, RecordDict))
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError("the records of a message must be numbered pieces") from error
    if (
        not isinstance(listed, dict)
        or len(listed) > MOST_OBJECTS
        or set(listed) != {f"{number:06}" for number in range(len(listed))}
        or not all(isinstance(name, str) for name in listed.values())
    ):
        raise MessageError("the records of a message must be numbered pieces")
    return [listed[name] for name in sorted(listed)]


def _piece_in(content: bytes) -> bytes:
    try:
        piece = ConfigRecord.inflate(content).get(_PIECE)
    except (ValueError, TypeError, DecodeError) as error:
        raise MessageError("a piece of a message must be bytes") from error
    if not isinstance(piece, bytes) or not 0 < len(piece) <= PIECE_BYTES:
        raise MessageError(f"a piece of a message must be 1 to {PIECE_BYTES} bytes")
    return piece
