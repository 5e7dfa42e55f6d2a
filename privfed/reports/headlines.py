"""The claim of a report in one sentence, and how (epsilon, delta) is to be read.

What makes a claim smaller than it looks comes first: that a run was not finished, that a client
states no bound, that random numbers can be repeated.
"""

import math
from collections.abc import Sequence

from privfed.reports.budget import COMPLETE, RUNNING, BudgetReport, Scope, largest_epsilon
from privfed.reports.clients import ClientGuarantee, NotClosed
from privfed.reports.round_record import rounded_up


def headline(
    *, epsilon: float, delta: float, private: bool, status: str, over: int, planned: int
) -> str:
    """The guarantee of a federation whose ledgers all lay together.

    Args:
        epsilon: of the federation; while the run goes on, with one more round.
        delta: the largest of the clients.
        private: whether randomness was secret.
        status: of the report.
        over: rounds that were played or abandoned.
        planned: rounds.
    """
    progress = _progress(status, over, planned)
    if not private:
        return progress + _not_private("this run")
    return progress + _claim(epsilon, delta, "every client")


def client_headline(
    client: ClientGuarantee, *, private: bool, status: str, over: int, planned: int
) -> str:
    """The guarantee of one client, which says nothing of the others.

    Args:
        client: its row.
        private: whether its randomness was secret.
        status: of the report.
        over: rounds that were played or abandoned.
        planned: rounds.
    """
    progress = _progress(status, over, planned)
    if not private:
        return progress + _not_private(f"{client.id} in this run")
    epsilon = largest_epsilon([client], status)
    return progress + _claim(epsilon, client.delta, f"every record of {client.id}")


def federation_headline(
    clients: Sequence[ClientGuarantee],
    not_closed: Sequence[NotClosed],
    *,
    repeatable: Sequence[str],
    status: str,
    over: int,
    planned: int,
) -> str:
    """The guarantee of a federation whose clients state and sign their own.

    Args:
        clients: rows of those that closed their part.
        not_closed: the others.
        repeatable: clients whose randomness was not secret.
        status: of the report.
        over: rounds that were played or abandoned.
        planned: rounds.
    """
    before = _progress(status, over, planned) + _without_bound(not_closed)
    if repeatable:
        return before + _not_private(", ".join(repeatable))
    epsilon, delta = largest_epsilon(clients, status), max(client.delta for client in clients)
    whom = "every client that closed its part" if not_closed else "every client"
    recomputed = sum(client.recomputed for client in clients)
    return (
        before
        + _claim(epsilon, delta, whom)
        + f" Each states and signs its own; {recomputed} of {len(clients)} were recomputed from "
        "the client's ledger."
    )


def headline_of(report: BudgetReport, *, private: bool) -> str:
    """What the headline of a simulation's or of a client's own report must be.

    Args:
        report: of one of these two scopes.
        private: whether randomness was secret.
    """
    if report.scope is Scope.CLIENT:
        return client_headline(
            report.clients[0],
            private=private,
            status=report.status,
            over=report.rounds_over,
            planned=report.rounds_planned,
        )
    return headline(
        epsilon=report.largest_epsilon,
        delta=max(client.delta for client in report.clients),
        private=private,
        status=report.status,
        over=report.rounds_over,
        planned=report.rounds_planned,
    )


def _claim(epsilon: float, delta: float, whom: str) -> str:
    return (
        "Whatever anyone can conclude about one record from the updates that its client released "
        "and its ledger counts, they could conclude nearly as well had that record never taken "
        f"part. How nearly: epsilon is at most {rounded_up(epsilon, 3)} at delta {delta:g}, for "
        f"{whom}."
    )


def _not_private(whose: str) -> str:
    return (
        f"NOT PRIVATE: the random numbers of {whose} were seeded and can be repeated. The "
        "numbers below describe what the same run would have guaranteed with secret randomness."
    )


def _without_bound(not_closed: Sequence[NotClosed]) -> str:
    if not not_closed:
        return ""
    names = ", ".join(client.id for client in not_closed)
    return (
        f"NO BOUND FOR EVERY CLIENT: none is stated for {names}, whose part of the run was not "
        "closed. "
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
    """What (epsilon, delta) of a federation bounds: right accusations by wrong ones.

    Reference:
        Wasserman & Zhou 2010, arXiv:0811.2501, Theorem 2.4; Kairouz, Oh & Viswanath 2015,
        arXiv:1311.0776, Theorem 2.1.
    """
    return (
        f"{_accusations(epsilon, delta)} Section 2 has closer bounds for every client. Epsilon of "
        "the federation is the largest of its clients, since their records are assumed to be "
        "different; it is no sum and no mean."
    )


def how_a_client_reads(*, epsilon: float, delta: float, client: str) -> str:
    """What (epsilon, delta) of one client bounds; see `how_to_read`."""
    return (
        f"{_accusations(epsilon, delta)} Section 2 has closer bounds. All of this is about the "
        f"records of {client}; what the other clients of the run guarantee is in their own reports."
    )


def how_no_bound_reads(not_closed: Sequence[NotClosed]) -> str:
    """Why a federation in which some clients closed nothing has no epsilon."""
    names = ", ".join(client.id for client in not_closed)
    return (
        "Epsilon of the federation would be the largest of its clients, since their records are "
        f"assumed to be different. None is stated for {names}, so there is none: what is in "
        "section 2 holds for the client in its row, and for no other."
    )


def _accusations(epsilon: float, delta: float) -> str:
    wrong = 0.01
    most = min(epsilon, -math.log(wrong))  # beyond it the bound says nothing, and exp overflows
    right = min(1.0, math.exp(most) * wrong + delta)
    return (
        "Somebody decides from the released updates whether a record took part. If they are wrong "
        "about a share a of the records that did not, they are right about at most "
        "exp(epsilon) a + delta of those that did (Wasserman and Zhou 2010; Kairouz, Oh and "
        f"Viswanath 2015). With a = 1 %: at most {math.ceil(1000 * right) / 10:g} %."
    )
