"""Errors of federated methods, planted one at a time: the check that should notice each does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

import privfed
from privfed import (
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
    LocalHead,
    MixedRanks,
    RoLoRA,
    Scaffold,
    TailAveraging,
)
from privfed.methods import (
    averaging,
    double_sketch,
    fedsvd,
    server_optimizers,
    sketches,
    thinning,
)
from privfed.methods.method import DELTA, Correction
from tests.unit.privfed.methods import (
    test_averaging,
    test_double_sketch,
    test_fednova,
    test_fedprox,
    test_fedsvd,
    test_mixed_ranks,
    test_personal,
    test_rolora,
    test_scaffold,
    test_server_optimizers,
    test_tail_averaging,
    test_thinning,
)
from tests.unit.privfed.methods.test_personal import ALL_BUT_A, HEAD_OWN, LAST_RANK


class Fault(NamedTuple):
    """What is patched, by what, and which check sees it."""

    name: str
    home: Any
    attribute: str
    wrong: Callable[[Callable[..., Any]], Callable[..., Any]]
    """Of the right function."""
    check: Callable[[], None]


def _averaging() -> Any:
    return test_averaging.TestTheMean()


def _of_equal_weights(right):
    return lambda total, weights, who: right(total, dict.fromkeys(weights, 1.0), who)


def _in_a_round_of_equal_weights(right):
    return lambda self, state, sums, contributors, round_: right(
        self,
        state,
        sums,
        contributors,
        replace(round_, weights=dict.fromkeys(round_.weights, 1.0)),
    )


def _over_all(right):
    return lambda total, weights, who: right(total, weights, list(weights))


def _first_alone(right):
    """The first client's update in place of the sum, as a misspelt variable once made of it."""
    return lambda self, trained, client, round_: {
        name: vector * (client == "north")
        for name, vector in right(self, trained, client, round_).items()
    }


def _all_entries(right):
    del right
    return lambda self, round_: round_.layout.mask(round_.layout.names)


def _stale_variate(right):
    """The variate of the round before, for ever."""
    return lambda self, trained, sent, client, round_: {
        **right(self, trained, sent, client, round_),
        "control": right(self, trained, sent, client, round_)["before"],
    }


def _variate_of_what_was_trained(right):
    return lambda self, trained, sent, client, round_: right(
        self, trained, {DELTA: trained.delta}, client, round_
    )


def _control_of_all(right):
    """C moves as if all clients had been in the sum."""

    def wrong(self, state, sums, contributors, round_):
        weights = {name: round_.weights[name] for name in contributors}
        moved = right(self, state, sums, contributors, round_)
        narrowed = replace(round_, weights=weights)
        memory = {k: v for k, v in state.memory.items() if k != "clients"}
        other = right(self, replace(state, memory=memory), sums, contributors, narrowed)
        return replace(moved, memory={**moved.memory, "control": other.memory["control"]})

    return wrong


def _pull(factor):
    return lambda right: lambda *arguments: Correction(pull=factor * right(*arguments).pull)


def _as_fedavg(right):
    del right
    return FedAvg.next


def _of_fedavg(right):
    del right
    return FedAvg.weights


def _own_is_sent(right):
    del right
    return lambda self, round_: round_.layout.mask(round_.layout.names)


def _own_is_not_put_in(right):
    del right
    return FedAvg.start


def _own_begins_anew(right):
    return lambda self, trained, sent, client, round_: right(
        self, replace(trained, kept=None), sent, client, round_
    )


def _all_ranks(right):
    return lambda self, layout, client: np.zeros_like(right(self, layout, client))


def _rows_of_a_alone(right):
    return lambda self, layout, client: (
        right(self, layout, client)
        & layout.mask([name for name in layout.names if "lora_A" in name])
    )


def _unscaled_b(right):
    """U in place of U S."""

    def wrong(b, a):
        scaled, values, rows = right(b, a)
        return scaled / np.maximum(values, 1e-9), values, rows

    return wrong


def _same_signs(right):
    return lambda pair, width, number: right(pair, width, 1)


def _without_d_b_d_a(right):
    """Y and Z of B dA + dB A: what is of second order is forgotten."""

    def wrong(self, trained, client, round_):
        sent = dict(right(self, trained, client, round_))
        tiny = replace(trained, delta=1e-6 * trained.delta)
        linear = right(self, tiny, client, round_)
        for name in (double_sketch.COLUMNS, double_sketch.ROWS):
            sent[name] = linear[name] * 1e6
        return sent

    return wrong


def _half_momentum(right):
    return lambda self, *arguments: right(replace(self, momentum=self.momentum / 2), *arguments)


def _adds(right):
    del right
    return FedAdagrad.second


def _always_grows(right):
    del right
    return lambda self, before, squared: before + (1 - self.beta2) * squared


def _no_noise(right):
    del right
    return lambda round_, contributors: None


def _newest(right):
    del right
    return lambda self, state: state.adapter


def _of_round_one(right):
    return lambda among, count, number, layout: right(among, count, 1, layout)


def _steps_squared(right):
    return lambda self, state, sums, contributors, round_: right(
        self,
        state,
        sums,
        contributors,
        replace(round_, steps={name: steps**2 for name, steps in round_.steps.items()}),
    )


def _what_is_own(method, own):
    return lambda: test_personal.TestWhatIsOwn().test_what_is_sent_is_the_rest(method, own)


def _what_is_kept(method, own):
    return lambda: test_personal.TestWhatIsOwn().test_what_is_kept_is_where_training_left_it(
        method, own
    )


def _products_of_ffa():
    test_averaging.TestProducts().test_with_a_frozen_the_product_of_the_means_is_the_mean_of_the_products(
        np.random.default_rng(8), "public_size"
    )


SIZED = averaging, "weighted_mean"
FAULTS = [
    Fault(
        "fedavg weighs all alike",
        *SIZED,
        _of_equal_weights,
        lambda: _averaging().test_in_proportion_to_public_sizes(FedAvg),
    ),
    Fault(
        "fedavg divides by the weights of the absent",
        *SIZED,
        _over_all,
        lambda: _averaging().test_the_mean_is_over_those_who_took_part(FedAvg),
    ),
    Fault("ffa-lora weighs all alike", *SIZED, _of_equal_weights, _products_of_ffa),
    Fault(
        "rolora sends both factors",
        RoLoRA,
        "averaged",
        _all_entries,
        test_rolora.test_the_factor_that_stands_still_is_in_no_upload,
    ),
    Fault(
        "rolora averages both factors",
        RoLoRA,
        "averaged",
        _all_entries,
        lambda: test_rolora.test_the_product_is_the_mean_of_the_clients_products(1),
    ),
    Fault(
        "rolora takes the first client's update alone",
        RoLoRA,
        "local",
        _first_alone,
        lambda: test_rolora.test_the_product_is_the_mean_of_the_clients_products(2),
    ),
    Fault(
        "fedsvd trains A",
        FedSVD,
        "averaged",
        _all_entries,
        test_fedsvd.test_a_is_in_no_upload_and_does_not_train,
    ),
    Fault(
        "fedsvd writes U in place of U S",
        fedsvd,
        "product_svd",
        _unscaled_b,
        test_fedsvd.test_a_refresh_by_hand,
    ),
    Fault(
        "double-sketch forgets dB dA",
        double_sketch.DoubleSketch,
        "local",
        _without_d_b_d_a,
        lambda: test_double_sketch.test_the_product_is_the_mean_of_the_clients_products(
            test_double_sketch.WHO, 1.0
        ),
    ),
    Fault(
        "double-sketch weighs all alike",
        double_sketch.DoubleSketch,
        "products",
        _in_a_round_of_equal_weights,
        lambda: test_double_sketch.test_the_product_is_the_mean_of_the_clients_products(
            test_double_sketch.WHO, 1.0
        ),
    ),
    Fault(
        "double-sketch has the same signs in every round",
        sketches,
        "signs",
        _same_signs,
        test_double_sketch.test_signs_are_public_even_and_of_the_round_and_the_module,
    ),
    Fault(
        "mixed ranks train all ranks",
        MixedRanks,
        "_beyond",
        _all_ranks,
        lambda: test_mixed_ranks.test_a_client_has_its_first_ranks_and_the_head("two", 2),
    ),
    Fault(
        "mixed ranks cut A alone",
        MixedRanks,
        "_beyond",
        _rows_of_a_alone,
        lambda: test_mixed_ranks.test_a_client_has_its_first_ranks_and_the_head("four", 4),
    ),
    *(
        Fault(f"{name} sends what is a client's own", home, "averaged", _own_is_sent, check)
        for name, home, check in (
            ("fedsa-lora", FedSALoRA, _what_is_own(FedSALoRA(), ALL_BUT_A)),
            ("local-head", LocalHead, _what_is_own(LocalHead(), HEAD_OWN)),
            ("fed-dpa", FedDPA, _what_is_own(FedDPA(personal_rank=1), LAST_RANK)),
        )
    ),
    *(
        Fault(f"{name} forgets what is a client's own", home, "start", _own_is_not_put_in, check)
        for name, home, check in (
            ("fedsa-lora", FedSALoRA, _what_is_kept(FedSALoRA(), ALL_BUT_A)),
            ("fed-dpa", FedDPA, _what_is_kept(FedDPA(personal_rank=1), LAST_RANK)),
        )
    ),
    Fault(
        "local-head keeps what it began with",
        LocalHead,
        "keeps",
        _own_begins_anew,
        _what_is_kept(LocalHead(), HEAD_OWN),
    ),
    Fault(
        "fedprox pulls the other way",
        FedProx,
        "correction",
        _pull(-1.0),
        lambda: test_fedprox.TestTwoQuadratics().test_it_rests_where_it_must(
            FedProx(mu=1.0), 0.7639
        ),
    ),
    Fault(
        "fedprox does not pull",
        FedProx,
        "correction",
        _pull(0.0),
        lambda: test_fedprox.TestTwoQuadratics().test_it_rests_where_it_must(
            FedProx(mu=1.0), 0.7639
        ),
    ),
    Fault(
        "scaffold has a stale variate",
        Scaffold,
        "keeps",
        _stale_variate,
        test_scaffold.test_one_sum_gives_what_the_paper_sends_two_for,
    ),
    Fault(
        "scaffold keeps a variate of what was not sent",
        Scaffold,
        "keeps",
        _variate_of_what_was_trained,
        lambda: test_scaffold.TestTwoQuadratics().test_also_where_updates_are_clipped_at_first(0.1),
    ),
    Fault(
        "scaffold moves c as if all had been there",
        Scaffold,
        "next",
        _control_of_all,
        test_scaffold.test_one_sum_gives_what_the_paper_sends_two_for,
    ),
    Fault(
        "fednova weighs like fedavg",
        FedNova,
        "weights",
        _of_fedavg,
        test_fednova.TestByHand().test_the_step_of_three_unequal_clients,
    ),
    Fault(
        "fednova leaves out the effective steps",
        FedNova,
        "next",
        _as_fedavg,
        test_fednova.TestByHand().test_the_step_of_three_unequal_clients,
    ),
    Fault(
        "fednova counts squared steps",
        FedNova,
        "next",
        _steps_squared,
        test_fednova.TestByHand().test_the_step_of_three_unequal_clients,
    ),
    Fault(
        "fedavgm has half the momentum",
        FedAvgM,
        "next",
        _half_momentum,
        test_server_optimizers.test_momentum_by_hand,
    ),
    Fault(
        "fedadam adds up like adagrad",
        FedAdam,
        "second",
        _adds,
        lambda: test_server_optimizers.test_adaptive_steps_by_hand(FedAdam),
    ),
    Fault(
        "fedyogi only grows",
        FedYogi,
        "second",
        _always_grows,
        lambda: test_server_optimizers.test_adaptive_steps_by_hand(FedYogi),
    ),
    Fault(
        "fedadagrad does not know the noise",
        server_optimizers,
        "noise_of_mean",
        _no_noise,
        lambda: test_server_optimizers.test_tau_is_at_least_the_noise_of_the_mean(FedAdagrad),
    ),
    Fault(
        "tail averaging leaves the newest",
        TailAveraging,
        "left",
        _newest,
        lambda: test_tail_averaging.test_it_is_the_mean_with_weights_that_decay_with_age(0.9),
    ),
    Fault(
        "every round sends the same part",
        thinning,
        "_drawn",
        _of_round_one,
        test_thinning.TestTheChoice().test_every_round_has_another_and_every_entry_comes,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_is_noticed_and_without_it_the_check_passes(fault, monkeypatch):
    fault.check()
    right = getattr(fault.home, fault.attribute)
    monkeypatch.setattr(fault.home, fault.attribute, fault.wrong(right))
    with pytest.raises((AssertionError, ValueError)):
        fault.check()


def test_every_method_has_one():
    """Whatever a user can choose."""
    public = [getattr(privfed, name) for name in privfed.__all__]
    kinds = {one.kind for one in public if isinstance(one, type) and hasattr(one, "uploads")}
    named = " ".join(fault.name for fault in FAULTS).replace("-", " ")
    assert len(kinds) >= 15
    assert [kind for kind in kinds if kind.replace("-", " ") not in named] == []
