"""How fast, and in how much memory; neither a guarantee nor the method depends on it."""

from dataclasses import dataclass
from enum import StrEnum

from privfed.checks import MOST, require_count, require_type
from privfed.errors import ConfigError


class Precision(StrEnum):
    """Of matrix products. Parameters, per-example gradients, norms and noise stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BaseWeights(StrEnum):
    """How the frozen weights of the base model are held. What is trained stays float32.

    NF4 holds them in 4 bits, quantised twice (Dettmers et al. 2023, QLoRA, arXiv:2305.14314), and
    multiplies in bfloat16; it needs bitsandbytes.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    NF4 = "nf4"


class Checkpointing(StrEnum):
    """Whether activations are computed again in the backward pass, to save memory."""

    NONE = "none"
    REENTRANT = "reentrant"
    NON_REENTRANT = "non_reentrant"


class GradientMethod(StrEnum):
    """Where per-example gradients come from."""

    EXPANDED_LEAVES = "expanded_leaves"
    OPACUS_HOOKS = "opacus_hooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """How the model is computed. Speed and memory; nothing here changes a guarantee.

    Attributes:
        precision: of matrix products (autocast).
        checkpointing: of activations.
        compile: whether torch.compile builds the forward and backward pass, as one graph; not with
            dropout or reentrant checkpointing.
        gradients: where per-example gradients come from.
        stacked_clients: clients whose adapters are trained in one pass over the shared base model;
            1 trains one after the other.
        cache_frozen_layers: whether blocks below the first trained one run once per record instead
            of once per step. It pays where every record is drawn more than once (sampling rate x
            steps > 1), since all of them are run at the start. What enters the block is kept in
            the memory of each client: records x max_length x width numbers.
        processes: that share every batch of a client, each with the base model and a CUDA device;
            on the CPU, threads do as well.
    """

    precision: Precision = Precision.FP32
    checkpointing: Checkpointing = Checkpointing.NONE
    compile: bool = False
    gradients: GradientMethod = GradientMethod.EXPANDED_LEAVES
    stacked_clients: int = 1
    cache_frozen_layers: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        require_type(bool, compile=self.compile)
        require_count(MOST, stacked_clients=self.stacked_clients, processes=self.processes)
        kinds = {
            "precision": Precision,
            "checkpointing": Checkpointing,
            "gradients": GradientMethod,
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"{name} must be one of {[member.value for member in kind]}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.processes > 1 and self.stacked_clients > 1:
            raise ConfigError(
                "processes share the batch of one client at a time; take stacked_clients = 1 with "
                "processes above 1"
            )
        if self.cache_frozen_layers and self.checkpointing is Checkpointing.REENTRANT:
            raise ConfigError(
                "reentrant checkpointing needs all blocks to run; take 'non_reentrant' with "
                "cache_frozen_layers"
            )
        if self.compile and self.checkpointing is Checkpointing.REENTRANT:
            raise ConfigError("reentrant checkpointing cannot be compiled; take 'non_reentrant'")
        if self.gradients is GradientMethod.OPACUS_HOOKS and (
            self.compile or self.stacked_clients > 1
        ):
            raise ConfigError(
                "Opacus' hooks can neither be compiled nor tell stacked clients apart; take "
                "expanded leaves"
            )
