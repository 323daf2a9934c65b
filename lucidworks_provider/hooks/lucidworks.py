# SPDX-License-Identifier: Apache-2.0
"""The hooks: access tokens for the HTTP calls of DAG authors, and calls of the Lucidworks AI API."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import BaseHook

from lucidworks_provider.client.http.messages import PREDICT_SCOPE
from lucidworks_provider.client.options import did_you_mean
from lucidworks_provider.client.settings import (
    CONNECTION_TYPE,
    DEFAULT_CONN_ID,
    LucidworksSettings,
    parse_settings,
)
from lucidworks_provider.errors import ConfigurationError, LucidworksError
from lucidworks_provider.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR
from lucidworks_provider.hooks.stores import AirflowStores
from lucidworks_provider.hooks.task_channel import reading_connection
from lucidworks_provider.threads import import_in_thread

if TYPE_CHECKING:
    import aiohttp
    import requests
    from airflow.providers.common.compat.sdk import Connection

    from lucidworks_provider.client.auth.source import TokenSource
    from lucidworks_provider.client.client import LucidworksClient
    from lucidworks_provider.client.http.aio import AsyncTransport, BearerMiddleware
    from lucidworks_provider.client.http.messages import Call
    from lucidworks_provider.client.http.rate_limiter import RateLimitStats

T = TypeVar("T")
log = logging.getLogger(__name__)

# Of connections that may be used; some are created without a type.
_TYPES = {CONNECTION_TYPE, "generic", "", None}
_AIO = "lucidworks_provider.client.http.aio"


class LucidworksAuthHook(BaseHook):
    """
    Provides the access token that all processes of a deployment share.

    A new token invalidates the previous one of the same client ID and scope (documented on one of the vendor's pages;
    assumed here). This hook requests no new token while there is a valid one, so any number of tasks and triggers can
    use it.

    :param lucidworks_conn_id: the connection with Client ID and Client Secret.
    :param logger_name: of Airflow's :class:`BaseHook`.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-authentication-api
    """

    conn_name_attr = "lucidworks_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONNECTION_TYPE
    hook_name = "Lucidworks AI"

    def __init__(self, lucidworks_conn_id: str = DEFAULT_CONN_ID, logger_name: str | None = None) -> None:
        super().__init__(logger_name)
        self.lucidworks_conn_id = lucidworks_conn_id
        self._settings: LucidworksSettings | None = None
        # Sentences about the connection's extra.
        self._misspelt = ""

    def get_settings(self) -> LucidworksSettings:
        """
        The validated connection, read once per hook.

        :raises ConfigurationError: names the field that is missing or wrong, or the connection that does not exist.
        """
        if self._settings is None:
            with reading_connection(self.lucidworks_conn_id):
                conn = self.get_connection(self.lucidworks_conn_id)
                self._settings = self._read(conn, conn.extra_dejson)
        return self._settings

    async def aget_settings(self) -> LucidworksSettings:
        """:meth:`get_settings` for an event loop, where reading a connection synchronously can deadlock."""
        if self._settings is None:
            from airflow.providers.common.compat.connection import (
                get_async_connection,
                get_async_extra_dejson,
            )

            with reading_connection(self.lucidworks_conn_id):
                conn = await get_async_connection(self.lucidworks_conn_id, hook=type(self))
                extra = await get_async_extra_dejson(conn)
                self._settings = self._read(conn, extra)
        return self._settings

    def get_token(self, scope: str = PREDICT_SCOPE, *, refused: str | None = None) -> str:
        """
        An access token of a scope: the cached one while it is fresh, else the shared one.

        :param scope: ``machinelearning.predict`` (every ``/ai/*`` call) or ``machinelearning.model``.
        :param refused: a token that was just refused with 401, as for :meth:`invalidate`.
        :raises AuthenticationError: the service refuses the credentials.
        :raises TokenError: there is no token, and a new one would invalidate that of other processes; retryable.
        :raises TokenContestedError: another system keeps requesting tokens with the same client ID.
        :raises TokenStoreError: the store of the shared token cannot be reached.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        """
        return self._source(self.get_settings(), scope).get(refused)

    async def aget_token(self, scope: str = PREDICT_SCOPE, *, refused: str | None = None) -> str:
        """:meth:`get_token` for an event loop."""
        return await self._source(await self.aget_settings(), scope).aget(refused)

    def invalidate(self, token: str, scope: str = PREDICT_SCOPE) -> None:
        """
        Report that a call with this token got a 401.

        A token that is no longer in use is ignored. The next :meth:`get_token` reads the shared store before it
        requests a new token.

        :param token: what :meth:`get_token` returned for the call.
        :param scope: as in :meth:`get_token`.
        """
        self._source(self.get_settings(), scope).invalidate(token)

    def get_auth(self, scope: str = PREDICT_SCOPE) -> requests.auth.AuthBase:
        """
        The token as an ``auth=`` of ``requests``, for your own sessions and options.

        After a 401 the call is repeated with the next token. Only the hosts of the connection get the token.

        :param scope: as in :meth:`get_token`.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        :raises InputError: from the call, for a URL of a host that is not the connection's.
        """
        from lucidworks_provider.client.http.sync import BearerAuth
        from lucidworks_provider.client.http.transport import AllowedHosts

        settings = self.get_settings()
        return BearerAuth(self._source(settings, scope), AllowedHosts.of(settings))

    def get_conn(self, scope: str = PREDICT_SCOPE) -> requests.Session:
        """
        A ``requests`` session that sends the token, and repeats a call with the next one after a 401.

        Paths that start with ``/`` go to the application's host, or by the scope to the Models API's. Only the hosts
        of the connection get the token.

        :param scope: as in :meth:`get_token`.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        :raises InputError: from the session, for a URL of a host that is not the connection's.
        """
        from lucidworks_provider.client.http.sync import LucidworksSession

        settings = self.get_settings()
        return LucidworksSession(settings, scope, self._source(settings, scope))

    @asynccontextmanager
    async def aget_conn(self, scope: str = PREDICT_SCOPE) -> AsyncIterator[aiohttp.ClientSession]:
        """
        :meth:`get_conn` for an event loop: ``async with hook.aget_conn() as session``.

        The ``aiohttp`` session completes paths, and uses the certificates and proxies of all calls of this package.
        If the connection's URL has a path, write paths without a leading slash.

        :param scope: as in :meth:`get_token`.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        :raises InputError: from the session, for a URL of a host that is not the connection's.
        """
        settings = await self.aget_settings()
        middleware = await self.aget_auth(scope)
        async with (await import_in_thread(_AIO)).open_session(settings, scope, middleware) as session:
            yield session

    async def aget_auth(self, scope: str = PREDICT_SCOPE) -> BearerMiddleware:
        """
        :meth:`get_auth` for aiohttp: one of the ``middlewares=`` of your own session or request.

        :param scope: as in :meth:`get_token`.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        """
        from lucidworks_provider.client.http.transport import AllowedHosts

        settings = await self.aget_settings()
        aio = await import_in_thread(_AIO)
        middleware: BearerMiddleware = aio.BearerMiddleware(
            self._source(settings, scope), AllowedHosts.of(settings)
        )
        return middleware

    def test_connection(self) -> tuple[bool, str]:
        """
        Test the identity server, the application, and the Models API if there is a Customer ID.

        Each is tested with a token of its scope: the shared token if there is one, since decrypting it proves the
        secret, and a new token would invalidate it. If the store cannot be read, no token is requested. Each request
        is sent once.

        :return: whether all of them work, and a sentence for each.
        """
        from lucidworks_provider.hooks.connection_test import check_endpoints

        try:
            passed, message = check_endpoints(self.get_settings(), self._source)
        except LucidworksError as err:
            passed, message = False, str(err)
        message = f"{message} {self._misspelt}".rstrip()
        # The UI tests a copy of the connection with another id.
        return passed, message.replace(f"Connection {self.lucidworks_conn_id!r}", "The connection")

    def _read(self, conn: Connection, extra: Any) -> LucidworksSettings:
        self._misspelt = misspelt_fields(extra) if isinstance(extra, dict) else ""
        if self._misspelt:
            _warn_once(self.lucidworks_conn_id, self._misspelt)
        return _parse(self.lucidworks_conn_id, conn, extra)

    @staticmethod
    def _source(settings: LucidworksSettings, scope: str) -> TokenSource:
        from lucidworks_provider.client.auth.source import token_source

        return token_source(settings, scope)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The standard fields of the form, for Airflow 2.11 to 3.1; later versions read the provider info."""
        return {name.replace("-", "_"): copy(value) for name, value in UI_FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """
        The custom fields of the form, for Airflow 2.11 to 3.1.

        Airflow 3.0 and 3.1 support them only with the FAB provider, which the official image has. An ImportError
        would hide the names of the standard fields as well.
        """
        try:
            from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
            from flask_babel import lazy_gettext
            from wtforms import BooleanField, IntegerField, StringField
            from wtforms.validators import Optional
        except ImportError:
            return {}

        widgets: dict[str, Any] = {}
        for name, field in CONN_FIELDS.items():
            common = {
                "label": lazy_gettext(field["label"]),
                "description": field.get("description", ""),
                "default": field["schema"].get("default"),
            }
            match field["schema"]["type"][0]:
                case "boolean":
                    widgets[name] = BooleanField(**common)
                case "integer":
                    widgets[name] = IntegerField(
                        **common, widget=BS3TextFieldWidget(), validators=[Optional()]
                    )
                case _:
                    widgets[name] = StringField(**common, widget=BS3TextFieldWidget())
        return widgets


class LucidworksHook(LucidworksAuthHook):
    """
    Calls Lucidworks AI with the shared access token and retries.

    .. code-block:: python

        from lucidworks_provider.client import use_cases
        from lucidworks_provider.client.predictions import predict

        hook = LucidworksHook()
        vectors = hook.call(predict(use_cases.embedding("e5-small-v2"), ["A tent for two"]))
        vectors = await hook.acall(predict(use_cases.embedding("e5-small-v2"), ["A tent for two"]))

    The calls are the functions of :mod:`~lucidworks_provider.client.predictions`,
    :mod:`~lucidworks_provider.client.chunking`, :mod:`~lucidworks_provider.client.models` and
    :mod:`~lucidworks_provider.client.jobs`. Not thread-safe for synchronous calls: each thread needs its own.

    :param lucidworks_conn_id: the connection.
    """

    def call(self, call: Call[T], *, attempts: int | None = None) -> T:
        """
        Perform a call.

        :param attempts: most requests for retryable errors; None for the number of the retry policy.
        :raises LucidworksError: names the connection.
        """
        self.get_settings()
        return self._client.call(call, attempts=attempts)

    async def acall(self, call: Call[T], *, attempts: int | None = None) -> T:
        """:meth:`call` for an event loop."""
        await self.aget_settings()
        return await self._client.acall(call, attempts=attempts)

    @asynccontextmanager
    async def shared_client(self, connections: int | None = None) -> AsyncIterator[AsyncTransport]:
        """
        Keep the connections of the running loop open while this is held, instead of opening one per call.

        :param connections: requests at a time to each API, 8 by default; the first caller in the loop decides.
        """
        await self.aget_settings()
        async with self._client.shared(connections) as transport:
            yield transport

    def forget_connection(self) -> None:
        """Read the connection again at the next call: it may have been corrected."""
        self.close()
        self._settings = None
        vars(self).pop("_client", None)

    def rate_limit(self) -> RateLimitStats:
        """The rate limit as this process has estimated it."""
        self.get_settings()
        return self._client.rate_limit

    def close(self) -> None:
        """Close the connection of the synchronous calls."""
        if "_client" in vars(self):
            self._client.close()

    # The callers read the connection first: up to Python 3.11 all instances share the lock of this property.
    @cached_property
    def _client(self) -> LucidworksClient:
        from lucidworks_provider.client.client import LucidworksClient

        return LucidworksClient(self.get_settings())


def _parse(conn_id: str, conn: Connection, extra: Any) -> LucidworksSettings:
    if conn.conn_type not in _TYPES:
        # Its password is for another service.
        raise ConfigurationError(
            f"Connection {conn_id!r}: its type is {conn.conn_type!r}; use a connection of type {CONNECTION_TYPE!r}."
            f"{did_you_mean(conn.conn_type, (CONNECTION_TYPE,))}"
        )
    extra = {} if extra is None else extra
    # Airflow decodes invalid JSON to an empty dictionary.
    if not isinstance(extra, dict) or (not extra and not _is_empty(conn.extra)):
        raise ConfigurationError(
            f"Connection {conn_id!r}: the extra is not a JSON object; write it as {{...}}."
        )
    return parse_settings(
        conn_id,
        login=conn.login,
        password=conn.password,
        host=conn.host,
        extra=extra,
        stores=AirflowStores(),
    )


def misspelt_fields(extra: Mapping[str, Any]) -> str:
    """A sentence for each unknown name that resembles a field of the connection."""
    hints = {name: did_you_mean(name, CONN_FIELDS, 0.8) for name in extra if name not in CONN_FIELDS}
    return " ".join(f"extra has the unknown field {name!r}.{hint}" for name, hint in hints.items() if hint)


@cache
def _warn_once(conn_id: str, message: str) -> None:
    log.warning("Connection %r: %s", conn_id, message)


def _is_empty(extra: str | None) -> bool:
    try:
        return not json.loads(extra or "null")
    except ValueError:
        return not (extra or "").strip()
