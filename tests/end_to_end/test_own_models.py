"""A client's own model and its figures: with the client, and with nobody else."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from privfed import Client, Computation, FedAvg, FedSALoRA, TailAveraging, load_adapter
from privfed.data.records import Record
from privfed.errors import ConfigError, DataError
from privfed.parties.client import own_model

OWN_TEXT = (Record(text="an own text that is nobody's", label=0), Record(text="another", label=1))


@pytest.fixture
def run(make_federation, tmp_path):
    """A function that runs three clients, the first of which has held-out text of its own."""

    def play(method, *, stacked=1, texts=True, own=OWN_TEXT):
        federation = make_federation(
            num_clients=3, method=method, computation=Computation(stacked_clients=stacked)
        )
        if texts:
            first, *others = federation.clients
            first = replace(first, own_held_out=own)
            federation = replace(federation, clients=[first, *others])
        return federation, federation.run(tmp_path / "run")

    return play


@pytest.mark.parametrize("stacked", [1, 3])
def test_each_client_has_its_own_and_only_in_its_own_folder(run, tmp_path, stacked):
    federation, result = run(FedSALoRA(), stacked=stacked)
    assert sorted(result.own) == [f"client-{number}" for number in range(3)]
    values = [own.values for own in result.own.values()]
    assert len({one.tobytes() for one in values}) == 3
    first = result.own["client-0"]
    assert 0 <= first.metric <= 1
    assert 0 <= first.shared_metric <= 1
    assert result.own["client-1"].metric is None
    figures = json.loads((first.folder / "figures.json").read_text())
    assert (figures["metric"], figures["shared_metric"]) == (first.metric, first.shared_metric)
    for own in result.own.values():
        assert own.folder.is_relative_to(federation.state)
        assert oct(os.stat(own.folder).st_mode)[-3:] == "700"
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(one.tobytes()[-64:] in content for one in values), path


def test_its_adapter_loads_and_is_the_one_that_it_trained(run):
    _, result = run(FedSALoRA())
    own = result.own["client-1"]
    _, model = load_adapter(own.folder / "adapter")
    loaded = {name: value for name, value in model.state_dict().items() if ".lora_B." in name}
    _, shared = load_adapter(result.adapter)
    still = {name: value for name, value in shared.state_dict().items() if ".lora_B." in name}
    assert loaded
    assert all(np.isin(value.numpy().ravel(), own.values).all() for value in loaded.values())
    assert all(not value.any() for value in still.values()), "the shared B never moves"
    assert any(value.any() for value in loaded.values())


def test_where_nothing_is_kept_there_are_figures_for_those_who_have_text(run):
    _, result = run(FedAvg())
    assert list(result.own) == ["client-0"]
    assert result.own["client-0"].metric == result.own["client-0"].shared_metric


def test_where_nothing_is_kept_and_nobody_has_text_there_is_nothing(run):
    _, result = run(FedAvg(), texts=False)
    assert result.own == {}


def test_the_average_of_rounds_is_nobodys_own(run):
    """What the run leaves to all is the client's own, where it keeps nothing."""
    _, result = run(TailAveraging(of=FedAvg()), texts=False)
    assert result.own == {}


def test_figures_that_are_no_numbers_stop_nothing(run, monkeypatch):
    monkeypatch.setattr(own_model, "held_out_metric", lambda *arguments: math.nan)
    _, result = run(FedSALoRA())
    assert (result.own["client-0"].metric, result.own["client-0"].shared_metric) == (None, None)


def test_own_text_that_cannot_be_read_is_told_to_its_client_alone(run):
    """Before anything is spent."""
    broken = (Record(text="a label that is none", label=9),)
    with pytest.raises(DataError, match="own_held_out of client 'client-0' cannot be used; the c"):
        run(FedAvg(), own=broken)


def test_own_text_is_not_among_the_records():
    both = (Record(text="a", label=0), Record(text="b", label=1))
    with pytest.raises(DataError, match="must not be among its records"):
        Client(id="north", public_size=40, dataset="d", records=both, own_held_out=both[1:])


def test_own_text_must_be_records():
    with pytest.raises(ConfigError, match="own_held_out of client 'north'"):
        Client(
            id="north",
            public_size=40,
            dataset="d",
            records=(Record(text="a", label=0),),
            own_held_out=("a text",),
        )
