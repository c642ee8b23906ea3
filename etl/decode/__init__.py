"""From the bytes of a response to items, and from the bytes of an item to values; pure."""

from etl.decode.pages import digest, peek_id, split_page
from etl.decode.values import Json, Number, canonical, clean, clean_text, dump, dump_storable, needs_cleaning, parse

__all__ = [
    "Json",
    "Number",
    "canonical",
    "clean",
    "clean_text",
    "digest",
    "dump",
    "dump_storable",
    "needs_cleaning",
    "parse",
    "peek_id",
    "split_page",
]
