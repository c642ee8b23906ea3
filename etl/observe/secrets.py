"""Mask secrets in all output: logs, errors and tracebacks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_HIDDEN = "***"
_SHORTEST = 4  # characters; masking shorter secrets would garble unrelated text
_PASSWORDS = ("password", "sslpassword")  # parameters of a database URL


class Mask:
    """Replaces known secrets by `***` in strings, lists and mappings."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """Mask a text, plain or escaped as in HTML, JSON and Python. Texts of fewer than 4 characters are ignored."""
        if len(secret) >= _SHORTEST:
            self._secrets |= {secret, escape(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
            # Longest first, because a secret may begin with another one.
            self._pattern = re.compile("|".join(map(re.escape, sorted(self._secrets, key=len, reverse=True))))

    def add_password_of(self, url: str) -> None:
        """Mask the passwords in a database URL, quoted and unquoted."""
        try:
            parts = urlsplit(url)
            passwords = [parts.password, *(value for name, value in parse_qsl(parts.query) if name in _PASSWORDS)]
        except ValueError:
            return
        for password in filter(None, passwords):
            for form in (password, unquote(password), quote(unquote(password), safe="")):
                self.add(form)

    def __call__(self, value: Any) -> Any:
        """Return `value` with secrets masked in strings, lists and mappings; return other values unchanged."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(_HIDDEN, value)
        if isinstance(value, Mapping):
            return {self(name): self(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self(each) for each in value]
        return value
