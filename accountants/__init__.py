"""Privacy accounting for federated learning: what was released, and what it cost.

    >>> from accountants import Neighbouring, PoissonGaussian, epsilon
    >>> training = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
    >>> epsilon([training], 1e-5, Neighbouring.ADD_REMOVE).upper < 1.83
    True

`epsilon` and `delta` give certified bounds for any mix of the events in `accountants.events`,
`noise_multiplier` and its relatives what a budget allows, `Ledger` remembers what was released,
and `federation_epsilon` says what holds for all clients. Modules for special questions:
`odometer` (fast, for progress), `filters` (may this release still happen?), `tradeoff` (what an
attacker can achieve), `auditing` (what an attack proves), `noise_shares` (a whole client as the
unit), `selection` (the cost of hyper-parameter search). How each number is computed is in
`analyses`. `python -m accountants --help` is the command line.

Names are loaded when they are first used, so that the ledger alone needs no numerical library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
