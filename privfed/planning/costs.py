"""What a round costs in bytes and in gradients, from the shapes of the ciphertexts themselves."""

from dataclasses import dataclass
from typing import Final

from privfed.encryption.bitpacking import row_bytes
from privfed.encryption.ckks import derive_ckks
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.parameters import BFVParameters, derive
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.planning.answer import Answer
from privfed.settings.encryption import BFV, CKKS, Custody, FixedPoint, Plain, Summation

_PLAIN_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """Content of the messages of one round; signatures, statements and envelopes come on top.

    Attributes:
        name: of the way to sum, in words.
        chosen: whether the plan is to sum in this way.
        up: from each client to the aggregator.
        down: from the aggregator to each client: the sum, and with a key holder its public key.
        to_holder: from the aggregator to the key holder, where there is one.
    """

    name: str
    chosen: bool
    up: int
    down: int
    to_holder: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """How many private gradients are computed, in expectation, and how long that takes.

    Attributes:
        of_client: of each client, by name, over the whole run.
        in_all: of all clients together, as a simulation on one machine computes them.
        seconds_per_example: as stated; None if not.
    """

    of_client: dict[str, float]
    in_all: float
    seconds_per_example: float | None

    @property
    def longest_seconds(self) -> float | None:
        """Of the client that computes most, on a machine of its own."""
        rate = self.seconds_per_example
        return None if rate is None else rate * max(self.of_client.values())

    @property
    def simulated_seconds(self) -> float | None:
        """Of all, one after the other."""
        rate = self.seconds_per_example
        return None if rate is None else rate * self.in_all


def bytes_of_round(answer: Answer) -> tuple[Bytes, ...]:
    """Of every way to sum, with the bits of the plan; none if the parameters are not stated."""
    if answer.parameters is None:
        return ()
    chosen = answer.encryption
    bits = chosen.bits if isinstance(chosen, FixedPoint) else BFV().bits
    ways: list[tuple[str, Summation]] = [
        (f"BFV, {bits} bits, shared key", BFV(bits=bits)),
        (f"BFV, {bits} bits, key holder", BFV(bits=bits, custody=Custody.KEY_HOLDER)),
        ("CKKS, floats, shared key", CKKS()),
        ("no encryption", Plain(bits=bits)),
    ]
    return tuple(_bytes(name, way, answer) for name, way in ways)


def _bytes(name: str, way: Summation, answer: Answer) -> Bytes:
    numbers = answer.parameters or 1
    clients, chosen = len(answer.clients), _alike(way, answer.encryption)
    if isinstance(way, CKKS):
        floats = derive_ckks(num_clients=clients, num_params=numbers)
        total = floats.sum_bytes(answer.per_round)
        return Bytes(name=name, chosen=chosen, up=floats.upload_bytes(), down=total)
    if not isinstance(way, BFV):
        plain = _PLAIN_BYTES * numbers
        return Bytes(name=name, chosen=chosen, up=plain, down=plain)
    parameters = derive(num_clients=clients, bits=way.bits, num_params=numbers, custody=way.custody)
    total = parameters.sum_bytes(answer.per_round)
    if way.custody is Custody.KEY_HOLDER:
        return Bytes(
            name=name,
            chosen=chosen,
            up=parameters.upload_bytes(),
            down=public_key_bytes() + opened_bytes(parameters),
            to_holder=total,
        )
    return Bytes(name=name, chosen=chosen, up=parameters.upload_bytes(), down=total)


def public_key_bytes() -> int:
    """Of the key that a key holder makes for each round: two polynomials under both primes."""
    primes = (COEFF_MODULUS, SPECIAL_MODULUS)
    return 2 * sum(row_bytes(POLY_MODULUS_DEGREE, prime.bit_length()) for prime in primes)


def opened_bytes(parameters: BFVParameters) -> int:
    """Of a sum that a key holder decrypted, in as many bits as the largest sum needs."""
    padded = -(-parameters.num_params // 8) * 8
    return row_bytes(padded, parameters.value_bits)


def _alike(way: Summation, chosen: Summation) -> bool:
    return type(way) is type(chosen) and way.custody == chosen.custody


def gradients_of(answer: Answer) -> Gradients:
    """Expected records of all steps, times the examples that are read of a record at most.

    Batches are filled up to a multiple of `physical_batch_size`, which this does not count.
    """
    per_step = answer.expected_batch_size * answer.examples_per_record
    steps = answer.steps()
    of_client = {name: float(per_step * steps[name] * answer.rounds_of[name]) for name in steps}
    in_all = sum(per_step * one for one in steps.values()) * answer.rounds
    return Gradients(
        of_client=of_client,
        in_all=in_all * answer.per_round / len(steps),
        seconds_per_example=answer.seconds_per_example,
    )
