"""The sentences of the report say what happened, in every combination, and nothing that did not."""

import math

import pytest

from privfed import TailAveraging
from privfed.reports import statements
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)


class TestHeadline:
    def line(self, **changes):
        values = {
            "epsilon": 1.23401,
            "delta": 2e-5,
            "private": True,
            "status": "complete",
            "over": 3,
            "planned": 7,
        }
        return statements.headline(**{**values, **changes})

    def test_epsilon_is_rounded_up_and_delta_stands_beside_it(self):
        assert "epsilon is at most 1.235 at delta 2e-05, for every client" in self.line()
        assert not self.line().startswith("NOT")

    def test_seeded_coins_come_before_the_figures(self):
        line = self.line(private=False)
        assert line.startswith("NOT PRIVATE: the random numbers of this run were seeded")
        assert "epsilon is at most" not in line

    def test_between_two_rounds_the_next_is_counted(self):
        line = self.line(status="running")
        assert line.startswith("NOT FINISHED: 3 of 7 rounds were over when this was written")
        assert "round 4 is counted as begun" in line
        assert "at most 1.235" in line

    def test_a_run_that_stopped_says_how(self):
        line = self.line(status="stopped in round 4", private=False)
        assert line.startswith("NOT FINISHED: 3 of 7 rounds are over, the run stopped in round 4.")
        assert "NOT PRIVATE" in line


class TestHowToRead:
    def test_by_hand(self):
        """exp(0.5) 0.01 + 0.001 = 0.017487, rounded up to tenths of a percent."""
        assert "With a = 1 %: at most 1.8 %." in statements.how_to_read(epsilon=0.5, delta=1e-3)

    def test_delta_counts_too(self):
        assert "at most 2.7 %." in statements.how_to_read(epsilon=0.5, delta=1e-2)

    @pytest.mark.parametrize("epsilon", [math.log(100), 5.0, 700.0, 1e4])
    def test_nobody_is_right_about_more_than_all(self, epsilon):
        assert "at most 100 %." in statements.how_to_read(epsilon=epsilon, delta=1e-3)

    def test_just_below_all(self):
        assert "at most 99.5 %." in statements.how_to_read(epsilon=4.6, delta=1e-5)


class TestViews:
    def rows(self, custody, approximate=False):
        return statements.views(custody=custody, approximate=approximate, min_clients=5)

    def test_in_clear_every_update_is_seen(self):
        first, released = self.rows("none")
        assert "every single update in clear" in first[1]
        assert first[2] == released[2] == "the client's epsilon"
        assert not any("encryption," in cell for row in self.rows("none") for cell in row)

    @pytest.mark.parametrize(
        ("custody", "approximate"),
        [("shared_key", False), ("shared_key", True), ("key_holder", False)],
    )
    def test_encrypted_updates_hide_among_the_fewest_contributions(self, custody, approximate):
        rows = self.rows(custody, approximate)
        assert "among at least 5 contributions" in rows[0][2]
        assert "every single update" not in rows[0][1]
        assert rows[-1][2] == "the client's epsilon", "who colludes meets epsilon alone"

    def test_under_a_shared_key_one_client_is_enough_to_collude(self):
        *_, last = self.rows("shared_key")
        assert last[:2] == (
            "an aggregator that colludes with any one client",
            "every single update",
        )
        assert "the clients (they hold the key), the public" in [
            r[0] for r in self.rows("shared_key")
        ]

    def test_under_a_key_holder_clients_who_pool_see_the_rest_of_a_sum(self):
        rows = {row[0]: row for row in self.rows("key_holder")}
        pooled = rows["an aggregator that follows the protocol and pools what it saw with clients"]
        assert "without those clients' own updates" in pooled[1]
        assert "among at least 5 contributions" in pooled[2]
        assert "the clients, the key holder, the public" in rows

    def test_approximate_sums_protect_from_no_aggregator_that_is_shown_them(self):
        rows = self.rows("shared_key", approximate=True)
        assert "is shown neither sums nor global adapter" in rows[0][0]
        assert "decrypted sums or global adapters" in rows[-1][0]
        assert "no protection is claimed" in rows[-1][1]
        assert rows != self.rows("shared_key")


class TestEncryption:
    def statement(self, **changes):
        values = {
            "custody": "shared_key",
            "exactness": "certain",
            "num_clients": 11,
            "simulated_keys": False,
            "in_one_process": False,
        }
        return statements.encryption_statement(**{**values, **changes})

    def test_no_encryption_claims_none(self):
        said = self.statement(custody="none")
        assert said["scheme"].startswith("none")
        assert said["consequence"] == (
            "Updates were not encrypted. Only epsilon protects a record."
        )
        assert not {"keys", "correctness"} & set(said)

    def test_a_shared_key(self):
        said = self.statement()
        assert said["scheme"].startswith("BFV ")
        assert said["custody"].startswith("shared_key: every client holds")
        assert said["consequence"].startswith("Any one client that colludes")
        assert "decrypted sums carry tags" in said["consequence"]
        assert said["keys"].startswith("one key for the run")
        assert "up to 11 updates decrypt exactly for certain" in said["correctness"]

    def test_a_key_holder(self):
        said = self.statement(custody="key_holder", exactness="overwhelming")
        assert said["custody"].startswith("key_holder: a separate party")
        assert said["consequence"].startswith("Clients cannot decrypt.")
        assert said["keys"].startswith("one key pair for every round")
        assert "at most 2^-128" in said["correctness"]

    def test_floats(self):
        said = self.statement(exactness="approximate")
        assert said["scheme"].startswith("CKKS ")
        assert "no IND-CPA-D security is claimed" in said["consequence"]
        assert "approximately, with flooding noise" in said["correctness"]

    @pytest.mark.parametrize("custody", ["none", "shared_key", "key_holder"])
    def test_who_made_the_keys_is_said(self, custody):
        made = self.statement(custody=custody, simulated_keys=True)
        read = self.statement(custody=custody, simulated_keys=False)
        assert made["identities"].endswith("made by this process for the simulation")
        assert "signed by its authority" in read["identities"]

    @pytest.mark.parametrize("custody", ["none", "shared_key", "key_holder"])
    def test_where_the_parties_ran_is_said(self, custody):
        together = self.statement(custody=custody, in_one_process=True)["setting"]
        apart = self.statement(custody=custody, in_one_process=False)["setting"]
        assert together.startswith("All clients and the aggregator ran in one process")
        assert "this was a simulation" in together
        assert "not of this run" in together
        assert apart.startswith("The parties ran as programs of their own")
        assert "under the assumptions in the table of who could see what" in apart
        assert "checked nowhere" in apart
        assert "simulation" not in apart


class TestNotCovered:
    def items(self, **changes):
        values = {
            "earlier_ignored": False,
            "held_out_source": "31 notes of nobody",
            "secure_noise": True,
        }
        return statements.not_covered(**{**values, **changes})

    def test_fresh_ledgers_come_first(self):
        assert "fresh ledgers" in self.items(earlier_ignored=True)[0]
        assert self.items(earlier_ignored=True)[1:] == self.items()
        assert not any("fresh ledgers" in item for item in self.items())

    def test_where_held_out_text_comes_from_is_said(self):
        (item,) = [item for item in self.items() if item.startswith("Held-out text")]
        assert "(31 notes of nobody)" in item

    def test_single_draws_of_noise_are_owned_up_to(self):
        (secure,) = [item for item in self.items() if item.startswith("Finite precision")]
        (fast,) = [
            item for item in self.items(secure_noise=False) if item.startswith("Finite precision")
        ]
        assert "the sum of four draws makes the noise resist" in secure
        assert "do NOT resist" in fast
        assert "do NOT" not in secure


class TestPublished:
    def rows(self, encrypted):
        rows = statements.published(
            sizes="declared by the wards", held_out_source="31 notes", encrypted=encrypted
        )
        assert len({what for what, _ in rows}) == len(rows)
        return dict(rows)

    def test_where_sizes_and_held_out_text_come_from(self):
        rows = self.rows(True)
        (sizes,) = [where for what, where in rows.items() if what.startswith("public sizes")]
        (held,) = [where for what, where in rows.items() if what.startswith("held-out figure")]
        assert sizes == "declared by the wards"
        assert "(31 notes)" in held

    def test_in_clear_it_shows_who_sent_which_update(self):
        assert "sizes of messages; who sent which update" in self.rows(False)
        assert "sizes of messages" in self.rows(True)
        assert "sizes of messages" not in self.rows(False)


class TestClipping:
    def test_every_rule_has_its_own_sentence(self):
        quantile = QuantileClipping(count_noise=5.0, quantile=0.25)
        rules = (FlatClipping(), PerLayerClipping(), AutomaticClipping(stability=0.125), quantile)
        flat, layers, automatic, follows = map(statements.clipping, rules)
        assert flat == "all parameters together to C"
        assert layers.startswith("each layer to C / sqrt(layers)")
        assert "C / (norm + 0.125)" in automatic
        assert "follows the 0.25 quantile" in follows
        assert "noise of 5 records" in follows


class TestAdapter:
    def test_the_newest(self):
        assert statements.adapter_left(None) == "the newest"

    def test_an_average_and_its_weights(self):
        even = statements.adapter_left(TailAveraging(first_round=3, decay=1.0))
        fading = statements.adapter_left(TailAveraging(first_round=2, decay=0.75))
        assert "from round 3 on, evenly:" in even
        assert "from round 2 on, each weighs 0.75 of the next:" in fading


class TestRandomness:
    def said(self, **changes):
        return statements.randomness(
            **{"secret": True, "seed": 41, "secure_noise": True, **changes}
        )

    def test_secret_coins(self):
        said = self.said()
        assert all("NOT" not in said[name] for name in ("noise", "rounding", "batch sampling"))
        assert said["public seed"].startswith("41: fixes")

    def test_seeded_coins_are_owned_up_to_everywhere(self):
        said = self.said(secret=False)
        for name in ("noise", "rounding", "batch sampling"):
            assert said[name].startswith("NOT SECRET"), name

    def test_fast_noise_is_owned_up_to_in_the_noise_alone(self):
        said = self.said(secure_noise=False)
        assert "NOT a cryptographic one" in said["noise"]
        assert "ChaCha20" in said["noise"]
        assert "statistical" not in said["rounding"] + said["batch sampling"]
