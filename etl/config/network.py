"""How connections to the outside are made: through which proxy, and which certificates they trust."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from etl.config.sections import is_loopback, mask_credentials, read_proxy
from etl.errors import SettingsError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Named:
    """The URL of a proxy or a path, and the place that names it (`config.yaml:4`, `environment variable X`)."""

    value: str = field(repr=False)
    place: str

    @property
    def shown(self) -> str:
        """The value with the credentials of a URL masked."""
        return mask_credentials(self.value)


@dataclass(frozen=True, slots=True)
class Network:
    """Proxies and certificates, as variables and settings name them; by default no proxy and the usual certificates.

    Attributes:
        proxies: of `HTTP_PROXY` and `HTTPS_PROXY`, by scheme, unchecked: one that cannot be used matters only if it is.
        no_proxy: the hosts of `NO_PROXY`.
        only: a proxy that is used instead of these, whatever `no_proxy` says.
        certificates: `SSL_CERT_FILE` and `SSL_CERT_DIR` of `.env`, by name; OpenSSL reads those of the process itself.
    """

    proxies: Mapping[str, Named] = field(default_factory=dict)
    no_proxy: str = ""
    only: Named | None = None
    certificates: Mapping[str, Named] = field(default_factory=dict)

    def through(self, url: str, place: str) -> Network:
        """Return the same network with one proxy for all hosts, except loopback."""
        return replace(self, only=Named(url, place))

    def proxy_for(self, url: str) -> Named | None:
        """Return the proxy for a URL; None for a direct connection, as to every loopback host.

        Raises:
            SettingsError: the variable does not name a proxy that can be used.
        """
        parts = urlsplit(url)
        if is_loopback(parts.hostname or ""):
            return None
        found = self.proxies.get(parts.scheme)
        if self.only is not None or found is None or self._bypasses(parts.netloc.rpartition("@")[2]):
            return self.only
        try:
            return Named(read_proxy(found.value), found.place)
        except ValueError as expected:
            raise SettingsError(
                f"{found.place}: expected {expected}, got a value that is not shown",
                hint="Correct it, or set api.proxy.",
            ) from None

    def _bypasses(self, host: str) -> bool:
        # Imported here for start-up time; documented nowhere, but what urllib itself asks.
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # noqa: PLC0415

        return bool(self.no_proxy and proxy_bypass_environment(host, {"no": self.no_proxy}))

    def tls(self) -> ssl.SSLContext | Literal[True]:
        """Return what verifies certificates; True for the default.

        Raises:
            SettingsError: a file with certificates cannot be read.
        """
        if not self.certificates:
            return True
        import ssl  # noqa: PLC0415 -- start-up time

        context = ssl.create_default_context()
        for name, each in self.certificates.items():
            try:
                context.load_verify_locations(**{"cafile" if name == "SSL_CERT_FILE" else "capath": each.value})
            except OSError as error:  # ssl.SSLError is one
                raise SettingsError(
                    f"{each.place}: cannot read certificates from {each.value}: {error.strerror or error}",
                    hint="Name a file of certificates in PEM format.",
                ) from None
        return context

    def credentials(self) -> list[str]:
        """Return what to mask in all output: passwords of proxies, and user names that stand alone, as tokens do."""
        urls = [named.value for named in self.proxies.values()] + ([self.only.value] if self.only else [])
        found = []
        for url in urls:
            user, at, _ = url.split("://", 1)[-1].rpartition("@")
            name, colon, password = user.partition(":")
            secret = password if colon else name
            found += [user, secret, unquote(secret)] if at else []
        return found


def read_network(variables: Mapping[str, str], environment: Mapping[str, str], origin: Callable[[str], str]) -> Network:
    """Read the variables for proxies and certificates.

    Args:
        variables: of the environment and of `.env`.
        environment: those of the environment, which win.
        origin: returns the place of a variable.
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
        certificates={
            name: named(name)
            for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")
            if variables.get(name) and name not in environment
        },
    )
