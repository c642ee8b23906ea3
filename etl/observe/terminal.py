"""Escaping of untrusted text before it is printed on a terminal."""

from __future__ import annotations

import re

# Control characters except tab and newline (ESC starts sequences that move the cursor, rename the window, hide text),
# and characters that change the writing direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Escape control characters: `\x1b` for ESC."""
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
