"""The claim of a report in one sentence, and how (epsilon, delta) is to be read."""

import math

from privfed.reports.budget import COMPLETE, RUNNING
from privfed.reports.figures import rounded_up


def headline(
    *, epsilon: float, delta: float, private: bool, status: str, over: int, planned: int
) -> str:
    """The guarantee in one sentence; that a run was not finished comes first.

    Args:
        epsilon: of the federation; while the run goes on, with one more round.
        delta: the largest of the clients.
        private: whether coins were secret.
        status: of the report.
        over: rounds that were played or abandoned.
        planned: rounds.
    """
    progress = _progress(status, over, planned)
    if not private:
        return progress + (
            "NOT PRIVATE: the random numbers of this run were seeded and can be repeated. The "
            "figures below describe what the same run would have guaranteed with secret coins."
        )
    return progress + (
        "Whatever anyone can conclude about one record from the updates that its client released "
        "and its ledger counts, they could conclude nearly as well had that record never taken "
        f"part. How nearly: epsilon is at most {rounded_up(epsilon, 3)} at delta {delta:g}, for "
        "every client."
    )


def _progress(status: str, over: int, planned: int) -> str:
    if status == COMPLETE:
        return ""
    if status == RUNNING:
        return (
            f"NOT FINISHED: {over} of {planned} rounds were over when this was written, and round "
            f"{over + 1} is counted as begun; if the run was interrupted, resume it. "
        )
    return (
        f"NOT FINISHED: {over} of {planned} rounds are over, the run {status}. Rounds that were "
        "begun are counted. "
    )


def how_to_read(*, epsilon: float, delta: float) -> str:
    """What (epsilon, delta) bounds: an attacker's right accusations by the wrong ones.

    Reference:
        Wasserman & Zhou 2010, arXiv:0811.2501, Theorem 2.4; Kairouz, Oh & Viswanath 2015,
        arXiv:1311.0776, Theorem 2.1.
    """
    wrong = 0.01
    most = min(epsilon, -math.log(wrong))  # beyond it the bound says nothing, and exp overflows
    right = min(1.0, math.exp(most) * wrong + delta)
    return (
        "Somebody decides from the released updates whether a record took part. If they are wrong "
        "about a share a of the records that did not, they are right about at most "
        "exp(epsilon) a + delta of those that did (Wasserman and Zhou 2010; Kairouz, Oh and "
        f"Viswanath 2015). With a = 1 %: at most {math.ceil(1000 * right) / 10:g} %. Section 2 has "
        "closer bounds for every client. Epsilon of the federation is the largest of its clients, "
        "since their records are assumed to be different; it is no sum and no mean."
    )
