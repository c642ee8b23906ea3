from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.decode.items import ItemReader, LargeItem, digest, peek_id, size_of, split_page
from etl.errors import TransientError

RUNS = [
    json.dumps(
        {
            "id": f"run_{number}",
            "input": {"text": 'brackets ]}[{ and "quotes" \\', "list": [{"id": "a"}, {"id": "b"}]},
            "usage": {"total": 1, "calls": [{"id": "c", "total": 1}, {"id": "d", "total": 2}]},
            "workflow_id": "wf_1",
            "status": "COMPLETED",
            "created_at": "2026-10-12T09:00:00Z",
        }
    ).encode()
    for number in range(5)
]

BAD_ITEMS = {
    "nan": b'{"id":"x","a":NaN}',
    "lone surrogate": b'{"id":"x","a":"\\ud83d"}',
    "bad UTF-8": b'{"id":"x","a":"\xff"}',
    "deep": b'{"id":"x","a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "word": b"undefined",
    "nothing": b"",
    "megabytes": b'{"id":"x","a":"' + b"\\n\xc3\xa9" * 1_000_000 + b'","b":NaN}',
}


@given(st.lists(st.sampled_from([*RUNS, b"1", b'"a,]"', b"null", b"[]", b"{}"])), st.sampled_from([b",", b" ,\n\t"]))
def test_items_are_split_unchanged(items: list[bytes], comma: bytes) -> None:
    assert split_page(b" [ " + comma.join(items) + b" ]\n") == items


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("bad", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_bad_item_does_not_affect_the_rest_of_its_page(bad: bytes, place: int) -> None:
    items = [*RUNS[:place], bad, *RUNS[place + 1 :]]
    assert split_page(b"[" + b", ".join(items) + b"]") == items


def test_both_splitters_agree_on_valid_pages() -> None:
    page = b"[" + b" , ".join(RUNS) + b"]"
    assert split_page(page) == split_page(b"\xef\xbb\xbf" + page) == RUNS


def test_truncated_items_are_separated_from_good_ones() -> None:
    for length in range(1, len(RUNS[1])):
        items = [RUNS[0], RUNS[1][:length], RUNS[2], RUNS[3][: length // 2 + 1], RUNS[4]]
        assert split_page(b"[" + b",".join(items) + b"]") == [item.strip() for item in items], length


def test_truncated_workflow_is_separated_from_a_good_one() -> None:
    workflow = b'{"id":"w","name":"W","app":{"id":"a"},"tags":[{"id":"t","name":"T"},{"id":"u"}],"created_at":null}'
    for length in range(1, len(workflow)):
        assert split_page(b"[" + workflow[:length] + b"," + workflow + b"]") == [workflow[:length].strip(), workflow]


def test_truncated_body_is_never_accepted() -> None:
    page = b"[" + b",".join(RUNS[:2]) + b"]"
    for length in range(len(page)):
        with pytest.raises(TransientError):
            split_page(page[:length])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<html><body>502</body></html>", "HTML"),
        (b'{"status":500,"message":"out of order"}', "an object"),
        (b'{"a":', "an object"),
        (b"{" * 100_000, "an object"),
        (b"42", "a single value"),
        (b"upstream timed out", "not JSON"),
        (b"[1] [2]", "something follows"),
        (b"[1]]", "something follows"),
    ],
)
def test_body_that_is_not_a_list_is_retried(body: bytes, says: str) -> None:
    with pytest.raises(TransientError, match="JSON list") as error:
        split_page(body)
    assert says in error.value.message


@pytest.mark.parametrize(
    ("raw", "ident"),
    [
        (b'{"a":1,"id":"r"}', "r"),
        (b'{"id":"r\\u0000"}', "r\ufffd"),
        (b'{"id":"r\\ud83d"}', "r\ufffd"),
        (b'{"id":"r","id":"s"}', "s"),
        (b'{"a":{"id":"no"},"b":["id","no"],"id":"r","c":NaN}', "r"),
        (b'{"id":"r","input":"cut he', "r"),
        (b'{"id":"r\\"\\u00e9","a":' + b"[" * 100_000, 'r"é'),
        (b'{"a":{"id":"no"},"c":NaN}', None),
        (b'{"x":"id","y":"no","c":NaN}', None),
        (b'{"id":"r"},{"id":"no"}', "r"),
        (b'{"id":7}', None),
        (b'{"id":""}', None),
        (b'{"id":null}', None),
        (b'["id"]', None),
        (b'"id"', None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_id_is_found_in_any_bytes(raw: bytes, ident: str | None) -> None:
    assert peek_id(raw) == ident


def test_digest_is_the_sha_256_of_the_bytes() -> None:
    assert digest(b"x") == hashlib.sha256(b"x").digest()


@given(
    st.lists(st.sampled_from([*RUNS, b"1", rb'"a,]\"\\\\"', b"null", b"[]", b'{"a":[{}]}'])),
    st.integers(1, 40),
    st.sampled_from([b"", b"\n \t"]),
)
def test_list_in_pieces_has_the_same_items(items: list[bytes], piece: int, space: bytes) -> None:
    body = b"%b[%b%b%b]%b" % (space, space, (space + b"," + space).join(items), space, space)
    reader = ItemReader(1_000_000)
    for start in range(0, len(body), piece):
        reader.feed(body[start : start + piece])
    assert reader.is_complete
    assert reader.items == split_page(body)


@given(st.integers(1, 40))
def test_only_the_first_bytes_of_a_too_large_item_are_kept(piece: int) -> None:
    large = b'{"id":"run_2","input":"%b"}' % (rb"\"]}," * 30)
    body = b'[{"id":"run_1"}, %b , {"id":"run_3"}]' % large
    reader = ItemReader(100)
    for start in range(0, len(body), piece):
        reader.feed(body[start : start + piece])
    first, kept, last = reader.items
    assert (first, last) == (b'{"id":"run_1"}', b'{"id":"run_3"}')
    assert isinstance(kept, LargeItem)
    assert large.startswith(kept)
    assert (digest(kept), size_of(kept), peek_id(kept)) == (hashlib.sha256(large).digest(), len(large), "run_2")


def test_truncated_list_is_not_complete() -> None:
    reader = ItemReader(100)
    reader.feed(b'[{"id":"run_1"},{"id":')
    assert not reader.is_complete
