# SPDX-License-Identifier: Apache-2.0
"""
The frame around every vendor endpoint: delay, faults, rate limit, bearer check, log.

An endpoint itself is a coroutine from :class:`Call` to a response; whatever it refuses it raises as
:class:`ApiError`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from lucidworks_provider.emulator.broken_responses import BREAKERS
from lucidworks_provider.emulator.connections import drop
from lucidworks_provider.emulator.errors import ApiError, OAuthError
from lucidworks_provider.emulator.faults import EndpointName, Fault
from lucidworks_provider.emulator.models import EmbeddingModel, find_model
from lucidworks_provider.emulator.rules import Default, InvalidValue, Rule, check, load_json
from lucidworks_provider.emulator.state import LogRecord
from lucidworks_provider.emulator.tokens import Scope, TokenState

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

    from lucidworks_provider.emulator.settings import EmulatorSettings
    from lucidworks_provider.emulator.state import EmulatorState


@dataclass
class Call:
    """One request on its way through an endpoint, which fills in the log record."""

    request: Request
    state: EmulatorState
    record: LogRecord
    fault: Fault | None = None
    settings: EmulatorSettings = field(init=False)

    def __post_init__(self) -> None:
        """Keep the settings of the beginning, so that a change does not split a call in two."""
        self.settings = self.state.settings

    def suffers(self, kind: str) -> bool:
        return self.fault is not None and self.fault.kind == kind

    def segment(self, text: str) -> str:
        """Read a path segment, in which older pages write ``_`` for ``-`` (section 5.1)."""
        return text if self.settings.strict_segments else text.replace("_", "-")

    def embedding_model(self, model_id: str) -> EmbeddingModel:
        """Find a hosted embedding model or a live deployment of a custom one."""
        live = self.state.live_deployments(self.settings)
        model = find_model(model_id, live, strict=self.settings.strict_segments)
        if model is None:
            raise ApiError(404, f"There is no embedding model or deployment {model_id!r:.80}.")
        return model

    async def body(self, rules: Mapping[str, Rule | Default]) -> dict[str, Any]:
        """Check the body of a POST, which has to say that it is JSON (section 1.3)."""
        declared = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if declared != "application/json":
            raise ApiError(400, "The header Content-Type: application/json is missing.")
        ignore = self.settings.unknown_options == "ignore"
        checked: dict[str, Any] = check(
            "body", load_json(await self.request.body()), rules, ignore_unknown=ignore
        )
        return checked

    def batch(self, body: Mapping[str, Any], most: int | None = None) -> list[dict[str, Any]]:
        """
        Return the items of ``batch``, and log their texts by number, size and hash.

        What the vendor does with more than the documented most items is not documented [A].
        """
        items: list[dict[str, Any]] = body["batch"]
        if not items:
            raise InvalidValue("batch: a non-empty list of objects with a text is required.")
        if most is not None and len(items) > most and self.settings.batch_overflow == "400":
            raise InvalidValue(f"batch: at most {most} items are accepted.")
        items = items[:most]
        encoded = "".join(item["text"] for item in items).encode()
        self.record.items, self.record.text_bytes = len(items), len(encoded)
        self.record.text_sha256 = hashlib.sha256(encoded).hexdigest()
        return items


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """An ASGI application for one vendor endpoint; ``scope`` None means without a bearer token."""

    name: EndpointName
    handler: Handler
    scope: Scope | None = None

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        state: EmulatorState = request.app.state.emulator
        record = LogRecord(state.clock(), request.method, request.url.path, self.name)
        began = time.perf_counter()
        response: Response | None = None
        try:
            response = await self._respond(request, state, record)
            if response is not None:
                record.status = response.status_code
        except ClientDisconnect:
            return  # the client disconnected while sending
        except asyncio.CancelledError:
            pass  # the server stops while a fault sleeps: hang up instead of a 500
        finally:
            record.seconds = round(time.perf_counter() - began, 4)
            state.log.add(record)
        if response is None:
            await drop(scope)
        else:
            await response(scope, receive, send)

    async def _respond(self, request: Request, state: EmulatorState, record: LogRecord) -> Response | None:
        """Return the response, or None to drop the connection."""
        # Read everything first: an early response to a large upload would reset the connection instead.
        await request.body()
        fault = state.faults.take(self.name)
        call = Call(request, state, record, fault)
        settings = call.settings
        await asyncio.sleep(settings.token_latency if self.name == EndpointName.TOKEN else settings.latency)
        if fault is None:
            return await self._serve(call)
        record.fault = fault.kind
        return await self._serve_badly(call, fault)

    async def _serve_badly(self, call: Call, fault: Fault) -> Response | None:
        """Do what a fault orders; its delay comes first, or after the operation where that is the point."""
        response: Response
        if fault.kind in {"slow", "disconnect-after"}:
            response = await self._serve(call)
            await asyncio.sleep(fault.delay)
            return response if fault.kind == "slow" else None
        if fault.kind != "drip":  # which has its pauses between the bytes
            await asyncio.sleep(fault.delay)
        match fault.kind:  # all but the last keep the operation from happening
            case "timeout" | "disconnect":
                return None
            case "quoted-keys":
                response = _quoted_keys(await call.request.body()).response()
            case "html":
                response = HTMLResponse("<html><body><h1>Gateway</h1><p>Try again later.</p></body></html>")
            case "unauthorized":
                response = self._unauthorized().response()
            case "304":
                response = Response(status_code=304)
            case status if status.isdigit():
                response = _status(int(status), fault.retry_after, as_date=fault.as_date).response()
            case _:
                response = await self._serve(call)
        return BREAKERS[fault.kind](response, fault) if fault.kind in BREAKERS else response

    async def _serve(self, call: Call) -> Response:
        try:
            if self.scope is not None:
                self._check_rate(call)
                self._check_bearer(call, self.scope)
            if self.name in call.settings.missing_endpoints:
                raise ApiError(404, "There is no such endpoint.")
            return await self.handler(call)
        except InvalidValue as invalid:
            return ApiError(400, str(invalid)).response()
        except ApiError as refused:
            return refused.response()

    def _check_rate(self, call: Call) -> None:
        """Refuse with the documented 429; neither Retry-After nor a number is documented (section 11)."""
        wait = call.state.rate_limit.refuse(call.settings, call.state.clock())
        if wait is not None:
            raise _status(429, wait if call.settings.retry_after else None)

    def _check_bearer(self, call: Call, needed: Scope) -> None:
        kind, _, text = call.request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not text.strip():
            raise _bearer_error("No bearer token was sent.")
        token, worth = call.state.tokens.find(text.strip())
        if token is not None:
            call.record.client_id, call.record.jti_prefix = token.client_id, token.jti_prefix
        if token is None or worth is not TokenState.LIVE:
            if token is not None and call.settings.dead_token == "403":  # noqa: S105
                raise ApiError(403, worth)
            raise _bearer_error(worth)
        if call.settings.scope_check and needed not in token.scopes:
            raise ApiError(403, f"The access token lacks the scope {needed}.")

    def _unauthorized(self) -> ApiError:
        if self.scope is None:
            return OAuthError(401, "invalid_client", "An injected fault.", {"WWW-Authenticate": "Basic"})
        return _bearer_error(TokenState.EXPIRED)


def _quoted_keys(body: bytes) -> ApiError:
    """Refuse like a third party that quotes its key, as a whole and abbreviated; any text counts as a key."""
    try:
        config = load_json(body)["modelConfig"]
    except (InvalidValue, KeyError, TypeError):
        config = {}
    keys = [key for key in config.values() if isinstance(key, str)] if isinstance(config, dict) else []
    quoted = " ".join(
        f"{key} ({key[:3]}\N{HORIZONTAL ELLIPSIS}***{key[-4:]}, {key[:6]}...{key[-4:]})" for key in keys
    )
    return ApiError(400, f"Incorrect API key provided: {quoted}.")


def _bearer_error(message: str) -> ApiError:
    return ApiError(401, message, {"WWW-Authenticate": "Bearer"})


def _status(status: int, retry_after: float | None, *, as_date: bool = False) -> ApiError:
    headers = None
    if retry_after is not None:
        until = formatdate(time.time() + retry_after, usegmt=True)
        headers = {"Retry-After": until if as_date else f"{retry_after:g}"}
    return ApiError(status, HTTPStatus(status).description or HTTPStatus(status).phrase, headers)
