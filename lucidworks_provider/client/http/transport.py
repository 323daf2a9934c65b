# SPDX-License-Identifier: Apache-2.0
"""
What both transports decide alike: certificates, proxies, headers, timeouts, errors, bodies, and which hosts may see a
token.

The two libraries differ in their defaults (certifi or the system's store; ``HTTPS_PROXY`` honoured or ignored), so
that behind a corporate proxy workers would work and triggers would hang.
"""

from __future__ import annotations

import base64
import os
import ssl
import stat
import time
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

import certifi
from requests.utils import get_environ_proxies, select_proxy

from lucidworks_provider.client.http.messages import MODEL_SCOPE, Request, content_codings
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    ConfigurationError,
    InputError,
    LucidworksError,
    NotSentError,
    TransportError,
)

CONNECT_TIMEOUT = 10.0
# Environment variables that requests reads, in its order.
_BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_DEFAULT_BUNDLE = "certifi"
# With the time of modification, by path: loading some hundred certificates takes 18 ms.
_contexts: dict[str, tuple[int, ssl.SSLContext]] = {}


def verify_option(settings: LucidworksSettings) -> bool | str:
    """
    The value of requests' ``verify``: False, or the path of the bundle to trust.

    The connection's ``ca_bundle`` comes first, then the environment, then certifi.

    :raises ConfigurationError: the bundle that is named cannot be loaded.
    """
    if not settings.verify:
        return False
    name, bundle = _bundle(settings)
    if name != _DEFAULT_BUNDLE:
        _context(settings, name, bundle)
    return bundle


def ssl_context(settings: LucidworksSettings) -> ssl.SSLContext | bool:
    """:func:`verify_option` as aiohttp's ``ssl``. It takes tens of milliseconds, so not in an event loop."""
    return settings.verify and _context(settings, *_bundle(settings))


def _bundle(settings: LucidworksSettings) -> tuple[str, str]:
    """What names the bundle to trust, and its path."""
    sources = {"ca_bundle": settings.ca_bundle} | {name: os.environ.get(name) for name in _BUNDLE_VARIABLES}
    named = ((name, path) for name, path in sources.items() if path)
    return next(named, (_DEFAULT_BUNDLE, certifi.where()))


def _context(settings: LucidworksSettings, name: str, bundle: str) -> ssl.SSLContext:
    try:
        status = Path(bundle).stat()
        changed, context = _contexts.get(bundle, (None, None))
        if context is None or changed != status.st_mtime_ns:
            # Like requests, accept a folder of hashed certificates.
            folder = stat.S_ISDIR(status.st_mode)
            context = ssl.create_default_context(
                capath=bundle if folder else None, cafile=None if folder else bundle
            )
            _contexts[bundle] = status.st_mtime_ns, context
        return context
    except OSError as err:  # an ssl.SSLError too
        raise ConfigurationError(
            f"Connection {settings.conn_id!r}: {name} names {bundle!r}, which is not a usable CA bundle on this host "
            f"({type(err).__name__})."
        ) from None


def proxy_for(url: str) -> str | None:
    """
    The proxy that the environment names for a URL (``HTTPS_PROXY``, ``NO_PROXY``, …), or None.

    :raises ConfigurationError: its address cannot be used; the message omits the address, which may hold a password.
    """
    proxy: str | None = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"The proxy that the environment names for {urlsplit(url).hostname} has no usable address; "
            "use http://HOST:PORT."
        ) from None
    return proxy


def headers_of(request: Request, access_token: str | None) -> dict[str, str]:
    """The headers to send: with Basic authentication (encoded once, as UTF-8) or a bearer token."""
    headers = dict(request.headers)
    if request.basic is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(':'.join(request.basic).encode()).decode()}"
    elif access_token is not None:
        headers["Authorization"] = f"Bearer {access_token}"
    return headers


def timeouts(settings: LucidworksSettings) -> tuple[float, float]:
    """Connect and read timeouts in seconds."""
    return min(CONNECT_TIMEOUT, settings.timeout), settings.timeout


class Failure(Enum):
    """Why a request got no response."""

    CERTIFICATE = "the certificate is not trusted"
    TLS = "the TLS handshake failed"
    PROXY = "the proxy of the environment did not connect ({cause})"
    CONNECTION = "no connection ({cause})"
    TIMEOUT = "no response within {timeout:g} s"
    BROKEN = "the connection broke ({cause})"


def failure_error(
    failure: Failure, cause: object, request: Request, settings: LucidworksSettings
) -> LucidworksError:
    """
    The error of a failure.

    :param cause: its type is named. Its message is not shown: it may quote a proxy's address with its password.
    """
    if failure is Failure.CERTIFICATE:
        return ConfigurationError(
            f"Connection {settings.conn_id!r}: the certificate of {urlsplit(request.url).netloc} is not trusted; "
            "behind a private authority set `ca_bundle` to its PEM file."
        )
    kind = TransportError if failure in {Failure.TIMEOUT, Failure.BROKEN} else NotSentError
    why = failure.value.format(cause=type(cause).__name__, timeout=settings.timeout)
    return kind(f"{_what(request)}{why}")


def failure_outcome(error: LucidworksError) -> str:
    """The outcome of a request without a response, for metrics: ``not_sent`` where no connection could be made."""
    # NotSentError is a TransportError; a certificate that is not trusted is a ConfigurationError.
    sent = isinstance(error, TransportError) and not isinstance(error, NotSentError)
    return "broken" if sent else "not_sent"


def _what(request: Request) -> str:
    """The start of an error's text."""
    return f"{request.name}: {urlsplit(request.url).netloc}: "


# Five times the largest result that the documented limits allow (about 12.6 MB).
MOST_BYTES = 64 << 20
# Bytes a second, on average, of a response that takes longer than the connection's timeout.
LEAST_SPEED = 10_000
# The first byte of a gzip member; no JSON begins with it.
_GZIP = 0x1F


class BodyReader:
    """
    Reads the body of one response: limits its size and duration, and decompresses it.

    A timeout between bytes alone would let an endless response fill the memory, and one that arrives byte by byte
    keep its connection forever.

    :param timeout: seconds that any response may take.
    :param encoding: the ``Content-Encoding``; a body in an unknown one is not decoded.
    :param length: the ``Content-Length``.
    :raises TransportError: the body is too large.
    """

    def __init__(
        self, request: Request, timeout: float, encoding: str | None = None, length: int | None = None
    ) -> None:
        self._what = _what(request)
        self._replayable = request.replayable
        self._timeout = timeout
        self._started = time.monotonic()
        self._decoders = [_Decoder(coding) for coding in reversed(content_codings(encoding) or ())]
        self._parts: list[bytes] = []
        self._size = 0
        if length is not None and length > MOST_BYTES:
            raise TransportError(
                f"{self._what}a response of {length} bytes; more than {MOST_BYTES} are not read"
            )

    def add(self, data: bytes) -> None:
        """
        Add data as it was received.

        :raises TransportError: the body is too large, too slow, or in another encoding.
        """
        for decoder in self._decoders:
            try:
                data = decoder.decode(data, MOST_BYTES + 1 - self._size)
            except zlib.error:
                raise TransportError(f"{self._what}the body is not valid {decoder.coding}") from None
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            raise TransportError(f"{self._what}a response of more than {MOST_BYTES} bytes, which is not read")
        seconds = time.monotonic() - self._started
        if seconds > self._timeout + self._size / LEAST_SPEED:
            raise TransportError(f"{self._what}only {self._size} bytes of the response in {seconds:.1f} s")

    def body(self) -> bytes:
        """
        Return the whole body.

        Compressed data that ends early may have all of a JSON object. That of a submission may have the only copy of
        a job's id, which its parser finds.

        :raises TransportError: the compressed data ends early, and the request can be repeated.
        """
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._replayable and not body.rstrip().endswith(b"}"):
            for decoder in self._decoders:
                if decoder.is_cut:
                    raise TransportError(f"{self._what}the {decoder.coding} body is truncated")
        return body


class _Decoder:
    """Decompresses one coding."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self._engine: zlib._Decompress | None = None
        self._plain = False

    @property
    def is_cut(self) -> bool:
        """Whether the data so far is not all."""
        return self._engine is not None and not self._engine.eof

    def decode(self, data: bytes, most: int) -> bytes:
        """
        :param most: bytes to return at most.
        :raises zlib.error: the data is in another coding.
        """
        if self._engine is None and data and self.coding != "deflate":
            # A proxy that decompresses may leave the header in place.
            self._plain = self._plain or data[0] != _GZIP
        if self._plain:
            return data[:most]
        parts: list[bytes] = []
        while data and most > 0:
            # A gzip body may consist of several members; anything after them is ignored, as browsers do.
            if self._engine is None or (self._engine.eof and self.coding != "deflate" and data[0] == _GZIP):
                self._engine = zlib.decompressobj(self._window(data))
            elif self._engine.eof:
                break
            parts.append(self._engine.decompress(data, most))
            most -= len(parts[-1])
            data = self._engine.unconsumed_tail or self._engine.unused_data
        return b"".join(parts)

    def _window(self, data: bytes) -> int:
        if self.coding != "deflate":
            return zlib.MAX_WBITS | 16
        # By RFC 9110 it has a zlib header, which some servers leave out.
        return zlib.MAX_WBITS if data[0] & 0xF == 8 else -zlib.MAX_WBITS


# Scheme, and host with its port.
Host = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts of a connection that take bearer tokens."""

    hosts: frozenset[Host]

    @classmethod
    def of(cls, settings: LucidworksSettings) -> AllowedHosts:
        """The hosts of the application and the Models API; not the one that issues tokens."""
        urls = (settings.application_url, settings.models_url)
        return cls(frozenset(_host(url) for url in urls if url))

    def allows(self, url: str | None) -> bool:
        """Whether the token may be sent there."""
        host = _host(url or "")
        return bool(host[1]) and host in self.hosts

    def check(self, url: str | None) -> None:
        """:raises InputError: the token must not be sent there."""
        if not self.allows(url):
            known = ", ".join(sorted(f"{scheme}://{host}" for scheme, host in self.hosts))
            raise InputError(
                f"The access token is for {known}; it is not sent to {urlsplit(url or '').netloc!r}."
            )


def endpoint_of(method: str | None, url: str | None) -> str:
    """The endpoint of a user's own call: its path without the last segment, which is mostly an id."""
    return f"{method} {urlsplit(url or '').path.rpartition('/')[0]}"


def base_url(settings: LucidworksSettings, scope: str) -> str:
    """
    The base of relative paths: the application's host (``/ai/*``) or the Models API's (``/customers/*``).

    :raises ConfigurationError: the connection has no Application ID.
    """
    return settings.models_url if scope == MODEL_SCOPE else settings.application_base


def _host(url: str) -> Host:
    """Normalised: without a default port, and in the ASCII form of international names."""
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
