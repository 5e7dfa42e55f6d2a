"""What encryption hides from whom is said for every custody, and nothing that does not hold."""

from dataclasses import astuple

import pytest

from privfed.reports import encryption_statements


class TestViews:
    def rows(self, custody, approximate=False):
        return encryption_statements.views(custody=custody, approximate=approximate, min_clients=5)

    def test_in_clear_every_update_is_seen(self):
        first, released = self.rows("none")
        assert "every single update in clear" in first.sees
        assert first.protection == released.protection == "the client's epsilon"
        assert not any("encryption," in cell for row in self.rows("none") for cell in astuple(row))

    @pytest.mark.parametrize(
        ("custody", "approximate"),
        [("shared_key", False), ("shared_key", True), ("key_holder", False)],
    )
    def test_encrypted_updates_hide_among_the_fewest_contributions(self, custody, approximate):
        rows = self.rows(custody, approximate)
        assert "among at least 5 contributions" in rows[0].protection
        assert "every single update" not in rows[0].sees
        assert rows[-1].protection == "the client's epsilon", "who colludes meets epsilon alone"

    def test_under_a_shared_key_one_client_is_enough_to_collude(self):
        *_, last = self.rows("shared_key")
        assert last.observer == "an aggregator that colludes with any one client"
        assert last.sees == "every single update"
        assert "the clients (they hold the key), the public" in [
            row.observer for row in self.rows("shared_key")
        ]

    def test_under_a_key_holder_clients_who_pool_see_the_rest_of_a_sum(self):
        rows = {row.observer: row for row in self.rows("key_holder")}
        pooled = rows["an aggregator that follows the protocol and pools what it saw with clients"]
        assert "without those clients' own updates" in pooled.sees
        assert "among at least 5 contributions" in pooled.protection
        assert "the clients, the key holder, the public" in rows

    def test_approximate_sums_protect_from_no_aggregator_that_is_shown_them(self):
        rows = self.rows("shared_key", approximate=True)
        assert "is shown neither sums nor global adapter" in rows[0].observer
        assert "decrypted sums or global adapters" in rows[-1].observer
        assert "no protection is claimed" in rows[-1].sees
        assert rows != self.rows("shared_key")


class TestWords:
    def test_no_encryption_claims_none(self):
        assert encryption_statements.scheme(custody="none", approximate=False).startswith("none")
        said = encryption_statements.consequence(custody="none", approximate=False)
        assert said == "Updates were not encrypted. Only epsilon protects a record."
        assert encryption_statements.who_holds_the_key("none") == "no key"
        assert encryption_statements.keys("none") is None
        assert self.correct(custody="none", exactness="certain") is None

    def correct(self, **changes):
        values = {"custody": "shared_key", "exactness": "certain", "num_clients": 11}
        return encryption_statements.correctness(**{**values, **changes})

    def test_a_shared_key(self):
        said = encryption_statements.consequence(custody="shared_key", approximate=False)
        assert said.startswith("Any one client that colludes")
        assert "decrypted sums carry tags" in said
        holders = encryption_statements.who_holds_the_key("shared_key")
        assert holders.startswith("shared_key: every client holds")
        assert encryption_statements.keys("shared_key").startswith("one key for the run")
        assert "up to 11 updates decrypt exactly for certain" in self.correct()

    def test_a_key_holder(self):
        said = encryption_statements.consequence(custody="key_holder", approximate=False)
        assert said.startswith("Clients cannot decrypt.")
        holders = encryption_statements.who_holds_the_key("key_holder")
        assert holders.startswith("key_holder: a separate party")
        assert encryption_statements.keys("key_holder").startswith("one key pair for every round")
        correct = self.correct(custody="key_holder", exactness="overwhelming")
        assert "at most 2^-128" in correct

    def test_floats(self):
        scheme = encryption_statements.scheme(custody="shared_key", approximate=True)
        assert scheme.startswith("CKKS ")
        said = encryption_statements.consequence(custody="shared_key", approximate=True)
        assert "no IND-CPA-D security is claimed" in said
        assert "approximately, with flooding noise" in self.correct(exactness="approximate")

    @pytest.mark.parametrize("custody", ["shared_key", "key_holder"])
    def test_integers(self, custody):
        scheme = encryption_statements.scheme(custody=custody, approximate=False)
        assert scheme.startswith("BFV ")

    def test_who_made_the_keys_is_said(self):
        made = encryption_statements.identities(simulated_keys=True)
        read = encryption_statements.identities(simulated_keys=False)
        assert made.endswith("made by this process for the simulation")
        assert "signed by its authority" in read
        assert "simulation" not in read

    def test_where_the_parties_ran_is_said(self):
        together = encryption_statements.setting(in_one_process=True)
        apart = encryption_statements.setting(in_one_process=False)
        assert together.startswith("All clients and the aggregator ran in one process")
        assert "this was a simulation" in together
        assert "not of this run" in together
        assert apart.startswith("The parties ran as programs of their own")
        assert "under the assumptions in the table of who could see what" in apart
        assert "checked nowhere" in apart
        assert "simulation" not in apart
