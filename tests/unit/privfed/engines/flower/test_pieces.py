"""Messages in pieces: the same bytes come back, and nothing but numbered pieces is taken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="what carries bytes needs the extra privfed[flower]")

from privfed.engines.flower import pieces
from privfed.engines.flower.internals import ConfigRecord, Message, ObjectTree, RecordDict
from privfed.engines.flower.pieces import in_pieces, names_in, pieces_of, sealed
from privfed.errors import MessageError

SMALL = 7
assert pieces.PIECE_BYTES == 4 << 20


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pieces, "PIECE_BYTES", SMALL)
        yield


def sent(records):
    """What travels of a message with these records."""
    return sealed(Message(records, 9, "query"))


def came(records):
    """What arrives of it."""
    _, tree, objects = sent(records)
    return list(pieces_of(tree, lambda name: objects[name].deflate()))


def given_as(body, *, kind="RecordDict"):
    """What arrives where the records of a message are something else."""
    head = f"{kind} ".encode() + b" " + str(len(body)).encode() + b"\x00"
    tree = ObjectTree(object_id="m", children=[ObjectTree(object_id="r")])
    contents = {
        "r": head + body,
        "one": ConfigRecord({"piece": b"abc"}).deflate(),
        "two": ConfigRecord({"piece": b"de"}).deflate(),
    }
    return list(pieces_of(tree, contents.__getitem__))


def test_by_hand():
    assert came(in_pieces(b"0123456789abcdef")) == [b"0123456", b"789abcd", b"ef"]
    assert given_as(b'{"000001": "one", "000000": "two"}') == [b"de", b"abc"]
    assert given_as(b'{"000000": "one", "000001": "one"}') == [b"abc", b"abc"]


def test_a_request_holds_a_piece_of_four_megabytes(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4 << 20)
    records = in_pieces(bytes((4 << 20) + 9))
    sizes = [len(one.deflate()) for one in records.values()]
    assert len(sizes) == 2
    assert 4 << 20 < sizes[0] < pieces.MOST_REQUEST_BYTES - (1 << 19)


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (1, 1), (SMALL, 1), (SMALL + 1, 2), (3 * SMALL - 1, 3)]
)
def test_there_and_back(size, count):
    content = bytes(range(1, size + 1))
    found = came(in_pieces(content))
    assert b"".join(found) == content
    assert len(found) == count
    assert all(0 < len(piece) <= SMALL for piece in found)


@given(st.lists(st.sampled_from([b"aaaaaaa", b"bbbbbbb", b"ccc"]), max_size=9))
def test_equal_pieces_are_one_object_and_come_as_often_as_they_were_sent(parts):
    """Objects are named by their content, and the order is that of the bytes."""
    content = b"".join(parts)
    assert b"".join(came(in_pieces(content))) == content


def test_the_order_is_that_of_the_numbers_beyond_ten():
    content = bytes(SMALL * 23 + 2)
    content = bytes(index % 251 for index in range(len(content)))
    assert b"".join(came(in_pieces(content))) == content


def test_what_is_sealed_has_a_name_and_no_content():
    message = Message(in_pieces(b"secret words"), 9, "query")
    bare, tree, objects = sealed(message)
    assert dict(bare.content) == {}
    assert bare.metadata.message_id == tree.object_id == message.object_id
    assert set(objects) == {
        tree.object_id,
        *(child.object_id for child in tree.children),
        *(child.object_id for records in tree.children for child in records.children),
    }
    other, _, _ = sealed(Message(in_pieces(b"secret_words"), 9, "query"))
    assert other.metadata.message_id != bare.metadata.message_id


def test_names_are_those_of_all_objects_each_once():
    """Of two equal pieces there is one object."""
    _, tree, objects = sent(in_pieces(b"aaaaaaaaaaaaaaccc"))
    found = names_in(tree)
    assert len(found) == 4, "the message, its records, two pieces"
    assert set(found) == set(objects)
    piece = ObjectTree(object_id="p")
    records = ObjectTree(object_id="r", children=[piece, piece])
    assert names_in(ObjectTree(object_id="m", children=[records])) == ["m", "r", "p"]


def test_the_longest_message_is_within_the_limit_of_objects():
    """1 GiB in pieces of 4 MiB: 256, their list, and itself."""
    assert pieces.MOST_OBJECTS == 258


def test_each_piece_is_fetched_when_it_is_read():
    _, tree, objects = sent(in_pieces(b"0123456789abcdef"))
    fetched = []

    def pull(name):
        fetched.append(name)
        return objects[name].deflate()

    found = pieces_of(tree, pull)
    assert fetched == []
    assert next(found) == b"0123456"
    assert len(fetched) == 2, "the records and one piece"


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "names",
        [["a"], ["000001"], ["000000", "000002"], ["0"], ["000000", "1"], ["000000", ""]],
        ids=" ".join,
    )
    def test_other_names(self, names):
        records = RecordDict({name: ConfigRecord({"piece": b"x"}) for name in names})
        with pytest.raises(MessageError, match="numbered pieces"):
            came(records)

    @pytest.mark.parametrize(
        "values",
        [{}, {"piece": 5}, {"piece": "text"}, {"piece": [b"a"]}, {"other": b"x"}],
        ids=str,
    )
    def test_a_piece_that_is_no_bytes(self, values):
        with pytest.raises(MessageError, match="a piece of a message must be"):
            came(RecordDict({"000000": ConfigRecord(values)}))

    def test_records_of_another_kind(self):
        with pytest.raises(MessageError, match="numbered pieces"):
            given_as(b"{}", kind="ArrayRecord")
        tree = ObjectTree(object_id="m", children=[ObjectTree(object_id="r")])
        records = RecordDict({"000000": ConfigRecord({"piece": b"x"})})
        with pytest.raises(MessageError, match="a piece of a message must be"):
            list(pieces_of(tree, lambda _: records.deflate()))

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nan,"], ids=str)
    def test_a_body_that_is_no_json(self, body):
        with pytest.raises(MessageError, match="numbered pieces"):
            given_as(body)

    @pytest.mark.parametrize(
        "value", [None, 5, ["000000"], {"000000": 5}, {"000000": ["one"]}], ids=json.dumps
    )
    def test_a_body_that_is_no_table_of_names(self, value):
        """A hub reads it, and any node may have written it."""
        with pytest.raises(MessageError, match="numbered pieces"):
            given_as(json.dumps(value).encode())

    def test_a_body_that_is_nested_too_deeply(self):
        with pytest.raises(MessageError, match="numbered pieces"):
            given_as(b"[" * 100_000)

    @pytest.mark.parametrize("content", [b"", b"ConfigRecord", b"ConfigRecord  3\x00\xff\xff\xff"])
    def test_a_piece_that_is_no_object(self, content):
        _, tree, objects = sent(in_pieces(b"abc"))
        (records,) = tree.children
        with pytest.raises(MessageError, match="a piece of a message must be"):
            list(
                pieces_of(
                    tree,
                    lambda name: objects[name].deflate() if name == records.object_id else content,
                )
            )

    def test_a_piece_that_is_too_long(self):
        came(RecordDict({"000000": ConfigRecord({"piece": b"x" * SMALL})}))
        with pytest.raises(MessageError, match=f"1 to {SMALL} bytes"):
            came(RecordDict({"000000": ConfigRecord({"piece": b"x" * (SMALL + 1)})}))

    def test_more_pieces_than_the_longest_message_has(self, monkeypatch):
        monkeypatch.setattr(pieces, "MOST_OBJECTS", 3)
        assert len(came(in_pieces(b"x" * 3 * SMALL))) == 3
        with pytest.raises(MessageError, match="numbered pieces"):
            came(in_pieces(b"x" * (3 * SMALL + 1)))

    def test_an_empty_piece(self):
        """Between hub and link an empty piece is the end of a reply: what followed it would be
        read as the next reply, of whoever it names."""
        for values in ([b""], [b"abc", b"", b'{"from":"b"}']):
            records = {
                f"{number:06}": ConfigRecord({"piece": one}) for number, one in enumerate(values)
            }
            with pytest.raises(MessageError):
                came(RecordDict(records))
