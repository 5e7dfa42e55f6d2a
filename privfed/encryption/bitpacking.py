"""Unsigned integers of any width as bytes without a wasted bit, in a few numpy passes.

A width is split into planes of 32, 16, 8, 4, 2 and 1 bits, at most one of each but the first. Each
plane of a row is stored in one piece: byte-aligned planes as little-endian integers, a narrower one
with the first of 8, 4 or 2 equal parts of the row in the low bits. So 50 bits are 32 + 16 + 2, and
nothing is shifted one number at a time.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from privfed.errors import MessageError

MAX_BITS = 64
_MULTIPLE = 8
_ALIGNED = {32: "<u4", 16: "<u2", 8: "u1"}


def row_bytes(count: int, width: int) -> int:
    """Bytes of a row of `count` numbers (a multiple of 8) of `width` bits."""
    return count * width // 8


def pack_rows(rows: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Numbers below 2^width as bytes.

    Args:
        rows: shape (rows, count), count a multiple of 8; higher bits must be zero.
        width: 1..64.

    Returns:
        Shape (rows, count * width / 8).

    Raises:
        MessageError: if the shape, the type or the width is wrong.
    """
    _check(rows, width)
    count = rows.shape[1]
    packed = np.empty((len(rows), row_bytes(count, width)), dtype=np.uint8)
    offset = shift = 0
    for plane in _planes(width):
        end = offset + row_bytes(count, plane)
        part = rows >> np.uint64(shift) if shift else rows
        packed[:, offset:end] = _stored(part, plane)
        offset, shift = end, shift + plane
    return packed


def unpack_rows(packed: NDArray[np.uint8], count: int, width: int) -> NDArray[np.uint64]:
    """Read what `pack_rows` wrote.

    Args:
        packed: shape (rows, count * width / 8).
        count: numbers in a row, a multiple of 8.
        width: 1..64.

    Returns:
        Numbers below 2^width, shape (rows, count).

    Raises:
        MessageError: if the shape, the type or the width is wrong.
    """
    if packed.dtype != np.uint8 or packed.ndim != 2 or count % _MULTIPLE or count < _MULTIPLE:
        raise MessageError(
            f"packed rows must be bytes in shape (rows, bytes) with a multiple of {_MULTIPLE} "
            f"numbers, got {packed.dtype} {packed.shape} for {count}"
        )
    if not 1 <= width <= MAX_BITS or packed.shape[1] != row_bytes(count, width):
        raise MessageError(
            f"rows of {count} numbers of {width} bits must have {row_bytes(count, width)} bytes, "
            f"got {packed.shape[1]}"
        )
    rows = np.zeros((len(packed), count), dtype=np.uint64)
    offset = shift = 0
    for plane in _planes(width):
        end = offset + row_bytes(count, plane)
        part = _read(np.ascontiguousarray(packed[:, offset:end]), count, plane)
        rows |= part << np.uint64(shift) if shift else part
        offset, shift = end, shift + plane
    return rows


@cache
def _planes(width: int) -> tuple[int, ...]:
    return (32,) * (width // 32) + tuple(bit for bit in (16, 8, 4, 2, 1) if width & bit)


def _stored(rows: NDArray[np.uint64], plane: int) -> NDArray[np.uint8]:
    if plane in _ALIGNED:
        return rows.astype(_ALIGNED[plane], order="C").view(np.uint8)
    parts = 8 // plane
    low = rows.astype(np.uint8) & np.uint8((1 << plane) - 1)
    split = low.reshape(len(rows), parts, rows.shape[1] // parts)
    stored = split[:, 0].copy()
    for index in range(1, parts):
        stored |= split[:, index] << np.uint8(index * plane)
    return stored


def _read(stored: NDArray[np.uint8], count: int, plane: int) -> NDArray[np.uint64]:
    if plane in _ALIGNED:
        return stored.view(_ALIGNED[plane]).astype(np.uint64)
    parts = 8 // plane
    split = np.empty((len(stored), parts, count // parts), dtype=np.uint8)
    for index in range(parts):
        split[:, index] = (stored >> np.uint8(index * plane)) & np.uint8((1 << plane) - 1)
    return split.reshape(len(stored), count).astype(np.uint64)


def _check(rows: NDArray[np.uint64], width: int) -> None:
    shaped = rows.ndim == 2 and rows.shape[1] >= _MULTIPLE and rows.shape[1] % _MULTIPLE == 0
    if rows.dtype != np.uint64 or not shaped:
        raise MessageError(
            f"numbers must be uint64 in shape (rows, a multiple of {_MULTIPLE}), got {rows.dtype} "
            f"{rows.shape}"
        )
    if not 1 <= width <= MAX_BITS:
        raise MessageError(f"a width must be in 1..{MAX_BITS} bits, got {width}")
    if width < MAX_BITS and rows.size and rows.max() >> np.uint64(width):
        raise MessageError(f"every number must fit into {width} bits, got {rows.max()}")
