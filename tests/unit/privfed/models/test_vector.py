import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import ModelError
from privfed.models.vector import (
    base_digest,
    frozen_digest,
    layout_of,
    num_trainable,
    read_vector,
    trainable,
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


def test_the_layout_digest_is_that_of_names_and_shapes_not_of_values():
    made, same = model(), model()
    write_vector(same, np.zeros(9, dtype=np.float32))
    assert layout_of(made).digest() == layout_of(same).digest()
    same.a.bias.requires_grad_(True)
    assert layout_of(made).digest() != layout_of(same).digest()
    other = model()
    other.a.weight = nn.Parameter(torch.zeros(3, 2))
    assert layout_of(made).digest() != layout_of(other).digest()


class TestTheDigestOfTheFrozenModel:
    """What names the base model in every message and in the report."""

    def test_it_is_that_of_names_types_shapes_and_bytes(self):
        made = model()
        made.register_buffer("scale", torch.tensor(2.0))
        expected = hashlib.sha256(
            b'["a.bias","torch.float32",[2]]'
            + np.array([5, 5], "<f4").tobytes()
            + b'["scale","torch.float32",[]]'
            + np.array([2], "<f4").tobytes()
        )
        assert frozen_digest(made) == expected.hexdigest()

    def test_training_does_not_change_it_and_any_frozen_value_does(self):
        made = model()
        before = frozen_digest(made)
        write_vector(made, np.zeros(9, dtype=np.float32))
        assert frozen_digest(made) == before
        with torch.no_grad():
            made.a.bias[1] = np.nextafter(np.float32(5), np.float32(6)).item()
        assert frozen_digest(made) != before

    def test_another_name_type_shape_or_buffer_is_another_model(self):
        def frozen(name="w", values=(1.0, 2.0), buffer=False):
            made = nn.Module()
            tensor = torch.tensor(values)
            if buffer:
                made.register_buffer(name, tensor)
            else:
                made.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            return frozen_digest(made)

        assert frozen() == frozen(buffer=True), "a frozen value is one wherever it is kept"
        others = [frozen("v"), frozen(values=((1.0, 2.0),)), frozen(values=(1.0,))]
        assert len({frozen(), *others}) == 4
        empty = nn.Module()
        assert frozen_digest(empty) == hashlib.sha256().hexdigest()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool])
    def test_any_type_can_be_named_and_signed_zeros_differ(self, dtype):
        def digest(values):
            made = nn.Module()
            made.register_buffer("b", torch.tensor(values).to(dtype))
            return frozen_digest(made)

        assert digest([0.0, 1.0]) != digest([1.0, 0.0])
        assert (digest([0.0]) == digest([-0.0])) == (not dtype.is_floating_point)

    def test_a_view_is_hashed_by_its_values(self):
        made, same = nn.Module(), nn.Module()
        made.register_buffer("b", torch.arange(6.0).reshape(2, 3).T)
        same.register_buffer("b", torch.arange(6.0).reshape(2, 3).T.contiguous())
        assert frozen_digest(made) == frozen_digest(same)

    def test_what_a_party_computes_by_itself_is_left_out(self):
        """Rotary frequencies may differ in their last bit between kinds of devices."""

        def digest(frequency):
            made = model()
            made.register_buffer("computed", torch.tensor(frequency), persistent=False)
            return frozen_digest(made), base_digest(made)

        assert digest(1.0) == digest(2.0) == (frozen_digest(model()), base_digest(model()))


class TestTheDigestOfTheBase:
    """What names the base model beside an adapter, before anything is attached or frozen."""

    def test_it_is_that_of_all_parameters_and_saved_buffers(self):
        made = nn.Linear(1, 1)
        with torch.no_grad():
            made.weight.fill_(2.0)
            made.bias.fill_(3.0)
        made.register_buffer("scale", torch.tensor(4.0))
        expected = hashlib.sha256(
            b'["bias","torch.float32",[1]]'
            + np.array([3], "<f4").tobytes()
            + b'["scale","torch.float32",[]]'
            + np.array([4], "<f4").tobytes()
            + b'["weight","torch.float32",[1,1]]'
            + np.array([2], "<f4").tobytes()
        )
        assert base_digest(made) == expected.hexdigest()

    def test_what_is_trained_does_not_matter_and_any_value_does(self):
        made = model()
        before = base_digest(made)
        made.requires_grad_(False)
        assert base_digest(made) == before
        with torch.no_grad():
            made.a.weight[0, 0] += 1
        assert base_digest(made) != before

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_it_is_the_same_on_every_device(self):
        assert base_digest(model().cuda()) == base_digest(model())
