"""Keeps secrets out of everything that is written: logs, errors, tracebacks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_HIDDEN = "***"
_SHORTEST = 4  # characters; hiding shorter ones would garble every line


class Mask:
    """Replaces the secrets it was told of by `***`, wherever they stand in a text or in a structure of texts."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def add(self, secret: str) -> None:
        """Hide this text from now on, in HTML too; one of fewer than four characters is left alone."""
        if len(secret) >= _SHORTEST:
            self._secrets |= {secret, escape(secret)}

    def add_password_of(self, url: str) -> None:
        """Hide the password in a database URL, in the ways it may be quoted."""
        try:
            password = urlsplit(url).password
        except ValueError:
            return
        if password:
            for form in (password, unquote(password), quote(unquote(password), safe="")):
                self.add(form)

    def __call__(self, value: Any) -> Any:
        """Return `value` without secrets; what is neither text nor a list or mapping of it stays as it is."""
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, _HIDDEN)
            return value
        if isinstance(value, Mapping):
            return {name: self(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self(each) for each in value]
        return value
