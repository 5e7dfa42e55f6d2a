"""The clients' side of the encrypted sum: what a holder of the key opens, and what not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.custody.keys import SharedKey
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption.adding import SEED_PREFIX, BFVAdder
from privfed.encryption.packing import derive
from privfed.errors import EncryptionError, PrivfedError

PARAMETERS = derive(num_clients=4, bits=12)
LARGEST = PARAMETERS.max_magnitude
NUM_PARAMS = 9


@pytest.fixture(scope="module")
def key():
    return SharedKey.generate(PARAMETERS)


@pytest.fixture
def cipher(key):
    return SharedKeyCipher(key, NUM_PARAMS, 3)


def updates(names, seed=0, num_params=NUM_PARAMS):
    random = np.random.default_rng(seed)
    return {name: random.integers(-LARGEST, LARGEST + 1, num_params) for name in names}


def total(uploads, num_params=NUM_PARAMS):
    """Blobs of the sum, by the aggregator's adder."""
    adder = BFVAdder(PARAMETERS, num_params)
    for name, blobs in uploads.items():
        adder.add(name, blobs)
    return adder.total()


def encrypted(cipher, values):
    return {name: cipher.encrypt(row) for name, row in values.items()}


@pytest.mark.parametrize("num_params", [1, PARAMETERS.params_per_ciphertext + 3])
@pytest.mark.parametrize("names", ["abc", "abcd"])
def test_the_sum_is_exactly_numpys(key, num_params, names):
    cipher = SharedKeyCipher(key, num_params, 3)
    values = updates(names, num_params=num_params)
    values["a"][:1], values["b"][:1], values["c"][:1] = LARGEST, LARGEST, LARGEST
    values["a"][-1:], values["b"][-1:] = -LARGEST, -LARGEST
    found = cipher.decrypt_sum(total(encrypted(cipher, values), num_params), sorted(names))
    assert found.dtype == np.int64
    assert np.array_equal(found, sum(values.values()))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(-LARGEST, LARGEST), min_size=5, max_size=5), min_size=3, max_size=4
    )
)
def test_any_bounded_integers_sum_exactly(key, rows):
    cipher = SharedKeyCipher(key, 5, 3)
    values = {f"c{index}": np.array(row) for index, row in enumerate(rows)}
    found = cipher.decrypt_sum(total(encrypted(cipher, values), 5), list(values))
    assert found.tolist() == np.sum(rows, axis=0).tolist()


def test_the_order_of_contributors_does_not_matter(cipher):
    values = updates("abc")
    found = cipher.decrypt_sum(total(encrypted(cipher, values)), ["c", "a", "b"])
    assert np.array_equal(found, sum(values.values()))


def test_two_uploads_of_one_update_share_nothing(cipher):
    first, second = (cipher.encrypt(np.zeros(NUM_PARAMS, dtype=np.int64)) for _ in range(2))
    assert first["seeds"] != second["seeds"]
    same = np.frombuffer(first["c0"], np.uint8) == np.frombuffer(second["c0"], np.uint8)
    assert same.mean() < 0.02


def test_fewer_than_min_clients_are_not_decrypted(key):
    cipher = SharedKeyCipher(key, NUM_PARAMS, 3)
    uploads = encrypted(cipher, updates("ab"))
    with pytest.raises(EncryptionError, match="at least 3 different contributors"):
        cipher.decrypt_sum(total(uploads), ["a", "b"])
    with pytest.raises(EncryptionError, match="at least 3"):
        cipher.decrypt_sum(total({}), [])


@pytest.mark.parametrize("listed", [["a", "b", "b"], ["a", "b", "c", "c"]])
def test_a_repeated_contributor_is_refused(cipher, listed):
    blobs = total(encrypted(cipher, updates("abc")))
    with pytest.raises(EncryptionError, match="different contributors"):
        cipher.decrypt_sum(blobs, listed)


class TestForeignBlobs:
    """The blobs must be c0 and the seeds of exactly the listed contributors."""

    @pytest.fixture
    def blobs(self, cipher):
        return total(encrypted(cipher, updates("abcd")))

    def test_a_contributor_that_is_not_listed(self, cipher, blobs):
        with pytest.raises(EncryptionError, match="seeds of its contributors"):
            cipher.decrypt_sum(blobs, ["a", "b", "c"])

    def test_a_contributor_without_seeds(self, cipher, blobs):
        del blobs[SEED_PREFIX + "d"]
        with pytest.raises(EncryptionError, match="seeds of its contributors"):
            cipher.decrypt_sum(blobs, list("abcd"))

    def test_seeds_left_out_on_both_sides(self, cipher, blobs):
        """c0 of four under the seeds of three: noise, which no sum of updates looks like."""
        del blobs[SEED_PREFIX + "d"]
        with pytest.raises(EncryptionError):
            cipher.decrypt_sum(blobs, list("abc"))

    def test_a_whole_ciphertext(self, cipher, blobs):
        """A (c0, c1) pair could have been chosen to draw out the key."""
        with pytest.raises(EncryptionError, match="c1"):
            cipher.decrypt_sum({**blobs, "c1": blobs["c0"]}, list("abcd"))

    def test_no_c0(self, cipher, blobs):
        del blobs["c0"]
        with pytest.raises(EncryptionError, match="must hold c0"):
            cipher.decrypt_sum(blobs, list("abcd"))

    @pytest.mark.parametrize("name", ["c0", SEED_PREFIX + "b"])
    @pytest.mark.parametrize("change", [lambda blob: blob[:-1], lambda blob: blob + b"\0"])
    def test_blobs_of_another_length(self, cipher, blobs, name, change):
        with pytest.raises(PrivfedError, match="must be"):
            cipher.decrypt_sum({**blobs, name: change(blobs[name])}, list("abcd"))

    def test_one_clients_seeds_under_two_names(self, cipher, blobs):
        blobs[SEED_PREFIX + "d"] = blobs[SEED_PREFIX + "a"]
        with pytest.raises(EncryptionError, match="seed of its own"):
            cipher.decrypt_sum(blobs, list("abcd"))

    def test_a_sum_under_another_key(self, cipher):
        other = SharedKeyCipher(SharedKey.generate(PARAMETERS), NUM_PARAMS, 3)
        with pytest.raises(EncryptionError, match="another key"):
            cipher.decrypt_sum(total(encrypted(other, updates("abc"))), list("abc"))


class TestEarlierSeeds:
    def test_a_sum_is_opened_once(self, cipher):
        blobs = total(encrypted(cipher, updates("abc")))
        cipher.decrypt_sum(blobs, list("abc"))
        with pytest.raises(EncryptionError, match="earlier rounds"):
            cipher.decrypt_sum(blobs, list("abc"))

    def test_one_old_upload_among_new_ones_is_refused(self, cipher):
        """The difference of two such sums would be one client's update."""
        first = encrypted(cipher, updates("abc", seed=1))
        cipher.decrypt_sum(total(first), list("abc"))
        second = encrypted(cipher, updates("bcd", seed=2))
        with pytest.raises(EncryptionError, match="earlier rounds"):
            cipher.decrypt_sum(total({**second, "a": first["a"]}), list("abcd"))

    def test_rounds_of_fresh_uploads_go_on(self, cipher):
        for seed in range(3):
            values = updates("abc", seed=seed)
            found = cipher.decrypt_sum(total(encrypted(cipher, values)), list("abc"))
            assert np.array_equal(found, sum(values.values()))

    def test_a_sum_that_was_refused_after_decryption_uses_up_its_seeds(self, cipher):
        """Else whoever sends sums could try many c0 under the same seeds."""
        uploads = encrypted(cipher, updates("abc"))
        right = total(uploads)
        with pytest.raises(EncryptionError, match="another key"):
            cipher.decrypt_sum({**right, "c0": uploads["a"]["c0"]}, list("abc"))
        with pytest.raises(EncryptionError, match="earlier rounds"):
            cipher.decrypt_sum(right, list("abc"))


@pytest.mark.parametrize("value", [LARGEST + 1, -LARGEST - 1])
def test_a_value_beyond_the_bits_is_not_encrypted(cipher, value):
    values = np.zeros(NUM_PARAMS, dtype=np.int64)
    values[4] = value
    with pytest.raises(EncryptionError, match="spill"):
        cipher.encrypt(values)


def test_an_update_of_another_length_does_not_pass(key):
    """Another number of ciphertexts is seen; the same number is not the cipher's to see."""
    long = SharedKeyCipher(key, PARAMETERS.params_per_ciphertext + 1, 3)
    short = SharedKeyCipher(key, NUM_PARAMS, 3)
    blobs = total(encrypted(short, updates("abc")))
    with pytest.raises(PrivfedError, match="2 ciphertexts"):
        long.decrypt_sum(blobs, list("abc"))
