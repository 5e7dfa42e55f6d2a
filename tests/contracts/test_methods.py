"""Every method, under every cipher: stopped after each round and within one, it ends the same."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from safetensors.numpy import load_file

from privfed import (
    BFV,
    CKKS,
    Callback,
    Computation,
    DoubleSketch,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDPA,
    FedNova,
    FedProx,
    FedSALoRA,
    FedSVD,
    FedYogi,
    FFALoRA,
    LocalHead,
    MixedRanks,
    Plain,
    RoLoRA,
    Scaffold,
    TailAveraging,
)
from privfed.methods.method import DELTA
from privfed.parties.client.node import ClientNode
from privfed.parties.client.upload import Codec
from privfed.settings.encryption import Custody
from privfed.storage.checkpoint import load_latest
from tests.contracts.test_stacked import KeyedRandomness
from tests.contracts.two_sums import CHANGE, TwoSums

METHODS = {
    "fedavg": FedAvg(weighting="public_size"),
    "ffa-lora": FFALoRA(server_learning_rate=0.5),
    "fedprox": FedProx(mu=0.5),
    "fednova": FedNova(weighting="public_size"),
    "scaffold": Scaffold(weighting="public_size"),
    "average of scaffold": TailAveraging(of=Scaffold(), first_round=2),
    "two sums": TwoSums(),
    "fedsa": FedSALoRA(),
    "fed-dpa in part": FedDPA(personal_rank=1, upload_share=0.5),
    "local head of mixed ranks": MixedRanks(of=LocalHead(), ranks={"client-1": 1}),
    "fedsvd": FedSVD(every=2),
    "double-sketch": DoubleSketch(weighting="public_size", width=8),
    "adam of rolora": FedAdam(of=RoLoRA(weighting="public_size"), learning_rate=0.05),
}
OF_SIBLINGS = {
    "momentum": FedAvgM(of=FFALoRA(upload_share=0.5), momentum=0.5),
    "adagrad": FedAdagrad(of=FedAvg(), learning_rate=0.05),
    "yogi": FedYogi(of=FedProx(mu=0.5), learning_rate=0.05),
}
CIPHERS = {
    "plain": Plain(),
    "shared key": BFV(),
    "key holder": BFV(custody=Custody.KEY_HOLDER),
    "ckks": CKKS(),
}
SIBLINGS = [("momentum", "shared key"), ("adagrad", "ckks"), ("yogi", "key holder")]
"""Methods that share their code with one that meets every cipher."""
PAIRS = [
    pytest.param(
        {**METHODS, **OF_SIBLINGS}[method],
        CIPHERS[cipher],
        (1, 2)[number % 2],
        id=f"{method}-{cipher}",
    )
    for number, (method, cipher) in enumerate([*product(METHODS, CIPHERS), *SIBLINGS])
]
"""Each method under each cipher; with one client after the other, or two in a stack, in turn."""
OWN_STEPS = (3, None, 1)
"""Of the clients in a round of FedNova; the second takes the federation's 2."""


class StopAfter(Callback):
    def __init__(self, number):
        self.number = number

    def on_round(self, record):
        if record.round == self.number:
            raise KeyboardInterrupt


@pytest.fixture
def start(make_federation, tmp_path):
    """A function that makes a federation with randomness that repeat, and its folder."""

    def make(name, method, cipher=None, stacked=1, **changes):
        federation = make_federation(
            num_clients=3,
            randomness=KeyedRandomness(),
            method=method,
            encryption=cipher or Plain(),
            computation=Computation(stacked_clients=stacked),
            state_folder=tmp_path / name / "state",
            anchor_folder=tmp_path / name / "anchors",
            **changes,
        )
        if isinstance(method, FedNova):
            steps = zip(federation.clients, OWN_STEPS, strict=True)
            clients = [replace(client, steps_per_round=own) for client, own in steps]
            federation = replace(federation, clients=clients)
        return federation, tmp_path / name / "run"

    return make


def arrays(folder):
    return load_latest(folder / "checkpoints").tensors


def require_same(one, other, *, exactly=True):
    assert one.keys() == other.keys()
    for name, values in one.items():
        if exactly:
            assert np.array_equal(values, other[name]), name
        else:
            np.testing.assert_allclose(values, other[name], atol=1e-4)


@pytest.mark.parametrize(("method", "cipher", "stacked"), PAIRS)
def test_a_run_that_is_stopped_ends_where_one_does_that_is_not(
    start, monkeypatch, method, cipher, stacked
):
    """It stops after every round, and in the last once a client committed its update."""
    federation, whole = start("whole", method, cipher, stacked)
    federation.run(whole)
    federation, stopped = start("stopped", method, cipher, stacked)
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            federation.run(stopped, resume=number > 1, callbacks=[StopAfter(number)])
    encrypt = ClientNode.encrypt
    # In a stack all reserve before one commits: a crash between would lose the others' round.
    last = "client-1" if stacked == 1 else "client-2"

    def killed(self, terms, codec):
        if (terms.round, self.id) == (3, last):
            raise KeyboardInterrupt
        return encrypt(self, terms, codec)

    with monkeypatch.context() as patch:
        patch.setattr(ClientNode, "encrypt", killed)
        with pytest.raises(KeyboardInterrupt):
            federation.run(stopped, resume=True)
    result = federation.run(stopped, resume=True)
    assert [len(record.clients) for record in result.rounds] == [3, 3, 3]
    require_same(arrays(whole), arrays(stopped), exactly=not isinstance(cipher, CKKS))


def layout_of_run(folder):
    """The initial values of what is trained, by name in the order of the vector."""
    return dict(sorted(load_file(folder / "start.safetensors").items()))


def after(start, name, method, **changes):
    federation, folder = start(name, method, **changes)
    federation.run(folder)
    return arrays(folder)


class TestWhatMethodsComeTo:
    def test_a_pull_matters_under_noise(self, start):
        plain = after(start, "fedavg", FedAvg())["adapter"]
        pulled = after(start, "fedprox", FedProx(mu=1.5))["adapter"]
        assert np.abs(plain - pulled).max() > 1e-3

    def test_one_sum_of_scaffold_gives_what_two_do(self, start):
        """The second sum is rounded for itself, so that they agree to its steps."""
        fine = {"cipher": Plain(bits=16), "rounds": 4}
        one = after(start, "one", Scaffold(), **fine)
        two = after(start, "two", TwoSums(), **fine)
        apart = {name: np.abs(one[name] - two[name]).max() for name in two}
        assert apart["control"] < 0.01 * np.abs(one["control"]).max()
        assert apart["adapter"] < 0.01 * np.abs(one["adapter"]).max()

    def test_under_rolora_a_leaves_the_row_space_in_which_it_began(self, start):
        """Of the rows of B A, which under FFA-LoRA and FedSVD never do."""
        outside = {}
        for method in (RoLoRA(), FFALoRA(), FedSVD()):
            federation, folder = start(method.kind, method, rounds=4)
            federation.run(folder)
            first, last = (
                load_file(folder / place)
                for place in ("start.safetensors", "adapter/adapter_model.safetensors")
            )
            name = next(name for name in last if "query.lora_A" in name)
            (begun,) = (v for k, v in first.items() if k.replace(".default", "") == name)
            rows = np.linalg.svd(begun.astype(np.float64), full_matrices=False)[2]
            product = last[name.replace("lora_A", "lora_B")] @ last[name]
            rest = product - product @ rows.T @ rows
            outside[method.kind] = np.linalg.norm(rest) / np.linalg.norm(product)
        assert outside["rolora"] > 0.05
        assert outside["ffa-lora"] < 1e-5
        assert outside["fedsvd"] < 1e-5
        np.testing.assert_allclose(last[name] @ last[name].T, np.eye(2), atol=1e-6)

    @pytest.mark.parametrize("stacked", [1, 3])
    def test_the_factor_whose_turn_it_is_not_stands_still(self, start, stacked):
        """To the bit; one client after the other and in a stack."""
        federation, folder = start("turns", RoLoRA(), stacked=stacked)
        before, seen = {}, []

        class Noted(Callback):
            def on_round(self, record):
                seen.append(load_latest(folder / "checkpoints").tensors["adapter"])

        federation.run(folder, callbacks=[Noted()])
        layout = layout_of_run(folder)
        before = [np.concatenate([v.ravel() for v in layout.values()]), *seen]
        for number, (was, now) in enumerate(pairwise(before), start=1):
            factor = ".lora_A." if number % 2 else ".lora_B."
            still = np.concatenate([np.full(v.size, factor in k) for k, v in layout.items()])
            assert (was == now)[still].all(), number
            assert (was != now)[~still].mean() > 0.9, "what rounds to zero does not move either"

    def test_sketches_fit_in_the_range_of_updates_and_cost_nothing(self, start):
        """Of 16 bits: what the three clients' products of rank 2 lose is rounding."""
        spent = {}
        for method in (FedAvg(), DoubleSketch(width=8)):
            federation, folder = start(method.kind, method, Plain(bits=16))
            spent[method.kind] = federation.run(folder).rounds[-1].epsilon
        assert spent["double-sketch"] == spent["fedavg"]
        memory = arrays(folder)
        assert memory["sketch.residual"].shape == memory["sketch.truncated"].shape == (4,)
        assert 0 < memory["sketch.residual"].max() < 0.01
        assert memory["sketch.truncated"].min() > 0.05

    def test_in_a_stack_each_client_has_its_own_variate(self, start):
        alone = after(start, "alone", Scaffold(), rounds=4)
        together = after(start, "together", Scaffold(), stacked=3, rounds=4)
        for name in ("adapter", "control"):
            np.testing.assert_allclose(alone[name], together[name], atol=2e-3)

    def test_in_a_stack_each_client_takes_its_own_steps(self, start):
        alone = after(start, "alone", FedNova())["adapter"]
        together = after(start, "together", FedNova(), stacked=3)["adapter"]
        np.testing.assert_allclose(alone, together, atol=2e-3)
        federation, folder = start("equal", FedNova())
        clients = [replace(client, steps_per_round=2) for client in federation.clients]
        replace(federation, clients=clients).run(folder)
        assert np.abs(alone - arrays(folder)["adapter"]).max() > 0.05

    def test_variates_add_up_to_what_all_hold_though_updates_are_clipped(self, start, monkeypatch):
        """From an update as it was before it was clipped, or with its weight, they would not."""
        kept, cut, keeps = {}, [], Scaffold.keeps

        def noted(self, trained, sent, client, round_):
            kept[client] = keeps(self, trained, sent, client, round_)
            cut.append(np.mean(np.abs(trained.delta) > 2 * np.abs(sent[DELTA]).max()))
            return kept[client]

        monkeypatch.setattr(Scaffold, "keeps", noted)
        method = Scaffold(weighting="public_size")
        federation, folder = start("narrow", method, Plain(public_range=0.01, bits=16))
        with pytest.warns(UserWarning, match="cuts off"):
            federation.run(folder)
        assert np.mean(cut) > 0.2, "much is clipped"
        weights = method.weights({client.id: client.size for client in federation.clients}, {})
        mean = sum(weights[name] * one["control"].astype(float) for name, one in kept.items())
        control = arrays(folder)["control"]
        np.testing.assert_allclose(mean / sum(weights.values()), control, atol=1e-6)
        assert np.abs(control).max() > 1e-3


class TestPlantedFaults:
    """What the tests here would show if it went wrong."""

    def test_a_second_vector_under_the_range_of_the_first(self, start, monkeypatch):
        right = after(start, "right", TwoSums())
        real = Codec.encode

        def same_range(self, vectors, uniform):
            first = self.encodings[0][1]
            wrong = tuple((one, first) for one, _ in self.encodings)
            values = {"encodings": wrong, "weight": self.weight, "cipher": self.cipher}
            return real(Codec(**values), vectors, uniform)

        monkeypatch.setattr(Codec, "encode", same_range)
        wrong = after(start, "wrong", TwoSums())
        assert np.abs(right["control"] - wrong["control"]).max() > 0.05

    def test_what_is_kept_is_written_twice(self, start, monkeypatch):
        """A variate that is moved again by a round that it has counted already."""
        right = after(start, "right", TwoSums())
        keeps = TwoSums.keeps

        def twice(self, trained, sent, client, round_):
            kept = keeps(self, trained, sent, client, round_)
            return {"own": kept["own"] + sent[CHANGE].astype(np.float32)}

        monkeypatch.setattr(TwoSums, "keeps", twice)
        wrong = after(start, "wrong", TwoSums())
        assert not np.allclose(right["adapter"], wrong["adapter"], atol=1e-3)

    def test_a_vector_that_is_weighted_otherwise(self, start, monkeypatch):
        right = after(start, "right", FedAvg(weighting="public_size"))
        real = Codec.encode
        monkeypatch.setattr(
            Codec,
            "encode",
            lambda self, vectors, uniform: real(
                self, {DELTA: vectors[DELTA] / self.weight}, uniform
            ),
        )
        wrong = after(start, "wrong", FedAvg(weighting="public_size"))
        assert not np.allclose(right["adapter"], wrong["adapter"], atol=1e-3)


@pytest.mark.parametrize(
    ("method", "name"), [(Scaffold(), "control"), (FedSALoRA(), "own"), (LocalHead(), "own")]
)
def test_what_a_client_keeps_is_in_no_file_of_the_run_and_in_no_message(
    start, monkeypatch, method, name
):
    from privfed.engines.play import Play

    sent, exchange = [], Play.exchange

    def heard(self, messages):
        replies = exchange(self, messages)
        sent.extend([*messages.values(), *replies.values()])
        return replies

    monkeypatch.setattr(Play, "exchange", heard)
    federation, folder = start("run", method)
    kept = {}
    keeps = type(method).keeps

    def noted(self, trained, sent_vectors, client, round_):
        mine = keeps(self, trained, sent_vectors, client, round_)
        kept[client, round_.number] = mine[name].tobytes()[:32]
        return mine

    monkeypatch.setattr(type(method), "keeps", noted)
    federation.run(folder)
    assert len(kept) == 9
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for mine in kept.values():
        assert not [content for content in (*files, *sent) if mine in content]
    ledgers = [path.read_bytes() for path in federation.state.rglob("ledger-2.sqlite3")]
    assert all(any(kept[client, 3] in one for one in ledgers) for client, _ in kept)
