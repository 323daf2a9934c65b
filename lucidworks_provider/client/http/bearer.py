# SPDX-License-Identifier: Apache-2.0
"""What both clients' sessions need: tokens, the hosts that may see them, and where a path without a host leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from lucidworks_provider.client.api.scopes import MODEL_SCOPE
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import InputError


class Tokens(Protocol):
    """A source of tokens: :class:`lucidworks_provider.client.auth.source.TokenSource`."""

    def get(self) -> str:
        """A token."""

    async def aget(self) -> str:
        """A token, for an event loop."""

    def invalidate(self, value: str) -> None:
        """Hear that a token was answered with 401."""

    def accepted(self, value: str, endpoint: str) -> None:
        """Hear that an endpoint has answered a call with a token with neither 401 nor 403."""

    def token_after_403(self, value: str, endpoint: str) -> str | None:
        """The token to repeat a call with that was answered with 403, if that is about the token."""

    async def atoken_after_403(self, value: str, endpoint: str) -> str | None:
        """:meth:`token_after_403` for an event loop."""


# Scheme, and host with its port.
Host = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts of a connection that take bearer tokens."""

    hosts: frozenset[Host]

    @classmethod
    def of(cls, settings: LucidworksSettings) -> AllowedHosts:
        """The application's host and the Models API's; not the one that issues tokens."""
        urls = (settings.application_url, settings.models_url)
        return cls(frozenset(_host(url) for url in urls if url))

    def may_see(self, url: str | None) -> bool:
        """Whether the token may be sent there."""
        host = _host(url or "")
        return bool(host[1]) and host in self.hosts

    def check(self, url: str | None) -> None:
        """:raises InputError: the token must not be sent there."""
        if not self.may_see(url):
            known = ", ".join(sorted(f"{scheme}://{host}" for scheme, host in self.hosts))
            raise InputError(
                f"The access token is for {known}; it is not sent to {urlsplit(url or '').netloc!r}."
            )


def endpoint_of(method: str | None, url: str | None) -> str:
    """What counts as one endpoint in a user's own calls: the path without its last segment, mostly an id."""
    return f"{method} {urlsplit(url or '').path.rpartition('/')[0]}"


def base_url(settings: LucidworksSettings, scope: str) -> str:
    """
    Where a path leads. The scope decides the host: one serves ``/ai/*``, the other ``/customers/*``.

    :raises ConfigurationError: the connection has no Application ID.
    """
    return settings.models_url if scope == MODEL_SCOPE else settings.application_base


def _host(url: str) -> Host:
    """In one spelling: clients drop a default port, and write international names in their ASCII form."""
    try:
        parts = urlsplit(url.lower())
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:
        return "", ""
    if ":" in host:
        host = f"[{host}]"
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, host if port in {None, default} else f"{host}:{port}"
