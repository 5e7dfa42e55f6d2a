"""A report beside its statements is put together again, and must be the same."""

import json
from dataclasses import replace

import pytest

from privfed.errors import IdentityError, MessageError, ReportError, RunFolderError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.reports.statement_folder import (
    statement_file_name,
    verify_statements,
    write_statements,
)


@pytest.fixture
def statements(signed):
    """Of four clients: two with their ledger, one without, and one that did not close."""
    closed = {name: signed.closed(name, export=name != "client-1") for name in signed.names[:3]}
    return closed, {"client-3": signed.opened("client-3", round=1)}


@pytest.fixture
def folder(signed, statements, tmp_path):
    closed, opened = statements
    report = signed.assembled(closed, opened)
    write_statements(tmp_path / "run", report, closed, opened, signed.roster)
    return tmp_path / "run"


@pytest.fixture
def key(signed):
    return signed.authority.party.signing_key.hex()


def test_all_that_it_came_from_lies_beside_it(folder, signed, statements):
    closed, opened = statements
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
        "roster.json",
        "statements",
    ]
    for client, message in closed.items():
        assert (folder / "statements" / f"{client}.closed").read_bytes() == message
    assert (folder / "statements/client-3.opened").read_bytes() == opened["client-3"]
    assert (folder / "roster.json").read_bytes() == signed.roster.to_bytes()


def test_an_honest_folder_is_accepted_and_says_what_rests_on_a_word(folder, signed, key):
    report, notes = verify_statements(folder, authority=key)
    assert [row.id for row in report.clients] == signed.names[:3]
    (note,) = notes
    assert note.startswith("The epsilon of client-1 is as it states and signs it")


def test_later_statements_replace_earlier_ones(folder, signed, key):
    closed = {name: signed.closed(name) for name in signed.names}
    report = signed.assembled(closed, {"client-3": signed.opened("client-3")})
    write_statements(folder, report, closed, {}, signed.roster)
    found, notes = verify_statements(folder, authority=key)
    assert found == report
    assert notes == []


class TestTheAuthority:
    def test_it_may_stand_in_the_run_record_which_is_told(self, folder, key):
        (folder / "run.json").write_text(json.dumps({"settings": {"authority": key}}))
        _, notes = verify_statements(folder, authority=None)
        assert notes[0].startswith(f"The roster was checked against the authority {key}, which ru")

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"settings": {}}', '{"settings": 3}'])
    def test_it_must_be_named_somewhere(self, folder, content):
        if content is not None:
            (folder / "run.json").write_text(content)
        with pytest.raises(ReportError, match="must be given .--authority., or stand in"):
            verify_statements(folder, authority=None)

    def test_a_roster_of_another_is_refused(self, folder, signed):
        other = Identity.generate("other ministry", Role.AUTHORITY)
        with pytest.raises(MessageError, match="must be signed by the authority"):
            verify_statements(folder, authority=other.party.signing_key.hex())

    @pytest.mark.parametrize("text", ["no hexadecimal", "00", "this simulation"])
    def test_what_is_no_key_is_refused(self, folder, text):
        with pytest.raises(IdentityError):
            verify_statements(folder, authority=text)

    def test_another_roster_of_the_same_authority_is_refused(self, folder, signed, key):
        parties = [each.party for each in signed.identities.values()][:-1]
        other = Roster.signed("wards", parties, signed.authority)
        (folder / "roster.json").write_bytes(other.to_bytes())
        with pytest.raises(MessageError, match="states another roster"):
            verify_statements(folder, authority=key)


class TestWhatWasChanged:
    @pytest.mark.parametrize(
        ("path", "value", "named"),
        [
            (("headline",), "All is well.", "headline"),
            (("title",), "something else", "title"),
            (("not_covered",), ["nothing"], "not_covered"),
            (("warnings",), [], "warnings"),
            (("clients", 0, "recomputed"), False, "clients"),
            (("clients", 1, "recomputed"), True, "clients"),
            (("clients", 0, "unit"), "one person", "clients"),
            (("not_closed", 0, "last"), None, "not_closed"),
            (("not_closed", 0, "last", "epsilon"), 0.0625, "not_closed"),
            (("rounds", 0, "accuracy"), 0.875, "rounds"),
            (("guarantee", "unit"), "one person", "guarantee"),
            (("randomness", "public_seed"), 43, "randomness"),
        ],
        ids=str,
    )
    def test_in_the_report_is_refused(self, folder, key, path, value, named):
        values = json.loads((folder / "report.json").read_text())
        place = values
        for part in path[:-1]:
            place = place[part]
        assert place[path[-1]] != value
        place[path[-1]] = value
        (folder / "report.json").write_text(json.dumps(values))
        with pytest.raises(ReportError, match=f"its '{named}' is not"):
            verify_statements(folder, authority=key)

    def test_a_row_that_was_taken_out_with_its_statement_is_refused(self, folder, key):
        """The others' signed weights name everybody who took part."""
        values = json.loads((folder / "report.json").read_text())
        del values["clients"][2]
        (folder / "report.json").write_text(json.dumps(values))
        with pytest.raises(ReportError, match=r"not in the report: \['client-2.closed'\]"):
            verify_statements(folder, authority=key)
        (folder / "statements/client-2.closed").unlink()
        with pytest.raises(ReportError, match=r"\['client-2'\] took part in the run"):
            verify_statements(folder, authority=key)

    def test_a_client_that_is_said_not_to_have_closed_and_did_is_refused(self, folder, key):
        values = json.loads((folder / "report.json").read_text())
        gone = values["clients"].pop(2)
        values["not_closed"].append({"id": gone["id"], "last": None})
        (folder / "report.json").write_text(json.dumps(values))
        with pytest.raises(ReportError, match="is not"):
            verify_statements(folder, authority=key)

    @pytest.mark.parametrize("name", ["client-0.closed", "client-3.opened"])
    def test_a_statement_that_was_changed_is_refused(self, folder, key, name):
        path = folder / "statements" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(MessageError, match="must carry its signature"):
            verify_statements(folder, authority=key)

    @pytest.mark.parametrize("name", ["client-0.closed", "client-3.opened"])
    def test_a_statement_that_is_gone_is_refused(self, folder, key, name):
        (folder / "statements" / name).unlink()
        with pytest.raises(ReportError, match="is not"):
            verify_statements(folder, authority=key)

    def test_an_older_statement_is_refused(self, folder, signed, key):
        earlier = signed.opened("client-3", round=1, epsilon=0.5)
        (folder / "statements/client-3.opened").write_bytes(earlier)
        with pytest.raises(ReportError, match="its 'not_closed' is not"):
            verify_statements(folder, authority=key)

    def test_a_statement_of_a_stranger_is_refused(self, folder, key):
        (folder / "statements/stranger.closed").write_bytes(b"")
        with pytest.raises(ReportError, match=r"not in the report: \['stranger.closed'\]"):
            verify_statements(folder, authority=key)

    def test_the_time_at_which_it_was_written_does_not_matter(self, folder, key):
        values = json.loads((folder / "report.json").read_text())
        values["created"] = "2001-01-01T00:00:00+00:00"
        (folder / "report.json").write_text(json.dumps(values))
        assert verify_statements(folder, authority=key)[0].created.startswith("2001")


def test_a_folder_without_a_report(tmp_path, key):
    with pytest.raises(RunFolderError, match="holds no report.json"):
        verify_statements(tmp_path, authority=key)


def test_a_folder_without_a_roster(folder, key):
    (folder / "roster.json").unlink()
    with pytest.raises(IdentityError, match="must be a readable file"):
        verify_statements(folder, authority=key)


def test_a_name_with_a_slash_stays_in_the_folder():
    assert statement_file_name("../ward", "closed") == "..%2Fward.closed"


def test_statements_come_back_as_they_were_signed(folder, signed, statements, key):
    """What is read from the folder gives the very report that was written."""
    report, _ = verify_statements(folder, authority=key)
    again = signed.assembled(*statements)
    assert replace(report, created="x") == replace(again, created="x")
