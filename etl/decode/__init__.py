"""From the bytes of a response to items, and from the bytes of an item to values; pure."""

from etl.decode.cleaning import REPLACEMENT, clean_json, clean_text, needs_cleaning, spelled_plainly
from etl.decode.numbers import Json, Number
from etl.decode.pages import digest, guess_id, peek_id, split_page
from etl.decode.reading import parse
from etl.decode.writing import canonical, dump, dump_storable

__all__ = [
    "REPLACEMENT",
    "Json",
    "Number",
    "canonical",
    "clean_json",
    "clean_text",
    "digest",
    "dump",
    "dump_storable",
    "guess_id",
    "needs_cleaning",
    "parse",
    "peek_id",
    "spelled_plainly",
    "split_page",
]
