"""Proxies and trusted certificates of outgoing connections."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from errno import ENOENT
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from etl.config.sections import is_loopback, mask_credentials, read_proxy
from etl.errors import SettingsError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class Named:
    """The URL of a proxy, or a path, and where it is set (`config.yaml:4`, `environment variable X`).

    `obeys_no_proxy` is false for the proxy of the settings, which is used whatever `NO_PROXY` says.
    """

    value: str = field(repr=False)
    place: str
    obeys_no_proxy: bool = True

    @property
    def shown(self) -> str:
        """The value with the credentials of a URL masked."""
        return mask_credentials(self.value)


@dataclass(frozen=True, slots=True)
class Network:
    """Proxies and certificates from variables and settings. The default is no proxy and the system's certificates.

    Attributes:
        proxies: the values of `HTTP_PROXY` and `HTTPS_PROXY` by scheme; they are validated only when they are used.
        no_proxy: the value of `NO_PROXY`.
        only: a proxy to use instead of all others, regardless of `no_proxy`.
        certificates: `SSL_CERT_FILE` and `SSL_CERT_DIR` from `.env`, by name. OpenSSL itself reads these variables from
            the environment.
    """

    proxies: Mapping[str, Named] = field(default_factory=dict)
    no_proxy: str = ""
    only: Named | None = None
    certificates: Mapping[str, Named] = field(default_factory=dict)

    def through(self, url: str, place: str) -> Network:
        """Return a copy with one proxy for all hosts except loopback."""
        return replace(self, only=Named(url, place, obeys_no_proxy=False))

    def proxy_for(self, url: str) -> Named | None:
        """Return the proxy for a URL; None for a direct connection, which is always used for loopback hosts.

        Raises:
            SettingsError: the variable does not contain the URL of an HTTP proxy.
        """
        parts = urlsplit(url)
        if is_loopback(parts.hostname or ""):
            return None
        found = self.proxies.get(parts.scheme)
        if self.only is not None or found is None or self._bypasses(parts.netloc.rpartition("@")[2]):
            return self.only
        try:
            return Named(read_proxy(found.value, default_scheme="http"), found.place)
        except ValueError as expected:
            raise SettingsError(
                f"{found.place}: expected {expected}, got a value that is not shown",
                hint="Correct it, or set api.proxy.",
            ) from None

    def _bypasses(self, host: str) -> bool:
        # Imported here for start-up time. The function is undocumented, but urllib itself uses it.
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # noqa: PLC0415

        return bool(self.no_proxy and proxy_bypass_environment(host, {"no": self.no_proxy}))

    def tls(self) -> ssl.SSLContext | Literal[True]:
        """Return the SSL context for verifying certificates; True for the default.

        Raises:
            SettingsError: a file with certificates cannot be read.
        """
        if not self.certificates:
            return True
        import ssl  # noqa: PLC0415 -- start-up time

        context = ssl.create_default_context()
        for name, each in self.certificates.items():
            try:
                if not _exists(name, each.value):  # OpenSSL accepts a directory that does not exist
                    raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
                context.load_verify_locations(**{"cafile" if name == "SSL_CERT_FILE" else "capath": each.value})
            except OSError as error:  # includes ssl.SSLError
                raise SettingsError(
                    f"{each.place}: cannot read certificates from {each.value}: {error.strerror or error}",
                    hint="Name certificates in PEM format: SSL_CERT_FILE names a file, SSL_CERT_DIR a directory.",
                ) from None
        return context

    def credentials(self) -> list[str]:
        """Return the values to mask in output: passwords of proxies, and user names without password (tokens)."""
        urls = [named.value for named in self.proxies.values()] + ([self.only.value] if self.only else [])
        found = []
        for url in urls:
            user, at, _ = url.split("://", 1)[-1].rpartition("@")
            name, colon, password = user.partition(":")
            secret = password if colon else name
            found += [user, secret, unquote(secret)] if at else []
        return found


def missing_certificates() -> str:
    """Return which environment variable names certificates that do not exist; '' if none does. OpenSSL ignores it."""
    for name in _CERTIFICATES:
        if (value := os.environ.get(name)) and not _exists(name, value):
            return f"environment variable {name} names {value}, which does not exist"
    return ""


def _exists(name: str, value: str) -> bool:
    places = value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]
    return any(os.access(each, os.F_OK) for each in places)


def read_network(variables: Mapping[str, str], environment: Mapping[str, str], origin: Callable[[str], str]) -> Network:
    """Read the variables for proxies and certificates.

    Args:
        variables: the variables of the environment and of `.env`.
        environment: the environment variables, which take precedence.
        origin: a function that returns the place of a variable.
    """

    def first(*names: str) -> str | None:
        return next((name for each in (environment, variables) for name in names if each.get(name)), None)

    def named(name: str) -> Named:
        return Named(variables[name], origin(name))

    proxies = {scheme: first(f"{scheme}_proxy", f"{scheme.upper()}_PROXY") for scheme in ("http", "https")}
    hosts = first("no_proxy", "NO_PROXY")
    return Network(
        proxies={scheme: named(name) for scheme, name in proxies.items() if name},
        no_proxy=variables[hosts] if hosts else "",
        certificates={name: named(name) for name in _CERTIFICATES if variables.get(name) and name not in environment},
    )
