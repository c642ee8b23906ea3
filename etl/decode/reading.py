"""JSON text to values: exact, at any depth, with the digits of numbers as they came."""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from etl.decode.numbers import Json, Number
from etl.errors import RecordError

_SPACE = " \t\n\r"
_TOKEN = re.compile(
    r"""[ \t\n\r]*+(?:
        (?P<string>"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+")
      | (?P<number>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)
      | (?P<word>true|false|null)
      | (?P<mark>[\[\]{},:])
    )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING: Final[dict[type, str]] = {dict: "}", list: "]"}
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}


def parse(raw: bytes) -> Json:
    """Read one JSON text of any depth.

    Of duplicate keys the last value wins, in the place of the first. Numbers become `Number`.

    Raises:
        RecordError: `invalid_json` for what is not JSON (NaN and Infinity are not) or not UTF-8.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RecordError("invalid_json", f"not UTF-8 at byte {error.start}") from None
    try:
        return _read_shallow(text)
    except RecursionError:
        return _read_deep(text)


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError("invalid_json", f"{name} is not JSON")


_SHALLOW = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)


def _read_shallow(text: str) -> Json:
    try:
        return _SHALLOW.decode(text)
    except json.JSONDecodeError as error:
        raise RecordError("invalid_json", f"{error.msg} at character {error.pos}") from None


class _Reader:
    """Reads a JSON text without recursion: the containers that are still open stand on a stack."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.kind = self.symbol = ""  # the token just read: a group of `_TOKEN`, and its text

    def fail(self, expected: str) -> NoReturn:
        raise RecordError("invalid_json", f"expected {expected} before character {self.position}")

    def advance(self) -> str:
        """Read the next token; returns its text where it is a mark, else ''."""
        match = _TOKEN.match(self.text, self.position)
        if match is None or match.lastgroup is None:
            self.fail("a JSON token")
        self.position = match.end()
        self.kind, self.symbol = match.lastgroup, match[match.lastgroup]
        return self.symbol if self.kind == "mark" else ""

    def scalar(self) -> Json:
        if self.kind == "number":
            return Number(self.symbol)
        if self.kind == "word":
            return _WORDS[self.symbol]
        if self.kind != "string":
            self.fail("a value")
        try:
            return json.loads(self.symbol)
        except json.JSONDecodeError:
            self.fail("a valid string")

    def key(self) -> str:
        """The key of the current token, and on to its value."""
        if self.kind != "string":
            self.fail("a key")
        key: str = self.scalar()
        if self.advance() != ":":
            self.fail("':'")
        self.advance()
        return key

    def read(self) -> Json:
        """The whole text as one value."""
        root: list[Json] = []
        open_containers: list[tuple[Json, str]] = [(root, "")]
        self.advance()
        while True:
            container, key = open_containers[-1]
            if self.kind == "mark" and self.symbol in "{[":
                value: Json = {} if self.symbol == "{" else []
                _place(container, key, value)
                if self.advance() != _CLOSING[type(value)]:
                    open_containers.append((value, self.key() if type(value) is dict else ""))
                    continue
            else:
                _place(container, key, self.scalar())
            if not self.next_value(open_containers):
                return root[0]

    def next_value(self, open_containers: list[tuple[Json, str]]) -> bool:
        """Go on behind a finished value, to where the next one begins; False at the end of the text."""
        while len(open_containers) > 1:
            container, _ = open_containers[-1]
            mark = self.advance()
            if mark == ",":
                self.advance()
                if type(container) is dict:
                    open_containers[-1] = (container, self.key())
                return True
            if mark != _CLOSING[type(container)]:
                self.fail(f"',' or '{_CLOSING[type(container)]}'")
            open_containers.pop()
        if self.text[self.position :].strip(_SPACE):
            self.fail("nothing more")
        return False


def _place(container: Json, key: str, value: Json) -> None:
    if isinstance(container, dict):
        container[key] = value
    else:
        container.append(value)


def _read_deep(text: str) -> Json:
    return _Reader(text).read()
