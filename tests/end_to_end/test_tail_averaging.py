"""A run with tail averaging leaves the average of the adapters after its last rounds."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from peft import PeftModel

from privfed import Callback, FedAvg, TailAveraging, load_task
from privfed.errors import ConfigError
from privfed.models.vector import read_vector
from privfed.storage.checkpoint import load_latest


class Collect(Callback):
    """Keeps the global adapter after each round, and stops after some."""

    def __init__(self, folder, stop_after=None):
        self.folder, self.stop_after = folder, stop_after
        self.states = []

    def on_round(self, record):
        self.states.append(load_latest(self.folder / "checkpoints").tensors["adapter"])
        if record.round == self.stop_after:
            raise KeyboardInterrupt


def left_by(folder):
    model = PeftModel.from_pretrained(
        load_task(folder / "adapter").build(), folder / "adapter", is_trainable=True
    )
    return read_vector(model)


def test_the_adapter_is_the_average_also_after_a_resume(make_federation, tmp_path):
    federation = make_federation(method=TailAveraging(of=FedAvg(), first_round=2, decay=0.5))
    seen = Collect(tmp_path / "run", stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        federation.run(tmp_path / "run", callbacks=[seen])
    seen.stop_after = None
    result = federation.run(tmp_path / "run", resume=True, callbacks=[seen])
    assert len(seen.states) == 3
    wanted = (0.5 * seen.states[1] + seen.states[2]) / 1.5
    np.testing.assert_allclose(left_by(tmp_path / "run"), wanted, rtol=1e-5, atol=1e-7)
    assert not np.allclose(wanted, seen.states[2], rtol=1e-3)
    section = json.loads((tmp_path / "run/report.json").read_text())["training"]
    assert section["adapter_left"].startswith("the average of those after each round")
    assert json.loads(json.dumps(asdict(result.report.training))) == section


def test_it_changes_neither_training_nor_cost(make_federation, seeded_randomness, tmp_path):
    states, spent = [], []
    for name, method in (("newest", FedAvg()), ("average", TailAveraging(of=FedAvg()))):
        seen = Collect(tmp_path / name)
        result = make_federation(
            method=method, randomness=seeded_randomness(3), state_folder=tmp_path / f"{name}-state"
        ).run(tmp_path / name, callbacks=[seen])
        states.append(seen.states[-1])
        spent.append([client.epsilon_spent for client in result.report.clients])
    np.testing.assert_array_equal(*states)
    assert spent[0] == spent[1]


def test_a_first_round_after_the_last_is_refused(make_federation):
    with pytest.raises(ConfigError, match="averaging begins in round 4, but rounds is 3"):
        make_federation(method=TailAveraging(of=FedAvg(), first_round=4))
