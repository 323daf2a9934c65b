# SPDX-License-Identifier: Apache-2.0
"""
How people get a token of the client-credentials grant: each way as its library's documentation shows it.

Each gets what it needs to be accepted (the three headers of the token request, Basic authentication) and one
session with kept-alive connections. A library that handles a 401 by itself does so here. For one that does
not, what its user can write by hand is shown twice: a new token on each 401, and a cache that is looked into
before one is asked for.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
    Where to ask and what the processes have in common.

    :param url: the emulator.
    :param auth_server_id: another one for each measurement, so that each begins cold.
    :param cache_file: for the client that shares through a file.
    :param redis_url: for the client that shares through Redis.
    """

    url: str
    auth_server_id: str
    cache_file: str
    redis_url: str

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return f"{self.url}/oauth2/{self.auth_server_id}/v1/token"

    @property
    def call_url(self) -> str:
        """What is called with the token."""
        return f"{self.url}/ai/usecases"


# One call of the service; its status.
Call = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Client:
    """
    One way to get a token.

    :param name: as the table shows it.
    :param packages: distributions that must be installed.
    :param modules: imported before anything is measured.
    :param start: what a process does first; whatever it raises fails all its calls.
    """

    name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    start: Callable[[Service], Call]


class _Bearer(requests.auth.AuthBase):
    """Asks for the token at each call, for libraries that hand out a token and no session."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self._token()}"
        return r


def _calls(session: requests.Session, service: Service) -> Call:
    return lambda: session.get(service.call_url, timeout=TIMEOUT).status_code


def request_token(session: requests.Session, service: Service) -> str:
    """A token by plain requests."""
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
    """What a PythonOperator does: a token for the task, then its calls."""
    session = requests.Session()
    token = request_token(session, service)
    session.auth = _Bearer(lambda: token)
    return _calls(session, service)


def plain_again(service: Service) -> Call:
    """The same, and on a 401 a new token and the call once more: two times, as google-auth does."""
    session = requests.Session()
    token = request_token(session, service)
    session.auth = _Bearer(lambda: token)
    once = _calls(session, service)

    def call() -> int:
        nonlocal token
        for _ in range(2):
            if (status := once()) != 401:
                return status
            token = request_token(session, service)
        return once()

    return call


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
            # The library compares with a clock that has no zone.
            now = datetime.now(UTC).replace(tzinfo=None)
            self.expiry = now + timedelta(seconds=grant["expires_in"])

    return _calls(AuthorizedSession(ClientCredentials()), service)


def databricks_sdk(service: Service) -> Call:
    """
    The SDK's token source, asked at each call as its own client does; it keeps the token until it expires.

    ``ClientCredentials`` sends no headers of one's own, the SDK's function below it does.
    """
    from databricks.sdk.oauth import ClientCredentials, Token, retrieve_token

    class WithHeaders(ClientCredentials):
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
    """A session that knows its token endpoint, and so renews the token when it expires."""
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
    """The documented backend flow; a client-credentials grant has nothing that it could refresh with."""
    # The emulator is plain http, on the loopback.
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    from oauthlib.oauth2 import BackendApplicationClient
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client=BackendApplicationClient(client_id=CLIENT_ID, scope=SCOPE))
    session.fetch_token(service.token_url, auth=(CLIENT_ID, CLIENT_SECRET), headers=HEADERS)
    return _calls(session, service)


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The response that MSAL wants of a discovery document."""

    text: str
    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class _MsalTransport:
    """
    MSAL's documented ``http_client``, between it and the emulator.

    MSAL speaks to https only and begins with the OpenID metadata of its authority, which the emulator does
    not have: they are handled here. It puts the secret into the form, where the service wants Basic.
    """

    authority = "https://identity.lucidworks.com/oauth2"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._session = requests.Session()

    def get(self, url: str, **kwargs: Any) -> _Metadata:
        """The discovery document, the only thing that MSAL gets in this flow."""
        base = url.removesuffix("/.well-known/openid-configuration")
        endpoints = {
            "issuer": base,
            "authorization_endpoint": f"{base}/v1/authorize",
            "token_endpoint": f"{base}/v1/token",
        }
        return _Metadata(json.dumps(endpoints))

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
        """For MSAL's interface."""
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
    # An error is a response without a token, so it is a KeyError that says little; the caller only counts it.
    return str(application.acquire_token_for_client([SCOPE])["access_token"])


def msal(service: Service) -> Call:
    """Asked at each call, as its documentation wants; its cache is in memory."""
    application = _msal_application(service)
    session = requests.Session()
    session.auth = _Bearer(lambda: _acquire(application))
    return _calls(session, service)


def msal_file(service: Service) -> Call:
    """
    MSAL with the file cache of msal-extensions, which the processes of one host share.

    On a 401, by hand: if the cache shows another token by now use that, else drop it and get a new one.
    """
    from msal_extensions import FilePersistence, PersistedTokenCache

    application = _msal_application(service, PersistedTokenCache(FilePersistence(service.cache_file)))
    session = requests.Session()
    used = ""

    def token() -> str:
        nonlocal used
        used = _acquire(application)
        return used

    session.auth = _Bearer(token)
    once = _calls(session, service)

    def call() -> int:
        for _ in range(2):
            if (status := once()) != 401:
                return status
            if _acquire(application) == used:
                application.remove_tokens_for_client()
        return once()

    return call


def ours(service: Service) -> Call:
    """The hook of this provider, with its defaults."""
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
