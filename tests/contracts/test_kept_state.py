"""One record changed, and what a client keeps carried over two rounds: no step shows more than C.

Two worlds differ in one record. The second is made to come to every noised number that the first
came to, as the noise may do; from there on they may differ by the record alone. Whatever is kept
beside these numbers, and reaches a later gradient, shows as a clipped sum that differs by more.
"""

import numpy as np
import pytest
import torch

from privfed import FedDPA, FedSALoRA, LocalHead, MixedRanks, Scaffold
from privfed.methods.method import Round, Trained, started
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.dpsgd import HiddenNoiseOptimizer, train_round
from privfed.private_step.randomness import SecureNoise
from tests.contracts.private_steps import CASES, config, made_up, private_model, stream

C, RECORDS, STEPS = 0.5, 12, 2
CONFIG = config(
    clipping_norm=C,
    sample_rate=1.0,
    expected_batch_size=4,
    steps=STEPS,
    learning_rate=8.0,
    noise_multiplier=0.25,
)
METHODS = {
    "fedsa": FedSALoRA(),
    "local head": LocalHead(),
    "fed-dpa": FedDPA(personal_rank=1),
    "fed-dpa in part": FedDPA(personal_rank=1, upload_share=0.5),
    "fedsa of one rank": MixedRanks(of=FedSALoRA(), ranks={"north": 1}),
    "scaffold": Scaffold(),
}


@pytest.fixture(scope="module")
def model(folders):
    return private_model(CASES["bert lora q,v"], folders)


@pytest.fixture(scope="module")
def on_any_base(folders):
    """The adapter that clients on different base models share."""
    return private_model(CASES["bert relative"], folders)


class World:
    """A client in two rounds, all of whose sums and noised sums are noted.

    Args:
        model: with its initial adapter.
        method: what is played.
        records: of the client.
        noise: number of its noise.
        led: noised sums that it comes to, where they are given, instead of its own.
        noised: which entries of the adapter it is led in, shape (params,); None: all.
    """

    def __init__(self, model, method, records, noise=1, led=None, noised=None):
        self.model, self.method, self.records, self.noise = model, method, records, noise
        self.led, self.noised = led, noised
        self.sums, self.released, self.step = [], [], 0

    def play(self, monkeypatch):
        state, kept = self.method.begin(read_vector(self.model.adapter)), None
        initial = state.adapter.copy()
        with monkeypatch.context() as patch:
            self._watch(patch)
            for number in (1, 2):
                round_ = Round(
                    number=number,
                    steps={"north": STEPS},
                    learning_rate=CONFIG.learning_rate,
                    weights={"north": 1.0},
                    layout=self.model.layout,
                )
                start = started(self.method, state, kept, "north", round_)
                delta = self._trained(start, number)
                trained = Trained(received=state, delta=delta, kept=kept)
                sent = self.method.local(trained, "north", round_)
                kept = self.method.keeps(trained, sent, "north", round_)
                state = self.method.next(state, sent, ["north"], round_)
        write_vector(self.model.adapter, initial)
        return self

    def _trained(self, start, number):
        write_vector(self.model.adapter, start.adapter)
        train_round(
            self.model,
            self.records,
            CONFIG,
            sampling=stream(40 + number),
            noise=SecureNoise(stream(50 + 2 * number + self.noise)),
            correction=start.correction,
            moving=start.moving,
        )
        return read_vector(self.model.adapter).astype(np.float64) - start.adapter

    def _watch(self, patch):
        summed, add_noise = HiddenNoiseOptimizer._summed, HiddenNoiseOptimizer.add_noise

        def noted(optimizer):
            total = summed(optimizer)
            self.sums.append(total.numpy().copy())
            return total

        def led(optimizer):
            add_noise(optimizer)
            own = torch.cat([parameter.grad.flatten() for parameter in optimizer.params])
            if self.led is not None:
                noised = self.noised[self.step]
                own[noised] = self.led[self.step][noised]
                self.step += 1
                parts = torch.split(own, [p.numel() for p in optimizer.params])
                for parameter, part in zip(optimizer.params, parts, strict=True):
                    parameter.grad = part.view_as(parameter).clone()
            self.released.append(own)

        patch.setattr(HiddenNoiseOptimizer, "_summed", noted)
        patch.setattr(HiddenNoiseOptimizer, "add_noise", led)


def largest_difference(model, method, monkeypatch):
    """Of the clipped sums of two worlds, over all steps of both rounds, in units of C."""
    records = made_up(model, RECORDS)
    fewer = {name: tensor[1:] for name, tensor in records.items()}
    first = World(model, method, records).play(monkeypatch)
    other = World(model, method, records, noise=2).play(monkeypatch)
    noised = [one != two for one, two in zip(first.released, other.released, strict=True)]
    second = World(model, method, fewer, led=first.released, noised=noised).play(monkeypatch)
    assert len(first.sums) == len(second.sums) == 2 * STEPS
    pairs = zip(first.sums, second.sums, strict=True)
    return [float(np.linalg.norm(one - two)) / C for one, two in pairs]


@pytest.mark.parametrize("name", METHODS)
def test_a_record_moves_no_sum_of_two_rounds_by_more_than_c(model, monkeypatch, name):
    differences = largest_difference(model, METHODS[name], monkeypatch)
    assert max(differences) <= 1 + 1e-6
    assert min(differences) > 0.5, "a record that changes nothing shows nothing"


@pytest.mark.parametrize("name", METHODS)
def test_nor_does_it_where_clients_hold_different_bases(on_any_base, monkeypatch, name):
    differences = largest_difference(on_any_base, METHODS[name], monkeypatch)
    assert max(differences) <= 1 + 1e-6
    assert min(differences) > 0.5


@pytest.mark.parametrize("name", ["fedsa", "local head"])
def test_what_is_kept_without_noise_is_seen(model, monkeypatch, name):
    method = METHODS[name]
    own = torch.from_numpy(method.own(model.layout).copy())
    add_noise = HiddenNoiseOptimizer.add_noise

    def shared_alone(optimizer):
        total = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
        add_noise(optimizer)
        parts = torch.split(total, [p.numel() for p in optimizer.params])
        ends = torch.split(own, [p.numel() for p in optimizer.params])
        for parameter, part, mine in zip(optimizer.params, parts, ends, strict=True):
            plain = part.to(parameter.dtype).view_as(parameter)
            parameter.grad = torch.where(mine.view_as(parameter), plain, parameter.grad)

    with monkeypatch.context() as patch:
        patch.setattr(HiddenNoiseOptimizer, "add_noise", shared_alone)
        differences = largest_difference(model, method, monkeypatch)
    assert max(differences) > 1.5


@pytest.mark.parametrize("name", ["fedsa", "fed-dpa"])
def test_what_is_kept_and_clipped_apart_is_seen(model, monkeypatch, name):
    """Each to C for itself: together a record has more."""
    own = torch.from_numpy(METHODS[name].own(model.layout).copy())
    accumulate = HiddenNoiseOptimizer.clip_and_accumulate

    def apart(optimizer):
        samples = [parameter.grad_sample for parameter in optimizer.params]
        ends = torch.split(own, [p.numel() for p in optimizer.params])
        for mine in (True, False):
            for parameter, sample, end in zip(optimizer.params, samples, ends, strict=True):
                chosen = end.view_as(parameter) == mine
                parameter.grad_sample = torch.where(chosen, sample, 0.0)
            accumulate(optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(HiddenNoiseOptimizer, "clip_and_accumulate", apart)
        differences = largest_difference(model, METHODS[name], monkeypatch)
    assert max(differences) > 1 + 1e-3
