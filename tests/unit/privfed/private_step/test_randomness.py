"""Hidden randomness: the streams and the noise that is drawn from them."""

import copy
import math
import os
import pickle

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privfed.private_step import randomness
from privfed.private_step.randomness import FastNoise, RandomStream, SecureNoise, SystemRandomness

CPU = torch.device("cpu")
SOURCES = [SecureNoise, FastNoise]


def fixed_stream(number=1):
    return RandomStream(bytes([number]) * 32, bytes(16))


def test_the_stream_is_chacha20():
    """RFC 8439, appendix A.1, test vector 1: key and nonce zero, block counter 0."""
    assert RandomStream(bytes(32), bytes(16)).raw(8).hex() == "76b8e0ada0f13d90"


def test_nothing_is_drawn_twice():
    whole = fixed_stream().raw(100)
    parts = fixed_stream()
    assert parts.raw(30) + parts.raw(0) + parts.raw(70) == whole


def test_words_are_little_endian():
    expected = np.frombuffer(fixed_stream().raw(32), dtype="<u8")
    assert np.array_equal(fixed_stream().words(4), expected)


def test_uniform_numbers_are_multiples_of_two_to_the_minus_53():
    numbers = fixed_stream().uniform(10_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.all(numbers * 2.0**53 % 1 == 0)
    assert stats.kstest(numbers, "uniform").pvalue > 1e-4


def raw_block(stream):
    return stream.raw(64)


def block_on_a_device(stream):
    return stream.words_on(8, CPU).numpy().tobytes()


@pytest.mark.parametrize("draw", [raw_block, block_on_a_device])
def test_a_used_up_key_is_replaced_by_one_from_itself(draw, monkeypatch):
    """A block counter must not come round: the stream goes on under a key nobody saw."""
    monkeypatch.setattr(randomness, "_BYTES_PER_KEY", 64)
    monkeypatch.setattr(randomness, "_WORDS_ON_DEVICE", 1)
    stream = fixed_stream()
    first = draw(stream)
    second = draw(stream)
    plain = Cipher(ChaCha20(bytes([1]) * 32, bytes(16)), mode=None).encryptor().update(bytes(160))
    assert first == plain[:64]
    key = plain[64:96]
    fresh = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(64))
    assert second == fresh
    assert second not in plain


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_stream_cannot_be_saved_or_copied(take):
    with pytest.raises(TypeError, match="repeat"):
        take(fixed_stream())


def test_a_stream_does_not_show_itself():
    assert repr(fixed_stream()) == "RandomStream(secret)"


# --- Words on another device, for which the CPU stands in


def devices_compute(patch, bytes_per_key=1 << 37):
    """Let a device compute all its words, and few at once, in parts of 16 numbers."""
    patch.setattr(randomness, "_WORDS_ON_DEVICE", 1)
    patch.setattr(randomness, "_CACHED", 16)
    patch.setattr(randomness, "_PARTS", 3)
    patch.setattr(randomness, "_BYTES_PER_KEY", bytes_per_key)


@pytest.fixture
def small_parts(monkeypatch):
    devices_compute(monkeypatch)


draws = st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=12)


@given(draws=draws, bytes_per_key=st.sampled_from([250, 256, 1000, 1 << 37]))
def test_a_device_goes_on_in_the_same_stream(draws, bytes_per_key):
    """Wherever the words of a draw come from: also in mid-block, and under the next key."""
    with pytest.MonkeyPatch.context() as patch:
        devices_compute(patch, bytes_per_key)
        mixed, plain = fixed_stream(), fixed_stream()
        for count, on_device in draws:
            words = mixed.words_on(count, CPU).numpy() if on_device else mixed.words(count)
            assert np.array_equal(words.view(np.uint64), plain.words(count))
        assert mixed.raw(3) == plain.raw(3)


def test_a_device_goes_on_after_bytes_that_fill_no_word(small_parts):
    mixed, plain = fixed_stream(), fixed_stream()
    assert mixed.raw(3) == plain.raw(3)
    assert np.array_equal(mixed.words_on(9, CPU).numpy().view(np.uint64), plain.words(9))


def test_a_device_draws_nothing_twice_under_any_key(monkeypatch):
    devices_compute(monkeypatch, bytes_per_key=640)
    stream = fixed_stream()
    words = torch.cat([stream.words_on(count, CPU) for count in (7, 1, 40, 39, 80, 3, 79)])
    assert len(words.unique()) == 7 + 1 + 40 + 39 + 80 + 3 + 79


def test_few_words_are_left_to_the_processor(monkeypatch):
    monkeypatch.setattr(randomness, "key_stream", None)
    words = fixed_stream().words_on(randomness._WORDS_ON_DEVICE - 1, CPU)
    assert np.array_equal(words.numpy().view(np.uint64), fixed_stream().words(len(words)))


# --- Coins


def test_system_streams_never_repeat():
    randomness = SystemRandomness()
    words = [tuple(randomness.stream("a", "noise").words(4)) for _ in range(200)]
    assert len(set(words)) == 200


def test_fresh_coins_after_a_resume_give_other_streams():
    before, after = SystemRandomness(), SystemRandomness()
    for purpose in ("noise", "sampling", "rounding"):
        assert before.stream("a", purpose).raw(32) != after.stream("a", purpose).raw(32)


def test_system_streams_are_keyed_by_the_operating_system(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: bytes([1]) * count)
    assert SystemRandomness().stream("a", "noise").raw(16) == fixed_stream().raw(16)


def test_system_streams_do_not_follow_public_seeds():
    found = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        found.append(SystemRandomness().stream("a", "noise").raw(16))
    assert found[0] != found[1]


# --- Noise


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 8191, 8192, 8193, 20_000])
def test_there_are_as_many_numbers_as_asked_for(source, count):
    numbers = source(fixed_stream()).normal(count, CPU)
    assert numbers.shape == (count,)
    assert numbers.dtype == torch.float64
    assert torch.isfinite(numbers).all()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_noise_is_standard_normal(source, number):
    numbers = source(fixed_stream(number)).normal(200_000, CPU).numpy()
    assert stats.kstest(numbers, "norm").pvalue > 1e-4
    assert abs(numbers.mean()) < 5 / math.sqrt(200_000)
    assert abs(numbers.std() - 1) < 5 / math.sqrt(400_000)
    assert abs(stats.skew(numbers)) < 5 * math.sqrt(6 / 200_000)
    assert abs(stats.kurtosis(numbers)) < 5 * math.sqrt(24 / 200_000)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_short_draws_are_standard_normal_too(source, count):
    noise = source(fixed_stream())
    draws = np.stack([noise.normal(count, CPU).numpy() for _ in range(4000)])
    for column in draws.T:
        assert stats.kstest(column, "norm").pvalue > 1e-5
    between = np.corrcoef(draws.T) if count > 1 else np.eye(1)
    assert np.abs(between - np.eye(count)).max() < 5.5 / math.sqrt(4000)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("width", [2, 100, 512])
def test_sums_of_neighbours_have_the_variance_of_independent_numbers(source, width):
    """Numbers that share a draw would add up to more, or to less."""
    numbers = source(fixed_stream(4)).normal(width * 2000, CPU).numpy()
    sums = numbers.reshape(2000, width).sum(axis=1) / math.sqrt(width)
    assert abs(sums.std() - 1) < 5 / math.sqrt(4000)
    assert stats.kstest(sums, "norm").pvalue > 1e-4


@pytest.mark.parametrize("source", SOURCES)
def test_tails_are_those_of_the_normal_law(source):
    numbers = np.abs(source(fixed_stream(5)).normal(1_000_000, CPU).numpy())
    for threshold in (1.0, 2.0, 3.0, 4.0):
        chance = 2 * stats.norm.sf(threshold)
        assert stats.binomtest(int((numbers > threshold).sum()), 1_000_000, chance).pvalue > 1e-5


@pytest.mark.parametrize("source", SOURCES)
def test_two_draws_of_a_stream_and_two_streams_are_unrelated(source):
    noise = source(fixed_stream(6))
    draws = [noise.normal(50_000, CPU), noise.normal(50_000, CPU)]
    draws.append(source(fixed_stream(7)).normal(50_000, CPU))
    related = np.corrcoef(torch.stack(draws).numpy()) - np.eye(3)
    assert np.abs(related).max() < 5 / math.sqrt(50_000)


def test_secure_numbers_are_finer_than_one_draw():
    """Each is a sum of four: none comes up twice, and they lie on no common grid."""
    numbers = SecureNoise(fixed_stream()).normal(100_000, CPU)
    assert len(torch.unique(numbers)) == 100_000


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    bytes_per_key=st.sampled_from([16 * 32, 5 * 16 * 32 + 8, 1 << 37]),
)
def test_secure_noise_of_a_device_is_that_of_the_cpu(counts, bytes_per_key):
    """Bit for bit, where the CPU stands in; a key ends at the same part."""
    with pytest.MonkeyPatch.context() as patch:
        devices_compute(patch, bytes_per_key)
        device, plain = SecureNoise(fixed_stream()), SecureNoise(fixed_stream())
        for count in counts:
            assert torch.equal(device._normal_on(count, CPU), plain.normal(count, CPU))
        assert torch.equal(device.normal(1, CPU), plain.normal(1, CPU))


@pytest.mark.parametrize("count", [100_001, 1_200_000])
def test_secure_noise_of_a_device_is_that_of_the_cpu_at_true_sizes(count):
    numbers = SecureNoise(fixed_stream())._normal_on(count, CPU)
    torch.testing.assert_close(
        numbers, SecureNoise(fixed_stream()).normal(count, CPU), rtol=0, atol=1e-12
    )


def test_a_device_computes_a_few_parts_at_once(small_parts, monkeypatch):
    asked = []

    def spied(key, nonce, num_blocks, device, real=randomness.key_stream):
        asked.append(num_blocks)
        return real(key, nonce, num_blocks, device)

    monkeypatch.setattr(randomness, "key_stream", spied)
    SecureNoise(fixed_stream())._normal_on(16 * 7 + 5, CPU)
    assert asked == [24, 24, 8, 3]


def test_a_uniform_number_of_zero_gives_finite_noise():
    class Zeros:
        def words(self, count):
            return np.zeros(count, dtype=np.uint64)

    class Ones:
        def words(self, count):
            return np.full(count, 2**64 - 1, dtype=np.uint64)

    for stream in (Zeros(), Ones()):
        assert torch.isfinite(SecureNoise(stream).normal(5, CPU)).all()
    assert float(SecureNoise(Ones()).normal(2, CPU).abs().max()) > 8
