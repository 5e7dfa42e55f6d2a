"""The public file from which all parties start, whatever bits their own processor would draw."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from privfed import FFALoRA, LoRA
from privfed.errors import ModelError
from privfed.methods.method import vector_digest
from privfed.models.adapters import freeze_orthonormal_a
from privfed.models.start_file import load_start, names_added, start_bytes
from privfed.models.vector import frozen_digest, read_vector, saved_tensors

RANK = 3


class Base(nn.Module):
    """A model with one linear layer, and a buffer that a checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(5, 4)
        with torch.no_grad():  # as a file would give them: the same bits everywhere
            self.query.weight.copy_(torch.arange(20.0).view(4, 5))
            self.query.bias.zero_()
        self.register_buffer("scale", torch.ones(2))

    def forward(self, values):
        return self.query(values)

    def prepare_inputs_for_generation(self):
        """PEFT asks for it."""


def adapted(seed, rank=RANK, *, frozen=False):
    torch.manual_seed(0)
    base = Base()
    before = {id(tensor) for _, tensor in saved_tensors(base)}
    model = LoRA(rank=rank, target_modules=("query",)).attach(base, (), seed)
    if frozen:
        freeze_orthonormal_a(model, seed)
    return model, names_added(model, before)


def digests(model):
    return vector_digest(read_vector(model)), frozen_digest(model)


@pytest.mark.parametrize("frozen", [False, True])
def test_who_loads_it_starts_where_it_was_made(tmp_path, frozen):
    made, names = adapted(1, frozen=frozen)
    path = tmp_path / "start.safetensors"
    path.write_bytes(start_bytes(made, names))
    other, same_names = adapted(2, frozen=frozen)
    assert names == same_names
    assert digests(other) != digests(made)
    load_start(path, other, names)
    assert digests(other) == digests(made)


def test_it_holds_what_the_adapter_added_and_nothing_of_the_base(tmp_path):
    """A factor that stays frozen too: FFA-LoRA's A is drawn, and no part of the base model."""
    assert FFALoRA().freezes_a
    model, names = adapted(1, frozen=True)
    path = tmp_path / "start.safetensors"
    path.write_bytes(start_bytes(model, names))
    held = load_file(path)
    assert {tuple(tensor.shape) for tensor in held.values()} == {(RANK, 5), (4, RANK)}
    assert all("lora" in name for name in held)


def test_equal_values_are_equal_bytes():
    first, names = adapted(1)
    second, _ = adapted(1)
    assert start_bytes(first, names) == start_bytes(second, names)


def test_that_of_another_adapter_is_refused(tmp_path):
    path = tmp_path / "start.safetensors"
    path.write_bytes(start_bytes(*adapted(1, rank=2)))
    model, names = adapted(1)
    before = digests(model)
    with pytest.raises(ModelError, match="of another adapter or base model"):
        load_start(path, model, names)
    assert digests(model) == before


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "start.safetensors"
    if content is not None:
        path.write_bytes(content)
    model, names = adapted(1)
    with pytest.raises(ModelError, match="initial adapter"):
        load_start(path, model, names)


OTHER_PROCESSOR = """
import sys
from pathlib import Path
from tests.unit.privfed.models.test_start_file import adapted, digests
from privfed.models.start_file import load_start
model, names = adapted(1, frozen=True)
print(*digests(model))
load_start(Path(sys.argv[1]), model, names)
print(*digests(model))
"""


def test_a_party_with_another_processor_comes_to_the_same_bits(tmp_path):
    """torch told to do without AVX2 stands for it."""
    model, names = adapted(1, frozen=True)
    path = tmp_path / "start.safetensors"
    path.write_bytes(start_bytes(model, names))
    command = [sys.executable, "-c", OTHER_PROCESSOR, str(path)]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    environment["PYTHONPATH"] = os.pathsep.join(["", *sys.path])
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    _, loaded = done.stdout.strip().splitlines()
    assert loaded.split() == list(digests(model))
