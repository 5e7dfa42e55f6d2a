"""A record may hold several examples: its loss is their weighted mean, and it counts once."""

import pytest
import torch

from privfed.models.tasks import EXAMPLE_WEIGHT
from privfed.settings.computation import Computation, GradientMethod
from tests.contracts.private_steps import (
    CASES,
    SCALE,
    check_exact,
    check_sensitivity,
    claimed_gradients,
    made_up,
    private_model,
    reference_gradients,
)

RECORDS, EXAMPLES = 4, 3
WEIGHTS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.6, 0.1, 0.3]])


def grouped(private):
    """12 texts as 4 records of up to 3; where the weight is zero, the example only fills up."""
    flat = made_up(private, count=RECORDS * EXAMPLES)
    batch = {
        name: tensor.reshape(RECORDS, EXAMPLES, *tensor.shape[1:]) for name, tensor in flat.items()
    }
    return flat, {**batch, EXAMPLE_WEIGHT: WEIGHTS}


def weighted(singles):
    """The gradient of each record's weighted mean loss, of those of its examples."""
    return [
        {
            name: sum(
                float(weight) * singles[record * EXAMPLES + example][name]
                for example, weight in enumerate(WEIGHTS[record])
            )
            for name in singles[0]
        }
        for record in range(RECORDS)
    ]


def test_its_gradient_is_that_of_the_weighted_mean_of_its_losses(accepted, request, folders):
    flat, batch = grouped(accepted)
    case = CASES[request.node.callspec.params["accepted"]]
    check_exact(accepted, batch, weighted(reference_gradients(case, folders, flat)))


def test_opacus_hooks_add_its_examples(folders):
    case = CASES["bert lora q,v"]
    private = private_model(case, folders, Computation(gradients=GradientMethod.OPACUS_HOOKS))
    flat, batch = grouped(private)
    check_exact(private, batch, weighted(reference_gradients(case, folders, flat)))


@pytest.mark.parametrize("clipping_norm", [1e-3, 1.0])
def test_a_whole_record_moves_the_sum_by_at_most_c(accepted, clipping_norm):
    _, batch = grouped(accepted)
    batch[SCALE] = torch.ones(RECORDS, EXAMPLES)
    batch[SCALE][2] = 1e6
    check_sensitivity(
        accepted, batch, clipping_norm=clipping_norm, left_out=[(0,), (2,), (0, 1), (1, 3)]
    )


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_an_example_that_only_fills_up_counts_nothing(built, value):
    private = built("llama lora q,v")
    _, batch = grouped(private)
    batch[SCALE] = torch.ones(RECORDS, EXAMPLES)
    before = claimed_gradients(private, batch)
    batch[SCALE][0, 1:] = value
    batch["input_ids"][0, 1:] += 3
    after = claimed_gradients(private, batch)
    for name, sample in before.items():
        if value == value:
            assert torch.allclose(sample, after[name], atol=1e-7), name
        else:  # a record with NaN in it is safe either way: left out, or untouched by it
            assert torch.isfinite(after[name]).all()
            assert torch.allclose(sample[1:], after[name][1:], atol=1e-7), name


def test_rows_that_fill_up_are_records(built):
    private = built("bert lora q,v")
    _, batch = grouped(private)
    claimed = claimed_gradients(private, batch, torch.tensor([True, True, False, False]))
    assert all(not bool(sample[2:].any()) and bool(sample[:2].any()) for sample in claimed.values())
