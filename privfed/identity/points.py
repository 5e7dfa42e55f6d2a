"""Which 32 bytes are an Ed25519 public key that nobody else can sign for.

OpenSSL loads keys of small order, under which anybody can make signatures that verify, so points
are checked here. All numbers are public: times may depend on them.

Reference:
    Josefsson & Liusvaara 2017, RFC 8032, section 5.1; Chalkias, Garillot & Nikolaenko 2020,
    eprint 2020/1244.
"""

from typing import Final

from privfed.errors import IdentityError
from privfed.identity.names import short

KEY_BYTES: Final = 32
"""Length of every public key and every secret key."""

# Points are (X, Y, Z, T) as in section 5.1.4.
PRIME = 2**255 - 19
_CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME
_GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
_SQRT_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)
_Point = tuple[int, int, int, int]


def check_signing_key(key: bytes) -> None:
    """Refuse what is not the one encoding of a point of Ed25519's prime-order group.

    Under a key of small order, anybody can make signatures that verify, and OpenSSL loads such
    keys (Chalkias, Garillot & Nikolaenko 2020, eprint 2020/1244).

    Raises:
        IdentityError: if `key` is another length, not canonical, or not in that group.
    """
    point = _decoded(key) if isinstance(key, bytes) and len(key) == KEY_BYTES else None
    if point is None or not _is_neutral(_multiplied(_GROUP_ORDER, point)):
        raise IdentityError(
            "an Ed25519 public key must be 32 bytes that encode a point of the prime-order group, "
            f"got {short(key.hex() if isinstance(key, bytes) else key)}; make a new identity"
        )


def _decoded(key: bytes) -> _Point | None:
    """RFC 8032, section 5.1.3, up to the sign of x, which does not change the order of a point.

    None for y >= p, points off the curve, and x = 0 (order 1 or 2).
    """
    y = int.from_bytes(key, "little") & (2**255 - 1)
    x_squared = (y * y - 1) * pow(_CURVE_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(x_squared, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != x_squared:
        x = x * _SQRT_MINUS_ONE % PRIME
    if y >= PRIME or x == 0 or x * x % PRIME != x_squared:
        return None
    return x, y, 1, x * y % PRIME


def _added(left: _Point, right: _Point) -> _Point:
    """RFC 8032, section 5.1.4; complete, so it doubles too."""
    a = (left[1] - left[0]) * (right[1] - right[0]) % PRIME
    b = (left[1] + left[0]) * (right[1] + right[0]) % PRIME
    c = 2 * left[3] * right[3] * _CURVE_D % PRIME
    d = 2 * left[2] * right[2] % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def _multiplied(scalar: int, point: _Point) -> _Point:
    """Scalar and point are public: the time may depend on them."""
    product: _Point = (0, 1, 1, 0)
    for bit in bin(scalar)[2:]:
        product = _added(product, product)
        if bit == "1":
            product = _added(product, point)
    return product


def _is_neutral(point: _Point) -> bool:
    return point[0] == 0 and point[1] == point[2]
