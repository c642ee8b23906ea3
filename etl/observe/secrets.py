"""Masking of secrets in everything the program writes: logs, errors, tracebacks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_HIDDEN = "***"
_SHORTEST = 4  # characters; hiding shorter ones would garble every line


class Mask:
    """Replaces known secrets by `***` in strings, lists and mappings."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def add(self, secret: str) -> None:
        """Mask this text and its HTML-escaped form; ignore it if it has fewer than four characters."""
        if len(secret) >= _SHORTEST:
            self._secrets |= {secret, escape(secret)}

    def add_password_of(self, url: str) -> None:
        """Mask the password of a database URL, quoted or not."""
        try:
            password = urlsplit(url).password
        except ValueError:
            return
        if password:
            for form in (password, unquote(password), quote(unquote(password), safe="")):
                self.add(form)

    def __call__(self, value: Any) -> Any:
        """Return `value` with secrets masked; values other than strings, lists and mappings are unchanged."""
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, _HIDDEN)
            return value
        if isinstance(value, Mapping):
            return {name: self(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self(each) for each in value]
        return value
