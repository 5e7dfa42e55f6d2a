"""The sentences of the report on what was done, published and not covered."""

from collections.abc import Mapping

from privfed.reports.sections import Published, Randomness
from privfed.settings.privacy import AutomaticClipping, Clipping, PerLayerClipping, QuantileClipping


def not_covered(
    *, earlier_ignored: bool, held_out_source: str, secure_noise: bool
) -> tuple[str, ...]:
    """What the numbers do not say."""
    items = [
        "Hyper-parameters (learning rate, adapter, rounds, clipping norm) that someone tuned on "
        "these data: such trials cost epsilon, and only trials in the ledgers are counted.",
        "More than one record of the same person: the guarantee is for one record; k records of "
        "a person are protected much less than one (not simply k times epsilon).",
        "The same record at two clients: their epsilons compose. That clients hold different "
        "records is assumed, and cannot be checked without showing them.",
        "What was published without noise (section 5): it has no epsilon, and what somebody learns "
        "from it is in no number here. That includes whether a client had any usable record, and "
        "a client's withdrawal by its operator.",
        f"Held-out text ({held_out_source}): it is evaluated in clear and has no guarantee. Where "
        "runs on one data set hold out different shares, or by another column, what one trained on "
        "another evaluates in clear.",
        "Releases counted elsewhere: a ledger is found by the names of client and data set and the "
        "state folder. Under another name, or in another state folder, counting starts at zero; "
        "and a state folder and its anchors that are both restored from one backup go unnoticed, "
        "unless the anchor of a report (section 7) is given as `continues`.",
        "The base model, its tokenizer and what they were trained on.",
        "Finite precision: "
        + (
            "the sum of four draws makes the noise resist known reconstruction from its "
            "floating-point form"
            if secure_noise
            else "single draws of noise do NOT resist reconstruction from their floating-point form"
        )
        + ", and physical batches have one size, but the analysis is of exact numbers.",
        "Noise of a later run set after looking at results of an earlier one: composition is "
        "proved for schedules that were fixed without looking.",
    ]
    if earlier_ignored:
        items.insert(
            0,
            "Earlier runs on these data: this run began with fresh ledgers, so what earlier runs "
            "spent is not counted.",
        )
    return tuple(items)


def published(
    *, sizes: str, held_out_source: str, encrypted: bool, in_one_process: bool
) -> tuple[Published, ...]:
    """Everything that left the clients without noise, and where it came from.

    Args:
        sizes: where the public sizes come from.
        held_out_source: what the held-out text is.
        encrypted: whether single updates were.
        in_one_process: whether the parties ran in one process, so that nobody could time a client.
    """
    rows: tuple[tuple[str, str], ...] = (
        ("names of clients and data sets, their descriptions, what one record is", "declared"),
        ("public sizes, and what follows from them: sampling rates, noise, weights", sizes),
        (
            "base model, tokenizer, label set, maximum length, initial adapter, all settings",
            "declared; the same for all clients",
        ),
        (
            "held-out metric before training and after every round, and the SHA-256 of the "
            "held-out text",
            f"computed in clear from the held-out text ({held_out_source})",
        ),
        (
            "who took part in which round, and rounds that were abandoned",
            "whether a client answered; failures that its records cause show here",
        ),
        (
            "seconds of every round",
            "measured; they depend on how many records all clients together drew",
        ),
        (
            "sizes of messages" if encrypted else "sizes of messages; who sent which update",
            "fixed by the public settings",
        ),
        (
            "length and head of every ledger",
            "how often the client reserved and committed; heads are digests of salted numbers",
        ),
    )
    if not in_one_process:
        rows = (
            *rows,
            (
                "how long each client takes for every message, to the aggregator and to whoever "
                "watches the network",
                "depends on how many records the client itself drew in the round",
            ),
        )
    return tuple(Published(what=what, source=source) for what, source in rows)


def clipping(chosen: Clipping) -> str:
    """How one record's gradients are bounded."""
    if isinstance(chosen, PerLayerClipping):
        return "each layer to C / sqrt(layers), so that all together stay within C"
    if isinstance(chosen, AutomaticClipping):
        return f"all parameters together to just below C: C / (norm + {chosen.stability:g})"
    if isinstance(chosen, QuantileClipping):
        return (
            f"all parameters together to a C that follows the {chosen.quantile:g} quantile of the "
            f"norms, by counts with noise of {chosen.count_noise:g} records; count and gradients "
            "together are one Gaussian release of the stated noise multiplier, so that the "
            "gradients get a little more noise"
        )
    return "all parameters together to C"


def held_out(source: str, *, several_bases: bool) -> str:
    """What the held-out text is, and whose figure stands for all where base models differ."""
    if not several_bases:
        return source
    return (
        f"{source}; each client evaluates on its own base model, and the figure of a round is the "
        "lower median of what the clients state, so of one of their models"
    )


def participation(clients_per_round: int | None) -> str:
    """Who trains in a round.

    Args:
        clients_per_round: how many are drawn; None is all.
    """
    if clients_per_round is None:
        return "every client, in every round"
    return (
        f"{clients_per_round} clients in each, drawn in public from the agreed settings before the "
        "run. Each client's noise is calibrated to the rounds in which it trains, and its ledger "
        "counts these. Anybody can foresee who trains: no amplification by the draw is claimed"
    )


def randomness(*, secret: bool, seed: int, secure_noise: bool) -> Randomness:
    """Where randomness came from.

    Args:
        secret: whether nobody can repeat them.
        seed: public; of the split of the data, initial weights and frozen factors.
        secure_noise: whether the noise is from a cryptographic stream.
    """
    source = (
        "ChaCha20 streams under fresh 256-bit keys from the operating system; never saved, "
        "never reused, not after a resume either"
        if secret
        else "NOT SECRET: streams injected by the caller; anyone who has the seed can repeat them"
    )
    noise = (
        source
        if secure_noise
        else f"a statistical generator, NOT a cryptographic one, under a key from: {source}"
    )
    return Randomness(
        secret=secret,
        noise=noise,
        rounding=source,
        batch_sampling=source + "; separate from the noise",
        public_seed=seed,
    )


def left_out(first_rounds: Mapping[str, int]) -> list[str]:
    """What a report says of clients that were left out.

    Args:
        first_rounds: the first round without each of them.
    """
    return [
        f"{client} was left out from round {first} on; what it released before stays counted."
        for client, first in sorted(first_rounds.items())
    ]
