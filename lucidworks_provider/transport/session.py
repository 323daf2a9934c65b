# SPDX-License-Identifier: Apache-2.0
"""A ``requests`` session for users' own calls: it carries the fleet's token and outlives a 401."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests

from lucidworks_provider.api.tokens import MODEL_SCOPE
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import InputError
from lucidworks_provider.transport.retry import TOKEN_ROUNDS
from lucidworks_provider.transport.sync import CONNECT_TIMEOUT
from lucidworks_provider.transport.tls import trusted


class BearerAuth(requests.auth.AuthBase):
    """
    Puts the fleet's token on a request, and on a 401 the next one.

    :param get_token: hands out the token; given one that was refused, another.
    :param accepted: is told of a token that was not refused.
    :param hosts: ``(scheme, host:port)`` pairs that may see the token.
    """

    def __init__(
        self,
        get_token: Callable[[str | None], str],
        accepted: Callable[[str], None],
        hosts: set[tuple[str, str]],
    ) -> None:
        self._get_token = get_token
        self._accepted = accepted
        self._hosts = hosts

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if not self._may_see(r.url):
            known = ", ".join(sorted(f"{scheme}://{host}" for scheme, host in self._hosts))
            raise InputError(
                f"The access token is for {known}; it is not sent to {urlsplit(r.url or '').netloc!r}."
            )
        token = self._get_token(None)
        r.headers["Authorization"] = f"Bearer {token}"
        file: Any = r.body if hasattr(r.body, "seek") else None
        position = file.tell() if file is not None else None
        # A stream that has been read cannot be sent again; its caller is told of the 401.
        repeatable = r.body is None or isinstance(r.body, str | bytes) or file is not None

        def on_answer(response: requests.Response, **kwargs: Any) -> requests.Response:
            used = token
            for _ in range(TOKEN_ROUNDS):
                # requests runs this for the answers of redirects too, wherever they lead.
                if response.status_code != 401 or not (repeatable and self._may_see(response.request.url)):
                    break
                # The connection can be used again only when the answer has been read.
                _ = response.content
                response.close()
                again = response.request.copy()
                if file is not None:
                    file.seek(position)
                used = self._get_token(used)
                again.headers["Authorization"] = f"Bearer {used}"
                answer = response.connection.send(again, **kwargs)
                answer.history.append(response)
                answer.request = again
                response = answer
            if response.status_code != 401 and self._may_see(response.request.url):
                self._accepted(used)
            return response

        r.register_hook("response", on_answer)
        return r

    def _may_see(self, url: str | None) -> bool:
        return _host(url or "") in self._hosts


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url.lower())
    return parts.scheme, parts.netloc


class LucidworksSession(requests.Session):
    """See :meth:`lucidworks_provider.hooks.auth.LucidworksAuthHook.get_conn`."""

    def __init__(
        self,
        settings: LucidworksSettings,
        scope: str,
        get_token: Callable[[str | None], str],
        accepted: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._settings = settings
        # The scope decides the host: one serves /ai/*, the other /customers/*.
        self._base = settings.models_url if scope == MODEL_SCOPE else settings.application_url
        urls = [url for url in (settings.application_url, settings.models_url) if url]
        self.auth = BearerAuth(get_token, accepted, set(map(_host, urls)))

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Like ``requests.Session.request``; a path is completed, and there is a timeout by default."""
        if isinstance(url, str) and url.startswith("/"):
            url = (self._base or self._settings.application_base) + url
        limit = self._settings.timeout
        kwargs.setdefault("timeout", (min(CONNECT_TIMEOUT, limit), limit))
        return super().request(method, url, *args, **kwargs)

    def merge_environment_settings(
        self, url: str | bytes | None, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Decide ``verify`` here: by default an environment variable would win over the connection."""
        if verify is None:
            verify = trusted(self._settings)
        return super().merge_environment_settings(url, proxies, stream, verify, cert)
