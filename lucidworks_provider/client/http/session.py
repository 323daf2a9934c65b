# SPDX-License-Identifier: Apache-2.0
"""A ``requests`` session for users' own calls: it carries the fleet's token and outlives a 401."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import requests

from lucidworks_provider.client.http.bearer import AllowedHosts, Tokens, base_url, endpoint_of
from lucidworks_provider.client.http.interim import mount_interim_adapter
from lucidworks_provider.client.http.retry import TOKEN_ROUNDS
from lucidworks_provider.client.http.sync import CONNECT_TIMEOUT
from lucidworks_provider.client.http.tls import trusted
from lucidworks_provider.client.settings import LucidworksSettings


class BearerAuth(requests.auth.AuthBase):
    """
    Puts the fleet's token on a request, and on a 401 the next one; on a 403 once, if the token may be dead.

    :param tokens: hands them out, and is told what became of them.
    :param allowed: the hosts that may see them.
    """

    def __init__(self, tokens: Tokens, allowed: AllowedHosts) -> None:
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
        # A stream that has been read cannot be sent again; its caller is told of the 401.
        repeatable = r.body is None or isinstance(r.body, str | bytes) or file is not None

        def on_answer(response: requests.Response, **kwargs: Any) -> requests.Response:
            used, doubted = token, False
            for last in (False,) * TOKEN_ROUNDS + (True,):
                # requests runs this for the answers of redirects too, wherever they lead.
                if not self._allowed.may_see(response.request.url):
                    break
                status, other = response.status_code, None
                endpoint = endpoint_of(response.request.method, response.request.url)
                # A redirect to the other of the two hosts arrives without a token, which is then not at fault.
                ours = response.request.headers.get("Authorization") == f"Bearer {used}"
                if status not in {401, 403}:
                    self._tokens.accepted(used, endpoint)
                    break
                if status == 403:
                    other = self._tokens.token_after_403(used, endpoint) if ours and not doubted else None
                    doubted = True
                elif ours:
                    self._tokens.invalidate(used)
                if last or not repeatable or (status == 403 and other is None):
                    break
                # The connection can be used again only when the answer has been read.
                _ = response.content
                response.close()
                again = response.request.copy()
                if file is not None:
                    file.seek(position)
                used = other or self._tokens.get()
                again.headers["Authorization"] = f"Bearer {used}"
                answer = response.connection.send(again, **kwargs)
                answer.history.append(response)
                answer.request = again
                response = answer
            return response

        r.register_hook("response", on_answer)
        # What a redirect sends is made of this copy, by any session.
        r.copy = partial(_RedirectedRequest.of, r)  # type: ignore[method-assign]
        return r


class _RedirectedRequest(requests.PreparedRequest):
    """
    A copy that keeps its ``Authorization`` header, or the lack of one.

    A session that trusts the environment, as sessions do by default, sets the ``~/.netrc`` entry of the host on each
    redirect, in place of the token. It has no option for that alone: without its trust there are no proxies either.
    """

    @classmethod
    def of(cls, request: requests.PreparedRequest) -> Self:
        """Copy a request."""
        copied = cls()
        copied.__dict__.update(requests.PreparedRequest.copy(request).__dict__)
        return copied

    def copy(self) -> Self:
        """The same for the next redirect."""
        return self.of(self)

    def prepare_auth(self, auth: Any, url: Any = "") -> None:
        """Ignore credentials: those of the request are set, and requests has none to add but those of netrc."""


class LucidworksSession(requests.Session):
    """See :meth:`lucidworks_provider.hooks.auth.LucidworksAuthHook.get_conn`."""

    def __init__(self, settings: LucidworksSettings, scope: str, tokens: Tokens) -> None:
        super().__init__()
        self._settings = settings
        self._scope = scope
        self.auth = BearerAuth(tokens, AllowedHosts.of(settings))
        mount_interim_adapter(self)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Like ``requests.Session.request``; a path is completed, and there is a timeout by default."""
        if isinstance(url, str) and url.startswith("/"):
            url = base_url(self._settings, self._scope) + url
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
