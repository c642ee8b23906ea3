"""Text from outside, made harmless for a terminal."""

from __future__ import annotations

import re

# Control characters but for tab and newline (ESC begins sequences that move the cursor, rename the window, hide text),
# and those that turn the direction of writing around.
_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Write what a terminal would obey as an escape: `\x1b` for ESC."""
    return _ACTIVE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
