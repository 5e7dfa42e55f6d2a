"""One of several processes that train a client together: RANK SIZE STORE MODEL OUT."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from privfed import CausalLanguageModel, LoRA, QuantileClipping
from privfed.models.examples import encode_records
from privfed.models.vector import read_vector
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import RandomStream, SecureNoise
from privfed.private_step.ranks import ProcessGroup


def trained(base, ranks=None, records=9, key=1):
    """The adapter after six steps, some of which find no record on some process."""
    task = CausalLanguageModel(base=base, max_length=12)
    model = LoRA(rank=2, target_modules=("q_proj", "v_proj")).attach(task.build(), (), 0)
    private = PrivateModel(model, task, torch.device("cpu"))
    encoded = encode_records(task, task.tokenizer(), task.synthetic(records, 0), 1)
    config = DPSGDConfig(
        noise_multiplier=0.5,
        sample_rate=0.2,
        clipping_norm=0.1,
        clipping=QuantileClipping(count_noise=5.0),
        expected_batch_size=2,
        steps=6,
        learning_rate=1.0,
        physical_batch_size=2,
    )
    train_round(
        private,
        encoded,
        config,
        sampling=RandomStream(bytes([key] * 32), bytes(16)),
        noise=SecureNoise(RandomStream(bytes([2] * 32), bytes(16))),
        ranks=ranks,
    )
    return read_vector(private.adapter)


def main():
    """Train as one of the processes, and write what came of it."""
    rank, size, store, base, out, records, key = sys.argv[1:]
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(size)
    )
    group = ProcessGroup()
    shared = group.stream(torch.device("cpu")).raw(16)
    np.savez(
        Path(out),
        adapter=trained(base, group, int(records), int(key)),
        shared=np.frombuffer(shared, np.uint8),
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
