"""Bytes are those of real messages, less what is around their content; gradients are counted."""

import numpy as np
import pytest

from privfed import BFV, CKKS, Plain, Plan
from privfed.planning.costs import bytes_of_round, gradients_of, opened_bytes, public_key_bytes
from privfed.protocol.kinds import PUBLIC_KEY
from privfed.settings.encryption import Custody
from privfed.settings.privacy import OwnPrivacy
from tests.unit.privfed.small_federation import SmallFederation, blobs_of, updates


def answer(**changes):
    given = {
        "sizes": dict.fromkeys(("c1", "c2", "c3"), 100),
        "epsilon": 2.0,
        "delta": 1e-4,
        "expected_batch_size": 20,
        "rounds": 3,
        "parameters": 5003,
        "encryption": BFV(bits=8),
    }
    return Plan(**{**given, **changes}).answer()


def content(message):
    return sum(len(bytes(blob)) for blob in blobs_of(message).values())


@pytest.mark.parametrize("custody", [Custody.SHARED_KEY, Custody.KEY_HOLDER])
def test_bytes_are_the_content_of_messages_that_were_sent(custody, tmp_path):
    found = {one.name: one for one in bytes_of_round(answer())}
    shared = custody is Custody.SHARED_KEY
    way = found[f"BFV, 8 bits, {'shared key' if shared else 'key holder'}"]
    small = SmallFederation(custody, tmp_path, bits=8, num_params=5003)
    opening = small.begin()
    uploads = small.uploads(opening.terms, updates(small.parameters, small.names))
    total = small.total(opening.terms, uploads)
    closed = small.close(opening.terms, total, uploads)
    assert {content(message) for message in uploads.values()} == {way.up}
    if shared:
        assert (content(total), way.to_holder) == (way.down, 0)
    else:
        key = len(bytes(blobs_of(opening.key)[PUBLIC_KEY]))
        assert key == public_key_bytes()
        assert (content(total), content(closed) + key) == (way.to_holder, way.down)
        assert content(closed) == opened_bytes(small.parameters)


def test_without_encryption_a_number_has_four_bytes(tmp_path):
    (plain,) = [one for one in bytes_of_round(answer()) if one.name == "no encryption"]
    small = SmallFederation(None, tmp_path, bits=8, num_params=5003)
    message = small.upload(small.terms(), "c1", np.zeros(5003, dtype=np.int64))
    assert content(message) == plain.up == plain.down == 4 * 5003


@pytest.mark.parametrize(
    ("encryption", "name"),
    [
        (BFV(bits=8), "BFV, 8 bits, shared key"),
        (BFV(bits=8, custody=Custody.KEY_HOLDER), "BFV, 8 bits, key holder"),
        (CKKS(), "CKKS, floats, shared key"),
        (Plain(bits=8), "no encryption"),
    ],
)
def test_the_way_of_the_plan_is_marked(encryption, name):
    found = bytes_of_round(answer(encryption=encryption))
    assert [one.name for one in found if one.chosen] == [name]


def test_without_a_number_of_parameters_there_are_none():
    assert bytes_of_round(answer(parameters=None)) == ()


def test_gradients_are_expected_records_times_examples():
    found = gradients_of(answer(own={"c2": OwnPrivacy(steps_per_round=4)}, examples_per_record=5))
    assert found.of_client == {"c1": 20 * 5 * 3, "c2": 20 * 5 * 4 * 3, "c3": 20 * 5 * 3}
    assert found.in_all == 20 * 5 * 3 * 6
    assert found.longest_seconds is found.simulated_seconds is None


def test_seconds_are_those_of_the_stated_rate():
    found = gradients_of(answer(seconds_per_example=0.5, steps_per_round=2))
    assert (found.longest_seconds, found.simulated_seconds) == (60.0, 180.0)


def test_of_clients_that_are_drawn_fewer_compute_in_all():
    found = gradients_of(answer(sizes=dict.fromkeys("abcdef", 100), clients_per_round=4, rounds=3))
    assert (found.in_all, found.of_client["a"]) == (20 * 4 * 3, 20 * 2)
