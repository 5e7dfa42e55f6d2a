"""A replica: the process that `Replicas` starts. It ends when its pipe does.

    python -m privfed.private_step.replica DESCRIPTOR

It draws no noise and no batch, writes nothing, and keeps nothing of a step.
"""

import pickle
import socket
import sys
import traceback
from typing import Any

import torch
from torch import Tensor

from privfed.errors import PrivfedError
from privfed.models.vector import write_vector
from privfed.private_step.batches import num_rows
from privfed.private_step.data_parallel import (
    Build,
    ClippedSum,
    Failure,
    Pipe,
    Share,
    model_digest,
)
from privfed.private_step.dpsgd import accumulate, private_optimizer
from privfed.private_step.private_model import PrivateModel


class NoNoise:
    """Noise is drawn in the process of the client, once."""

    def normal(self, count: int, device: torch.device) -> Tensor:  # noqa: ARG002
        """Refused."""
        raise PrivfedError("a replica must not draw noise")


def clipped_sum(model: PrivateModel, share: Share) -> ClippedSum:
    """The clipped gradients of a share, added up."""
    write_vector(model.adapter, share.adapter)
    with model.training_only(share.moving):
        optimizer = private_optimizer(model, share.config, NoNoise())
        drawn = torch.arange(num_rows(share.records))
        accumulate(model, optimizer, share.records, drawn, share.config.physical_batch_size)
        return optimizer.clipped_sum()


def serve(pipe: Pipe) -> None:
    """Build the model, and answer until the pipe ends."""
    model = None
    while True:
        try:
            asked = pipe.receive()
        except (EOFError, OSError):
            return
        answer: Any
        try:
            if model is None:
                model = _built(pickle.loads(asked))
                answer = model_digest(model)
            else:
                answer = clipped_sum(model, asked)
        except Exception as error:  # noqa: BLE001 - told to the process that asked, and nobody else
            answer = Failure(
                reason=f"{type(error).__name__}: {error}", trace=traceback.format_exc()
            )
        try:
            pipe.send(answer)
        except OSError:
            return


def _built(build: Build) -> PrivateModel:
    torch.set_num_threads(build.threads)
    torch.set_float32_matmul_precision(build.matmul_precision)
    return build.model()


if __name__ == "__main__":
    serve(Pipe(socket.socket(fileno=int(sys.argv[1]))))
