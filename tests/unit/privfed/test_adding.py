"""The adders of the aggregator's side: numpy alone, no key."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.encryption import residues
from privfed.encryption.adding import SEED_PREFIX, BFVAdder
from privfed.encryption.packing import COEFF_MODULUS, POLY_MODULUS_DEGREE, SEED_BYTES, derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.errors import EncryptionError, MessageError

PARAMETERS = derive(num_clients=3, bits=16)
TWO_CIPHERTEXTS = PARAMETERS.params_per_ciphertext + 1


def upload(seed, num_ciphertexts=2):
    """Blobs as a client sends them: random residues, random seeds."""
    random = np.random.default_rng(seed)
    shape = (num_ciphertexts, POLY_MODULUS_DEGREE)
    c0 = random.integers(0, COEFF_MODULUS, shape, dtype=np.uint64)
    seeds = random.integers(0, 256, (num_ciphertexts, SEED_BYTES), dtype=np.uint8)
    return {"c0": residues.to_bytes(c0), "seeds": residues.seeds_to_bytes(seeds)}


def summed(*uploads):
    """What the c0 of uploads add up to, modulo q, in Python's whole numbers."""
    parts = [residues.from_bytes(blobs["c0"], 2).astype(object) for blobs in uploads]
    return residues.to_bytes((sum(parts) % COEFF_MODULUS).astype(np.uint64))


class TestBFVAdder:
    def test_c0_is_summed_modulo_q_and_seeds_are_kept_by_client(self):
        adder = BFVAdder(PARAMETERS, TWO_CIPHERTEXTS)
        uploads = {name: upload(number) for number, name in enumerate(("a", "b", "c"))}
        for name, blobs in uploads.items():
            adder.add(name, blobs)
        total = adder.total()
        assert total.pop("c0") == summed(*uploads.values())
        assert total == {SEED_PREFIX + name: blobs["seeds"] for name, blobs in uploads.items()}

    def test_nothing_added_is_zero(self):
        total = BFVAdder(PARAMETERS, TWO_CIPHERTEXTS).total()
        assert total == {"c0": bytes(2 * PARAMETERS.bytes_per_ciphertext)}

    REFUSED = {  # noqa: RUF012 - never changed
        "no blobs": lambda blobs: {},
        "no seeds": lambda blobs: {"c0": blobs["c0"]},
        "c1 beside c0": lambda blobs: {**blobs, "c1": blobs["c0"]},
        "cut residues": lambda blobs: {**blobs, "c0": blobs["c0"][:-7]},
        "residues of one more": lambda blobs: {**blobs, "c0": blobs["c0"] + blobs["c0"][:28672]},
        "cut seeds": lambda blobs: {**blobs, "seeds": blobs["seeds"][:-1]},
        "a residue above q": lambda blobs: {**blobs, "c0": b"\xff" * len(blobs["c0"])},
        "one seed for all": lambda blobs: {**blobs, "seeds": blobs["seeds"][:64] * 2},
    }

    @pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
    def test_a_malformed_upload_leaves_the_sum_as_it_was(self, change):
        adder = BFVAdder(PARAMETERS, TWO_CIPHERTEXTS)
        first, second = upload(1), upload(2)
        adder.add("a", first)
        before = adder.total()
        with pytest.raises(MessageError):
            adder.add("b", change(second))
        assert adder.total() == before
        adder.add("b", second)
        assert adder.total()["c0"] == summed(first, second)

    def test_a_seed_of_another_client_is_refused_by_name(self):
        adder = BFVAdder(PARAMETERS, TWO_CIPHERTEXTS)
        first, second = upload(1), upload(2)
        adder.add("a", first)
        crossed = {"c0": second["c0"], "seeds": second["seeds"][:64] + first["seeds"][:64]}
        with pytest.raises(MessageError, match="'b' repeats a seed"):
            adder.add("b", crossed)
        adder.add("b", second)

    def test_one_client_too_many_is_refused_by_name(self):
        adder = BFVAdder(PARAMETERS, TWO_CIPHERTEXTS)
        for number, name in enumerate("abc"):
            adder.add(name, upload(number))
        before = adder.total()
        with pytest.raises(MessageError, match="allow 3 clients; 'd' is one too many"):
            adder.add("d", upload(9))
        assert adder.total() == before


INTEGERS = st.lists(st.integers(-127, 127), min_size=4, max_size=4)


class TestPlain:
    @given(st.lists(INTEGERS, min_size=1, max_size=6))
    @settings(max_examples=50)
    def test_the_sum_is_exact(self, updates):
        cipher, adder = PlainCipher(4, 1), PlainAdder(4, 127)
        for number, values in enumerate(updates):
            adder.add(str(number), cipher.encrypt(np.array(values, dtype=np.int64)))
        names = [str(number) for number in range(len(updates))]
        total = cipher.decrypt_sum(adder.total(), names)
        assert total.dtype == np.int64
        assert total.tolist() == np.sum(updates, axis=0).tolist()

    def test_values_are_four_little_endian_bytes(self):
        blobs = PlainCipher(2, 1).encrypt(np.array([1, -2], dtype=np.int64))
        assert blobs == {"values": bytes.fromhex("01000000feffffff")}

    @pytest.mark.parametrize(
        "blobs",
        [
            {},
            {"c0": bytes(16)},
            {"values": bytes(15)},
            {"values": bytes(20)},
            {"values": bytes(16), "more": b""},
            {"values": (128).to_bytes(4, "little") * 4},
            {"values": (-(2**31)).to_bytes(4, "little", signed=True) * 4},
        ],
    )
    def test_a_malformed_upload_leaves_the_sum_as_it_was(self, blobs):
        adder = PlainAdder(4, 127)
        adder.add("a", {"values": (127).to_bytes(4, "little") * 4})
        before = adder.total()
        with pytest.raises(MessageError):
            adder.add("b", blobs)
        assert adder.total() == before

    def test_a_value_above_the_public_range_is_refused_by_name(self):
        with pytest.raises(MessageError, match="'b' sent a value above the public range"):
            PlainAdder(1, 127).add("b", {"values": (-128).to_bytes(4, "little", signed=True)})

    def test_a_sum_of_too_few_is_not_read(self):
        with pytest.raises(EncryptionError, match="at least 3"):
            PlainCipher(1, 3).decrypt_sum({"values": bytes(4)}, ["a", "b"])

    def test_a_contributor_that_is_listed_twice_is_refused(self):
        """The mean would be divided by a weight that is not in the sum."""
        for listed in (["a", "b", "a"], ["a", "b", "c", "c"]):
            with pytest.raises(EncryptionError, match="contributors"):
                PlainCipher(1, 3).decrypt_sum({"values": bytes(4)}, listed)
