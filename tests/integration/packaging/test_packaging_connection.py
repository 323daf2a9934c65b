# SPDX-License-Identifier: Apache-2.0
"""
A connection as Airflow stores it becomes settings, or one message that names the connection and the field.

Every connection here goes the whole way: from the environment through Airflow's own ``Connection``.
"""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
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
Read = Callable[[str], LucidworksSettings]
URL = "https://my-app.applications.lucidworks.com"


@pytest.fixture
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read a connection as it is stored."""

    def settings(value: str) -> LucidworksSettings:
        monkeypatch.setenv("AIRFLOW_CONN_LW", value)
        hook = LucidworksAuthHook("lw")
        return asyncio.run(hook.aget_settings()) if mode == "async" else hook.get_settings()

    mode = getattr(request, "param", "sync")
    return settings


both = pytest.mark.parametrize("read", ["sync", "async"], indirect=True)


def document(extra: Any = None, **changes: Any) -> str:
    fields = {"conn_type": "lucidworks", "login": "my-id", "password": SECRET, "host": HOST, "extra": extra}
    return json.dumps({name: value for name, value in (fields | changes).items() if value is not ...})


DEFAULTS = LucidworksSettings("lw", "my-id", SECRET, URL)


@both
def test_defaults(read: Read) -> None:
    seen = read(document())
    assert seen == DEFAULTS
    urls = (seen.auth_url, seen.auth_server_id, seen.models_url)
    assert urls == (DEFAULT_AUTH_URL, DEFAULT_AUTH_SERVER_ID, DEFAULT_MODELS_URL)
    assert (seen.verify, seen.timeout, seen.share_via) == (True, 120.0, "airflow")
    assert seen.application_base == URL
    assert SECRET not in f"{seen!r} {seen}"
    assert "my-id" in repr(seen)


@both
def test_a_uri(read: Read) -> None:
    uri = "lucidworks://my-id:s3cret%2F%2B%C3%9F%26%3D@my-app/?verify=false&timeout=30&share_via=memory"
    assert read(uri) == replace(DEFAULTS, verify=False, timeout=30.0, share_via="memory")


@both
def test_every_field(read: Read, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    extra = {
        **{"customer_id": "c-1", "auth_server_id": "server.2", "verify": False, "ca_bundle": str(bundle)},
        **{"timeout": 7, "share_via": "redis", "redis_conn_id": "cache"},
        "models_url": "https://models.example.org",
    }
    slashed = {
        "application_url": "https://gateway.example.org:8443/lw/",
        "auth_url": "https://identity.example.org/",
    }
    urls = {name: url.rstrip("/") for name, url in slashed.items()}
    expected = replace(DEFAULTS, **extra, **urls)
    assert read(document(extra | slashed)) == expected
    assert read(document(json.dumps(extra | slashed))) == expected  # extra as a string of JSON


FIELDS = [
    *("customer_id", "application_url", "auth_url", "auth_server_id", "models_url", "verify", "ca_bundle"),
    *("timeout", "share_via", "redis_conn_id"),
]


@pytest.mark.parametrize(
    "extra", [*(dict.fromkeys(FIELDS, empty) for empty in (None, "", "  ")), ..., None, "", {}, "{}"]
)
def test_null_empty_and_absent_are_equal(read: Read, extra: Any) -> None:
    assert read(document(extra)) == DEFAULTS


@pytest.mark.parametrize("host", [..., None, "", " "])
def test_an_application_is_needed_by_calls_only(read: Read, host: Any) -> None:
    seen = read(document(host=host))
    assert seen.application_url is None
    with pytest.raises(ConfigurationError, match=r"'lw'.*Application ID.*application_url"):
        _ = seen.application_base
    url = "https://gateway.example.org"
    assert read(document({"application_url": url}, host=host)).application_base == url


def test_white_space_around_a_value(read: Read) -> None:
    padded = document({"auth_server_id": f" {DEFAULT_AUTH_SERVER_ID}\n"}, login=" my-id ", host=f"{HOST} ")
    assert read(padded) == DEFAULTS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in (True, "true", "True", "1", 1, "yes", "on")),
        *((value, False) for value in (False, "false", "False", "FALSE", "0", 0, "no", "off")),
    ],
)
def test_booleans(read: Read, value: object, expected: bool) -> None:
    assert read(document({"verify": value})).verify is expected


@pytest.mark.parametrize("name", ["application_url", "auth_url", "models_url"])
@pytest.mark.parametrize(
    "url",
    ["http://localhost:1", "http://LOCALHOST", "http://127.0.0.1:8765", "http://127.9.9.9", "http://[::1]:1"],
)
def test_plain_http_on_the_loopback(read: Read, name: str, url: str) -> None:
    assert getattr(read(document({name: url})), name) == url


@both
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
def test_plain_http_elsewhere(read: Read, name: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'lw': {name} is plain http") as caught:
        read(document({name: url}))
    assert SECRET not in str(caught.value)


PEM = "-----BEGIN CERTIFICATE-----\n" + "hidden" * 200 + "\n-----END CERTIFICATE-----\n"
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
            "https://example.org?",
            "https://example.org/?",
            "https://example.org#",
            "https://user:hidden@example.org",
            "https://[::1",
            "https://a..b",
            f"https://{'a' * 64}.example.org",
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
    *(("ca_bundle", {"extra": {"ca_bundle": value}}) for value in ("/no/such/file.pem", "/", PEM)),
    *(("share_via", {"extra": {"share_via": value}}) for value in ("Airflow", "file", 1)),
]


@pytest.mark.parametrize(("field", "changes"), WRONG, ids=str)
def test_a_wrong_field_is_named(read: Read, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"^Connection 'lw': {field}\b") as caught:
        read(document(**changes))
    for text in (str(caught.value), repr(caught.value)):
        assert SECRET not in text
        assert "hidden" not in text


def test_a_bundle_in_a_locked_folder(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, stat = tmp_path / "ca.pem", os.stat

    def deny(path: Any, **options: Any) -> os.stat_result:
        if path == bundle:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", deny)
    with pytest.raises(ConfigurationError, match=f"'lw': ca_bundle names '{bundle}'"):
        read(document({"ca_bundle": str(bundle)}))


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
