"""What a client sends becomes numbers: every vector under its own public range, and by its name."""

from dataclasses import replace

import numpy as np
import pytest

from privfed import BFV, CKKS, Plain
from privfed.encryption.fixedpoint import step
from privfed.encryption.schemes import Scheme
from privfed.errors import EncryptionError
from privfed.methods.method import SentVector
from privfed.parties.client.upload import Codec

RANGE = 2.0
UPLOADS = (
    SentVector(name="delta", length=5),
    SentVector(name="control", length=3, scale=1 / 64),
)
SWAPPED = tuple(
    replace(one, scale=other.scale) for one, other in zip(UPLOADS, UPLOADS[::-1], strict=True)
)
SENT = {
    "delta": np.array([2.0, -1.97, 0.51, -0.06, 1.0]),
    "control": np.array([0.03125, -0.0206, 0.0037]),
}
SUMMATIONS = [Plain(bits=8), BFV(bits=8), BFV(bits=16)]


def codec_of(uploads=UPLOADS, summation=SUMMATIONS[0], weight=1.0):
    scheme = Scheme(summation=summation, num_clients=4, num_params=8)
    encodings = tuple((one, scheme.encoding(RANGE * one.scale)) for one in uploads)
    return Codec(encodings=encodings, weight=weight, cipher=None)


def steps(summation):
    """Of the grid of each vector, under its own range."""
    return {one.name: step(RANGE * one.scale, summation.bits) for one in UPLOADS}


@pytest.fixture
def uniform():
    """Draws numbers in [0, 1), each time others."""
    return np.random.default_rng(7).random


def errors(codec, uniform, sent=SENT):
    """By how much each vector is off after both ways, at most and at least."""
    numbers = codec.encode(sent, uniform).astype(np.int64)
    found = codec.decode(numbers)
    assert found.keys() == sent.keys()
    off = {name: np.abs(found[name] - sent[name]) for name in sent}
    return {name: (one.max(), one.min()) for name, one in off.items()}


@pytest.mark.parametrize("summation", SUMMATIONS, ids=repr)
class TestTwoVectors:
    def test_each_is_rounded_in_the_steps_of_its_own_range(self, summation, uniform):
        off, own = errors(codec_of(summation=summation), uniform), steps(summation)
        assert own["control"] == own["delta"] / 64
        for name, (most, _) in off.items():
            assert most <= own[name] * (1 + 1e-9), name

    def test_with_the_ranges_of_each_other_neither_is(self, summation, uniform):
        """One is cut off at a range too narrow, the other falls between steps too wide."""
        off, own = errors(codec_of(SWAPPED, summation), uniform), steps(summation)
        assert off["delta"][0] > 1.9 > own["delta"]
        assert off["control"][0] > own["control"]
        wide = codec_of(SWAPPED[1:], summation)
        numbers = wide.encode({"control": SENT["control"]}, lambda n: np.full(n, 0.5))
        assert np.abs(wide.decode(numbers)["control"] - SENT["control"]).max() > own["control"]

    def test_the_numbers_stand_one_vector_after_the_other(self, summation, uniform):
        codec = codec_of(summation=summation)
        numbers = codec.encode(SENT, uniform)
        assert (numbers.shape, numbers.dtype) == ((8,), codec.dtype)
        assert codec.dtype == np.dtype("<i2")
        most = 2 ** (summation.bits - 1) - 1
        assert (numbers[0], numbers[5]) == (most, most), "both begin at the end of their range"

    def test_whatever_the_order_in_which_they_are_given(self, summation):
        codec, backwards = codec_of(summation=summation), dict(reversed(SENT.items()))
        one, other = (
            codec.encode(sent, np.random.default_rng(3).random) for sent in (SENT, backwards)
        )
        assert np.array_equal(one, other)

    def test_sums_come_back_by_name(self, summation, uniform):
        codec = codec_of(summation=summation)
        more = {name: -vector / 2 for name, vector in SENT.items()}
        total = sum(codec.encode(sent, uniform).astype(np.int64) for sent in (SENT, more))
        for name, one in codec.decode(total).items():
            off = np.abs(one - (SENT[name] + more[name]))
            assert off.max() <= 2 * steps(summation)[name] * (1 + 1e-9), name

    def test_each_is_weighted(self, summation, uniform):
        codec = codec_of(summation=summation, weight=0.25)
        found = codec.decode(codec.encode(SENT, uniform).astype(np.int64))
        for name, one in found.items():
            off = np.abs(one - SENT[name] / 4)
            assert off.max() <= steps(summation)[name] * (1 + 1e-9), name


def test_of_floats_each_is_cut_off_at_its_own_range(uniform):
    """CKKS has no steps."""
    codec = codec_of(summation=CKKS())
    found = codec.decode(codec.encode(SENT, uniform))
    assert found["delta"] == pytest.approx(SENT["delta"], rel=1e-6)
    assert found["control"] == pytest.approx(SENT["control"], rel=1e-6)
    swapped = codec_of(SWAPPED, CKKS())
    found = swapped.decode(swapped.encode(SENT, uniform))
    assert np.abs(found["delta"]).max() == pytest.approx(RANGE / 64)
    beyond = codec.decode(codec.encode({**SENT, "control": np.full(3, -RANGE)}, uniform))
    assert beyond["control"] == pytest.approx(np.full(3, -RANGE / 64))


class TestRefusals:
    @pytest.mark.parametrize(
        "sent",
        [
            {},
            {"delta": SENT["delta"]},
            {"control": SENT["control"]},
            {**SENT, "more": np.zeros(1)},
            {"delta": SENT["delta"], "Control": SENT["control"]},
            {"delta": SENT["control"], "control": SENT["delta"]},
            {**SENT, "delta": SENT["delta"][:4]},
            {**SENT, "control": np.zeros(4)},
            {**SENT, "control": np.zeros(0)},
            {**SENT, "delta": SENT["delta"][:, None]},
            {**SENT, "control": np.zeros(())},
            {"delta": np.zeros(4), "control": np.zeros(4)},
        ],
        ids=[
            "nothing",
            "one missing",
            "the other missing",
            "one more",
            "another name",
            "exchanged",
            "too short",
            "too long",
            "empty",
            "a column",
            "a number",
            "the right sum of lengths",
        ],
    )
    def test_other_vectors_than_are_sent(self, sent, uniform):
        with pytest.raises(EncryptionError, match="a client must send vectors of shapes"):
            codec_of().encode(sent, uniform)

    @pytest.mark.parametrize("summation", [*SUMMATIONS, CKKS()], ids=repr)
    @pytest.mark.parametrize("name", ["delta", "control"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite(self, summation, name, value, uniform):
        sent = {**SENT, name: SENT[name].copy()}
        sent[name][-1] = value
        with pytest.raises(EncryptionError, match="must be finite"):
            codec_of(summation=summation).encode(sent, uniform)


class TestOfAClient:
    def test_every_range_is_relative_to_that_of_the_round(self, plain):
        codec = plain.one.upload.codec(0.75, UPLOADS)
        assert tuple(one for one, _ in codec.encodings) == UPLOADS
        ranges = [encoding.public_range for _, encoding in codec.encodings]
        assert ranges == [0.75, 0.75 / 64]
        assert codec.weight == 1.0

    def test_before_it_has_a_key_there_is_none(self, encrypted):
        upload = encrypted.one.upload
        assert upload.codec(0.75, UPLOADS).cipher is not None
        upload._cipher = None
        with pytest.raises(EncryptionError, match="no key of the run yet"):
            upload.codec(0.75, UPLOADS)
