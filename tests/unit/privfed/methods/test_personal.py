"""What is a client's own: where it is, that it is in no upload, and from where it trains."""

import numpy as np
import pytest

from privfed import FedDPA, FedSALoRA, LocalHead, MixedRanks
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, Trained
from tests.unit.privfed.methods.test_rolora import LAYOUT, A, B, adapter, round_
from tests.unit.privfed.methods.vectors import round_of

HEAD_OWN = [True] * 4 + [False] * 16
ALL_BUT_A = [True] * 4 + [False] * 10 + [True] * 6
LAST_RANK = [False] * 4 + [False] * 5 + [True] * 5 + [False, True] * 3
"""Of A (2, 5) the second row, of B (3, 2) the second column."""

METHODS = [
    pytest.param(FedSALoRA(), ALL_BUT_A, id="fedsa"),
    pytest.param(LocalHead(), HEAD_OWN, id="local head"),
    pytest.param(FedDPA(personal_rank=1), LAST_RANK, id="fed-dpa"),
]


def trained(method, kept=None, number=3):
    delta = np.arange(1.0, 1 + LAYOUT.length)
    return Trained(received=method.begin(adapter(number)), delta=delta, kept=kept)


@pytest.mark.parametrize(("method", "own"), METHODS)
class TestWhatIsOwn:
    def test_all_moves(self, method, own):
        assert method.own(LAYOUT).tolist() == own
        assert method.trains(round_(2), "north").all()

    def test_what_is_sent_is_the_rest(self, method, own):
        sent = method.local(trained(method), "north", round_(2))[DELTA]
        expected = [index + 1.0 for index, is_own in enumerate(own) if not is_own]
        assert sent.tolist() == expected
        (upload,) = method.uploads(round_(2))
        assert upload.length == len(expected)

    def test_what_is_kept_is_where_training_left_it(self, method, own):
        first = method.keeps(trained(method), {}, "north", round_(1))
        own = np.array(own)
        expected = adapter(3)[own] + np.arange(1.0, 21)[own]
        np.testing.assert_allclose(first["own"], expected, rtol=1e-6)
        received = method.begin(adapter(9))
        start = method.start(received, first, "north", round_(2))
        assert np.array_equal(start[own], first["own"])
        assert np.array_equal(start[~own], adapter(9)[~own])
        assert np.array_equal(received.adapter, adapter(9)), "the global one stays as it is"
        second = method.keeps(trained(method, kept=first), {}, "north", round_(2))
        np.testing.assert_allclose(second["own"], first["own"] + np.arange(1.0, 21)[own], rtol=1e-6)

    def test_a_client_begins_where_all_do(self, method, own):
        del own
        received = method.begin(adapter(5))
        assert method.start(received, None, "north", round_(1)) is received.adapter

    def test_the_global_adapter_moves_in_what_is_shared_alone(self, method, own):
        own = np.array(own)
        sums = {DELTA: np.full(int((~own).sum()), 3.0)}
        moved = method.next(method.begin(adapter(5)), sums, ["south"], round_(1)).adapter
        np.testing.assert_allclose(moved - adapter(5), np.where(own, 0.0, 6.0), rtol=1e-6)

    def test_a_part_of_what_is_shared_is_sent_and_all_that_is_own_moves(self, method, own):
        thin = type(method)(**{**settings(method), "upload_share": 0.5})
        moving = thin.trains(round_(2), "north")
        assert moving[np.array(own)].all()
        assert moving[~np.array(own)].sum() == np.ceil(0.5 * (~np.array(own)).sum())


def settings(method):
    return {name: value for name, value in method.describe().items() if name != "method"}


class TestWhatIsRefused:
    @pytest.mark.parametrize("method", [FedSALoRA(), LocalHead(), FedDPA(personal_rank=1)])
    def test_an_adapter_without_such_parts(self, method):
        with pytest.raises(ConfigError, match=f"{method.kind} needs"):
            method.trains(round_of(1, {"a": 1.0}, length=7), "a")

    def test_a_local_adapter_that_is_all_of_it(self):
        with pytest.raises(ConfigError, match="must be some and not all of these"):
            FedDPA(personal_rank=2).own(LAYOUT)

    def test_no_ranks(self):
        with pytest.raises(ConfigError, match="personal_rank"):
            FedDPA(personal_rank=0)


def test_the_report_says_that_a_part_lies_with_each_client():
    assert "which lies with the client" in FedSALoRA().which_is_left()
    assert (
        "which lies with the client" in MixedRanks(of=LocalHead(), ranks={"a": 1}).which_is_left()
    )


def test_they_describe_themselves():
    assert FedDPA(personal_rank=3).describe()["personal_rank"] == 3
    kinds = {
        one.describe()["method"] for one in (FedSALoRA(), LocalHead(), FedDPA(personal_rank=3))
    }
    assert kinds == {"fedsa-lora", "local-head", "fed-dpa"}
    assert {A, B} < set(LAYOUT.names)
