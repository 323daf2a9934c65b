# SPDX-License-Identifier: Apache-2.0
"""
The routes of the emulator: all three vendor hosts at one base URL.

To add a vendor endpoint: give it a name in :class:`.faults.EndpointName`, write its coroutine in a module of
its own (``…_api.py``), and list it here with the scope it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from lucidworks_provider.emulator import control
from lucidworks_provider.emulator.calls import ApiError, Endpoint
from lucidworks_provider.emulator.chunking_api import fetch, submit
from lucidworks_provider.emulator.faults import EndpointName
from lucidworks_provider.emulator.request_log import LogRecord
from lucidworks_provider.emulator.settings import EmulatorSettings
from lucidworks_provider.emulator.state import EmulatorState
from lucidworks_provider.emulator.token_api import issue_token
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.emulator.usecases_api import list_use_cases

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_USE_CASES = Endpoint(EndpointName.USE_CASES, list_use_cases, Scope.PREDICT)

IDENTITY_HOST = [
    Route("/oauth2/{auth}/v1/token", Endpoint(EndpointName.TOKEN, issue_token), methods=["POST"]),
]
APPLICATION_HOST = [
    Route("/ai/usecases", _USE_CASES, methods=["GET"]),
    Route("/ai/usecase", _USE_CASES, methods=["GET"]),
    Route(
        "/ai/async-chunking/{chunker}/{model_id}",
        Endpoint(EndpointName.SUBMIT, submit, Scope.PREDICT),
        methods=["POST"],
    ),
    Route(
        "/ai/async-chunking/{chunking_id}",
        Endpoint(EndpointName.POLL, fetch, Scope.PREDICT),
        methods=["GET"],
    ),
]
MODELS_HOST: list[Route] = []


def create_app(settings: EmulatorSettings | None = None) -> Starlette:
    """Build an emulator; its memory is ``app.state.emulator``."""
    app = Starlette(
        routes=[*IDENTITY_HOST, *APPLICATION_HOST, *MODELS_HOST, *control.ROUTES],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    app.state.emulator = EmulatorState(settings or EmulatorSettings())
    return app


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer and log what no endpoint serves: a wrong path is a client's error worth seeing in the log."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    state: EmulatorState = request.app.state.emulator
    state.log.add(LogRecord(state.clock(), request.method, request.url.path, status=status))
    return ApiError(status, "There is no such endpoint.").response()
