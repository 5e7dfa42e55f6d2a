import pytest
import torch
from scipy import stats
from torch import nn

from privfed.private_step.dropout import SecretDropout, forget_keys, new_keys, secret_dropouts


def layer_with(p=0.3):
    layer = nn.Dropout(p)
    (secret,) = secret_dropouts(layer)
    return secret


def test_every_active_dropout_becomes_secret_and_no_other_layer():
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2), nn.Dropout(0.0), nn.Dropout2d(0.5))
    assert secret_dropouts(model) == [model[0]]
    assert type(model[0]) is SecretDropout
    assert [type(layer) for layer in model[1:]] == [nn.Linear, nn.Dropout, nn.Dropout2d]
    assert secret_dropouts(model) == [model[0]]


def test_the_mask_of_a_pass_is_one_mask():
    layer = layer_with()
    new_keys([layer])
    x = torch.ones(50, 40)
    first = layer(x)
    assert torch.equal(first, layer(x))
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    new_keys([layer])
    assert not torch.equal(first, layer(x))


def test_two_layers_have_two_masks():
    layers = [layer_with(), layer_with()]
    new_keys(layers)
    assert layers[0].key != layers[1].key
    assert not torch.equal(*(layer(torch.ones(200)) for layer in layers))


def test_masks_do_not_follow_the_seed_of_torch():
    layer = layer_with()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        new_keys([layer])
        found.append(layer(torch.ones(300)))
    assert not torch.equal(*found)


def test_masks_take_nothing_from_torch():
    layer = layer_with()
    new_keys([layer])
    before = torch.get_rng_state()
    layer(torch.ones(300))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9])
def test_entries_are_dropped_with_the_stated_chance(p):
    layer = layer_with(p)
    layer.key = bytes([5]) * 32
    kept = layer(torch.ones(100_001)) != 0
    dropped = int((~kept).sum())
    assert stats.binomtest(dropped, 100_001, p).pvalue > 1e-4
    alike = int((kept[1:] == kept[:-1])[::2].sum())
    assert stats.binomtest(alike, 50_000, p * p + (1 - p) ** 2).pvalue > 1e-4


def test_rows_are_dropped_independently():
    layer = layer_with(0.5)
    layer.key = bytes([6]) * 32
    kept = (layer(torch.ones(2, 40_000)) != 0).double()
    assert abs(float(torch.corrcoef(kept)[0, 1])) < 5 / 200


def test_at_evaluation_and_without_a_key_it_is_the_plain_layer():
    layer = layer_with()
    x = torch.ones(100)
    torch.manual_seed(3)
    plain = nn.functional.dropout(x, 0.3)
    torch.manual_seed(3)
    assert torch.equal(layer(x), plain)
    new_keys([layer])
    assert torch.equal(layer.eval()(x), x)


def test_no_key_outlives_a_pass():
    layer = layer_with()
    new_keys([layer])
    assert len(layer.key) == 32
    forget_keys([layer])
    assert layer.key is None


def test_the_gradient_goes_through_what_was_kept():
    layer = layer_with()
    new_keys([layer])
    x = torch.ones(100, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_low_precision_stays():
    layer = layer_with()
    new_keys([layer])
    assert layer(torch.ones(4, dtype=torch.bfloat16)).dtype == torch.bfloat16
