from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.decode.json_text import Number, canonical, clean_json, dump, parse
from etl.errors import RecordError

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def plain(value: object) -> object:
    """A parsed value as `json` would have given it."""
    if isinstance(value, Number):
        return json.loads(value.literal)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_values_round_trip(value: object, indent: int | None, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped).encode("utf-8", "backslashreplace")
    parsed = parse(text)
    assert plain(parsed) == json.loads(text)
    assert json.loads(dump(parsed)) == json.loads(text)
    assert dump(parse(dump(parsed))) == dump(parsed)


DEEP = 1500


@given(VALUES, st.sampled_from([None, 2]))
@settings(max_examples=20)
def test_values_beside_deep_ones_round_trip(value: object, indent: int | None) -> None:
    document = ["deep", value, {"a": value, "b": ["deep"], "c": value}, {}, []]
    text = json.dumps(document, indent=indent).replace('"deep"', "[" * DEEP + "1.50" + "]" * DEEP)
    parsed = parse(text.encode())
    assert dump(parsed).count(b"[" * DEEP + b"1.50" + b"]" * DEEP) == 2
    parsed[0], parsed[2]["b"] = "deep", ["deep"]
    assert plain(parsed) == json.loads(json.dumps(document))


@given(VALUES)
def test_canonical_text_sorts_keys_by_code_point(value: object) -> None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical(parse(json.dumps(value).encode())) == text.encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("literal", ["1.50", "-0", "0.10", "1E5", "1e+05", "123456789012345678901234567890", "1e400"])
def test_numbers_keep_their_digits(literal: str) -> None:
    number = parse(f"[{literal}]".encode())[0]
    assert number == Decimal(literal)
    assert [dump(number), canonical([number])] == [literal.encode(), f"[{literal}]".encode()]


def test_huge_number_is_infinite_and_keeps_its_digits() -> None:
    numbers = parse(b"[1e99999999999999999999, -1e99999999999999999999]")
    assert numbers == [Decimal("Infinity"), Decimal("-Infinity")]
    assert dump(numbers) == b"[1e99999999999999999999,-1e99999999999999999999]"


def test_last_duplicate_key_wins() -> None:
    text = '{"a": 1, "b": 2, "a": 3}'
    assert dump(parse(text.encode())) == b'{"a":3,"b":2}'


@pytest.mark.parametrize("levels", [200, 5_000, 50_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_of_any_depth_is_handled(levels: int, opening: str, closing: str) -> None:
    text = (opening * levels + '"\\u0000"' + closing * levels).encode()
    value = parse(text)
    assert dump(value) == text
    assert clean_json(text) == (opening * levels + '"\ufffd"' + closing * levels).encode()


BROKEN = [
    b"",
    b"  ",
    b"NaN",
    b"[Infinity]",
    b"-Infinity",
    b"[1,]",
    b'{"a":1,}',
    b'{"a" 1}',
    b"{a:1}",
    b"[1 2]",
    b"[1}",
    b'{"a":1]',
    b'["a]',
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"-",
    b"1e",
    b"[1] 2",
    b"tru",
    b'"\\x41"',
    b'"\\u12g4"',
    b'"tab\there"',
    b'"nul\x00"',
    b'"caf\xe9"',
    b'"\xed\xa0\xbd"',
    b"[",
    b"{",
    b'{"a"',
    b'{"a":',
    b"]",
    b",",
    b'{"a":1,"b"}',
    b"\xff\xfe[]",
]


@pytest.mark.parametrize("text", BROKEN)
def test_invalid_json_is_refused_by_both_readers(text: bytes) -> None:
    with pytest.raises(RecordError) as error:
        parse(text)
    assert error.value.reason == "invalid_json"
    with pytest.raises(RecordError) as error:
        parse(b"[" * 3000 + b"0," + text + b"]" * 3000)
    assert error.value.reason == "invalid_json"


@pytest.mark.parametrize(
    "end", [b"]" * 2999, b"]" * 3001, b"]" * 3000 + b",1", b"]" * 3000 + b"[]", b"]" * 2999 + b"}"]
)
def test_deep_json_with_an_invalid_end_is_refused(end: bytes) -> None:
    with pytest.raises(RecordError) as error:
        parse(b"[" * 3000 + end)
    assert error.value.reason == "invalid_json"


@pytest.mark.parametrize(
    ("text", "dirty"),
    [
        (rb'"\u0000"', True),
        (rb'"\ud83d"', True),
        (rb'"\uDE00"', True),
        (rb'"\uD83D\uDE00"', False),
        (rb'"\ud83d\ud83d\ude00"', True),
        (rb'"\ud83d \ude00"', True),
        (rb'"\\u0000"', False),
        (rb'"\\ud83d"', False),
        (rb'"\\\u0000"', True),
        (rb'"\\ud83d\ude00"', True),  # an escaped backslash, text, and half a pair
        (rb'"\u00000"', True),
        (rb'"\u0001\n"', False),
        ('"🚀 é"'.encode(), False),
    ],
)
def test_only_unstorable_characters_are_replaced(text: bytes, dirty: bool) -> None:
    assert (clean_json(text) != text) is dirty


def test_cleaning_replaces_characters_in_keys_and_strings() -> None:
    text = rb'{"a\u0000": ["\ud83d", "\ud83d\ude00", {"\udc00\uDE00": 1.0}], "\\u0000": null}'
    cleaned = r'{"a\ufffd": ["\ufffd", "\ud83d\ude00", {"\ufffd\ufffd": 1.0}], "\\u0000": null}'
    assert json.loads(clean_json(text)) == json.loads(cleaned)
    assert clean_json(clean_json(text)) == clean_json(text)
    assert parse(clean_json(rb'{"a\u0000": 1, "a\ufffd": 2}')) == {"a\ufffd": 2}
