# SPDX-License-Identifier: Apache-2.0
"""
Every switch of the emulator, in one frozen value.

The defaults are the strict readings of the vendor's documentation ("Emulator: behaviour to implement"). Where
the vendor is silent the fact is an assumption, marked [A], and has a switch here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from lucidworks_provider.emulator.faults import EndpointName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Retrieved(Enum):
    """What a second GET of a finished job answers [A]."""

    EMPTY = "empty"
    PAYLOAD = "payload"
    NOT_FOUND = "404"


class ChunkOverflow(Enum):
    """What happens above the documented maximum number of chunks [A]."""

    TRUNCATE = "truncate"
    ERROR = "error"


class Oversize(Enum):
    """How a request above the text limit is refused [A]; the limit itself (about 1 MB) is documented."""

    TOO_LARGE = "413"
    BAD_REQUEST = "400"
    ERROR_JOB = "error-job"


class BatchOverflow(Enum):
    """What happens to the items of a batch above the documented 32 [A]."""

    BAD_REQUEST = "400"
    TRUNCATE = "truncate"


class UnknownOptions(Enum):
    """What happens to undocumented fields [A]."""

    BAD_REQUEST = "400"
    IGNORE = "ignore"


class SourcesShape(Enum):
    """The type of ``sources`` in a RAG answer: newer and older vendor page disagree."""

    ARRAY = "array"
    STRING = "string"


class RateMode(Enum):
    """How calls are counted for the rate limit [A]."""

    WINDOW = "window"
    BUCKET = "bucket"


class DeadToken(Enum):
    """The status for a token that is expired or superseded; 401 is documented for an expired one."""

    UNAUTHORIZED = "401"
    FORBIDDEN = "403"


class UndeployPath(Enum):
    """Which reading of the delete operation's path is served (section 10.6)."""

    BOTH = "both"
    LITERAL = "literal"
    REST = "rest"


class SettingsError(ValueError):
    """A switch got a value it does not take; the message names the switch."""


_NOT_NEGATIVE = (
    "pending_polls",
    "pending_seconds",
    "retention",
    "latency",
    "token_latency",
    "training_seconds",
    "deploy_seconds",
    "undeploy_seconds",
)


@dataclass(frozen=True)
class EmulatorSettings:
    """The behaviour of one emulator; replace it with :meth:`patched`, never mutate it."""

    clients: Mapping[str, str] = field(default_factory=lambda: {"demo-client": "demo-secret"}, repr=False)
    auth_server_id: str = "ausao8uveaPmyhv0v357"
    token_ttl: int = 3600
    both_tokens_live: bool = False
    dead_token: DeadToken = DeadToken.UNAUTHORIZED
    scope_check: bool = True
    query_only: bool = False
    pending_polls: int = 1
    pending_seconds: float = 0.0
    retrieved: Retrieved = Retrieved.EMPTY
    retention: float = 24 * 3600.0
    chunk_overflow: ChunkOverflow = ChunkOverflow.TRUNCATE
    oversize: Oversize = Oversize.TOO_LARGE
    max_text_bytes: int = 1_000_000
    rate_limit: int | None = None
    rate_window: float = 1.0
    rate_mode: RateMode = RateMode.WINDOW
    retry_after: bool = True
    shed_share: float = 0.0
    strict_segments: bool = False
    legacy_shape: bool = False
    latency: float = 0.0
    token_latency: float = 0.0
    deployments: tuple[str, ...] = ()
    batch_overflow: BatchOverflow = BatchOverflow.BAD_REQUEST
    unknown_options: UnknownOptions = UnknownOptions.BAD_REQUEST
    managed_keys: bool = False
    sources_shape: SourcesShape = SourcesShape.ARRAY
    embedding_shape: str = "vector"
    joined_tokens: bool = False
    customer_id: str = "demo-customer"
    training_seconds: float = 2.0
    training_fails: bool = False
    deploy_seconds: float = 1.0
    deploy_fails: bool = False
    undeploy_seconds: float = 0.0
    undeploy_fails: bool = False
    undeploy_path: UndeployPath = UndeployPath.BOTH
    echo_credentials: bool = False
    vector_size_text: bool = True
    hidden_fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rewritten_texts: Mapping[str, str] = field(default_factory=dict)
    missing_endpoints: tuple[str, ...] = ()
    undeploy_refusal: int = 404

    def __post_init__(self) -> None:
        """Refuse values that contradict each other or the vendor."""
        if not self.clients or any(not name or ":" in name for name in self.clients):
            # Basic authentication cannot carry a colon in the user name (RFC 7617 section 2).
            raise SettingsError("clients: at least one client id, none of them empty or with a colon")
        for name in ("token_ttl", "max_text_bytes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: at least 1")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}: not negative")
        if not self.embedding_shape or self.embedding_shape == "tokensUsed":
            raise SettingsError("embedding_shape: the name of a field other than tokensUsed")
        if not self.customer_id or "/" in self.customer_id:
            raise SettingsError("customer_id: one segment of a path")
        unknown = {*self.hidden_fields, *self.missing_endpoints} - {one.value for one in EndpointName}
        if unknown:
            raise SettingsError(f"hidden_fields, missing_endpoints: no endpoint {sorted(unknown)[0]!r}")
        if not 400 <= self.undeploy_refusal < 500:
            raise SettingsError("undeploy_refusal: a status from 400 to 499")
        if not 0 <= self.shed_share <= 1:
            raise SettingsError("shed_share: 0 to 1")
        if self.rate_window <= 0:
            raise SettingsError("rate_window: greater than 0")
        if self.rate_limit is not None and self.rate_limit < 1:
            raise SettingsError("rate_limit: at least 1, or null for no limit")

    def patched(self, changes: Mapping[str, object]) -> EmulatorSettings:
        """Return a copy with the given switches changed; values come from JSON."""
        known = {item.name for item in dataclasses.fields(self)} - {"clients"}
        clean: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise SettingsError(f"{name}: no such switch, or not to be changed at run time")
            clean[name] = _coerce(name, value, getattr(EmulatorSettings, name, None))
        return dataclasses.replace(self, **clean)

    def public(self) -> dict[str, object]:
        """Return the switches as JSON values, with client ids but never a secret."""
        shown: dict[str, object] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Enum):
                value = value.value
            shown[item.name] = list(value) if isinstance(value, tuple) else value
        shown["clients"] = sorted(self.clients)
        return shown


def _coerce(name: str, value: object, default: object) -> object:
    """Bring one JSON value to the type of the switch, whose class default shows that type."""
    if name == "rate_limit":
        default = 0
        if value is None:
            return None
    if name in _READERS:
        return _READERS[name](name, value)
    if isinstance(default, Enum):
        try:
            return type(default)(str(value))
        except ValueError:
            raise SettingsError(f"{name}: one of {[one.value for one in type(default)]}") from None
    if isinstance(default, bool):
        accepted = isinstance(value, bool)
    elif isinstance(default, int):
        accepted = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        accepted = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        accepted = isinstance(value, str)
    if not accepted:
        raise SettingsError(f"{name}: a value of type {type(default).__name__}")
    return value


def deployment_ids(value: object) -> tuple[str, ...]:
    """Check deployment ids: MODEL_ID of a custom model is the UUID of its deployment."""
    try:
        return tuple(str(UUID(one)) for one in _texts("deployments", value))
    except ValueError:
        raise SettingsError("deployments: a list of UUIDs") from None


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise SettingsError(f"{name}: a list of texts")
    return tuple(value)


def _hidden_fields(name: str, value: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise SettingsError(f"{name}: an object with lists of fields by endpoint")
    return {endpoint: _texts(name, fields) for endpoint, fields in value.items()}


def _text_pairs(name: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise SettingsError(f"{name}: an object with a text for each text")
    return value


_READERS: Mapping[str, Callable[[str, object], object]] = {
    "deployments": lambda _, value: deployment_ids(value),
    "hidden_fields": _hidden_fields,
    "rewritten_texts": _text_pairs,
    "missing_endpoints": _texts,
}
