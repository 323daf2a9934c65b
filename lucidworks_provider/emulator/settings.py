# SPDX-License-Identifier: Apache-2.0
"""
Every setting of the emulator, in one frozen value.

The defaults are the strict readings of the vendor's documentation ("Emulator: behaviour to implement"). Where
the vendor is silent the fact is an assumption, marked [A], and has a setting here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lucidworks_provider.emulator.faults import EndpointName
from lucidworks_provider.emulator.rules import (
    InvalidValue,
    Rule,
    boolean,
    check,
    integer,
    nullable,
    number,
    one_of,
    table_of,
    text,
    uuid,
)

_seconds = number(0)
_endpoint = one_of(*EndpointName)


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValue(f"{name}: a string is required.")
    return value


def _client_id(name: str, value: Any) -> str:
    if ":" in text(name, value):
        # Basic authentication cannot carry a colon in the user name (RFC 7617 section 2).
        raise InvalidValue(f"{name}: a client id without a colon is required.")
    return str(value)


def _clients(name: str, value: Any) -> Mapping[str, str]:
    if not value:
        raise InvalidValue(f"{name}: at least one client id is required.")
    return table_of(_client_id, _string)(name, value)


def _tuple_of(rule: Rule) -> Rule:
    return lambda name, value: tuple(check(name, list(value) if isinstance(value, tuple) else value, [rule]))


def _field_name(name: str, value: Any) -> str:
    if text(name, value) == "tokensUsed":
        raise InvalidValue(f"{name}: the name of a field other than tokensUsed")
    return str(value)


def _segment(name: str, value: Any) -> str:
    if "/" in text(name, value):
        raise InvalidValue(f"{name}: one segment of a path")
    return str(value)


def _setting(default: Any, rule: Rule, option: str = "") -> Any:
    """
    Describe a setting.

    :param default: the value, or what makes it.
    :param option: the help of its option on the command line; without one, ``--set`` reaches it.
    """
    metadata = {"rule": rule, "option": option}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class EmulatorSettings:
    """The behaviour of one emulator; replace it with :meth:`patched`, never mutate it."""

    clients: Mapping[str, str] = field(
        default_factory=lambda: {"demo-client": "demo-secret"}, repr=False, metadata={"rule": _clients}
    )
    auth_server_id: str = _setting(
        "ausao8uveaPmyhv0v357", _segment, "another one in the token path gives 404"
    )
    token_ttl: int = _setting(3600, integer(1), "lifetime of a token, in seconds")
    both_tokens_live: bool = _setting(False, boolean, "a new token does not delete the old one")
    # 401 is documented for an expired token.
    dead_token: str = _setting("401", one_of("401", "403"))
    scope_check: bool = _setting(True, boolean, "refuse a token of another scope")
    query_only: bool = _setting(False, boolean, "token parameters in the query only, not in a form body")
    pending_polls: int = _setting(1, integer(0), "polls that return SUBMITTED")
    pending_seconds: float = _setting(0.0, _seconds, "seconds for which polls return SUBMITTED")
    retrieved: str = _setting(
        "empty", one_of("empty", "payload", "404"), "later polls get empty, payload or 404"
    )
    retention: float = _setting(24 * 3600.0, _seconds, "seconds from the submission to a 404")
    chunk_overflow: str = _setting(
        "truncate", one_of("truncate", "error"), "too many chunks: truncate or error"
    )
    oversize: str = _setting("413", one_of("413", "400", "error-job"), "too much text: 413, 400 or error-job")
    # About 1 MB is documented.
    max_body_bytes: int = _setting(1_000_000, integer(1))
    rate_limit: int | None = _setting(None, nullable(integer(1)))
    rate_window: float = _setting(1.0, number(1e-6))
    rate_mode: str = _setting(
        "window",
        one_of("window", "bucket"),
        "a sliding window, or a bucket of tokens that holds those of one second",
    )
    retry_after: bool = _setting(True, boolean, "send Retry-After with a 429 of the rate limit")
    shed_share: float = _setting(0.0, number(0, 1))
    strict_segments: bool = _setting(False, boolean, "distinguish '_' from '-' in the path")
    legacy_shape: bool = _setting(False, boolean, "results in the older published shape")
    latency: float = _setting(0.0, _seconds, "delay of each other endpoint")
    token_latency: float = _setting(0.0, _seconds, "delay of the token endpoint")
    # MODEL_ID of a custom model is the UUID of its deployment.
    deployments: tuple[str, ...] = _setting((), _tuple_of(uuid))
    batch_overflow: str = _setting("400", one_of("400", "truncate"))
    unknown_options: str = _setting("400", one_of("400", "ignore"))
    managed_keys: bool = _setting(False, boolean)
    # Newer and older vendor page disagree.
    sources_shape: str = _setting("array", one_of("array", "string"))
    embedding_shape: str = _setting("vector", _field_name)
    joined_tokens: bool = _setting(False, boolean)
    customer_id: str = _setting(
        "demo-customer", _segment, "another one in the path of the Models API gives 403"
    )
    training_seconds: float = _setting(2.0, _seconds, "seconds from TRAINING to AVAILABLE")
    training_fails: bool = _setting(False, boolean)
    deploy_seconds: float = _setting(1.0, _seconds, "seconds from DEPLOYING to DEPLOYED")
    deploy_fails: bool = _setting(False, boolean)
    undeploy_seconds: float = _setting(0.0, _seconds, "seconds for which a deleted deployment is listed")
    undeploy_fails: bool = _setting(False, boolean)
    # Two readings of section 10.6.
    undeploy_path: str = _setting("both", one_of("both", "literal", "rest"))
    undeploy_refusal: int = _setting(404, integer(400, 499))
    echo_credentials: bool = _setting(False, boolean)
    vector_size_text: bool = _setting(True, boolean)
    hidden_fields: Mapping[str, tuple[str, ...]] = _setting(dict, table_of(_endpoint, _tuple_of(text)))
    rewritten_texts: Mapping[str, str] = _setting(dict, table_of(_string, _string))
    missing_endpoints: tuple[str, ...] = _setting((), _tuple_of(_endpoint))

    def __post_init__(self) -> None:
        """Refuse wrong values, and bring those of JSON to their types."""
        for item in dataclasses.fields(self):
            value = check(item.name, getattr(self, item.name), item.metadata["rule"])
            object.__setattr__(self, item.name, value)

    def patched(self, changes: Mapping[str, object]) -> EmulatorSettings:
        """Return a copy with the given settings changed; values come from JSON."""
        known = {item.name for item in dataclasses.fields(self)} - {"clients"}
        for name in changes:
            if name not in known:
                raise InvalidValue(f"{name}: no such setting, or not to be changed at run time")
        return dataclasses.replace(self, **dict[str, Any](changes))

    def public(self) -> dict[str, object]:
        """Return the settings as JSON values, with client ids but never a secret."""
        shown = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**shown, "clients": sorted(self.clients)}
