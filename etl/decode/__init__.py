"""From the bytes of a response to items, and from the bytes of an item to values; pure."""

from etl.decode.items import digest, guess_id, peek_id, split_page
from etl.decode.json_text import (
    REPLACEMENT,
    Json,
    Number,
    canonical,
    clean_json,
    clean_text,
    dump,
    needs_cleaning,
    parse,
    quote_huge_numbers,
    spelled_plainly,
)

__all__ = [
    "REPLACEMENT",
    "Json",
    "Number",
    "canonical",
    "clean_json",
    "clean_text",
    "digest",
    "dump",
    "guess_id",
    "needs_cleaning",
    "parse",
    "peek_id",
    "quote_huge_numbers",
    "spelled_plainly",
    "split_page",
]
