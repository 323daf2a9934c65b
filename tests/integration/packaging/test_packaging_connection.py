# SPDX-License-Identifier: Apache-2.0
"""
A connection as Airflow stores it becomes settings, or one message that names the connection and the field.

Every connection here goes the whole way: from the environment through Airflow's own ``Connection``.
"""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from lucidworks_provider.client.settings import (
    DEFAULT_AUTH_SERVER_ID,
    DEFAULT_AUTH_URL,
    DEFAULT_MODELS_URL,
    LucidworksSettings,
)
from lucidworks_provider.errors import ConfigurationError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook, _parse

SECRET = "s3cret/+ß&="
HOST = "my-app"
URL = "https://my-app.applications.lucidworks.com"


def read(monkeypatch: pytest.MonkeyPatch, value: str, mode: str = "sync") -> LucidworksSettings:
    monkeypatch.setenv("AIRFLOW_CONN_LW", value)
    hook = LucidworksAuthHook("lw")
    return hook.get_settings() if mode == "sync" else asyncio.run(hook.aget_settings())


def document(extra: Any = None, **changes: Any) -> str:
    fields = {"conn_type": "lucidworks", "login": "my-id", "password": SECRET, "host": HOST, "extra": extra}
    return json.dumps({name: value for name, value in (fields | changes).items() if value is not ...})


DEFAULTS = LucidworksSettings("lw", "my-id", SECRET, URL)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_defaults(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    seen = read(monkeypatch, document(), mode)
    assert seen == DEFAULTS
    assert (seen.auth_url, seen.auth_server_id, seen.models_url) == (
        DEFAULT_AUTH_URL,
        DEFAULT_AUTH_SERVER_ID,
        DEFAULT_MODELS_URL,
    )
    assert (seen.verify, seen.timeout, seen.share_via) == (True, 120.0, "airflow")
    assert seen.application_base == URL


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_uri(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    uri = "lucidworks://my-id:s3cret%2F%2B%C3%9F%26%3D@my-app/?verify=false&timeout=30&share_via=memory"
    seen = read(monkeypatch, uri, mode)
    assert (seen.client_id, seen.client_secret, seen.application_url) == ("my-id", SECRET, URL)
    assert (seen.verify, seen.timeout, seen.share_via) == (False, 30.0, "memory")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    extra = {
        "customer_id": "c-1",
        "application_url": "https://gateway.example.org:8443/lw/",
        "auth_url": "https://identity.example.org/",
        "auth_server_id": "server.2",
        "models_url": "https://models.example.org",
        "verify": False,
        "ca_bundle": str(bundle),
        "timeout": 7,
        "share_via": "redis",
        "redis_conn_id": "cache",
    }
    assert read(monkeypatch, document(extra), mode) == LucidworksSettings(
        conn_id="lw",
        client_id="my-id",
        client_secret=SECRET,
        application_url="https://gateway.example.org:8443/lw",
        customer_id="c-1",
        auth_url="https://identity.example.org",
        auth_server_id="server.2",
        models_url="https://models.example.org",
        verify=False,
        ca_bundle=str(bundle),
        timeout=7.0,
        share_via="redis",
        redis_conn_id="cache",
    )
    assert read(monkeypatch, document(json.dumps(extra)), mode).timeout == 7.0  # extra as a string of JSON


FIELDS = [
    *("customer_id", "application_url", "auth_url", "auth_server_id", "models_url", "verify", "ca_bundle"),
    *("timeout", "share_via", "redis_conn_id"),
]


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_null_empty_and_absent_are_equal(monkeypatch: pytest.MonkeyPatch, empty: str | None) -> None:
    assert read(monkeypatch, document(dict.fromkeys(FIELDS, empty))) == DEFAULTS


@pytest.mark.parametrize("extra", [..., None, "", {}, "{}"])
def test_no_extra_at_all(monkeypatch: pytest.MonkeyPatch, extra: Any) -> None:
    assert read(monkeypatch, document(extra)) == DEFAULTS


@pytest.mark.parametrize("host", [..., None, "", " "])
def test_an_application_is_needed_by_calls_only(monkeypatch: pytest.MonkeyPatch, host: Any) -> None:
    seen = read(monkeypatch, document(host=host))
    assert seen.application_url is None
    with pytest.raises(ConfigurationError, match=r"'lw'.*Application ID.*application_url"):
        _ = seen.application_base
    url = "https://gateway.example.org"
    assert read(monkeypatch, document({"application_url": url}, host=host)).application_base == url


def test_white_space_around_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = document({"auth_server_id": f" {DEFAULT_AUTH_SERVER_ID}\n"}, login=" my-id ", host=f"{HOST} ")
    assert read(monkeypatch, padded) == DEFAULTS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in (True, "true", "True", "1", 1, "yes", "on")),
        *((value, False) for value in (False, "false", "False", "FALSE", "0", 0, "no", "off")),
    ],
)
def test_booleans(monkeypatch: pytest.MonkeyPatch, value: object, expected: bool) -> None:
    assert read(monkeypatch, document({"verify": value})).verify is expected


@pytest.mark.parametrize("name", ["application_url", "auth_url", "models_url"])
@pytest.mark.parametrize(
    "url",
    ["http://localhost:1", "http://LOCALHOST", "http://127.0.0.1:8765", "http://127.9.9.9", "http://[::1]:1"],
)
def test_plain_http_on_the_loopback(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    assert getattr(read(monkeypatch, document({name: url})), name) == url


@pytest.mark.parametrize("name", ["application_url", "auth_url", "models_url"])
@pytest.mark.parametrize(
    "url",
    [
        "http://identity.lucidworks.com",
        "http://localhost.example.org",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://[::]",
        "http://127.0.0.1.example.org",
        "HTTP://example.org",
        "http://2130706433",
    ],
)
def test_plain_http_elsewhere(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'lw': {name} is plain http") as caught:
        read(monkeypatch, document({name: url}))
    assert SECRET not in str(caught.value)


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("login", {"login": ...}),
    ("login", {"login": None}),
    ("login", {"login": "  "}),
    ("login", {"login": "a:b"}),
    ("password", {"password": ...}),
    ("password", {"password": ""}),
    ("password", {"password": "   "}),
    ("host", {"host": "https://my-app.applications.lucidworks.com"}),
    ("host", {"host": "my-app.applications.lucidworks.com"}),
    ("host", {"host": "my app"}),
    ("host", {"host": "-a"}),
    *(
        (name, {"extra": {name: value}})
        for name in ("application_url", "auth_url", "models_url")
        for value in (
            "identity.lucidworks.com",
            "ftp://example.org",
            "https://",
            "https://:8443",
            "https://example.org:port",
            "https://example.org:99999",
            "https://example.org/?a=b",
            "https://example.org/#a",
            "https://user:hidden@example.org",
            "https://[::1",
            5,
        )
    ),
    *(
        (name, {"extra": {name: value}})
        for name in ("customer_id", "auth_server_id")
        for value in ("a/b", "..", "a b", "a?b")
    ),
    *(("verify", {"extra": {"verify": value}}) for value in ("maybe", 2, "false!", [])),
    *(("timeout", {"extra": {"timeout": value}}) for value in (0, -1, "soon", "nan", "inf", True, "1,5")),
    *(("ca_bundle", {"extra": {"ca_bundle": value}}) for value in ("/no/such/file.pem", "/")),
    *(("share_via", {"extra": {"share_via": value}}) for value in ("Airflow", "file", 1)),
]


@pytest.mark.parametrize(("field", "changes"), WRONG, ids=str)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_wrong_field_is_named(
    monkeypatch: pytest.MonkeyPatch, field: str, changes: dict[str, Any], mode: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"^Connection 'lw': {field}\b") as caught:
        read(monkeypatch, document(**changes), mode)
    for text in (str(caught.value), repr(caught.value)):
        assert SECRET not in text
        assert "hidden" not in text


def test_the_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = read(monkeypatch, document())
    assert SECRET not in f"{seen!r} {seen}"
    assert "my-id" in repr(seen)


def test_a_connection_is_read_once_per_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LW", document())
    hook = LucidworksAuthHook("lw")
    first = hook.get_settings()
    monkeypatch.setenv("AIRFLOW_CONN_LW", document(login="other"))
    assert hook.get_settings() is first
    assert LucidworksAuthHook("lw").get_settings().client_id == "other"


@pytest.mark.parametrize("extra", ["{ }", "{\n}", "null", " ", "", None])
def test_an_extra_that_says_nothing_is_no_error(extra: str | None) -> None:
    conn = Connection(conn_id="c", conn_type="lucidworks", login="i", password="s", host="app", extra=extra)
    assert _parse("c", conn, conn.extra_dejson).application_url == "https://app.applications.lucidworks.com"


@pytest.mark.parametrize("extra", ["{", "timeout=5", '{"timeout": 5'])
def test_an_extra_that_is_no_json_is_named(extra: str) -> None:
    conn = SimpleNamespace(conn_type="lucidworks", login="i", password="s", host="app", extra=extra)
    with pytest.raises(ConfigurationError, match="'c': the extra is not a JSON object"):
        _parse("c", conn, {})
