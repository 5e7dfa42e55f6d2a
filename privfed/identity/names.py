"""How keys and names are written down, and read back strictly."""

import re
import unicodedata
from typing import Any

from privfed.errors import IdentityError, MessageError

_MAX_NAME_CHARACTERS = 120
_MAX_NAME_BYTES = 240


def check_name(name: str, what: str) -> None:
    """Refuse a name that could be mistaken for another, or harm where it is printed or stored.

    Args:
        name: of a party or a federation.
        what: what it names, for the message.

    Raises:
        IdentityError: unless it has 1 to 120 printable characters (240 bytes of UTF-8) in normal
            form C, no space at either end, no "/" and no "." at its beginning.
    """
    reason = _name_problem(name)
    if reason is not None:
        raise IdentityError(f"{what} must {reason}, got {short(name)}; choose another name")


def _name_problem(name: object) -> str | None:
    if not isinstance(name, str):
        return "be text"
    if not 1 <= len(name) <= _MAX_NAME_CHARACTERS:
        return f"have 1 to {_MAX_NAME_CHARACTERS} characters"
    if not name.isprintable():
        return "have printable characters only"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"have at most {_MAX_NAME_BYTES} bytes in UTF-8"
    if name != name.strip():
        return "neither begin nor end with a space"
    if "/" in name or name.startswith("."):
        return "contain no '/' and not begin with '.'"
    if not unicodedata.is_normalized("NFC", name):
        return "be in Unicode's normal form C"
    return None


def fold(name: str) -> str:
    """What two names have in common if only case or form of their letters differs."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def grouped_hex(content: bytes) -> str:
    """Hex digits in groups of four, to be read aloud."""
    return content.hex(" ", -2)


def from_hex(text: object, length: int) -> bytes:
    """Exactly `length` bytes from lower-case hex digits.

    Raises:
        MessageError: if anything else came.
    """
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", text):
        raise MessageError(
            f"{length} bytes must come as {2 * length} lower-case hex digits, got {short(text)}"
        )
    return bytes.fromhex(text)


def is_hex(text: str) -> bool:
    """Whether a text is lower-case hex digits and nothing else, so that it can name a file."""
    return re.fullmatch(r"[0-9a-f]+", text) is not None


def short(value: Any) -> str:
    """At most 80 characters that show a value that somebody else chose."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
