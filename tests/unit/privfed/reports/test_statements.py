"""The sentences of the report say what happened, in every combination, and nothing that did not."""

from privfed.reports import statements
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)


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
            sizes="declared by the wards",
            held_out_source="31 notes",
            encrypted=encrypted,
            in_one_process=True,
        )
        assert len({row.what for row in rows}) == len(rows)
        return {row.what: row.source for row in rows}

    def test_where_sizes_and_held_out_text_come_from(self):
        rows = self.rows(True)
        (sizes,) = [where for what, where in rows.items() if what.startswith("public sizes")]
        (held,) = [where for what, where in rows.items() if what.startswith("held-out metric")]
        assert sizes == "declared by the wards"
        assert "(31 notes)" in held

    def test_in_clear_it_shows_who_sent_which_update(self):
        assert "sizes of messages; who sent which update" in self.rows(False)
        assert "sizes of messages" in self.rows(True)
        assert "sizes of messages" not in self.rows(False)

    def test_between_machines_each_client_can_be_timed(self):
        said = {"sizes": "s", "held_out_source": "h", "encrypted": True}
        together = statements.published(**said, in_one_process=True)
        apart = statements.published(**said, in_one_process=False)
        (row,) = [row for row in apart if row not in together]
        assert "how long each client takes" in row.what
        assert "how many records the client itself drew" in row.source


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


class TestRandomness:
    def said(self, **changes):
        return statements.randomness(
            **{"secret": True, "seed": 41, "secure_noise": True, **changes}
        )

    def test_secret_randomness(self):
        said = self.said()
        assert said.secret
        assert "NOT" not in said.noise + said.rounding + said.batch_sampling
        assert said.batch_sampling.endswith("separate from the noise")
        assert said.public_seed == 41

    def test_seeded_randomness_are_owned_up_to_everywhere(self):
        said = self.said(secret=False)
        assert not said.secret
        for text in (said.noise, said.rounding, said.batch_sampling):
            assert text.startswith("NOT SECRET")

    def test_fast_noise_is_owned_up_to_in_the_noise_alone(self):
        said = self.said(secure_noise=False)
        assert "NOT a cryptographic one" in said.noise
        assert "ChaCha20" in said.noise
        assert "statistical" not in said.rounding + said.batch_sampling


def test_who_was_left_out_and_when_is_said():
    first, second = statements.left_out({"west": 5, "east": 3})
    assert first.startswith("east was left out from round 3 on;")
    assert second.startswith("west was left out from round 5 on;")
    assert statements.left_out({}) == []
