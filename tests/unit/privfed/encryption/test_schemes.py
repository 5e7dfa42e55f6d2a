"""What every side works out from the settings of the sum."""

import numpy as np
import pytest

from privfed import BFV, CKKS, Custody, Plain
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.ckks import FloatEncoding
from privfed.encryption.fixedpoint import FixedPointEncoding
from privfed.encryption.noise import Exactness
from privfed.encryption.plain import PlainAdder
from privfed.encryption.schemes import Scheme
from privfed.errors import ConfigError
from privfed.settings.encryption import Summation


def scheme(summation, **changes):
    return Scheme(**{"summation": summation, "num_clients": 5, "num_params": 300, **changes})


@pytest.mark.parametrize(
    ("summation", "custody", "adder", "encoding"),
    [
        (BFV(bits=10), "shared_key", CiphertextAdder, FixedPointEncoding),
        (
            BFV(bits=10, custody=Custody.KEY_HOLDER),
            "key_holder",
            CiphertextAdder,
            FixedPointEncoding,
        ),
        (CKKS(), "shared_key", CiphertextAdder, FloatEncoding),
        (Plain(bits=10), "none", PlainAdder, FixedPointEncoding),
    ],
)
def test_every_kind(summation, custody, adder, encoding):
    found = scheme(summation)
    assert found.custody == custody
    assert type(found.new_adder()) is adder
    assert type(found.encoding(0.5)) is encoding
    assert found.new_adder() is not found.new_adder(), "one serves one round"


def test_the_parameters_fit_the_clients_the_bits_and_the_update():
    parameters = scheme(BFV(bits=10)).parameters
    assert (parameters.num_clients, parameters.bits, parameters.num_params) == (5, 10, 300)
    assert scheme(BFV(bits=10)).to_json() == parameters.to_json()
    assert scheme(BFV(bits=11)).to_json() != parameters.to_json()


def test_in_clear_there_are_none():
    found = scheme(Plain(bits=9))
    assert found.parameters is None
    assert found.to_json() == {"scheme": "plain", "bits": 9}


def test_how_sure_the_sum_is():
    assert scheme(Plain()).exactness is Exactness.CERTAIN
    assert scheme(BFV()).exactness is scheme(BFV()).parameters.exactness
    assert scheme(CKKS()).exactness is None, "it is approximate"


def test_the_range_is_that_of_the_encoding():
    wide, narrow = (scheme(Plain(bits=8)).encoding(limit) for limit in (8.0, 2.0))
    numbers = np.array([100])
    assert wide.decode(numbers)[0] == pytest.approx(4 * narrow.decode(numbers)[0])


@pytest.mark.parametrize("other", [Summation(), None, "bfv"])
def test_what_is_of_no_kind_is_refused(other):
    with pytest.raises(ConfigError, match=r"must be BFV\(\), CKKS\(\) or Plain\(\)"):
        scheme(other)
