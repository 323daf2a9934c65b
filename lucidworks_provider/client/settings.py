# SPDX-License-Identifier: Apache-2.0
"""
The connection as a value.

Only this module reads the fields of an Airflow connection. The form stores defaults and nulls, a URI stores strings,
and JSON may omit fields: so ``null``, empty and absent mean the same, and ``"false"`` is false. The form in the
Airflow UI is defined in :mod:`lucidworks_provider.get_provider_info`.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from lucidworks_provider.client.options import did_you_mean, plain
from lucidworks_provider.errors import ConfigurationError

CONNECTION_TYPE = "lucidworks"
DEFAULT_CONN_ID = "lucidworks_default"

DEFAULT_AUTH_URL = "https://identity.lucidworks.com"
DEFAULT_MODELS_URL = "https://api.lucidworks.com"
# The one value that the vendor's reference lists; the gateway's configuration has a placeholder there.
DEFAULT_AUTH_SERVER_ID = "ausao8uveaPmyhv0v357"
DEFAULT_TIMEOUT = 120.0
_LONGEST_TIMEOUT = 86_400.0
SHARE_VIA = ("airflow", "redis", "memory")
# Paths that no vendor page states, or that its pages disagree about (sections 4, 5.1 and 10.6 of the reference).
DEFAULT_USE_CASES_PATH = "/ai/usecases"
DEFAULT_DEPLOYMENTS_PATH = "/customers/{customer_id}/ai/deployments"
# The documented one first; the usual one is tried where that is refused.
UNDEPLOY_PATHS = (
    "/customers/{deployment_id}/ai/deployments",
    "/customers/{customer_id}/ai/deployments/{deployment_id}",
)

# The Application ID is the first label of the application host name.
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~-]+|\{[a-z_]+\}))+")


class SharedStores(Protocol):
    """Creates the stores that ``share_via`` names: in Airflow the hook has them."""

    # Their types are defined by their users, in higher layers.
    def token_store(self, settings: LucidworksSettings, identity: Any) -> Any:
        """Return the store of a token."""

    def pause_store(self, settings: LucidworksSettings, name: str) -> Any:
        """Return the store of an application's pause."""


@dataclass(frozen=True, slots=True)
class LucidworksSettings:
    """
    A validated connection.

    :param conn_id: of the connection, for messages; not a part of shared keys.
    :param client_id: user name of the token request.
    :param client_secret: password of the token request; never shown by ``repr``.
    :param application_url: base URL of ``/ai/*``, or None when the connection has no Application ID.
    :param customer_id: path segment of the Models API, or None.
    :param verify: whether TLS certificates are checked.
    :param ca_bundle: file with the authorities to trust instead of the default ones.
    :param timeout: seconds without a byte after which a request is given up.
    :param share_via: where processes share their access token: ``airflow``, ``redis`` or ``memory``.
    :param use_cases_path: of the list of use cases, below the application's URL.
    :param use_case_segments: pairs of a use case and its path segment.
    :param deployments_path: of the list of deployments, below the Models API's URL.
    :param undeploy_paths: of the deletion of a deployment; tried in order.
    :param redis_conn_id: the Airflow connection of the Redis server for ``share_via = redis``.
    :param stores: creates what ``share_via`` names; None outside of Airflow, where only ``memory`` works.
    """

    conn_id: str
    client_id: str
    client_secret: str = field(repr=False)
    application_url: str | None = None
    customer_id: str | None = None
    auth_url: str = DEFAULT_AUTH_URL
    auth_server_id: str = DEFAULT_AUTH_SERVER_ID
    models_url: str = DEFAULT_MODELS_URL
    verify: bool = True
    ca_bundle: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    share_via: str = "airflow"
    redis_conn_id: str | None = None
    use_cases_path: str = DEFAULT_USE_CASES_PATH
    use_case_segments: tuple[tuple[str, str], ...] = ()
    deployments_path: str = DEFAULT_DEPLOYMENTS_PATH
    undeploy_paths: tuple[str, ...] = UNDEPLOY_PATHS
    stores: SharedStores | None = field(default=None, repr=False, compare=False)

    @property
    def shared_stores(self) -> SharedStores:
        """
        What creates the stores that ``share_via`` names.

        :raises ConfigurationError: there is nothing, as outside of Airflow.
        """
        if self.stores is None:
            raise ConfigurationError(
                f"share_via is {self.share_via!r}, which needs Airflow, but these settings were not created by a "
                "hook of lucidworks_provider. Outside of Airflow set share_via to 'memory'."
            )
        return self.stores

    @property
    def models_base(self) -> str:
        """
        Base URL of the Models API of this customer.

        :raises ConfigurationError: the connection has no Customer ID.
        """
        return self.models_path("/customers/{customer_id}/ai")

    def models_path(self, template: str, **segments: str) -> str:
        """
        A URL of the Models API.

        :param template: a path with ``{customer_id}``, or with names of ``segments``.
        :raises ConfigurationError: the connection has no Customer ID.
        """
        if self.customer_id is None:
            raise _wrong(
                self.conn_id,
                "customer_id",
                "is missing",
                "the Models API needs it; request it from Lucidworks, its UI does not show it",
            )
        return self.models_url + template.format(customer_id=self.customer_id, **segments)

    def segment_of(self, use_case: str) -> str:
        """The path segment of a use case: its name, unless the connection has another for it (``_`` is ``-``)."""
        segments = {plain(name): segment for name, segment in self.use_case_segments}
        return segments.get(plain(use_case), use_case)

    @property
    def application_base(self) -> str:
        """
        Base URL of every ``/ai/*`` request.

        :raises ConfigurationError: the connection has neither an Application ID nor ``application_url``.
        """
        if self.application_url is None:
            raise _wrong(self.conn_id, "host (Application ID)", "is missing", "set it, or `application_url`")
        return self.application_url


def parse_settings(
    conn_id: str,
    *,
    login: str | None,
    password: str | None,
    host: str | None,
    extra: Mapping[str, object],
    stores: SharedStores | None = None,
) -> LucidworksSettings:
    """
    Validate the parts of an Airflow connection.

    :param conn_id: named in every message.
    :param login: the Client ID.
    :param password: the Client Secret.
    :param host: the Application ID.
    :param extra: the decoded ``extra`` of the connection.
    :param stores: of the settings.
    :raises ConfigurationError: a field is missing or has a value that cannot work.
    """
    fields = _Fields(conn_id, extra)
    client_id = _present(login)
    if client_id is None:
        raise _wrong(
            conn_id, "login (Client ID)", "is missing", "copy it from the integration in Lucidworks AI"
        )
    if ":" in client_id:
        # Basic authentication separates user name and password by the first colon.
        raise _wrong(conn_id, "login (Client ID)", "contains a colon", "give the Client ID alone")
    secret = _present(password)
    if secret is None:
        raise _wrong(
            conn_id, "password (Client Secret)", "is missing", "copy it from the integration in Lucidworks AI"
        )
    application_url = fields.url("application_url")
    if application_url is None and (application_id := _present(host)) is not None:
        application_url = _application_url(conn_id, application_id)
    share_via = fields.text("share_via") or "airflow"
    if share_via not in SHARE_VIA:
        near = did_you_mean(share_via, SHARE_VIA)
        raise _wrong(conn_id, "share_via", f"is {share_via!r}", f"use one of {', '.join(SHARE_VIA)}", near)
    redis_conn_id = fields.text("redis_conn_id")
    if share_via == "redis" and redis_conn_id is None:
        raise _wrong(
            conn_id,
            "redis_conn_id",
            "is missing",
            "share_via is redis, so name the Redis server's connection",
        )
    return LucidworksSettings(
        conn_id=conn_id,
        client_id=client_id,
        client_secret=secret,
        application_url=application_url,
        customer_id=fields.segment("customer_id"),
        auth_url=fields.url("auth_url") or DEFAULT_AUTH_URL,
        auth_server_id=fields.segment("auth_server_id") or DEFAULT_AUTH_SERVER_ID,
        models_url=fields.url("models_url") or DEFAULT_MODELS_URL,
        verify=fields.boolean("verify", "true"),
        ca_bundle=fields.file("ca_bundle"),
        timeout=fields.seconds("timeout", DEFAULT_TIMEOUT),
        share_via=share_via,
        redis_conn_id=redis_conn_id,
        use_cases_path=fields.path("use_cases_path", DEFAULT_USE_CASES_PATH),
        use_case_segments=fields.segments("use_case_segments"),
        deployments_path=fields.path("deployments_path", DEFAULT_DEPLOYMENTS_PATH, "customer_id"),
        undeploy_paths=fields.undeploy_paths(),
        stores=stores,
    )


def _application_url(conn_id: str, application_id: str) -> str:
    if not _LABEL.fullmatch(application_id):
        raise _wrong(
            conn_id,
            "host (Application ID)",
            f"is {application_id!r}",
            f"use {_first_label(application_id)}; set `application_url` for a whole URL",
        )
    return f"https://{application_id}.applications.lucidworks.com"


def _first_label(host: str) -> str:
    label = re.sub(r"^\w+://", "", host).partition(".")[0]
    return f"{label!r} alone" if _LABEL.fullmatch(label) else "letters and digits, with - and _ between them"


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the connection's extra; every refusal names the field."""

    conn_id: str
    extra: Mapping[str, object]

    def text(self, name: str) -> str | None:
        return _present(self.extra.get(name))

    def segment(self, name: str) -> str | None:
        value = self.text(name)
        if value is not None and (not _PATH_SEGMENT.fullmatch(value) or value in {".", ".."}):
            raise _wrong(self.conn_id, name, f"is {value!r}", "only letters, digits and . _ ~ - can be in it")
        return value

    def path(self, name: str, default: str, *allowed: str) -> str:
        value = self.text(name)
        if value is None:
            return default
        names = re.findall(r"\{([a-z_]+)\}", value)
        if not _PATH.fullmatch(value) or set(names) - set(allowed) or ".." in value.split("/"):
            placeholders = " and ".join(f"{{{one}}}" for one in allowed) or "no placeholders"
            raise _wrong(
                self.conn_id, name, f"is {value!r}", f"use a path that starts with / and has {placeholders}"
            )
        return value

    def undeploy_paths(self) -> tuple[str, ...]:
        value = self.path("undeploy_path", "", "customer_id", "deployment_id")
        if not value:
            return UNDEPLOY_PATHS
        if "{deployment_id}" not in value:
            raise _wrong(self.conn_id, "undeploy_path", f"is {value!r}", "{deployment_id} must be in it")
        return (value,)

    def segments(self, name: str) -> tuple[tuple[str, str], ...]:
        """A JSON object in a field of its own, or within the extra."""
        value = self.extra.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value or "null")
            except ValueError:
                value = False
        if value is None:
            return ()
        if not isinstance(value, Mapping) or not all(
            isinstance(one, str) and _PATH_SEGMENT.fullmatch(one) and one not in {".", ".."}
            for pair in value.items()
            for one in pair
        ):
            raise _wrong(
                self.conn_id, name, "is not a JSON object of path segments", 'write it as {"ner": "entities"}'
            )
        return tuple(sorted(value.items()))

    def boolean(self, name: str, default: str) -> bool:
        value = self.text(name) or default
        match value.lower():
            case "true" | "1" | "yes" | "on":
                return True
            case "false" | "0" | "no" | "off":
                return False
        raise _wrong(self.conn_id, name, f"is {value!r}", "use true or false")

    def seconds(self, name: str, default: float) -> float:
        value = self.text(name) or default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number <= _LONGEST_TIMEOUT:
            raise _wrong(
                self.conn_id,
                name,
                f"is {value!r}",
                f"use a number of seconds above 0, at most {_LONGEST_TIMEOUT:g}",
            )
        return number

    def file(self, name: str) -> str | None:
        value = self.text(name)
        if value is not None and "-----BEGIN" in value:
            raise _wrong(self.conn_id, name, "is not a path", "use the path of a PEM file")
        if value is not None and not _is_file(value):
            raise _wrong(
                self.conn_id,
                name,
                f"names {value!r}, which is not a file on this host",
                "use the path of a PEM file",
            )
        return value

    def url(self, name: str) -> str | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname or "", parts.port
            host.encode("idna")  # refuses empty labels, and labels of more than 63 characters
        except ValueError:
            raise _wrong(self.conn_id, name, "is not a URL", "use https://HOST") from None
        if parts.username is not None or parts.password is not None:
            raise _wrong(self.conn_id, name, "contains credentials", "put them into login and password")
        if re.search(r"\s", value):
            raise _wrong(self.conn_id, name, f"is {value!r}", "remove the white space")
        # An empty query or fragment too: paths are appended to the text.
        if not host or parts.scheme not in {"http", "https"} or re.search("[?#]", value):
            raise _wrong(self.conn_id, name, f"is {value!r}", "use https://HOST, without a query")
        if parts.scheme == "http" and not _is_loopback(host):
            # The client secret and every token would travel in the clear.
            raise _wrong(
                self.conn_id, name, f"is plain http ({value!r})", "use https; http is for loopback only"
            )
        return value.rstrip("/")


def _present(value: object) -> str | None:
    """The value as text; None when it is null, empty or white space."""
    if value is None:
        return None
    return str(value).strip() or None


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # in a folder of another user, or too long
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wrong(conn_id: str, name: str, what: str, cure: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(f"Connection {conn_id!r}: {name} {what}; {cure}.{hint}")
