"""The private step on a CUDA device: exact, private and resumable as on the CPU."""

import math

import pytest
import torch

from privfed import CausalLanguageModel, Classification, Computation, Houlsby, LoRA, PeftAdapter
from privfed.models.examples import encode_records
from privfed.models.vector import read_vector
from privfed.private_step.chacha import key_stream
from privfed.private_step.dpsgd import DPSGDConfig, private_optimizer, private_step
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import FastNoise, SecureNoise
from privfed.settings.computation import Checkpointing, Precision
from tests.contracts.private_steps import LABELS, LENGTH, stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

ADAPTERS = {
    "bert lora": LoRA(rank=2, target_modules=("query", "value"), dropout=0.1),
    "bert dora": LoRA(rank=2, target_modules=("query", "value"), dropout=0.1, dora=True),
    "bert houlsby": Houlsby(bottleneck=3, target_modules=("attention.output.dense",)),
    "llama lora": LoRA(rank=2, target_modules=("q_proj", "v_proj", "up_proj")),
    "llama prompt": PeftAdapter.prompt_tuning(3),
    "gpt2 lora": LoRA(rank=2, target_modules=("c_attn",)),
}
COMPUTATIONS = {
    "fp32": Computation(),
    "bf16": Computation(precision=Precision.BF16),
    "fp16": Computation(precision=Precision.FP16),
    "reentrant": Computation(checkpointing=Checkpointing.REENTRANT),
    "non-reentrant bf16": Computation(
        checkpointing=Checkpointing.NON_REENTRANT, precision=Precision.BF16
    ),
}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def build(folders):
    def make(name, computation=None, device="cuda"):
        architecture = name.split()[0]
        if architecture == "bert":
            task = Classification(base=folders["bert"], labels=LABELS, max_length=LENGTH)
        else:
            task = CausalLanguageModel(base=folders[architecture], max_length=LENGTH)
        model = ADAPTERS[name].attach(task.build(), task.modules_to_save, 0)
        return PrivateModel(model, task, torch.device(device), computation)

    return make


@pytest.mark.parametrize("how", COMPUTATIONS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_gate_accepts_what_is_exact(name, how, build):
    check_per_example_gradients(
        build(name, COMPUTATIONS[how]), physical_batch_size=7, stacked_clients=3
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch in itself
def test_a_compiled_model_passes_the_gate(build):
    check_per_example_gradients(build("llama lora", Computation(compile=True)))


def test_a_step_equals_that_of_the_cpu(build):
    """The same secret streams give the same noise on either device."""
    moved = []
    for device in ("cpu", "cuda"):
        private = build("llama lora", device=device)
        config = DPSGDConfig(
            noise_multiplier=0.5,
            sample_rate=0.5,
            clipping_norm=0.1,
            expected_batch_size=4,
            steps=1,
            learning_rate=1.0,
            physical_batch_size=3,
        )
        records = private.task.synthetic(6, 0)
        encoded = encode_records(private.task, private.task.tokenizer(), records, 1)
        optimizer = private_optimizer(private, config, SecureNoise(stream(5)))
        private_step(private, optimizer, encoded, torch.tensor([0, 2, 3, 5]), 3)
        moved.append(torch.from_numpy(read_vector(private.adapter)))
    torch.testing.assert_close(*moved, rtol=1e-4, atol=1e-5)


def test_the_key_stream_equals_that_of_the_cpu():
    """Bit for bit, where the counter passes the sign of its word."""
    nonce = (2**31 - 1000).to_bytes(4, "little") + bytes(range(12))
    key = bytes(range(32))
    assert torch.equal(key_stream(key, nonce, 4321, CUDA).cpu(), key_stream(key, nonce, 4321, CPU))


def test_secure_noise_equals_that_of_the_cpu():
    """Many numbers, few, and those of either device in turn, all of one stream."""
    counts = (3_000_000, 1, 8193, 100_000)
    plain, mixed = SecureNoise(stream(5)), SecureNoise(stream(5))
    for count, device in zip(counts, (CUDA, CPU, CUDA, CUDA), strict=True):
        numbers = mixed.normal(count, device)
        assert numbers.device.type == device.type
        torch.testing.assert_close(numbers.cpu(), plain.normal(count, CPU), rtol=0, atol=1e-12)


def test_memory_of_secure_noise_is_bounded():
    """However many numbers are drawn, little more is held than they are."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    numbers = SecureNoise(stream(5)).normal(1 << 23, CUDA)
    more = torch.cuda.max_memory_allocated() - before - numbers.nbytes
    assert more < 200e6


def test_fast_noise_is_standard_normal_and_never_the_same():
    """Its generator on a device is another than that of the CPU."""
    count = 1_000_000
    noise = FastNoise(stream(5))
    sources = (noise, noise, FastNoise(stream(6)))
    draws = torch.stack([source.normal(count, CUDA) for source in sources])
    assert draws.mean(dim=1).abs().max() < 5 / math.sqrt(count)
    assert (draws.std(dim=1) - 1).abs().max() < 5 / math.sqrt(2 * count)
    related = torch.corrcoef(draws) - torch.eye(3, device=CUDA)
    assert related.abs().max() < 5 / math.sqrt(count)


def test_a_federation_runs_and_resumes(make_federation, tmp_path):
    result = make_federation(device="cuda", rounds=2).run(tmp_path / "run")
    assert [record.round for record in result.rounds] == [1, 2]
