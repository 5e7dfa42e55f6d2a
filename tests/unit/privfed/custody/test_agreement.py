"""No client opens a sum before all its contributors agreed to the list of contributions, once."""

import pytest

from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.shared_key import SharedKeyCipher
from privfed.errors import AwayError, EncryptionError, MessageError
from privfed.parties.aggregator.openers import ClientsAgree
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import AGREED, CONTRIBUTIONS, LISTING
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, contribution_of, updates

ALL = ["c1", "c2", "c3", "c4"]


class Round:
    """Four clients that each keep their own memory, as on machines of their own."""

    def __init__(self, tmp_path):
        self.federation = SmallFederation(Custody.SHARED_KEY, tmp_path, num_clients=4)
        self.folder = tmp_path
        for name in ALL:
            OpenedRounds.create(tmp_path / f"{name}.jsonl", ALL)
        self.start()
        self.terms = self.federation.terms()
        self.values = updates(self.federation.parameters, ALL)
        self.uploads = self.federation.uploads(self.terms, self.values)
        parties = self.federation.parties
        self.custodian = ClientsAgree(parties.aggregator, self.federation.roster)

    def start(self):
        """Every client with an empty memory but for its own file, as after a crash."""
        federation = self.federation
        self.ciphers = {
            name: SharedKeyCipher(
                federation.parameters,
                federation.ciphers[name]._secret,
                federation.roster,
                3,
                OpenedRounds.resume(self.folder / f"{name}.jsonl"),
                identity,
            )
            for name, identity in federation.parties.clients.items()
        }

    def total(self, names):
        chosen = {name: self.uploads[name] for name in names}
        return self.federation.total(self.terms, chosen)

    def close(self, names):
        def ask(listing):
            return {
                name: self.ciphers[name].answer(self.terms, listing, self.uploads[name])
                for name in names
            }

        return self.custodian.close(self.terms, self.total(names), ask)


@pytest.fixture
def played(tmp_path):
    return Round(tmp_path)


def test_a_sum_that_all_agreed_to_is_opened_by_all(played):
    end = played.close(ALL)
    for cipher in played.ciphers.values():
        opened = cipher.open(played.terms, end)
        assert opened.contributors == tuple(ALL)
        assert (opened.values == sum(played.values.values())).all()


def test_a_sum_without_agreement_is_not_opened(played):
    with pytest.raises(MessageError, match="must state its contributions"):
        played.ciphers["c1"].open(played.terms, played.total(ALL))


@pytest.mark.parametrize("crash", [False, True])
def test_two_sums_of_one_round_are_agreed_to_by_nobody(played, crash):
    """The difference of the two would be what c4 sent."""
    played.close(ALL)
    if crash:
        played.start()
    with pytest.raises(EncryptionError, match="by (its|their) difference"):
        played.close(["c1", "c2", "c3"])


def test_an_agreement_to_one_list_does_not_stand_for_another(played):
    end = Envelope.from_bytes(played.close(ALL))
    fewer = played.total(["c1", "c2", "c3"])
    agreed = dict(end.statement.manifest[AGREED])
    del agreed["c4"]
    forged = played.federation.signed(
        played.terms,
        "sum",
        manifest={CONTRIBUTIONS: contribution_of(fewer), AGREED: agreed},
        blobs=dict(Envelope.from_bytes(fewer).blobs),
    )
    with pytest.raises(MessageError, match="'c1' must carry its signature"):
        played.ciphers["c2"].open(played.terms, forged)


@pytest.mark.parametrize("missing", ALL)
def test_every_contributor_must_agree(played, missing):
    end = Envelope.from_bytes(played.close(ALL))
    for change in ({missing: "00" * 64}, {missing: None}):
        agreed = {**end.statement.manifest[AGREED], **change}
        agreed = {name: signature for name, signature in agreed.items() if signature}
        forged = played.federation.signed(
            played.terms,
            "sum",
            manifest={CONTRIBUTIONS: end.statement.manifest[CONTRIBUTIONS], AGREED: agreed},
            blobs=dict(end.blobs),
        )
        with pytest.raises(MessageError, match="agreement of each|must carry its signature"):
            played.ciphers["c1"].open(played.terms, forged)


def test_a_client_agrees_only_to_a_list_with_what_it_sent(played):
    listed = contribution_of(played.total(["c1", "c2", "c3"]))
    listing = played.federation.signed(played.terms, LISTING, manifest={CONTRIBUTIONS: listed})
    with pytest.raises(MessageError, match="does not hold what 'c4' sent"):
        played.ciphers["c4"].answer(played.terms, listing, played.uploads["c4"])
    with pytest.raises(MessageError, match="does not hold what 'c1' sent"):
        played.ciphers["c1"].answer(played.terms, listing, played.uploads["c2"])
    again = played.federation.upload(played.terms, "c1", played.values["c1"])
    with pytest.raises(MessageError, match="does not hold what 'c1' sent"):
        played.ciphers["c1"].answer(played.terms, listing, again)


def test_the_aggregator_notices_who_does_not_agree(played):
    total = played.total(ALL)

    def without(name):
        def ask(listing):
            return {
                other: played.ciphers[other].answer(played.terms, listing, played.uploads[other])
                for other in ALL
                if other != name
            }

        return ask

    with pytest.raises(AwayError, match="must answer .*, c2 did not in round 1") as caught:
        played.custodian.close(played.terms, total, without("c2"))
    assert caught.value.missing == ("c2",)

    def swapped(listing):
        answers = without(None)(listing)
        return {**answers, "c1": answers["c2"]}

    def junk(listing):
        return {**without(None)(listing), "c1": b"junk", "c3": played.uploads["c3"]}

    def of_another_list(listing):
        """Signed by itself, but about something else: the others would refuse the sum for it."""
        other = played.federation.signed(
            played.terms,
            AGREED,
            signer=played.federation.parties.clients["c4"],
            manifest={LISTING: "00" * 32},
        )
        return {**without(None)(listing), "c4": other}

    for ask, missing in ((swapped, "c1"), (junk, "c1, c3"), (of_another_list, "c4")):
        with pytest.raises(AwayError) as caught:
            played.custodian.close(played.terms, total, ask)
        assert ", ".join(caught.value.missing) == missing
