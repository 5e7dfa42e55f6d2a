"""A public part of a vector: who is in it, and that an update of a part is a part of the update."""

import numpy as np
import pytest

from privfed import FedAvg, RoLoRA, Scaffold, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, SentVector, Trained
from privfed.methods.thinning import thinned
from tests.unit.privfed.methods.test_rolora import LAYOUT as FACTORS
from tests.unit.privfed.methods.test_rolora import A, adapter
from tests.unit.privfed.methods.test_rolora import round_ as round_of_lora
from tests.unit.privfed.methods.vectors import round_of

WEIGHTS = {"north": 1.0, "south": 0.5, "west": 0.125}

GOLDEN = [6, 7, 8]


def round_(number, length=40):
    return round_of(number, WEIGHTS, length=length)


class TestTheChoice:
    def test_it_is_the_same_on_every_machine(self):
        """Golden: the smallest 64-bit words of SHAKE-256, in the order of the vector."""
        chosen = thinned(np.ones(12, dtype=bool), 0.25, round_(5, length=12))
        assert np.flatnonzero(chosen).tolist() == GOLDEN

    def test_it_has_the_share_of_the_mask_and_lies_in_it(self):
        mask = np.arange(40) % 3 > 0
        part = thinned(mask, 0.3, round_(2))
        assert mask.sum() == 26
        assert part.sum() == 8
        assert not (part & ~mask).any()

    def test_every_round_has_another_and_every_entry_comes(self):
        parts = [thinned(np.ones(40, dtype=bool), 0.5, round_(number)) for number in range(1, 30)]
        assert len({part.tobytes() for part in parts}) == len(parts)
        assert np.mean(parts, axis=0).min() > 0.2
        assert np.mean(parts, axis=0).max() < 0.8

    def test_all_of_it_is_the_mask(self):
        mask = np.arange(40) % 2 > 0
        assert thinned(mask, 1.0, round_(1)) is mask


class TestAPartIsSent:
    METHOD = FedAvg(upload_share=0.25)

    def test_the_part_moves_by_the_weighted_mean_and_nothing_else(self):
        start = np.linspace(-1, 1, 40).astype(np.float32)
        state, moving = self.METHOD.begin(start), self.METHOD.trains(round_(3), "north")
        random, sums, mean = np.random.default_rng(8), np.zeros(10), np.zeros(40)
        for name, weight in WEIGHTS.items():
            delta = np.where(moving, random.normal(size=40), 0.0)
            trained = Trained(received=state, delta=delta, kept=None)
            sums += weight * self.METHOD.local(trained, name, round_(3))[DELTA]
            mean += weight * delta / sum(WEIGHTS.values())
        moved = self.METHOD.next(state, {DELTA: sums}, list(WEIGHTS), round_(3)).adapter
        np.testing.assert_allclose(moved, start + mean, rtol=1e-6)
        assert np.array_equal(moved != start, moving)
        assert moving.sum() == 10

    def test_the_upload_has_its_length(self):
        assert self.METHOD.uploads(round_(3)) == (SentVector(name=DELTA, length=10),)

    def test_of_factors_that_take_turns_it_is_a_part_of_the_one_that_moves(self):
        method = RoLoRA(upload_share=0.5)
        for number, count in ((1, 5), (2, 7)):
            moving = method.trains(round_of_lora(number), "north")
            assert moving.sum() == count
            assert moving[FACTORS.mask([A])].any() == (number == 2)
            (sent,) = method.uploads(round_of_lora(number))
            assert sent.length == 7
            trained = Trained(received=method.begin(adapter(1)), delta=np.ones(20), kept=None)
            upload = method.local(trained, "north", round_of_lora(number))[DELTA]
            assert upload.tolist() == [1.0] * count + [0.0] * (7 - count)


class TestWhatIsRefused:
    @pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan"), True, "half"])
    def test_no_share(self, share):
        with pytest.raises(ConfigError, match="upload_share must be in"):
            FedAvg(upload_share=share)

    def test_scaffold_needs_all(self):
        training = TrainingConfig(learning_rate=1.0)
        with pytest.raises(ConfigError, match="upload_share must be 1, got 0.5"):
            Scaffold(upload_share=0.5).check(training, {"a": 2}, 3)
