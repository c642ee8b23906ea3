"""Text for people: counts with nouns, control characters made visible, colors.

Text from other sources must not move the cursor of a terminal, hide other text or start a new line.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import TextIO

# Control characters, of which ESC and the C1 characters start sequences that move the cursor, rename the window or hide
# text, and characters that end a line or change the writing direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_USUAL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, such as `1 row` or `2,000 rows`; pass `plural` if it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Return a question that suggests similar names; '' if there are none."""
    near = get_close_matches(name, names)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def colored(stream: TextIO) -> bool:
    """Return whether to use colors on a stream; see https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    r"""Escape control characters and line breaks: `\x1b` for ESC, `\n` for a newline."""
    return _CONTROL.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Escape control characters in text of several lines."""
    return "\n".join(map(visible, text.split("\n")))


def visible_json(text: str) -> str:
    r"""Escape control characters in JSON (`\u009b` for CSI) without changing the values."""
    if text.isascii() and "\x7f" not in text:  # faster, and the usual case
        return text.replace("\r", " ")
    # Strings in JSON contain no unescaped ASCII control characters; between values, a carriage return is white space.
    return _CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r", " "))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _USUAL.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
