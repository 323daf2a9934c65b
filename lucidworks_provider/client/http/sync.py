# SPDX-License-Identifier: Apache-2.0
"""The synchronous client, over ``requests``: a transport, and sessions for users' own calls."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError, SSLError

from lucidworks_provider import metrics
from lucidworks_provider.client.http.messages import ACCEPT_ENCODING, Request, Response
from lucidworks_provider.client.http.rate_limiter import queue_for
from lucidworks_provider.client.http.transport import (
    LEAST_SPEED,
    AllowedHosts,
    BodyReader,
    Failure,
    base_url,
    endpoint_of,
    failure_error,
    failure_outcome,
    headers_of,
    proxy_for,
    timeouts,
    verify_option,
)
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import TransportError
from lucidworks_provider.retrying import TOKEN_ROUNDS

if TYPE_CHECKING:
    from lucidworks_provider.client.auth.source import TokenSource

# Bytes of a body that are read at once.
_CHUNK = 1 << 20


class SyncTransport:
    """
    Sends requests one at a time over kept-alive connections.

    Not thread-safe: each thread needs its own.
    """

    def __init__(self, settings: LucidworksSettings) -> None:
        self._settings = settings
        self._session = _Session()
        # Proxies and certificates are decided in `transport`; trusting the environment would also read ~/.netrc.
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = ACCEPT_ENCODING
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        mount_adapter(self._session, settings.timeout)

    def send(self, request: Request, access_token: str | None = None) -> Response:
        """
        Send once, when the rate limiter of the application permits it.

        :raises NotSentError: no connection could be made.
        :raises AcquireTimeoutError: the request could not begin in time.
        :raises TransportError: no complete response arrived.
        :raises ConfigurationError: the server's certificate is not trusted.
        """
        queue = queue_for(request, self._settings)
        if queue is None:
            return self.send_now(request, access_token)
        permit = queue.acquire(request.begin_by)
        response = update_pause = None
        try:
            response = self.send_now(request, access_token)
        finally:
            update_pause = queue.ended(permit, response)
        if update_pause is not None:
            update_pause()
        return response

    def send_now(self, request: Request, access_token: str | None = None) -> Response:
        """:meth:`send` without the rate limiter."""
        proxy = proxy_for(request.url)
        verify = verify_option(self._settings)
        sent = time.monotonic()
        try:
            with self._session.request(
                request.method,
                request.url,
                params=request.params or None,
                data=request.body,
                headers=headers_of(request, access_token),
                timeout=timeouts(self._settings),
                verify=verify,
                proxies={"all": proxy} if proxy else None,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = _body(response, request, self._settings)
        except (requests.RequestException, HTTPError, OSError, TransportError) as err:
            error = (
                err
                if isinstance(err, TransportError)
                else failure_error(*failure_of(err), request, self._settings)
            )
            metrics.request(request.endpoint, failure_outcome(error), time.monotonic() - sent)
            raise error from None
        metrics.request(request.endpoint, response.status_code, time.monotonic() - sent)
        return Response(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)

    def close(self) -> None:
        self._session.close()


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """No redirect: even without following it, requests would read all of its body, and parse its address."""


def _body(response: requests.Response, request: Request, settings: LucidworksSettings) -> bytes:
    raw = response.raw
    encoding = response.headers.get("Content-Encoding")
    body = BodyReader(request, settings.timeout, encoding, raw.length_remaining)
    # read1 returns what has arrived, so that each part is timed.
    while data := raw.read1(_CHUNK, decode_content=False):
        body.add(data)
    return body.body()


def failure_of(err: Exception) -> tuple[Failure, object]:
    """What an error of requests, urllib3 or the operating system means, and its cause."""
    cause = _innermost(err)
    if not _is_of_connecting(cause):
        timeout = isinstance(err, requests.Timeout | ReadTimeoutError)
        return Failure.TIMEOUT if timeout else Failure.BROKEN, cause
    if isinstance(err, requests.exceptions.ProxyError):
        return Failure.PROXY, cause
    if not isinstance(cause, ssl.SSLError | SSLError):
        return Failure.CONNECTION, cause
    # A broken handshake may pass; a wrong certificate does not.
    wrong = "certificate verify failed" in str(cause).lower()
    return Failure.CERTIFICATE if wrong else Failure.TLS, cause


def _innermost(err: BaseException) -> BaseException:
    """Unwrap an error of requests or urllib3. Contexts are ignored: they may be those of a caller."""
    while not _is_of_connecting(err):
        inner = getattr(err, "reason", None) or (err.args[-1] if err.args else None)
        if not isinstance(inner, BaseException):
            break
        err = inner
    return err


def _is_of_connecting(err: BaseException) -> bool:
    """Whether an error has the mark of :func:`_connecting`, so that nothing was sent."""
    return getattr(err, "of_connecting", False)


class BearerAuth(requests.auth.AuthBase):
    """
    Adds the shared token to a request, and repeats it with the next one after a 401, or once after a 403.

    :param tokens: where they come from.
    :param allowed: the hosts that may see them.
    """

    def __init__(self, tokens: TokenSource, allowed: AllowedHosts) -> None:
        self._tokens = tokens
        self._allowed = allowed

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        self._allowed.check(r.url)
        token = self._tokens.get()
        r.headers["Authorization"] = f"Bearer {token}"
        file: Any = r.body if hasattr(r.body, "seek") else None
        try:
            position = file.tell() if file is not None else None
        except OSError:  # a pipe
            file = position = None
        # A stream that was read cannot be sent again; its caller gets the 401.
        repeatable = r.body is None or isinstance(r.body, str | bytes) or file is not None

        def on_response(response: requests.Response, **kwargs: Any) -> requests.Response:
            used, repeated_after_403 = token, False
            for last in (False,) * TOKEN_ROUNDS + (True,):
                # requests also calls this for redirects, which may be to any host.
                if not self._allowed.allows(response.request.url):
                    break
                status, other = response.status_code, None
                endpoint = endpoint_of(response.request.method, response.request.url)
                # A redirect to the other host has no token, so its response says nothing about the token.
                ours = response.request.headers.get("Authorization") == f"Bearer {used}"
                if status not in {401, 403}:
                    self._tokens.accepted(used, endpoint)
                    break
                if status == 403:
                    other = (
                        self._tokens.token_after_403(used, endpoint)
                        if ours and not repeated_after_403
                        else None
                    )
                    repeated_after_403 = True
                elif ours:
                    self._tokens.invalidate(used)
                if last or not repeatable or (status == 403 and other is None):
                    break
                # The connection can be used again only after the response was read.
                _ = response.content
                response.close()
                again = response.request.copy()
                if file is not None:
                    file.seek(position)
                used = other or self._tokens.get()
                again.headers["Authorization"] = f"Bearer {used}"
                received = response.connection.send(again, **kwargs)
                received.history.append(response)
                received.request = again
                response = received
            return response

        r.register_hook("response", on_response)
        # Sessions make the request of a redirect from this copy.
        r.copy = partial(_RedirectedRequest.of, r)  # type: ignore[method-assign]
        return r


class _RedirectedRequest(requests.PreparedRequest):
    """
    A copy that keeps its ``Authorization`` header, or the lack of one.

    On each redirect, a session that trusts the environment (the default) replaces the header by the ``~/.netrc``
    entry of the host. It has no option for that alone: without the environment there are no proxies either.
    """

    @classmethod
    def of(cls, request: requests.PreparedRequest) -> Self:
        copied = cls()
        copied.__dict__.update(requests.PreparedRequest.copy(request).__dict__)
        return copied

    def copy(self) -> Self:
        return self.of(self)

    def prepare_auth(self, auth: Any, url: Any = "") -> None:
        """Ignore credentials: those of the request are set, and requests has none to add but those of netrc."""


class LucidworksSession(requests.Session):
    """See :meth:`lucidworks_provider.hooks.lucidworks.LucidworksAuthHook.get_conn`."""

    def __init__(self, settings: LucidworksSettings, scope: str, tokens: TokenSource) -> None:
        super().__init__()
        self._settings = settings
        self._scope = scope
        self.auth = BearerAuth(tokens, AllowedHosts.of(settings))
        mount_adapter(self)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Like ``requests.Session.request``, with relative paths and a default timeout."""
        if isinstance(url, str) and url.startswith("/"):
            url = base_url(self._settings, self._scope) + url
        kwargs.setdefault("timeout", timeouts(self._settings))
        return super().request(method, url, *args, **kwargs)

    def merge_environment_settings(
        self, url: str | bytes | None, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Let the connection take precedence over environment variables."""
        if verify is None:
            verify = verify_option(self._settings)
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


# Interim responses (1xx, such as 103 Early Hints) to one request at most. http.client skips 100 and takes any other
# for the final response; a proxy may send one before each response. aiohttp skips them.
MOST_INTERIM = 100


class _TimedStream(io.RawIOBase):
    """
    A socket's stream. At first, as for the response to a CONNECT, and within :meth:`limited`, all reads together have
    the timeout of the socket, which alone would be one for each read.

    :param stream: what ``makefile`` of the socket returned, without its buffer.
    """

    def __init__(self, sock: socket.socket, stream: io.RawIOBase) -> None:
        self._sock, self._stream = sock, stream
        self._timeout = sock.gettimeout()
        self._deadline = self._from_now()

    def _from_now(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    @contextmanager
    def limited(self) -> Iterator[None]:
        self._deadline = self._from_now()
        try:
            yield
        finally:
            self._deadline = None

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is None:
            return self._stream.readinto(buffer)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The server sends too slowly.")
        self._sock.settimeout(left)
        try:
            return self._stream.readinto(buffer)
        finally:
            self._sock.settimeout(self._timeout)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            super().close()


class _FinalResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._timed = _TimedStream(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        with self._timed.limited():
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        # It reads the line before a chunk too, and the trailer after the last one.
        with self._timed.limited():
            return super().read1(n)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.BadStatusLine(f"more than {MOST_INTERIM} interim responses")


@contextmanager
def _connecting(connection: HTTPConnection) -> Iterator[None]:
    """Mark errors: urllib3 has the same ones before and after a request was sent."""
    try:
        try:
            yield
        except TimeoutError as err:
            # Of the handshake, which urllib3 would take for one of the response.
            raise ConnectTimeoutError(connection, str(err)) from err
    except Exception as err:
        vars(err)["of_connecting"] = True
        raise


class _Connection(HTTPConnection):
    """:param upload_timeout: seconds, without those for its size; None for those of connecting."""

    response_class = _FinalResponse

    def __init__(self, *args: Any, upload_timeout: float | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._upload_timeout = upload_timeout

    def connect(self) -> None:
        with _connecting(self):
            super().connect()

    def request(self, method: str, url: str, body: Any = None, *args: Any, **options: Any) -> None:
        if self._upload_timeout is not None:
            if self.sock is None:
                self.connect()
            self.timeout = self._upload_timeout + len(body or b"") / LEAST_SPEED
        super().request(method, url, body, *args, **options)


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def __init__(self, upload_timeout: float | None) -> None:
        self._pools = {
            "http": partial(_Pool, upload_timeout=upload_timeout),
            "https": partial(_TlsPool, upload_timeout=upload_timeout),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


def mount_adapter(session: requests.Session, upload_timeout: float | None = None) -> None:
    """
    Make a session skip interim responses, and mark errors of connecting.

    :param upload_timeout: seconds, plus those for its size. Otherwise urllib3 limits it by those of connecting.
    """
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(upload_timeout))
