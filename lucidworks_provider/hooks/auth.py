# SPDX-License-Identifier: Apache-2.0
"""Access tokens for DAG authors: the connection, the fleet's one token, and a session that carries it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from lucidworks_provider.client.api.scopes import PREDICT_SCOPE
from lucidworks_provider.client.settings import (
    CONNECTION_TYPE,
    DEFAULT_CONN_ID,
    LucidworksSettings,
    parse_settings,
)
from lucidworks_provider.errors import ConfigurationError, LucidworksError
from lucidworks_provider.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR
from lucidworks_provider.hooks.stores.supervisor import reading_connection
from lucidworks_provider.threads import import_in_thread

if TYPE_CHECKING:
    import aiohttp
    import requests
    from airflow.providers.common.compat.sdk import Connection

    from lucidworks_provider.client.auth.source import TokenSource
    from lucidworks_provider.client.http.aio import BearerMiddleware

# Those that were made without a type, too.
_TYPES = {CONNECTION_TYPE, "generic", "", None}
_AIO = "lucidworks_provider.client.http.aio"


class LucidworksAuthHook(BaseHook):
    """
    Hands out the access token that the whole fleet shares.

    Lucidworks AI keeps one live token per client and scope: a new one deletes the old one. This hook never
    asks for a new token while the fleet has a good one, so any number of tasks and triggers can use it.

    :param lucidworks_conn_id: the connection with Client ID and Client Secret.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-authentication-api
    """

    conn_name_attr = "lucidworks_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONNECTION_TYPE
    hook_name = "Lucidworks AI"

    def __init__(self, lucidworks_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lucidworks_conn_id = lucidworks_conn_id
        self._settings: LucidworksSettings | None = None

    def get_settings(self) -> LucidworksSettings:
        """
        The validated connection, read once per hook.

        :raises ConfigurationError: names the field that is missing or wrong.
        """
        if self._settings is None:
            with reading_connection(self.lucidworks_conn_id):
                conn = self.get_connection(self.lucidworks_conn_id)
                self._settings = _parse(self.lucidworks_conn_id, conn, conn.extra_dejson)
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
                self._settings = _parse(self.lucidworks_conn_id, conn, extra)
        return self._settings

    def get_token(self, scope: str = PREDICT_SCOPE, *, refused: str | None = None) -> str:
        """
        An access token of a scope: from memory while it is fresh, else the one that the fleet shares.

        :param scope: ``machinelearning.predict`` (every ``/ai/*`` call) or ``machinelearning.model``.
        :param refused: the token that a call was just refused with (401), as for :meth:`invalidate`.
        :raises AuthenticationError: the service refuses the credentials; says why, without the secret.
        :raises TokenError: no token can be had without cutting off the rest of the fleet; retryable.
        :raises TokenContestedError: another system keeps asking for tokens with the same client id.
        :raises TokenStoreError: the place where the fleet shares its token cannot be reached, or this process
            is out of Airflow's reach.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        """
        return self._source(self.get_settings(), scope).get(refused)

    async def aget_token(self, scope: str = PREDICT_SCOPE, *, refused: str | None = None) -> str:
        """:meth:`get_token` for an event loop."""
        return await self._source(await self.aget_settings(), scope).aget(refused)

    def invalidate(self, token: str, scope: str = PREDICT_SCOPE) -> None:
        """
        Say that a call with this token was answered with 401.

        By comparison: only if it is still the one in use, it is not handed out again. The next
        :meth:`get_token` looks whether the fleet has another one already, before it asks for a new one.

        :param token: what :meth:`get_token` returned for the call.
        :param scope: as in :meth:`get_token`.
        """
        self._source(self.get_settings(), scope).invalidate(token)

    def get_auth(self, scope: str = PREDICT_SCOPE) -> requests.auth.AuthBase:
        """
        The token as an ``auth=`` of ``requests``, for calls with a session or with options of one's own.

        It gets the fleet's next token on a 401, and goes to the hosts of the connection and to no others.

        :param scope: as in :meth:`get_token`.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        :raises InputError: from the call, for a URL of a host that is not the connection's.
        """
        from lucidworks_provider.client.http.common import AllowedHosts
        from lucidworks_provider.client.http.sync import BearerAuth

        settings = self.get_settings()
        return BearerAuth(self._source(settings, scope), AllowedHosts.of(settings))

    def get_conn(self, scope: str = PREDICT_SCOPE) -> requests.Session:
        """
        A ``requests`` session whose calls carry the token, and survive a 401 by getting the fleet's next one.

        Paths that start with ``/`` go to the application's host (or the Models API's, by the scope). The
        token is sent to the hosts of the connection and to no others.

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

        The ``aiohttp`` session completes paths, checks certificates and takes proxies as all calls of this
        package do. Where the connection's URL has a path of its own, write paths without a leading slash.

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
        :meth:`get_auth` for aiohttp: one of the ``middlewares=`` of a session or a request of one's own.

        :param scope: as in :meth:`get_token`.
        :raises ConfigurationError: names the field of the connection that is missing or wrong.
        """
        from lucidworks_provider.client.http.common import AllowedHosts

        settings = await self.aget_settings()
        aio = await import_in_thread(_AIO)
        middleware: BearerMiddleware = aio.BearerMiddleware(
            self._source(settings, scope), AllowedHosts.of(settings)
        )
        return middleware

    def test_connection(self) -> tuple[bool, str]:
        """
        Say which hosts answer and accept the credentials, without cutting anybody off where that can be avoided.

        Identity server and application, and the Models API where there is a Customer ID, each with a token of its
        scope. The fleet's live token is used where there is one: only the secret decrypts it, and a new one would
        delete it. Where the store cannot be read, no new one is asked for. Each request is sent once.

        :return: whether all of it works, and a sentence for each place.
        """
        from lucidworks_provider.hooks.connection_test import check_endpoints

        try:
            good, words = check_endpoints(self.get_settings(), self._source)
        except LucidworksError as err:
            good, words = False, str(err)
        # The UI tests a copy of the connection, under an id of its own.
        return good, words.replace(f"Connection {self.lucidworks_conn_id!r}", "The connection")

    @staticmethod
    def _source(settings: LucidworksSettings, scope: str) -> TokenSource:
        from lucidworks_provider.client.auth.source import token_source

        return token_source(settings, scope)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The standard fields of the form, for Airflow 2.11 to 3.1; later versions read the provider info."""
        return {
            "hidden_fields": list(UI_FIELD_BEHAVIOUR["hidden-fields"]),
            "relabeling": dict(UI_FIELD_BEHAVIOUR["relabeling"]),
            "placeholders": dict(UI_FIELD_BEHAVIOUR["placeholders"]),
        }

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """
        The fields of our own, for Airflow 2.11 to 3.1, made from the same dictionary.

        Airflow 3.0 and 3.1 know such fields only where their FAB provider is installed, as it is in the official
        image. An ImportError would cost the names of the standard fields, too.
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


def _parse(conn_id: str, conn: Connection, extra: Any) -> LucidworksSettings:
    if conn.conn_type not in _TYPES:
        # Its password is for another service, and is not sent to this one.
        raise ConfigurationError(
            f"Connection {conn_id!r}: its type is {conn.conn_type!r}; use one of the type {CONNECTION_TYPE!r}."
        )
    extra = {} if extra is None else extra
    # Airflow decodes what is no JSON to nothing at all.
    if not isinstance(extra, dict) or (not extra and not _says_nothing(conn.extra)):
        raise ConfigurationError(f"Connection {conn_id!r}: extra is no JSON object; write it as {{...}}.")
    return parse_settings(conn_id, login=conn.login, password=conn.password, host=conn.host, extra=extra)


def _says_nothing(extra: str | None) -> bool:
    try:
        return not json.loads(extra or "null")
    except ValueError:
        return not (extra or "").strip()
