"""Lower bounds on epsilon from what an attacker guessed right: the check on an accountant.

An accountant says what a mechanism may leak at most; an audit measures what an attack got out of
one run, or out of many. A lower bound above the claimed epsilon refutes the claim, a lower bound
below it confirms nothing: each method has a ceiling (`one_run_ceiling`), and a weak attack stays
under it. All bounds here hold with probability 1 - significance over the audit, provided that the
attack and the number of canaries were fixed before anybody looked at who was a member.

| function                   | needs                         | what the number says            |
|----------------------------|-------------------------------|---------------------------------|
| `one_run`                  | one run, many canaries        | lower bound on epsilon          |
| `clopper_pearson`          | many runs, or counts of them  | lower bound on epsilon          |
| `one_run_gaussian`         | one run, many canaries        | refutes mu-GDP claims only      |
| `clopper_pearson_gaussian` | many runs, or counts of them  | refutes mu-GDP claims only      |
| `one_shot`                 | one run, random directions    | an estimate, no bound           |

Every bound is rounded down: the number returned is one at which the test rejects. All audits can
be imported from here; each method has a module of its own.
"""

from accountants.auditing.error_rates import clopper_pearson, error_rate_at_most
from accountants.auditing.gaussian_claims import (
    GaussianLowerBound,
    clopper_pearson_gaussian,
    one_run_gaussian,
)
from accountants.auditing.random_directions import OneShotEstimate, one_shot
from accountants.auditing.single_run import one_run, one_run_ceiling, one_run_p_value

__all__ = [
    "GaussianLowerBound",
    "OneShotEstimate",
    "clopper_pearson",
    "clopper_pearson_gaussian",
    "error_rate_at_most",
    "one_run",
    "one_run_ceiling",
    "one_run_gaussian",
    "one_run_p_value",
    "one_shot",
]
