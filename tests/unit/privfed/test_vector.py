import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import ModelError
from privfed.models.vector import (
    layout_digest,
    num_trainable,
    read_vector,
    trainable,
    vector_digest,
    write_vector,
)


def model():
    """Trainable: a.weight (2, 3), b (2,), c (); frozen: a.bias. Registered out of name order."""
    made = nn.Module()
    made.c = nn.Parameter(torch.tensor(9.0))
    made.b = nn.Parameter(torch.tensor([7.0, 8.0]))
    made.a = nn.Linear(3, 2)
    made.a.bias.requires_grad_(False)
    with torch.no_grad():
        made.a.weight.copy_(torch.arange(6.0).reshape(2, 3))
        made.a.bias.fill_(5.0)
    return made


def test_trainable_parameters_come_in_the_order_of_their_names():
    made = model()
    assert [name for name, _ in trainable(made)] == ["a.weight", "b", "c"]
    assert num_trainable(made) == 9
    assert read_vector(made).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert read_vector(made).dtype == np.float32


def test_what_is_read_is_a_copy():
    made = model()
    read_vector(made)[:] = -1
    assert read_vector(made)[1] == 1


def test_what_is_written_is_read_and_frozen_parameters_stay():
    made = model()
    vector = np.arange(10, 19, dtype=np.float32)
    write_vector(made, vector)
    assert np.array_equal(read_vector(made), vector)
    assert made.a.weight.tolist() == [[10, 11, 12], [13, 14, 15]]
    assert made.a.bias.tolist() == [5, 5]
    vector[:] = 0
    assert read_vector(made)[0] == 10, "the model must not share the caller's memory"


def test_a_read_only_vector_can_be_written():
    made = model()
    write_vector(made, np.frombuffer(bytes(36), dtype=np.float32))
    assert not read_vector(made).any()


def test_half_precision_is_read_as_float32():
    made = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    write_vector(made, np.array([1.5], dtype=np.float32))
    assert read_vector(made).dtype == np.float32
    assert read_vector(made).tolist() == [1.5]


@pytest.mark.parametrize("shape", [(8,), (10,), (9, 1), ()])
def test_a_vector_of_another_adapter_is_refused_and_nothing_is_written(shape):
    made = model()
    with pytest.raises(ModelError, match=r"shape \(9,\)"):
        write_vector(made, np.full(shape, 3.0, dtype=np.float32))
    assert read_vector(made).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_the_digest_is_that_of_the_little_endian_bytes():
    vector = np.array([1.0, -2.5], dtype=np.float32)
    expected = hashlib.sha256(bytes.fromhex("0000803f000020c0")).hexdigest()
    assert vector_digest(vector) == expected
    assert vector_digest(vector.astype(">f4")) == expected
    assert vector_digest(np.nextafter(vector, np.float32(3))) != expected


def test_the_layout_digest_is_that_of_names_and_shapes_not_of_values():
    made, same = model(), model()
    write_vector(same, np.zeros(9, dtype=np.float32))
    assert layout_digest(made) == layout_digest(same)
    same.a.bias.requires_grad_(True)
    assert layout_digest(made) != layout_digest(same)
    other = model()
    other.a.weight = nn.Parameter(torch.zeros(3, 2))
    assert layout_digest(made) != layout_digest(other)
