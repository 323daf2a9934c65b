# SPDX-License-Identifier: Apache-2.0
"""One request over requests: an answer, or an error of this package's tree."""

from __future__ import annotations

import base64
import time
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from lucidworks_provider import metrics
from lucidworks_provider.client.api.messages import ACCEPT_ENCODING, Answer, Request
from lucidworks_provider.client.http.body import BodyReader
from lucidworks_provider.client.http.interim import mount_interim_adapter
from lucidworks_provider.client.http.request_queue import queue_for
from lucidworks_provider.client.http.tls import proxy_for, trusted
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import ConfigurationError, LucidworksError, NotSentError, TransportError

CONNECT_TIMEOUT = 10.0
# Of a body, at once.
_PIECE = 1 << 20


class SyncTransport:
    """
    Sends requests one at a time over kept-alive connections.

    Not for several threads at once; a transport costs little, so have one each.
    """

    def __init__(self, settings: LucidworksSettings) -> None:
        self._settings = settings
        self._session = requests.Session()
        # Proxies and authorities are decided in `tls`; trusting the environment would also read ~/.netrc.
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = ACCEPT_ENCODING
        mount_interim_adapter(self._session)

    def send(self, request: Request, access_token: str | None = None) -> Answer:
        """
        Send once, when the application's rate limiter permits it.

        :raises NotSentError: no connection could be made.
        :raises TransportError: no whole answer arrived.
        :raises ConfigurationError: the server's certificate is not trusted.
        """
        queue = queue_for(request, self._settings)
        if queue is None:
            return self._send(request, access_token)
        permit = queue.acquire()
        answer = tell = None
        try:
            answer = self._send(request, access_token)
        finally:
            tell = queue.answered(permit, answer)
        if tell is not None:
            tell()
        return answer

    def _send(self, request: Request, access_token: str | None) -> Answer:
        proxy = proxy_for(request.url)
        verify = trusted(self._settings)
        sent = time.monotonic()
        try:
            with self._session.request(
                request.method,
                request.url,
                params=request.params or None,
                data=request.body,
                headers=dict(request.headers),
                auth=_Authorization(authorization(request, access_token)),
                timeout=(min(CONNECT_TIMEOUT, self._settings.timeout), self._settings.timeout),
                verify=verify,
                proxies={"all": proxy} if proxy else None,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = _body(response, request, self._settings)
        except (requests.RequestException, HTTPError, OSError, TransportError) as err:
            # Not chained: texts of the libraries below may quote a proxy's address with its password.
            error = err if isinstance(err, TransportError) else translate(err, request, self._settings)
            metrics.request(request.endpoint, unanswered(error), time.monotonic() - sent)
            raise error from None
        metrics.request(request.endpoint, response.status_code, time.monotonic() - sent)
        return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)

    def close(self) -> None:
        """Close the kept connections."""
        self._session.close()


def _body(response: requests.Response, request: Request, settings: LucidworksSettings) -> bytes:
    what = f"{request.name}: {urlsplit(request.url).netloc}: "
    intake = BodyReader(what, settings.timeout, response.headers.get("Content-Encoding"))
    raw = response.raw
    intake.announced(raw.length_remaining)
    # What has come, and not as much as was asked for: else one call would last as long as the bytes keep dripping.
    # Older urllib3 has no such call, and there only whole pieces are timed.
    read = getattr(raw, "read1", raw.read)
    while piece := read(_PIECE, decode_content=False):
        intake.add(piece)
    return intake.whole()


class _Authorization(requests.auth.AuthBase):
    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            r.headers["Authorization"] = self._value
        return r


def authorization(request: Request, access_token: str | None) -> str | None:
    """The ``Authorization`` header: Basic for the token request (encoded once, as UTF-8), Bearer otherwise."""
    if request.basic is not None:
        pair = ":".join(request.basic).encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    return None if access_token is None else f"Bearer {access_token}"


def unanswered(error: LucidworksError) -> str:
    """How metrics count a request that got no answer: ``not_sent`` where no connection could be made."""
    # NotSentError is a TransportError; a certificate that is not trusted is a ConfigurationError.
    sent = isinstance(error, TransportError) and not isinstance(error, NotSentError)
    return "broken" if sent else "not_sent"


def translate(err: Exception, request: Request, settings: LucidworksSettings) -> LucidworksError:
    """An error of this package's tree for one of requests, urllib3 or the operating system."""
    host = urlsplit(request.url).netloc
    what = f"{request.name}: {host}: "
    if isinstance(err, requests.exceptions.SSLError):
        # A handshake that broke off passes; a certificate or a bundle that is wrong stays wrong.
        said = str(err).lower()
        if "certificate verify failed" in said or "x509" in said or "pem" in said:
            return untrusted(host, settings)
        return NotSentError(f"{what}the TLS handshake failed ({type(err).__name__})")
    if isinstance(err, requests.exceptions.ProxyError):
        return NotSentError(f"{what}the proxy of the environment did not connect ({type(err).__name__})")
    cause = err.args[0] if err.args else None
    reason = getattr(cause, "reason", cause)
    # urllib3 has one error for a handshake and for an answer that does not come in time.
    handshake = "handshake" in str(getattr(cause, "__cause__", None))
    if (
        handshake
        or isinstance(err, requests.ConnectTimeout)
        or isinstance(reason, NewConnectionError | ConnectTimeoutError)
    ):
        return NotSentError(f"{what}no connection ({type(reason).__name__})")
    if isinstance(err, requests.Timeout | ReadTimeoutError):
        return TransportError(f"{what}no answer within {settings.timeout:g} s")
    return TransportError(f"{what}the connection broke ({type(reason or err).__name__})")


def untrusted(host: str, settings: LucidworksSettings) -> ConfigurationError:
    """The error for a certificate that is not trusted."""
    return ConfigurationError(
        f"Connection {settings.conn_id!r}: the certificate of {host} is not trusted; behind a private authority "
        "set `ca_bundle` to its PEM file."
    )
