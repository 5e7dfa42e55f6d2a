"""One backward pass, one gradient per record, by leaves and by hooks; and what either refuses."""

import pytest
import torch
from torch import nn

from privfed.errors import GateError
from privfed.models.vector import trainable
from privfed.private_step.gradients import HookGradients, LeafGradients
from tests.unit.privfed.private_step.toy import toy

RECORDS, EXAMPLES = 3, 2
INPUT = torch.randn(RECORDS * EXAMPLES, 5, generator=torch.Generator().manual_seed(0))
SHARE = torch.linspace(0.5, 1.5, RECORDS * EXAMPLES)


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def loss(model, read=INPUT, share=SHARE):
    """Of examples that weigh differently."""
    return (share * model(read).squeeze(1).square()).sum()


def fails(model):
    loss(model)
    raise RuntimeError("half-way")


def single(model):
    """Ordinary gradients of each record alone, by name."""
    found = []
    for record in range(RECORDS):
        part = slice(record * EXAMPLES, (record + 1) * EXAMPLES)
        names, parameters = zip(*trainable(model), strict=True)
        gradients = torch.autograd.grad(loss(model, INPUT[part], SHARE[part]), parameters)
        found.append(dict(zip(names, gradients, strict=True)))
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


@pytest.mark.parametrize("kind", [LeafGradients, HookGradients])
class TestBoth:
    def test_each_record_has_the_gradient_of_its_examples(self, kind):
        model = small()
        expected = single(model)
        kind(model).fill(loss, RECORDS, EXAMPLES)
        for name, parameter in trainable(model):
            torch.testing.assert_close(parameter.grad_sample, expected[name], msg=name)
            assert parameter.grad_sample.dtype == torch.float32

    def test_a_plain_pass_fills_the_ordinary_gradient_alone(self, kind):
        model = small()
        expected = single(model)
        kind(model).plain(loss)
        for name, parameter in trainable(model):
            torch.testing.assert_close(parameter.grad, expected[name].sum(dim=0), msg=name)
            assert getattr(parameter, "grad_sample", None) is None

    def test_after_a_plain_pass_there_is_one_gradient_per_record_again(self, kind):
        model = small()
        expected = single(model)
        gradients = kind(model)
        gradients.plain(loss)
        for _, parameter in trainable(model):
            parameter.grad = None
        gradients.forget()
        gradients.fill(loss, RECORDS, EXAMPLES)
        for name, parameter in trainable(model):
            torch.testing.assert_close(parameter.grad_sample, expected[name], msg=name)

    def test_what_a_failed_pass_left_is_forgotten(self, kind):
        model = small()
        expected = single(model)
        gradients = kind(model)
        with pytest.raises(RuntimeError, match="half-way"):
            gradients.fill(fails, RECORDS, EXAMPLES)
        gradients.forget()
        gradients.fill(loss, RECORDS, EXAMPLES)
        for name, parameter in trainable(model):
            torch.testing.assert_close(parameter.grad_sample, expected[name], msg=name)


class TestLeaves:
    def test_every_record_meets_values_of_its_own(self):
        """The gradients of three models, each with the values of one record."""
        model = small()
        values = {
            name: torch.randn(RECORDS, *parameter.shape) for name, parameter in trainable(model)
        }
        found = LeafGradients(model).stacked(loss, values, EXAMPLES)
        for record in range(RECORDS):
            other = small()
            other.load_state_dict({name: value[record] for name, value in values.items()})
            expected = single(other)
            for (name, _), samples in zip(trainable(model), found, strict=True):
                torch.testing.assert_close(samples[record], expected[name][record], msg=name)

    def test_products_alone_are_in_low_precision_and_gradients_are_not(self):
        model = small()
        seen = {}

        def watched(run):
            seen.update(model[0].leaves)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return loss(run).float()

        LeafGradients(model, torch.bfloat16).fill(watched, RECORDS, EXAMPLES)
        assert {name: leaf.dtype for name, leaf in seen.items()} == {
            "weight": torch.bfloat16,
            "bias": torch.float32,
        }
        assert {p.grad_sample.dtype for _, p in trainable(model)} == {torch.float32}


class TestHooks:
    def test_they_cannot_tell_stacked_clients_apart(self):
        with pytest.raises(GateError, match="stacked_clients = 1"):
            HookGradients(small()).stacked(loss, {}, EXAMPLES)

    def test_nothing_that_a_failed_client_read_is_kept(self):
        model = small()
        gradients = HookGradients(model)
        with pytest.raises(RuntimeError, match="half-way"):
            gradients.fill(fails, RECORDS, EXAMPLES)
        assert model[0].activations
        gradients.forget()
        assert not model[0].activations
        assert not model[2].activations

    def test_a_layer_that_opacus_refuses_is_refused(self):
        with pytest.raises(GateError, match=r"no per-example gradients in Opacus: .*BatchNorm1d"):
            HookGradients(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))

    def test_a_parameter_that_no_loss_reaches_is_named(self):
        class Aside(nn.Module):
            def __init__(self):
                super().__init__()
                self.used, self.useless = nn.Linear(5, 1), nn.Linear(5, 1)

            def forward(self, x):
                return self.used(x)

        with pytest.raises(GateError, match="'useless.bias' got no per-example gradient"):
            HookGradients(Aside()).fill(loss, RECORDS, EXAMPLES)

    @pytest.mark.parametrize(("records", "examples"), [(3, 1), (6, 2)])
    def test_another_number_of_rows_than_examples_is_refused(self, records, examples):
        with pytest.raises(GateError, match=r"several records would be clipped as one"):
            HookGradients(small()).fill(loss, records, examples)


# --- Parameters that are used outside of their layer


class Functional(nn.Module):
    """Uses a layer's weight outside of the layer."""

    def __init__(self, also_inside):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        self.also_inside = also_inside

    def forward(self, x):
        outside = nn.functional.linear(x, self.layer.weight)
        return outside + self.layer(x) if self.also_inside else outside


def test_a_parameter_that_is_also_used_outside_of_its_layer_is_refused():
    private, batch = toy(Functional(also_inside=True))
    with pytest.raises(GateError, match=r"'layer.weight' is also used outside of its layer"):
        private.per_example_gradients(batch)
    assert getattr(private.adapter.layer.weight, "grad_sample", None) is None
    private.forget()


def test_a_parameter_that_is_used_outside_of_its_layer_alone_is_refused():
    private, batch = toy(Functional(also_inside=False))
    with pytest.raises(GateError, match="'layer.weight' does not influence any loss"):
        private.per_example_gradients(batch)
