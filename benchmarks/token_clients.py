# SPDX-License-Identifier: Apache-2.0
"""
Clients of the client-credentials grant, each used as documented.

Each gets what the service needs (three headers, Basic authentication) and one session with persistent connections.
A library that handles a 401 does so here. Two clients have a handler that its user would write: a new token on each
401, and a cache that is read before a token is requested.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import requests

CLIENT_ID, CLIENT_SECRET = "demo-client", "demo-secret"
SCOPE = "machinelearning.predict"
HEADERS = {
    "Accept": "application/json",
    "Cache-Control": "no-cache",
    "Content-Type": "application/x-www-form-urlencoded",
}
TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Service:
    """
    The service of a measurement.

    :param auth_server_id: different for each measurement, so that no cached token is used.
    :param cache_file: for the client that shares tokens in a file.
    :param redis_url: for the client that shares tokens in Redis.
    """

    url: str
    auth_server_id: str
    cache_file: str
    redis_url: str

    @property
    def token_url(self) -> str:
        return f"{self.url}/oauth2/{self.auth_server_id}/v1/token"

    @property
    def call_url(self) -> str:
        return f"{self.url}/ai/usecases"


# Makes one call; its HTTP status.
Call = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Client:
    """
    A way to get a token.

    :param packages: distributions that must be installed.
    :param modules: imported before the measurement.
    :param start: prepares a process; if it raises, all calls of the process fail.
    """

    name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    start: Callable[[Service], Call]


class _Bearer(requests.auth.AuthBase):
    """Gets the token at each call, for libraries that return a token and no session."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self._token()}"
        return r


def _calls(session: requests.Session, service: Service) -> Call:
    return lambda: session.get(service.call_url, timeout=TIMEOUT).status_code


def _retrying(call: Call, renew: Callable[[], object]) -> Call:
    """Renew the token and repeat the call on a 401, twice at most, as google-auth does."""

    def retry() -> int:
        for _ in range(2):
            if (status := call()) != 401:
                return status
            renew()
        return call()

    return retry


def request_token(session: requests.Session, service: Service) -> str:
    """Request a token with requests."""
    response = session.post(
        service.token_url,
        params={"scope": SCOPE, "grant_type": "client_credentials"},
        headers=HEADERS,
        auth=(CLIENT_ID, CLIENT_SECRET),
        timeout=TIMEOUT,
    )
    response.raise_for_status()
    return str(response.json()["access_token"])


def plain(service: Service) -> Call:
    """A token for the process."""
    session = requests.Session()
    token = request_token(session, service)
    session.auth = _Bearer(lambda: token)
    return _calls(session, service)


def plain_again(service: Service) -> Call:
    """A token for the process, and a new one on each 401."""
    session = requests.Session()
    token = request_token(session, service)
    session.auth = _Bearer(lambda: token)

    def renew() -> None:
        nonlocal token
        token = request_token(session, service)

    return _retrying(_calls(session, service), renew)


def google_auth(service: Service) -> Call:
    """A subclass of Credentials; AuthorizedSession refreshes it on a 401, two times at most (its default)."""
    from google.auth.credentials import Credentials
    from google.auth.exceptions import RefreshError
    from google.auth.transport.requests import AuthorizedSession

    pair = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()

    class ClientCredentials(Credentials):
        def refresh(self, request: Any) -> None:
            response = request(
                url=service.token_url,
                method="POST",
                headers=HEADERS | {"Authorization": f"Basic {pair}"},
                body=f"grant_type=client_credentials&scope={SCOPE}".encode(),
            )
            if response.status != 200:
                raise RefreshError(f"the token endpoint returned {response.status}")
            grant = json.loads(response.data)
            self.token = grant["access_token"]
            # The library compares naive times.
            now = datetime.now(UTC).replace(tzinfo=None)
            self.expiry = now + timedelta(seconds=grant["expires_in"])

    return _calls(AuthorizedSession(ClientCredentials()), service)


def databricks_sdk(service: Service) -> Call:
    """The SDK's token source, used at each call as in its own client; it caches the token until it expires."""
    from databricks.sdk.oauth import ClientCredentials, Token, retrieve_token

    class WithHeaders(ClientCredentials):  # which cannot be configured with headers
        def refresh(self) -> Token:
            return retrieve_token(
                self.client_id,
                self.client_secret,
                self.token_url,
                {"grant_type": "client_credentials", "scope": self.scopes},
                use_header=True,
                headers=HEADERS,
            )

    source = WithHeaders(CLIENT_ID, CLIENT_SECRET, service.token_url, scopes=SCOPE, use_header=True)
    session = requests.Session()
    session.auth = _Bearer(lambda: str(source.token().access_token))
    return _calls(session, service)


def authlib(service: Service) -> Call:
    """A session with a token endpoint, which renews the token when it expires."""
    from authlib.integrations.requests_client import OAuth2Session

    session = OAuth2Session(
        CLIENT_ID,
        CLIENT_SECRET,
        scope=SCOPE,
        token_endpoint=service.token_url,
        grant_type="client_credentials",
    )
    session.headers["Cache-Control"] = HEADERS["Cache-Control"]
    session.fetch_token()
    return _calls(session, service)


def requests_oauthlib(service: Service) -> Call:
    """The documented backend flow; there is no refresh token in a client-credentials grant."""
    # The emulator has no TLS.
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    from oauthlib.oauth2 import BackendApplicationClient
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client=BackendApplicationClient(client_id=CLIENT_ID, scope=SCOPE))
    session.fetch_token(service.token_url, auth=(CLIENT_ID, CLIENT_SECRET), headers=HEADERS)
    return _calls(session, service)


class _MsalTransport:
    """
    MSAL's documented ``http_client``, as an adapter of the emulator.

    MSAL needs https and the OpenID metadata of its authority, which the emulator does not have. It sends the secret
    in the form, where the service needs Basic authentication.
    """

    authority = "https://identity.lucidworks.com/oauth2"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._session = requests.Session()

    def get(self, url: str, **kwargs: Any) -> SimpleNamespace:
        """The discovery document."""
        base = url.removesuffix("/.well-known/openid-configuration")
        endpoints = {
            "issuer": base,
            "authorization_endpoint": f"{base}/v1/authorize",
            "token_endpoint": f"{base}/v1/token",
        }
        return SimpleNamespace(text=json.dumps(endpoints), status_code=200, headers={})

    def post(self, url: str, *, data: dict[str, str], headers: dict[str, str], **kwargs: Any) -> Any:
        """The token request."""
        form = {name: value for name, value in data.items() if name != "client_secret"}
        return self._session.post(
            self._service.url + url.removeprefix("https://identity.lucidworks.com"),
            data=form,
            headers=headers | HEADERS,
            auth=(data["client_id"], data["client_secret"]),
            timeout=TIMEOUT,
        )

    def close(self) -> None:
        """Part of the interface."""
        self._session.close()


def _msal_application(service: Service, token_cache: Any = None) -> Any:
    from msal import ConfidentialClientApplication

    return ConfidentialClientApplication(
        CLIENT_ID,
        client_credential=CLIENT_SECRET,
        oidc_authority=f"{_MsalTransport.authority}/{service.auth_server_id}",
        http_client=_MsalTransport(service),
        token_cache=token_cache,
    )


def _acquire(application: Any) -> str:
    # An error is a response without a token, and so a KeyError; errors are only counted.
    return str(application.acquire_token_for_client([SCOPE])["access_token"])


def msal(service: Service) -> Call:
    """MSAL with its cache in memory, used at each call as documented."""
    application = _msal_application(service)
    session = requests.Session()
    session.auth = _Bearer(lambda: _acquire(application))
    return _calls(session, service)


def msal_file(service: Service) -> Call:
    """
    MSAL with the file cache of msal-extensions, which the processes of a host share.

    On a 401, the token of the cache is used if it is another one by then; otherwise it is removed.
    """
    from msal_extensions import FilePersistence, PersistedTokenCache

    application = _msal_application(service, PersistedTokenCache(FilePersistence(service.cache_file)))
    session = requests.Session()
    used = ""

    def token() -> str:
        nonlocal used
        used = _acquire(application)
        return used

    def renew() -> None:
        if _acquire(application) == used:
            application.remove_tokens_for_client()

    session.auth = _Bearer(token)
    return _retrying(_calls(session, service), renew)


def ours(service: Service) -> Call:
    """The hook of this package, with its defaults."""
    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    extra = dict.fromkeys(("auth_url", "application_url"), service.url)
    shared = {"share_via": "redis", "redis_conn_id": "token_redis"}
    connection = {
        "conn_type": "lucidworks",
        "login": CLIENT_ID,
        "password": CLIENT_SECRET,
        "host": "app",
        "extra": extra | {"auth_server_id": service.auth_server_id} | shared,
    }
    os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = json.dumps(connection)
    os.environ["AIRFLOW_CONN_TOKEN_REDIS"] = service.redis_url
    return _calls(LucidworksAuthHook().get_conn(), service)


CLIENTS = (
    Client("requests", ("requests",), ("requests",), plain),
    Client("requests, new token on 401", ("requests",), ("requests",), plain_again),
    Client("google-auth", ("google-auth",), ("google.auth.transport.requests",), google_auth),
    Client("databricks-sdk", ("databricks-sdk",), ("databricks.sdk.oauth",), databricks_sdk),
    Client("authlib", ("Authlib",), ("authlib.integrations.requests_client",), authlib),
    Client("requests-oauthlib", ("requests-oauthlib", "oauthlib"), ("requests_oauthlib",), requests_oauthlib),
    Client("MSAL", ("msal",), ("msal",), msal),
    Client("MSAL, file cache", ("msal", "msal-extensions"), ("msal_extensions",), msal_file),
    Client(
        "LucidworksAuthHook",
        ("apache-airflow", "apache-airflow-providers-redis", "redis"),
        ("lucidworks_provider.hooks.lucidworks", "lucidworks_provider.client.http.sync", "redis"),
        ours,
    ),
)
