import numpy as np
import pytest

from privfed.encryption import residues
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.bitpacking import pack_rows, row_bytes
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import derive
from privfed.errors import MessageError
from privfed.protocol.kinds import CIPHERTEXTS, SEEDS, seeds_of
from privfed.settings.encryption import Custody

Q = COEFF_MODULUS
COUNT = 19  # ciphertexts; uploads are read eight at a time
SHARED, HOLDER = (
    derive(num_clients=5, bits=13, num_params=COUNT * 12_282, custody=custody)
    for custody in Custody
)
BOTH = pytest.mark.parametrize("parameters", [SHARED, HOLDER], ids=["shared_key", "key_holder"])


def polynomials(seed, parameters):
    """Random residues with the bits that are sent, and the middle in place of the others."""
    random = np.random.default_rng(seed)
    shape = (parameters.num_ciphertexts, 4096)
    drawn = [random.integers(0, Q, shape, dtype=np.uint64) for _ in parameters.upload_bits]
    return residues.from_rows(
        residues.to_rows(drawn, parameters.upload_bits), parameters.upload_bits
    )


def upload(seed, parameters):
    """Blobs as a client sends them: random residues, random seeds."""
    rows = residues.to_rows(polynomials(seed, parameters), parameters.upload_bits)
    blobs = {CIPHERTEXTS: rows.tobytes()}
    if parameters.custody is Custody.SHARED_KEY:
        random = np.random.default_rng(seed + 1000)
        seeds = random.integers(0, 256, (parameters.num_ciphertexts, 64), dtype=np.uint8)
        blobs[SEEDS] = residues.seeds_to_bytes(seeds)
    return blobs


def summed(seeds, parameters):
    """What the polynomials of uploads add up to, modulo q, in Python's whole numbers."""
    each = [polynomials(seed, parameters) for seed in seeds]
    parts = [sum(part.astype(object) for part in parts) % Q for parts in zip(*each, strict=True)]
    totals = [part.astype(np.uint64) for part in parts]
    return residues.to_rows(totals, parameters.sum_bits).tobytes()


def with_bad_residue(blobs, parameters, ciphertext, polynomial=0, coefficient=4095):
    """The same upload with the smallest residue out of range in one place."""
    bits = parameters.upload_bits
    rows = residues.rows_of(blobs[CIPHERTEXTS], parameters.num_ciphertexts, bits).copy()
    parts, offset = [], 0
    for position, kept in enumerate(bits):
        width = row_bytes(4096, kept)
        part = residues.unpack_rows(rows[:, offset : offset + width], 4096, kept)
        if position == polynomial:
            part[ciphertext, coefficient] = ((Q - 1) >> (60 - kept)) + 1
        parts.append(pack_rows(part, kept))
        offset += width
    return {**blobs, CIPHERTEXTS: np.concatenate(parts, axis=1).tobytes()}


def test_uploads_are_of_several_pieces():
    assert SHARED.num_ciphertexts > 2 * 8
    assert HOLDER.num_ciphertexts > 2 * 8
    assert len(HOLDER.upload_bits) == 2
    # Fewer than 14 dropped bits: with more, every number that fits is a residue.
    assert 0 < SHARED.upload_dropped_bits < SHARED.sum_dropped_bits < 14
    assert 0 < HOLDER.upload_dropped_bits < 14


class TestCiphertextAdder:
    @BOTH
    @pytest.mark.parametrize("clients", [1, 2, 5])
    def test_polynomials_are_summed_modulo_q_and_seeds_kept_by_client(self, parameters, clients):
        adder = CiphertextAdder(parameters)
        uploads = {
            name: upload(number, parameters) for number, name in enumerate("abcde"[:clients])
        }
        for name, blobs in uploads.items():
            adder.add(name, blobs)
        total = adder.total()
        assert total.pop(CIPHERTEXTS) == summed(range(clients), parameters)
        if parameters is HOLDER:
            assert total == {}
        else:
            assert total == {seeds_of(name): blobs[SEEDS] for name, blobs in uploads.items()}

    @BOTH
    def test_the_sum_has_the_length_that_the_parameters_say(self, parameters):
        adder = CiphertextAdder(parameters)
        for number, name in enumerate("abcde"):
            blobs = upload(number, parameters)
            assert sum(map(len, blobs.values())) == parameters.upload_bytes()
            adder.add(name, blobs)
        assert sum(map(len, adder.total().values())) == parameters.sum_bytes(5)

    @BOTH
    def test_the_largest_residues_do_not_overflow(self, parameters):
        """Five times the largest c0 that can be sent, and five times q - 1 for c1."""
        adder = CiphertextAdder(parameters)
        bits = parameters.upload_bits
        shape = (parameters.num_ciphertexts, 4096)
        rows = residues.to_rows([np.full(shape, Q - 1, dtype=np.uint64) for _ in bits], bits)
        largest = [int(part[0, 0]) for part in residues.from_rows(rows, bits)]
        for number, name in enumerate("abcde"):
            adder.add(name, {**upload(number, parameters), CIPHERTEXTS: rows.tobytes()})
        expected = [np.full(shape, 5 * each % Q, dtype=np.uint64) for each in largest]
        found = adder.total()[CIPHERTEXTS]
        assert found == residues.to_rows(expected, parameters.sum_bits).tobytes()

    @BOTH
    def test_nothing_added_is_zero(self, parameters):
        size = parameters.num_ciphertexts * residues.ciphertext_bytes(parameters.sum_bits)
        assert CiphertextAdder(parameters).total() == {CIPHERTEXTS: bytes(size)}

    def test_blobs_may_be_views(self):
        adder = CiphertextAdder(SHARED)
        blobs = upload(1, SHARED)
        adder.add("a", {name: memoryview(bytearray(blob)) for name, blob in blobs.items()})
        assert adder.total() == {CIPHERTEXTS: summed([1], SHARED), seeds_of("a"): blobs[SEEDS]}

    REFUSED = {  # noqa: RUF012 - never changed
        "no blobs": lambda blobs: {},
        "no ciphertexts": lambda blobs: {name: blobs[name] for name in blobs if name == SEEDS},
        "one blob more": lambda blobs: {**blobs, "c1": blobs[CIPHERTEXTS]},
        "another name": lambda blobs: {"c0": blobs[CIPHERTEXTS]},
        "cut residues": lambda blobs: {**blobs, CIPHERTEXTS: blobs[CIPHERTEXTS][:-7]},
        "overlong residues": lambda blobs: {**blobs, CIPHERTEXTS: blobs[CIPHERTEXTS] + b"\0"},
        "all ones": lambda blobs: {**blobs, CIPHERTEXTS: b"\xff" * len(blobs[CIPHERTEXTS])},
    }
    REFUSED_SEEDS = {  # noqa: RUF012 - never changed
        "no seeds": lambda blobs: {CIPHERTEXTS: blobs[CIPHERTEXTS]},
        "cut seeds": lambda blobs: {**blobs, SEEDS: blobs[SEEDS][:-1]},
        "overlong seeds": lambda blobs: {**blobs, SEEDS: blobs[SEEDS] + bytes(64)},
        "one seed for all": lambda blobs: {**blobs, SEEDS: blobs[SEEDS][:64] * COUNT},
    }

    @staticmethod
    def leaves_the_sum_alone(parameters, bad, message="."):
        """A refused upload changes nothing, and its sender may still send a good one."""
        adder = CiphertextAdder(parameters)
        adder.add("a", upload(1, parameters))
        before = adder.total()
        with pytest.raises(MessageError, match=message):
            adder.add("b", bad)
        assert adder.total() == before
        adder.add("b", upload(2, parameters))
        assert adder.total()[CIPHERTEXTS] == summed([1, 2], parameters)

    @BOTH
    @pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
    def test_a_malformed_upload_leaves_the_sum_as_it_was(self, parameters, change):
        self.leaves_the_sum_alone(parameters, change(upload(2, parameters)))

    @pytest.mark.parametrize("change", REFUSED_SEEDS.values(), ids=REFUSED_SEEDS)
    def test_malformed_seeds_leave_the_sum_as_it_was(self, change):
        self.leaves_the_sum_alone(SHARED, change(upload(2, SHARED)))

    def test_a_key_holder_takes_no_seeds(self):
        bad = {**upload(2, HOLDER), SEEDS: bytes(64 * HOLDER.num_ciphertexts)}
        self.leaves_the_sum_alone(HOLDER, bad, "must hold")

    @BOTH
    @pytest.mark.parametrize("ciphertext", [0, 7, 8, 15, 16, -1])
    def test_a_bad_residue_in_any_ciphertext_leaves_the_sum_as_it_was(self, parameters, ciphertext):
        for position in range(len(parameters.upload_bits)):
            bad = with_bad_residue(upload(2, parameters), parameters, ciphertext, position)
            self.leaves_the_sum_alone(parameters, bad, "below the coefficient modulus")

    def test_a_seed_of_another_client_is_refused(self):
        adder = CiphertextAdder(SHARED)
        first, second = upload(1, SHARED), upload(2, SHARED)
        adder.add("a", first)
        before = adder.total()
        crossed = {**second, SEEDS: second[SEEDS][:-64] + first[SEEDS][:64]}
        with pytest.raises(MessageError, match="a seed comes twice"):
            adder.add("b", crossed)
        with pytest.raises(MessageError, match="a seed comes twice"):
            adder.add("b", first)
        assert adder.total() == before
        adder.add("b", second)
        third = upload(3, SHARED)
        for earlier in (first, second):
            crossed = {**third, SEEDS: third[SEEDS][:-64] + earlier[SEEDS][-64:]}
            with pytest.raises(MessageError, match="a seed comes twice"):
                adder.add("c", crossed)
        adder.add("c", third)

    def test_a_seed_twice_in_one_upload_is_refused(self):
        blobs = upload(2, SHARED)
        twice = {**blobs, SEEDS: blobs[SEEDS][:-64] + blobs[SEEDS][64:128]}
        self.leaves_the_sum_alone(SHARED, twice, "a seed comes twice")

    @BOTH
    def test_one_client_too_many_is_refused(self, parameters):
        adder = CiphertextAdder(parameters)
        for number, name in enumerate("abcde"):
            adder.add(name, upload(number, parameters))
        before = adder.total()
        with pytest.raises(MessageError, match="allow 5 clients; this is one too many"):
            adder.add("f", upload(9, parameters))
        assert adder.total() == before

    @BOTH
    def test_refused_uploads_do_not_count(self, parameters):
        adder = CiphertextAdder(parameters)
        for _ in range(4):
            with pytest.raises(MessageError, match="below"):
                adder.add("f", with_bad_residue(upload(9, parameters), parameters, -1))
        for number, name in enumerate("abcde"):
            adder.add(name, upload(number, parameters))
        assert adder.total()[CIPHERTEXTS] == summed(range(5), parameters)

    def test_the_blob_of_a_client_is_named_after_it(self):
        assert seeds_of("clinic-1") == "seeds/clinic-1"
