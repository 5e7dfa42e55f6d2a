"""The pull towards the global adapter, on losses whose answer is known."""

import json

import numpy as np
import pytest

from privfed import FedAvg, FedProx, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import Correction
from tests.unit.privfed.methods.quadratics import OPTIMUM, fixed_point, round_of


class TestTwoQuadratics:
    """Clients that drift apart do not come to rest at the optimum; a pull brings them nearer."""

    @pytest.mark.parametrize(
        ("method", "rests_at"),
        [(FedAvg(), 0.7484), (FedProx(mu=1.0), 0.7639), (FedProx(mu=10.0), 0.8470)],
        ids=repr,
    )
    def test_it_rests_where_it_must(self, method, rests_at):
        assert fixed_point(method) == pytest.approx(rests_at, abs=1e-4)

    def test_with_one_step_there_is_no_drift(self):
        assert fixed_point(FedAvg(), steps=1, rounds=6000) == pytest.approx(OPTIMUM, abs=1e-4)


def test_it_corrects_steps_and_nothing_else():
    received = FedProx(mu=0.5).begin(np.ones(3, np.float32))
    assert FedProx(mu=0.5).correction(received, None, "a", round_of(1)) == Correction(pull=0.5)


def test_it_describes_itself():
    assert json.loads(json.dumps(FedProx(mu=0.5, weighting="public_size").describe())) == {
        "method": "fedprox",
        "mu": 0.5,
        "weighting": "public_size",
        "server_learning_rate": 1.0,
        "upload_share": 1.0,
    }


@pytest.mark.parametrize("mu", [0.0, -1.0, float("nan"), float("inf"), "strong"])
def test_a_pull_out_of_range_is_refused(mu):
    with pytest.raises(ConfigError, match="mu"):
        FedProx(mu=mu)


class TestWhatItCannotDo:
    def test_one_step(self):
        """Its start is the global adapter, so that there is nothing to pull."""
        training = TrainingConfig(learning_rate=0.5)
        with pytest.raises(ConfigError, match="steps_per_round of at least 2"):
            FedProx(mu=0.5).check(training, {"a": 1, "b": 1}, 3)
        FedProx(mu=0.5).check(training, {"a": 1, "b": 2}, 3)

    @pytest.mark.parametrize("rates", [(0.5, None), (0.125, 0.5)])
    def test_a_pull_beyond_the_global_adapter(self, rates):
        training = TrainingConfig(learning_rate=rates[0], final_learning_rate=rates[1])
        with pytest.raises(ConfigError, match="times mu must be below 1, got 0.5 x 2"):
            FedProx(mu=2.0).check(training, {"a": 2, "b": 2}, 3)
        FedProx(mu=1.75).check(training, {"a": 2, "b": 2}, 3)


def test_so_is_what_fedavg_refuses():
    with pytest.raises(ConfigError, match="weighting"):
        FedProx(mu=1.0, weighting="true_size")
