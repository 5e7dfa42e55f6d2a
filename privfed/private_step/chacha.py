"""The ChaCha20 key stream (RFC 8439) in integer operations of torch, on any device.

A processor's cipher gives about a gigabyte a second, which then has to be copied: a third of the
time of a private step with a large adapter. The blocks of a key stream are independent of each
other, so that a device computes many at once. Words are int32, whose sums wrap as those of unsigned
words do.
"""

import torch
from torch import Tensor

BYTES_PER_BLOCK = 64
_CONSTANTS = b"expand 32-byte k"
_ROUNDS = 20


def key_stream(key: bytes, nonce: bytes, num_blocks: int, device: torch.device) -> Tensor:
    """Uniform 64-bit integers, equal to the bytes of that many blocks read as little-endian.

    Args:
        key: 32 secret bytes.
        nonce: 16 bytes; the first four count blocks (little-endian).
        num_blocks: how many, from the block that the nonce counts.
        device: where to compute them; 200 bytes of its memory per block.

    Returns:
        Shape (8 * num_blocks,), int64, on the device.

    Raises:
        ValueError: if the counter would come round, and numbers with it.

    Reference:
        RFC 8439, section 2.3.
    """
    first = int.from_bytes(nonce[:4], "little")
    if not first + num_blocks <= 1 << 32:
        raise ValueError(
            f"a ChaCha20 key gives 2^32 blocks, got {num_blocks} from block {first}; "
            "go on under another key"
        )
    block = torch.frombuffer(bytearray(_CONSTANTS + key + nonce), dtype=torch.int32).to(device)
    counts = torch.arange(num_blocks, dtype=torch.int32, device=device)
    rows = block[:, None].repeat(1, num_blocks)
    rows[12].add_(counts)
    rows = _mixed(rows).add_(block[:, None])
    rows[12].add_(counts)
    return rows.t().flatten().view(torch.int64)


def nonce_after(nonce: bytes, num_blocks: int) -> bytes:
    """The nonce of the block that comes `num_blocks` later under the same key.

    Raises:
        OverflowError: if there is no such block.
    """
    return (int.from_bytes(nonce[:4], "little") + num_blocks).to_bytes(4, "little") + nonce[4:]


def _mixed(rows: Tensor) -> Tensor:
    """Twenty rounds: of the four columns of a block, then of its four diagonals, and so on.

    A block is a square of four by four words. Its rows turn by 1, 2 and 3 places so that diagonals
    stand as columns, and back again.

    Args:
        rows: shape (16, blocks); overwritten.
    """
    a, b, c, d = torch.split(rows, 4)
    spare = torch.empty_like(a)
    for number in range(_ROUNDS):
        _quarter_rounds(a, b, c, d, spare)
        turn = 1 if number % 2 == 0 else -1
        turned = torch.cat((b[turn:], b[:turn], c[2:], c[:2], d[-turn:], d[:-turn]))
        b, c, d = torch.split(turned, 4)
    return torch.cat((a, b, c, d))


def _quarter_rounds(a: Tensor, b: Tensor, c: Tensor, d: Tensor, spare: Tensor) -> None:
    """The four quarter rounds of every block, in place; each shape (4, blocks)."""
    _add_and_turn(a, b, d, 16, spare)
    _add_and_turn(c, d, b, 12, spare)
    _add_and_turn(a, b, d, 8, spare)
    _add_and_turn(c, d, b, 7, spare)


def _add_and_turn(total: Tensor, addend: Tensor, target: Tensor, bits: int, spare: Tensor) -> None:
    """Add, exclusive-or the sum into the target, and rotate that to the left.

    int32 shifts to the right keep the sign, which a mask takes away. The two shifts of a rotation
    have no bit in common, so that their sum is their union.
    """
    total.add_(addend)
    target.bitwise_xor_(total)
    torch.bitwise_right_shift(target, 32 - bits, out=spare)
    spare.bitwise_and_((1 << bits) - 1)
    torch.add(spare, target, alpha=1 << bits, out=target)
